"""What a run writes under ``--save`` while it runs: metrics, logs, its description. Without a folder, nothing."""

import contextlib
import csv
import datetime
import functools
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from clip.errors import LoadError
from clip.files.archive import read_file
from src import __version__
from src.errors import UserError, legible
from src.machine.distributed import World
from src.machine.files import atomic_file, locked_folder, parse_json, read_json, reject_nul
from src.machine.notices import warn
from src.machine.progress import Progress
from src.report.measures import RECALLS
from src.report.tables import rows_csv
from src.store.checkpoint import save_tensors, without_carry
from src.store.trackers import Trackers

SCORES = ("top1", "top5", "pm0", "pm10", "mean_per_class", *RECALLS)
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "open_clip_torch", "peft")


@dataclass
class Heard:
    """Additions to a RunFolder: {dataset: [row of its metrics]}, and {tensor file beside the checkpoints:
    whether it exists}."""

    rows: dict = field(default_factory=dict)
    tensors: dict = field(default_factory=dict)


class RunFolder:
    """The files of a run. ``RunFolder(None)`` accepts everything and writes nothing; so does one with
    ``writes`` False, in processes other than the first, which only read. ``flag`` is the flag that named
    it, for messages."""

    def __init__(self, path, writes=True, flag="--save"):
        self.path, self.flag = Path(path) if path else None, flag
        self.writes = writes and self.path is not None
        self._heard = None

    def file(self, name):
        return self.path / name

    def has(self, name):
        return self.path is not None and self.file(name).is_file()

    def prepare(self):
        """Check, before training rather than after, that the folder can be written. Leaves nothing behind,
        so that a run refused later has written nothing."""
        if not self.writes:
            return
        try:
            for path in self.path.glob("metrics_*.csv") if self.path.exists() else ():
                self.read_metrics(path.stem.removeprefix("metrics_"))  # refuse damaged files now
            missing = [folder for folder in (self.path, *self.path.parents) if not os.path.exists(folder)]
            with atomic_file(self.file(".writable")) as file:
                file.write(b"")
            self.file(".writable").unlink()
            for folder in missing:
                folder.rmdir()
        except OSError as error:
            raise UserError(f"{self.flag} {self.path}: cannot be written ({error.strerror}); give another") from None

    def ours(self):
        """Lock the folder inside the context: no other run trains into it."""
        return locked_folder(self.path, self.flag) if self.writes else contextlib.nullcontext()

    @contextlib.contextmanager
    def heard(self):
        """Record inside the context what is added; yield the Heard."""
        before, self._heard = self._heard, Heard()
        try:
            yield self._heard
        finally:
            self._heard = before

    def add_metrics(self, dataset, row):
        """Append a row to ``metrics_<dataset>.csv``, or replace one that differs from it only in its scores."""
        if self._heard:
            self._heard.rows.setdefault(dataset, []).append(row)
        if not self.writes:
            return
        rows = self.read_metrics(dataset)
        same = [number for number, old in enumerate(rows) if _identity(old) == _identity(row)]
        self._write_metrics(dataset, [*rows[:same[0]], row, *rows[same[0] + 1:]] if same else [*rows, row])

    def _write_metrics(self, dataset, rows):
        with atomic_file(self.file(f"metrics_{dataset}.csv"), "w") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)

    def forget_other_iterations(self, tasks, iterations):
        """Drop rows of ``tasks``, (task, phase) as in the rows, that an earlier unfinished or overwritten
        run left and this one did not repeat."""
        tasks = {(task, str(phase)) for task, phase in tasks}
        if not self.writes:
            return
        for path in self.path.glob("metrics_*.csv"):
            dataset = path.stem.removeprefix("metrics_")
            rows = self.read_metrics(dataset)
            kept = [row for row in rows
                    if (row["task"], row.get("phase", "")) not in tasks or int(row["iteration"]) in iterations]
            if not kept:
                path.unlink(missing_ok=True)
            elif len(kept) != len(rows):
                self._write_metrics(dataset, kept)

    def read_metrics(self, dataset):
        """Return the rows of ``metrics_<dataset>.csv``. Raise UserError if it is not such a file, e.g.
        after editing."""
        path = self.file(f"metrics_{dataset}.csv")
        if not path.is_file():
            return []
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                text = file.read()
            reject_nul(text)
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        except (OSError, ValueError, csv.Error) as error:
            raise UserError(f"{path} cannot be read as csv ({error}); repair it, or move it away") from None
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values() or "task" not in row or not re.fullmatch(
                    r"[0-9]{1,18}", row.get("iteration", "")):
                raise UserError(f"{path} is damaged: row {number} does not match its header, or lacks iteration and "
                                "task; repair it, or move it away")
        return rows

    def read_json(self, name):
        """Return the content of a file written by ``write_json``; {} if there is none that can be read."""
        try:
            content = read_json(self.file(name)) if self.has(name) else {}
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def write_json(self, name, content):
        if self.writes:
            with atomic_file(self.file(name), "w") as file:
                json.dump(content, file, indent=1)

    def write_text(self, name, content):
        if self.writes:
            with atomic_file(self.file(name), "w") as file:
                file.write(content)

    def write_bytes(self, name, content):
        if self.writes:
            with atomic_file(self.file(name)) as file:
                file.write(content)

    def write_tensors(self, name, content):
        """Write a file of tensors; delete it if ``content`` is None."""
        if self._heard:
            self._heard.tensors[name] = content is not None
        if self.writes and content is None:
            self.file(name).unlink(missing_ok=True)
        elif self.writes:
            save_tensors(self.file(name), content)

    def write_checkpoint(self, dataset, checkpoint):
        if self.writes:
            save_tensors(self.file(f"{dataset}.pth"), checkpoint)

    def leave_carry_out(self, dataset, later):
        """Rewrite a finished checkpoint without its hooks' carry, which the ``later`` file now has. If that
        fails, the checkpoint stays whole, with a warning."""
        if not self.writes:
            return
        path = self.file(f"{dataset}.pth")
        try:
            self.write_checkpoint(dataset, without_carry(read_file(path), later))
        except (OSError, UserError, LoadError) as error:
            warn(f"--keep-carry last: {path} still holds its hooks' carry: {error}")

    def open_log(self, dataset, after=0):
        """Open ``log_<dataset>.jsonl``, keeping its lines of the first ``after`` steps."""
        if not self.writes:
            return None
        path = self.file(f"log_{dataset}.jsonl")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if after and path.is_file() else []
        with atomic_file(path, "w") as file:
            file.writelines(f"{line}\n" for line in lines if _iteration_of(line) <= after)
        return path.open("a", encoding="utf-8", buffering=1)


