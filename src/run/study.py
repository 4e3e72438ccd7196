"""The cells of a study as processes: the state of each, and a launcher that starts the missing ones.

Any number of launchers may share the folder of a study, on one machine or on several that share it: a cell is in the
hands of one of them, by a lock that its process inherits. A status is printed without importing torch.
"""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from src.args import differences
from src.cli.texts import command_line
from src.errors import UserError, legible
from src.machine.files import InUse, WriteError, atomic_file, folder_of_ones_own, holder_of, parse_json, read_json
from src.machine.interruption import STATUS as INTERRUPTED
from src.machine.interruption import Interrupted
from src.machine.progress import clock
from src.report.measures import is_summary
from src.report.tables import markdown_table

MAIN = f"{__name__.removesuffix('run.study')}main"
ROOT = Path(__file__).parents[__name__.count(".")]  # of the packages
PROGRAM = (sys.executable, "-m", MAIN)
OUTPUT, RECORD, LOCK = "output.txt", "cell.json", "launched"  # in the folder of a cell, beside the files of its run
TABLES = "tables_in_use"  # the lock of the tables, in the folder of the study
DONE, RUNNING, FAILED, WAITING = "done", "running", "failed", "waiting"
NOT_USABLE = "it has ended, but its files are damaged or of another configuration"
LOOK, LOOK_AGAIN = 0.1, 1.0  # seconds between looks at the processes, and for a cell after there was none to take
TAIL = 1 << 14  # bytes of an output in which its last line is
ENDED_BY = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR1)  # before a run listens to them: nothing is lost


# -- what a cell is at -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """``kind``: DONE, RUNNING, FAILED or WAITING; ``text``: its step and time left, or why it failed."""

    kind: str
    text: str = ""


def state_of(job):
    """The State of a Job, by the files in its folder."""
    if is_done(job):
        return State(DONE)
    if holder := holder_of(job.folder, LOCK) or holder_of(job.folder):
        return State(RUNNING, progress_of(job) or f"in {holder}")
    if record := record_of(job):
        return State(FAILED, record["message"] if record["status"] else NOT_USABLE)
    return State(WAITING, progress_of(job))


def record_of(job):
    """How its last attempt has ended, {"status", "message", ...}; None where it did not end yet or was interrupted."""
    try:
        content = read_json(job.folder / RECORD)
    except (OSError, ValueError):
        return None
    whole = isinstance(content, dict) and isinstance(content.get("message"), str) and "status" in content
    return content if whole else None


def is_done(job):
    """Whether a launcher saw it end well, its summary is there and all that can change a number is as it is now."""
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
    """"task 2 of 8: MNIST, step 40 of 1000, about 1:20:00 left"; as much of it as the files show, or nothing."""
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
    """The last whole line of a log that has an iteration; None without."""
    for text in reversed(_tail(path)):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            line = parse_json(text)
            return line | {"iteration": int(line["iteration"])}
    return None


