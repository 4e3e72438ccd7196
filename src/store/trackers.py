"""TensorBoard and Weights & Biases: what a run logs, also there. Each package is imported when its flag asks for it."""

import importlib
import json
import os
import secrets
from pathlib import Path

from src.errors import UserError
from src.machine.files import atomic_file, read_json
from src.machine.notices import warn

EVALUATION, SEQUENCE = "evaluation", "sequence"  # stand in the place of a task: scored without training; all tasks
PROJECT = "clip-continual"
RUN_FILE = "wandb_run.json"  # in the run's folder: which run of theirs --resume goes on with
VARIABLES = {"project": "WANDB_PROJECT", "name": "WANDB_NAME", "dir": "WANDB_DIR", "id": "WANDB_RUN_ID"}


def open_trackers(files, writes=True):
    """The Trackers that the Files of a run ask for; none in a process that does not write. Imports their packages, and
    writes nothing yet. UserError where a package is missing, or the folder that one needs."""
    wanted = [kind for asked, kind in ((files.tensorboard, TensorBoard), (files.wandb, WandB)) if asked and writes]
    return Trackers([kind(files) for kind in wanted])


def _package(flag, module, package):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{flag} needs the package {package} ({error}): pip install {package}") from None


class Trackers:
    """Hands on what a run logs. Closes with the block that it is entered for."""

    def __init__(self, trackers=()):
        self._trackers, self.task, self._others = trackers, EVALUATION, {}

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        for tracker in self._trackers:
            tracker.close(failed=kind is not None)

    def begin(self, task, after=0, before=0):
        """The training of a task begins or goes on ``after`` so many of its steps; tasks before it had ``before``."""
        self.task = task
        for tracker in self._trackers:
            tracker.begin(task, after, before)

    def line(self, line):
        """A line of the log: "iteration" and numbers by name."""
        self._log(self.task, line["iteration"], {f"train/{name}": value for name, value in line.items()
                                                 if name != "iteration"})

    def scores(self, task, iteration, scores, scored_by=None):
        """An evaluation {dataset: {label space: scores with ``summary()``}} of a ``task`` that trains, or of
        EVALUATION. ``scored_by`` tells several at the same step apart."""
        mark = f" {scored_by}" if scored_by else ""
        self._log(task, iteration, {f"{dataset}/{space}/{name}{mark}": value for dataset, spaces in scores.items()
                                    for space, found in spaces.items() for name, value in found.summary().items()})

    def summary(self, space, numbers, tasks):
        """The summary of a sequence of so many ``tasks`` in one label space: its numbers {name: float}; what else it
        holds is left out."""
        known = {f"{space}/{name}": value for name, value in numbers.items() if isinstance(value, float)}
        for tracker in self._trackers:
            tracker.summary(known, tasks)

    def _log(self, task, iteration, numbers):
        for tracker in self._trackers:
            tracker.log(task, iteration, numbers)


class TensorBoard:
    """``<save>/tensorboard/<task>/``, a run of theirs for each task, whose steps are its own."""

    def __init__(self, files):
        if not files.save:
            raise UserError("--tensorboard writes to <save>/tensorboard; give --save DIR")
        self._writer = _package("--tensorboard", "torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._folder, self._writers = Path(files.save) / "tensorboard", {}

    def begin(self, task, after, before):
        # What an interrupted run logged of later steps, or an overwritten one of all, is hidden.
        self._open(task, purge_step=after + 1 if after else 0)

    def log(self, task, iteration, numbers):
        writer = self._writers.get(task) or self._open(task)
        for name, value in numbers.items():
            writer.add_scalar(name, value, iteration)
        writer.flush()

    def summary(self, numbers, tasks):
        self._open(SEQUENCE, purge_step=0)
        self.log(SEQUENCE, tasks, numbers)

    def close(self, failed):
        for writer in self._writers.values():
            writer.close()

    def _open(self, task, purge_step=None):
        self._writers[task] = self._writer(str(self._folder / task), purge_step=purge_step)
        return self._writers[task]


class WandB:
    """One run of theirs, whose steps count through all tasks; with --resume the one that was interrupted. What their
    variables say, such as WANDB_MODE, WANDB_PROJECT, WANDB_NAME and WANDB_DIR, comes first."""

    def __init__(self, files):
        self._wandb = _package("--wandb", "wandb", "wandb")
        self._files, self._run, self._before, self._step = files, None, 0, 0

    def begin(self, task, after, before):
        self._before = before

    def log(self, task, iteration, numbers):
        # Steps must not go back: an evaluation beside training is one of the step before.
        self._step = max(self._step, self._before + iteration)
        self._started().log(numbers, step=self._step)

    def summary(self, numbers, tasks):
        self._started().summary.update(numbers)

    def close(self, failed):
        if self._run is not None:
            self._run.finish(exit_code=int(failed))

    def _started(self):
        if self._run is None:
            options = {"project": PROJECT}
            if self._files.save:
                folder = Path(self._files.save)
                options |= {"name": folder.resolve().name, "dir": str(folder), "id": self._id(folder / RUN_FILE)}
            chosen = {key: value for key, value in options.items() if VARIABLES[key] not in os.environ}
            self._run = self._wandb.init(config=self._files.values(), resume="allow", **chosen)
        return self._run

    def _id(self, file):
        if self._files.resume and file.is_file():
            try:
                return str(read_json(file)["id"])
            except (OSError, ValueError, TypeError, KeyError):
                warn(f"{file} does not name the run of W&B that was interrupted; another begins")
        found = secrets.token_hex(4)
        with atomic_file(file, "w") as opened:
            json.dump({"id": found}, opened)
        return found