def _iteration_of(line):
    """Return the iteration of a log line; infinity for a line that was cut off or edited."""
    try:
        return float(parse_json(line)["iteration"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return math.inf


def _identity(row):
    """Return the cells of a row that identify it; an empty cell equals a missing column."""
    return {key: str(value) for key, value in row.items() if key not in SCORES and str(value)}


def metrics_row(scores, iteration, task, split, scored_by="zeroshot", train_data="all", label_space="task"):
    """Return the scores of one evaluation as a row; ``task`` is the dataset trained last, empty for zero-shot."""
    video = {} if scores.pm0 is None else {"pm0": f"{scores.pm0:.4f}", "pm10": f"{scores.pm10:.4f}"}
    return {"iteration": iteration, "top1": f"{scores.top1:.4f}", "top5": f"{scores.top5:.4f}", "task": task,
            "label_space": label_space, "split": split, "n": scores.n, "scored_by": scored_by, "k": scores.k,
            "train_data": train_data, **({} if scores.per_class is None else {
                "mean_per_class": f"{scores.per_class:.4f}"}), **video}


def predictions_csv(found, classnames):
    """Return the text of ``predictions_<dataset>.csv``, one row per image, from Predictions;
    ``classnames``: {dataset: its classes}. Class numbers count from 0, in the dataset's order."""
    own, files = next(iter(classnames)), found.images.files
    header = ["image", "label_number", "label", "prediction_number", "prediction", "probability", "rank"]
    rows = [[legible(files[place]) if files else place, label, classnames[own][label], number,
             classnames[dataset][number], f"{probability:.6f}", rank, dataset]
            for place, label, (dataset, number), probability, rank in zip(
                found.places, found.labels, found.predictions, found.probabilities, found.ranks, strict=True)]
    several = len(classnames) > 1
    return rows_csv([*header, "prediction_dataset"] if several else header, rows if several else [
        row[:-1] for row in rows])


def classes_csv(found, classnames):
    """Return the text of ``classes_<dataset>.csv``: accuracy in percent and number of images per class."""
    return rows_csv(["class", "accuracy", "support"], [
        [name, f"{100 * hits / images:.4f}" if images else "", images]
        for name, hits, images in zip(classnames, found.hits, found.support, strict=True)])


def retrieval_row(scores, iteration, task, phase, split, scored_by=None):
    """Return the RetrievalScores of one evaluation as a row; ``task`` is the dataset trained last and
    ``phase`` its phase. ``scored_by``: what is scored, if not the plain CLIP."""
    return {"iteration": iteration, "task": task, "phase": phase, "split": split,
            **{name: f"{getattr(scores, name):.4f}" for name in RECALLS},
            **({"scored_by": scored_by} if scored_by else {})}


class Journal:
    """Records each step: shows it on ``progress``, and every ``interval`` steps adds a log line to
    ``log_<dataset>.jsonl``, ``progress`` and ``trackers``.

    Terms stay on the device between log lines, so that the loop never waits for them. ``means`` converts
    them to {name: number}, averaged over the processes. ``after``: steps that an interrupted run has done.
    """

    def __init__(self, folder, dataset, total, interval, means=None, after=0, progress=None, trackers=None):
        self.means = means or World().means
        self.open_log, self.file = functools.partial(folder.open_log, dataset, after), None
        self.interval, self.total = interval, total
        self.progress, self.trackers = progress or Progress(), trackers or Trackers()
        self.progress.task(dataset, after, total)
        self.images, self.since = 0, time.perf_counter()

    def step(self, state, losses):
        self.images += state.rows
        self.progress.step()
        if state.iteration % self.interval and state.iteration != self.total:
            return
        terms = self.means({**losses, **state.metrics})
        now = time.perf_counter()
        line = {"iteration": state.iteration, **terms, "lr": state.learning_rate,
                "images_per_second": round(self.images / (now - self.since), 1)}
        self.images, self.since = 0, now
        self.progress.tell(line, [*losses])
        self._write(json.dumps({name: _json_number(value) for name, value in line.items()}) + "\n")
        self.trackers.line(line)

    def _write(self, text):
        """If the log cannot be written, warn once and keep training."""
        try:
            self.file = self.file or self.open_log()  # only once there is something to write
            if self.file:
                self.file.write(text)
        except OSError as error:
            warn(f"the log of this task cannot be written and ends here ({error.strerror or error})")
            self._close_file()
            self.open_log = lambda: None

    def _close_file(self):
        if self.file:
            with contextlib.suppress(OSError):  # after the warning that it cannot be written
                self.file.close()
        self.file = None

    def close(self):
        self.progress.end_task()
        if not self.total:
            self._write("")  # a run without steps leaves an empty log, not that of another run
        self._close_file()


def _json_number(value):
    """Return a number as JSON can hold it: NaN and infinity, from diverged terms, become text."""
    return value if math.isfinite(value) else str(value)


def describe_run(files, device, **facts):
    """Return everything needed to repeat the run: resolved flags with their origins, versions, commit,
    hardware; and when it ended."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "flags": files.flags, "command": list(files.argv), "seed": files.seed, "precision": device.precision,
        "hardware": device.describe(),
        "machine": platform.machine(), "python": platform.python_version(), "versions": versions(),
        "version": __version__, "commit": _commit(), **facts,
    }


def code_changes(facts):
    """Describe how the code here differs from what ``describe_run`` stored of a run: version, commit, and
    the versions of Python and packages. Missing entries count as equal."""
    stored = facts.get("versions") if isinstance(facts.get("versions"), dict) else {}
    here = {"version": __version__, "commit": _commit(), "Python": platform.python_version(), **versions()}
    there = {"version": facts.get("version"), "commit": facts.get("commit"), "Python": facts.get("python"), **stored}
    return [f"{name} {str(there[name])[:12]} there, {str(here[name])[:12]} here" for name in here
            if there.get(name) is not None and here[name] is not None and there[name] != here[name]]


def versions():
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _commit():
    """Return the commit of this code; None if git does not track it, since an installed package may lie
    inside another project's repository."""
    return _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", Path(__file__).name) else None


def _git(*words):
    try:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10,
                              check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
