"""Read a run's folder as a SequenceRun, for tables, pictures and the page. No torch."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from src.errors import UserError
from src.machine.files import reject_nul
from src.report.measures import is_summary, measure_of

ZERO_SHOT = ""  # stands for the row before any training, instead of a trained task


@dataclass(frozen=True)
class TaskFacts:
    """Hold ``run_<task>.json`` and what the log adds: the time and memory of a task, in seconds and bytes.

    ``copies``: {what is kept: its size in copies of the weights}. ``images_per_second``: the mean over the
    task. None for what an older run did not store.
    """

    seconds: float | None = None
    peak_memory_bytes: int | None = None
    trainable_values: int | None = None
    trainable_tensors: int | None = None
    copies: dict | None = None
    images_per_second: float | None = None
    iterations: int | None = None


@dataclass(frozen=True)
class SequenceRun:
    """Hold a finished sequence, in plain Python types.

    ``order``: the trained tasks, by their names in files. ``spaces``: {label space or "retrieval": content of
    its summary*.json}, the run's first label space first. ``matrices``: {space: {score: {task trained last:
    [cells]}}}. Scores are "top1" and "top5" in percent, for "retrieval" "i2t_r1", "t2i_r1" and "rsum"; the row
    ZERO_SHOT comes first, if the run has one; the columns are ``spaces[space]["datasets"]``; a cell is None
    without a score.

    ``losses``: {task: [a dict per logged step: "iteration", "lr", "images_per_second" and every term and metric
    by its name]}, floats that may be nan or infinite. ``tasks``: {task: TaskFacts}. Both have only the tasks
    whose files exist: a sequence that was only evaluated has none. ``flags``: {flag key: {"value", "origin"}}.

    ``trained_with``: for a matrix rebuilt from checkpoints, {flag key: value} of the run behind each of them.
    ``date``: when it ended, in ISO 8601. ``single``: whether it is one task by itself, whose summaries have no
    numbers of a sequence and whose matrices have one row.
    """

    name: str
    folder: Path
    order: list
    spaces: dict
    matrices: dict
    losses: dict
    tasks: dict
    flags: dict
    trained_with: list
    command: list
    versions: dict
    commit: str | None
    hardware: str | None
    seed: int | None
    precision: str | None
    seconds: float | None
    peak_memory_bytes: int | None
    date: str | None = None
    single: bool = False

    @property
    def space(self):
        """The first label space, or "retrieval"."""
        return next(iter(self.spaces))

    @property
    def summary(self):
        """The summary of the first label space."""
        return self.spaces[self.space]

    @property
    def measure(self):
        """The measure of its summaries."""
        return measure_of(self.space)

    @property
    def untrained(self):
        """Whether it is the zero-shot evaluation of an order, whose rows all equal that of the initial weights."""
        if self.tasks or self.trained_with:
            return False
        matrices = [matrix for scores in self.matrices.values() for matrix in scores.values()]
        return all(ZERO_SHOT in matrix and all(row == matrix[ZERO_SHOT] for row in matrix.values())
                   for matrix in matrices)

    def rows(self, space, score):
        """Return the rows of a matrix that are worth showing, {task trained last: [cells]}."""
        rows = self.matrices[space][score]
        return {ZERO_SHOT: rows[ZERO_SHOT]} if self.untrained else rows

    def value(self, key):
        """Return the resolved value of a flag; None if the run does not know the flag."""
        return self.flags.get(key, {}).get("value")


def read_run(folder, flag="--report"):
    """Return the run in ``folder``.

    Raises UserError, naming ``flag``, the folder or file and the way out, if it holds no finished sequence or a
    damaged file.
    """
    files = _Files(Path(folder), flag)
    files.require_sequence()
    summary = files.json("summary.json", is_summary)
    facts = files.json("run.json", _is_run)
    spaces = _read_spaces(files, summary, facts)
    order = measure_of(summary["label_space"]).trained(summary)
    losses = {task: found for task in order if (found := files.log(f"log_{task}.jsonl")) is not None}
    return SequenceRun(
        name=Path(folder).resolve().name, folder=Path(folder), order=order, spaces=spaces,
        matrices={space: _read_matrices(files, number, space, found["datasets"], order)
                  for number, (space, found) in enumerate(spaces.items())},
        losses=losses, tasks={task: _task_facts(files.json(f"run_{task}.json", _is_run), losses.get(task, ()))
                              for task in order if files.has(f"run_{task}.json")},
        trained_with=facts.get("trained_with", []), command=facts.get("command", []),
        versions=facts.get("versions", {}), **{key: facts.get(key) for key in (
            "flags", "commit", "hardware", "seed", "precision", "seconds", "peak_memory_bytes", "date")})


def read_task(folder, task, conditions, flag="--save"):
    """Return the run of one task by itself, from ``run_<task>.json`` and its log.

    ``conditions``: {label space: ``asdict`` of its Conditions}. Raises UserError like ``read_run``.
    """
    files = _Files(Path(folder), flag)
    facts = files.json(f"run_{task}.json", _is_task)
    log = files.log(f"log_{task}.jsonl")
    spaces = {space: {"datasets": [name for name, found in facts["scores"].items() if space in found],
                      "label_space": space, "conditions": conditions[space]} for space in conditions}
    matrices = {space: {score: {task: [facts["scores"][name][space][score] for name in found["datasets"]]}
                        for score in measure_of(space).matrices} for space, found in spaces.items()}
    return SequenceRun(
        name=f"{Path(folder).resolve().name}: {task}", folder=Path(folder), order=[task], spaces=spaces,
        matrices=matrices, losses={} if log is None else {task: log}, tasks={task: _task_facts(facts, log or ())},
        trained_with=[], command=facts.get("command", []), versions=facts.get("versions", {}), single=True, **{
            key: facts.get(key) for key in ("flags", "commit", "hardware", "seed", "precision", "seconds",
                                            "peak_memory_bytes", "date")})


def _mark(number, space):
    """Return the suffix of file names; the first label space has none."""
    return f"_{space}" if number else ""


def _read_spaces(files, first, facts):
    space, named = first["label_space"], facts["flags"].get("label_space", {}).get("value") or ()
    others = measure_of(space).other_spaces(space, named)
    return {space: first} | {
        space: files.json(f"summary{_mark(1, space)}.json", is_summary) for space in others}


def _read_matrices(files, number, space, columns, order):
    return {score: files.matrix(f"matrix_{score}{_mark(number, space)}.csv", columns, order)
            for score in measure_of(space).matrices}


def _task_facts(content, log):
    return TaskFacts(copies=content.get("weight_copies"), images_per_second=_mean_rate(log), **{
        key: content.get(key)
        for key in ("seconds", "peak_memory_bytes", "trainable_values", "trainable_tensors", "iterations")})


def _mean_rate(log):
    """Return images per second over all logged steps; None without any. Each log line covers the steps since
    the line before."""
    steps = [line["iteration"] - before["iteration"] for line, before in zip(log, [{"iteration": 0}, *log],
                                                                             strict=False)]
    known = [(count, line["images_per_second"]) for count, line in zip(steps, log, strict=True)
             if line.get("images_per_second", 0) > 0]
    return sum(count for count, _ in known) / sum(count / rate for count, rate in known) if known else None


class _Files:
    """Read the files of a run; an unusable one raises UserError with the way out."""

    def __init__(self, folder, flag):
        self.folder, self.flag = folder, flag

    def has(self, name):
        return (self.folder / name).is_file()

    def require_sequence(self):
        """Refuse a folder without a finished sequence, and say what it is and how to continue."""
        if not self.folder.is_dir():
            raise UserError(f"{self.flag} {self.folder}: no such folder; give the --save folder of a finished sequence")
        if self.has("summary.json"):
            return
        tasks = sorted(path.stem.removeprefix("run_") for path in self.folder.glob("run_*.json"))
        if not tasks:
            raise UserError(f"{self.flag} {self.folder}: no {self.folder / 'summary.json'}; only a sequence "
                            "(--dataset-order with --save) writes one")
        files = ",".join(str(self.folder / f"{task}.pth") for task in tasks)
        raise UserError(f"{self.flag} {self.folder}: holds single runs ({', '.join(tasks)}) or an unfinished "
                        "sequence. Finish a sequence by rerunning its command with --resume; make a matrix of single "
                        f"runs with --load {files}, in the order of training, --eval-only "
                        "--save DIR")

    def json(self, name, is_one):
        return self._read(name, json.loads, is_one)

    def matrix(self, name, columns, order):
        """Return {task trained last: [cells]} of a csv file with these columns after the first, and these tasks."""
        def parse(text):
            reject_nul(text)
            rows = list(csv.reader(text.splitlines()))
            if (rows[:1] != [["task", *columns]] or any(len(row) != 1 + len(columns) for row in rows)
                    or [row[0] for row in rows[1:] if row[0] != ZERO_SHOT] != order):
                raise ValueError("it has other rows or columns than the sequence")
            return {task: [float(cell) if cell else None for cell in cells] for task, *cells in rows[1:]}
        return self._read(name, parse)

    def log(self, name):
        """Return the lines of a log as dicts; None if there is no such file."""
        if not self.has(name):
            return None
        return self._read(name, lambda text: [_log_line(line) for line in text.splitlines()],
                          out="remove it to go without its curves")

    def _read(self, name, parse, is_one=lambda content: True, out="rerun its command with --resume, which keeps "
              "finished tasks and writes this again"):
        path = self.folder / name
        try:
            content = parse(path.read_text(encoding="utf-8"))
            if not is_one(content):
                raise ValueError("it lacks what a sequence writes there")
            return content
        except OSError as error:
            raise UserError(f"{self.flag} {self.folder}: {path} cannot be read ({error.strerror}); {out}") from None
        except (ValueError, TypeError, RecursionError, csv.Error) as error:
            raise UserError(f"{self.flag} {self.folder}: {path} is damaged ({error}); {out}") from None


def _log_line(text):
    """Parse a line of a log; numbers that json lacks were written as text: nan, inf."""
    line = json.loads(text)
    if not isinstance(line, dict) or not isinstance(line.get("iteration"), int):
        raise ValueError("a line names no iteration")
    return {name: value if name == "iteration" else float(value) for name, value in line.items()}


def _is_task(content):
    scores = content.get("scores") if isinstance(content, dict) else None
    return _is_run(content) and isinstance(scores, dict) and all(isinstance(found, dict) for found in scores.values())


def _is_run(content):
    flags = content.get("flags") if isinstance(content, dict) else None
    return (isinstance(flags, dict) and all(isinstance(flag, dict) and "value" in flag for flag in flags.values())
            and all(isinstance(trained, dict) for trained in content.get("trained_with", [])))
