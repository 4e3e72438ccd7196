"""TensorBoard and Weights & Biases: copies of what a run logs. Each package is imported only if its flag is given."""

import importlib
import json
import os
import secrets
from pathlib import Path

from src.errors import UserError
from src.machine.files import atomic_file, read_json
from src.machine.notices import warn

EVALUATION, SEQUENCE = "evaluation", "sequence"  # instead of a task's name: scored without training; all tasks
PROJECT = "clip-continual"
RUN_FILE = "wandb_run.json"  # in the run's folder: the W&B run that --resume continues
VARIABLES = {"project": "WANDB_PROJECT", "name": "WANDB_NAME", "dir": "WANDB_DIR", "id": "WANDB_RUN_ID"}


def open_trackers(files, writes=True):
    """Return the Trackers that the Files of a run request; none in a process that does not write. Imports
    their packages but writes nothing yet. Raises UserError if a package or a required folder is missing."""
    wanted = [kind for asked, kind in ((files.tensorboard, TensorBoard), (files.wandb, WandB)) if asked and writes]
    return Trackers([kind(files) for kind in wanted])


def _package(flag, module, package):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{flag} needs the package {package} ({error}): pip install {package}") from None


class Trackers:
    """Passes on what a run logs. Closes at the end of its context."""

    def __init__(self, trackers=()):
        self._trackers, self.task, self._others = trackers, EVALUATION, {}

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        for tracker in self._trackers:
            tracker.close(failed=kind is not None)

    def begin(self, task, after=0, before=0):
        """Begin training a task, or resume it ``after`` that many of its steps; the tasks before it had
        ``before`` steps."""
        self.task = task
        for tracker in self._trackers:
            tracker.begin(task, after, before)

    def line(self, line):
        """Log a line: "iteration" and numbers by name."""
        self._log(self.task, line["iteration"], {f"train/{name}": value for name, value in line.items()
                                                 if name != "iteration"})

    def scores(self, task, iteration, scores, scored_by=None):
        """Log an evaluation {dataset: {label space: scores with ``summary()``}} of a ``task`` in training,
        or of EVALUATION. ``scored_by`` distinguishes several at the same step."""
        mark = f" {scored_by}" if scored_by else ""
        self._log(task, iteration, {f"{dataset}/{space}/{name}{mark}": value for dataset, spaces in scores.items()
                                    for space, found in spaces.items() for name, value in found.summary().items()})

    def summary(self, space, numbers, tasks):
        """Log the numbers {name: float} of a sequence of ``tasks`` tasks in one label space; other content
        is skipped."""
        known = {f"{space}/{name}": value for name, value in numbers.items() if isinstance(value, float)}
        for tracker in self._trackers:
            tracker.summary(known, tasks)

    def _log(self, task, iteration, numbers):
        for tracker in self._trackers:
            tracker.log(task, iteration, numbers)


class TensorBoard:
    """``<save>/tensorboard/<task>/``: one TensorBoard run per task, with the task's own steps."""

    def __init__(self, files):
        if not files.save:
            raise UserError("--tensorboard writes to <save>/tensorboard; give --save DIR")
        self._writer = _package("--tensorboard", "torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._folder, self._writers = Path(files.save) / "tensorboard", {}

    def begin(self, task, after, before):
        # Hides later steps logged by an interrupted run, or all steps of an overwritten one.
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
    """One W&B run whose steps count through all tasks; with --resume the interrupted one. W&B's own
    variables, such as WANDB_MODE, WANDB_PROJECT, WANDB_NAME and WANDB_DIR, take precedence."""

    def __init__(self, files):
        self._wandb = _package("--wandb", "wandb", "wandb")
        self._files, self._run, self._before, self._step = files, None, 0, 0

    def begin(self, task, after, before):
        self._before = before

    def log(self, task, iteration, numbers):
        # Steps must not decrease: an evaluation during training belongs to the previous step.
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
                warn(f"{file} does not name the interrupted run of W&B; starting a new one")
        found = secrets.token_hex(4)
        with atomic_file(file, "w") as opened:
            json.dump({"id": found}, opened)
        return found
