"""Read the state of each cell of a study from the files in its folder. Imports no torch."""

import contextlib
from dataclasses import dataclass

from src.args import differences
from src.errors import legible
from src.machine.files import holder_of, parse_json, read_json
from src.machine.progress import clock
from src.report.measures import is_summary

OUTPUT, RECORD, LOCK = "output.txt", "cell.json", "launched"  # in a cell's folder, beside the files of its run
DONE, RUNNING, FAILED, WAITING = "done", "running", "failed", "waiting"
NOT_USABLE = "it ended, but its files are damaged or of another configuration"
TAIL = 1 << 14  # bytes at the end of an output to search for its last line


@dataclass(frozen=True)
class State:
    """Hold the state of a cell: ``kind`` is DONE, RUNNING, FAILED or WAITING; ``text`` its step and time left,
    or the reason."""

    kind: str
    text: str = ""


def state_of(job):
    """Return the State of a Job from the files in its folder; if its flags are not chosen yet, the reason."""
    if job.waits_for:
        return State(WAITING, job.waits_for)
    if is_done(job):
        return State(DONE)
    if holder := holder_of(job.folder, LOCK) or holder_of(job.folder):
        return State(RUNNING, progress_of(job) or f"in {holder}")
    if record := record_of(job):
        return State(FAILED, record["message"] if record["status"] else NOT_USABLE)
    return State(WAITING, progress_of(job))


def record_of(job):
    """Return how its last attempt ended, {"status", "message", ...}; None if it has not ended or was interrupted."""
    try:
        content = read_json(job.folder / RECORD)
    except (OSError, ValueError):
        return None
    whole = isinstance(content, dict) and isinstance(content.get("message"), str) and "status" in content
    return content if whole else None


def is_done(job):
    """Return whether a launcher saw it end well, its summary exists and everything that can change a number is
    unchanged."""
    record = record_of(job)
    if not record or record["status"] != 0:
        return False
    try:
        if not is_summary(read_json(job.folder / "summary.json")):
            return False
        flags = read_json(job.folder / "run.json")["flags"]
        return not differences(job.numbers, {key: flag["value"] for key, flag in flags.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def progress_of(job):
    """Return "task 2 of 8: MNIST, step 40 of 1000, about 1:20:00 left", or as much of it as the files show."""
    finished = sum((job.folder / f"{task}.pth").is_file() for task in job.tasks)
    if finished == len(job.tasks):
        return "all tasks are trained"
    task = job.tasks[finished]
    line = _last_json(job.folder / f"log_{task}.jsonl")
    if not finished and line is None:
        return ""
    step = line["iteration"] if line else 0
    length = f" of {job.iterations}" if job.iterations else ""
    left = _seconds_left(job, finished, step, line)
    rest = "" if left is None else f", about {clock(left)} left"
    return f"task {finished + 1} of {len(job.tasks)}: {task}, step {step}{length}{rest}"


def _seconds_left(job, finished, step, line):
    """Return the seconds left, from the speed of the last logged step and the time of finished tasks; None without
    either."""
    rate = (line or {}).get("images_per_second")
    if not job.iterations or not isinstance(rate, int | float) or not rate > 0:
        return None
    a_step = job.batch_size / rate
    took = [seconds for task in job.tasks[:finished] if (seconds := _seconds_of(job.folder / f"run_{task}.json"))]
    a_task = sum(took) / len(took) if took else job.iterations * a_step
    return (job.iterations - step) * a_step + (len(job.tasks) - finished - 1) * a_task


def _seconds_of(path):
    try:
        seconds = read_json(path).get("seconds")
    except (OSError, ValueError, AttributeError):
        return None
    return seconds if isinstance(seconds, int | float) else None


def _last_json(path):
    """Return the last complete line of a log that has an iteration, or None."""
    for text in reversed(_tail(path)):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            line = parse_json(text)
            return line | {"iteration": int(line["iteration"])}
    return None


def _tail(path):
    """Return the last lines of a text file, an empty list if there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def last_line(job):
    """Return the last line that a cell printed."""
    return next((legible(line) for line in reversed(_tail(job.folder / OUTPUT)) if line.strip()), "printed nothing")