def _tail(path):
    """The last lines of a text file, none where there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def last_line(job):
    """What a cell has printed last."""
    return next((legible(line) for line in reversed(_tail(job.folder / OUTPUT)) if line.strip()), "printed nothing")


def status_text(name, jobs):
    """The table of --status."""
    states = [state_of(job) for job in jobs]
    counts = [f"{count} {kind}" for kind in (DONE, RUNNING, FAILED, WAITING)
              if (count := sum(state.kind == kind for state in states))]
    return f"study {name}: {len(jobs)} cells, {', '.join(counts)}\n\n" + markdown_table(
        ["cell", "state", "what"],
        [[job.name, state.kind, state.text] for job, state in zip(jobs, states, strict=True)])


# -- the launcher ------------------------------------------------------------------------------------------------------


def environments(jobs, devices=()):
    """[what a process adds to the environment] for each of the ``jobs`` that run at the same time: one CUDA
    device where there are several, else its share of the CPU's threads."""
    if len(devices) > 1:
        return [{"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} for number in range(jobs)]
    if devices or jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return [{}] * jobs
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # macOS lacks it
    return [{"OMP_NUM_THREADS": str(max(1, cores // jobs))}] * jobs


class Attempt:
    """A cell's process. ``held``: what keeps the cell in this launcher's hands."""

    def __init__(self, job, held, lock, environment):
        self.job, self.held, self.began = job, held, time.monotonic()
        with contextlib.ExitStack() as failing:
            failing.push(held)
            with self._open_output() as output:
                self.process = self._start(output, lock, environment)
            failing.pop_all()

    def _open_output(self):
        """The file of what it prints, open behind its command; without the record of an earlier attempt."""
        try:
            (self.job.folder / RECORD).unlink(missing_ok=True)
            with (self.job.folder / OUTPUT).open("ab") as output:
                output.write(f"$ {command_line(self.job.words)}\n".encode("utf-8", errors="backslashreplace"))
            return (self.job.folder / OUTPUT).open("ab")
        except OSError as error:
            raise WriteError(self.job.folder, error) from None

    def _start(self, output, lock, environment):
        """The process, in a session apart, so that Ctrl-C reaches the launcher alone, which passes on one signal."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        try:
            return subprocess.Popen([*PROGRAM, *self.job.words], stdin=subprocess.DEVNULL, stdout=output,
                                    stderr=subprocess.STDOUT, pass_fds=[lock.fileno()], start_new_session=True,
                                    env=os.environ | {"PYTHONPATH": path} | environment)
        except OSError as error:
            raise UserError(f"cell {self.job.name}: its process could not be started ({error.strerror}); run fewer at "
                            "the same time, by --jobs, or free memory and processes") from None

    def ended(self):
        return self.process.poll() is not None

    def interrupted(self):
        return self.process.returncode in (INTERRUPTED, *ENDED_BY)

    def outcome(self):
        """DONE, "interrupted" or FAILED, once it has ended."""
        if self.interrupted():
            return "interrupted"
        return FAILED if self.process.returncode else DONE

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def wait(self):
        self.process.wait()

    def leave(self):
        """Write how it has ended, unless it resumes, and let go of the cell. -> the message"""
        status = self.process.returncode
        with self.held:
            message = last_line(self.job) if status >= 0 else f"killed by {_signal(-status)}"
            if not self.interrupted():
                record = {"status": status, "message": message, "seconds": round(time.monotonic() - self.began, 2),
                          "ended": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")}
                with atomic_file(self.job.folder / RECORD, "w") as file:
                    json.dump(record, file, indent=1)
        return message


def _signal(number):
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have none
        return f"signal {number}"


class Launcher:
    """Runs the Jobs that are not done, one on each of ``slots``, what its process adds to the environment. Each is
    tried once; those that another launcher has in its hands are waited for, and tried if that leaves them unfinished,
    or with ``waits`` False left to it. ``report``: a function that gets a line about each start and end.
    """

    def __init__(self, jobs, slots, signals, report, waits=True):
        self.jobs, self.slots, self.signals, self.waits = jobs, list(slots), signals, waits
        self.before = {job.name: record_of(job) for job in jobs}
        self.left = [job for job in jobs if not is_done(job)]
        self.running, self.report = {}, report  # {index of a slot: Attempt}
        self.looked = None  # when no cell was free

    def run(self):
        """Until nothing is left to do. Raises Interrupted after a signal, once every process has kept its point."""
        with self.signals.held():
            try:
                while self.left or self.running:
                    self._end_finished()
                    if self.signals.reason:
                        raise Interrupted(f"{self.signals.reason}: the same command continues with what is missing")
                    self._fill()
                    if self.looked and not (self.running or self.waits):
                        return
                    time.sleep(LOOK)
            finally:
                self._stop()

    def _end_finished(self):
        for number, attempt in [(number, attempt) for number, attempt in self.running.items() if attempt.ended()]:
            self.running.pop(number)
            name, seconds = attempt.job.name, clock(time.monotonic() - attempt.began)
            try:
                message = attempt.leave()
            except WriteError as error:  # the next call runs the cell again, which keeps what is trained
                self.report(f"{name}: {attempt.outcome()} after {seconds}, but {error}")
            else:
                why = "" if attempt.outcome() == DONE else f": {message}"
                self.report(f"{name}: {attempt.outcome()} after {seconds}{why}")

    def _fill(self):
        for number, environment in enumerate(self.slots):
            if number in self.running or self.looked and time.monotonic() - self.looked < LOOK_AGAIN:
                continue
            if not (found := self._claim()):
                self.looked = time.monotonic()
                return
            self.running[number] = Attempt(*found, environment)
            self.report(f"{found[0].name}: started, {len(self.left)} to come")

    def _claim(self):
        """The next Job for this launcher alone, as (Job, what holds it, its lock); None where there is none now."""
        for job in list(self.left):
            if holder_of(job.folder, LOCK) or holder_of(job.folder):  # a launcher, or a command that was typed
                continue
            held = contextlib.ExitStack()
            try:
                lock = held.enter_context(folder_of_ones_own(job.folder, "--save", LOCK))
            except InUse:  # since that look
                continue
            self.left.remove(job)
            if not self._was_tried(job):
                return job, held, lock
            held.close()
        return None

    def _was_tried(self, job):
        """By another launcher, since this one began."""
        record = record_of(job)
        return is_done(job) or record is not None and record != self.before[job.name]

    def _stop(self):
        """End what runs, where that loses nothing."""
        with contextlib.ExitStack() as leaving:  # of one whose end goes wrong the others are left all the same
            for act in (Attempt.stop, Attempt.wait, lambda attempt: leaving.callback(attempt.leave)):
                for attempt in self.running.values():
                    act(attempt)
        self.running.clear()


def launch(name, jobs, slots, signals):
    """Run what is missing of a study. -> [State] of the Jobs

    A task of an array of SLURM does not wait for what the other tasks run: the last one has the whole table.
    """
    launcher = Launcher(jobs, slots, signals, lambda text: print(text, flush=True), not in_an_array())
    print(f"study {name}: {len(jobs)} cells, {len(jobs) - len(launcher.left)} done, {len(launcher.left)} to run, "
          f"{len(slots)} at the same time", flush=True)
    if threads := slots[0].get("OMP_NUM_THREADS"):
        print(f"note: {len(slots)} processes share the CPU, each with OMP_NUM_THREADS={threads}; set that variable for "
              "another number", flush=True)
    launcher.run()
    return [state_of(job) for job in jobs]


@contextlib.contextmanager
def one_at_a_time(save):
    """While entered, no other launcher writes the tables in the folder ``save``; wait for one that does."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(folder_of_ones_own(save, "--save", TABLES))
                break
            except InUse:
                time.sleep(LOOK)
            except OSError:  # a full disk: the table is printed all the same, and writing it says why it fails
                break
        yield


def in_an_array():
    """Whether this process is one of several tasks that share a study."""
    return "SLURM_ARRAY_TASK_ID" in os.environ


def exit_status(jobs, states):
    """Print which cells are not done, and why. -> 0, 1 where one has failed, or that of interrupted runs"""
    missing = [(job, state) for job, state in zip(jobs, states, strict=True) if state.kind != DONE]
    if in_an_array() and (elsewhere := [job for job, state in missing if state.kind == RUNNING]):
        missing = [(job, state) for job, state in missing if state.kind != RUNNING]
        print(f"note: {len(elsewhere)} of {len(jobs)} cells still run in other tasks of the array; the last one to end "
              "prints the whole table", flush=True)
    for job, state in missing:
        print(f"{job.name}: {state.kind}, {state.text or 'not started'} ({job.folder / OUTPUT})", file=sys.stderr)
    if not missing:
        return 0
    print(f"{len(missing)} of {len(jobs)} cells are not done; the same command tries them again", file=sys.stderr)
    return 1 if any(state.kind == FAILED for _, state in missing) else INTERRUPTED
