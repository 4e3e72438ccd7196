"""Check that trials of a study are scored on other images than its test runs. Opens data without reading an image."""

import contextlib
import io
import os
from dataclasses import replace

from src.args import parse
from src.datasets import class_split, phase_of
from src.errors import UserError
from src.machine.notices import warn
from src.run.build import data_of, scoring_of
from src.run.datasets import Datasets


def refuse_shared_images(trials, jobs):
    """Refuse Jobs that score images of their row's trials (as when a dataset's val split serves as test), and
    trials on data without val.

    Warn if trials train on images that they score. Data that cannot be opened are skipped: their runs report it
    and fail.
    """
    tested = _opened(jobs)
    for row, chosen in _opened(trials).items():
        for trial in chosen:
            trial.require_split(row)
            seen = trial.images()
            for job in tested.get(row, ()):
                shared = [(image, name) for image, name in job.images().items() if image in seen]
                if shared:
                    _refuse(row, seen[shared[0][0]], shared[0][1], len(shared), job.split)
            for text in trial.trained_images():
                warn(f"select: row {row}: {text}")


def _refuse(row, tried, tested, count, split):
    also = "" if tried == tested else f" of {tested}"
    raise UserError(f"select: row {row}: {count} val images of {tried} are {split} images{also} too, on which its "
                    f"test runs are scored; take val images from other data, with on: {{orders: ...}}, or from the "
                    f"training data, with on: {{val-fraction: 0.1}}")


def _opened(jobs):
    """Return {row: [Scored]}, one Scored for each different way of opening the data."""
    found, known = {}, {}
    for job in jobs:
        config = parse(job.words)
        data, scoring = data_of(config), scoring_of(config)
        names = tuple(dict.fromkeys((*data.trained, *scoring.eval_datasets)))
        key = repr((replace(data, trained=tuple(sorted(data.trained)), seed=0), sorted(names), scoring.eval_split))
        scored = known.setdefault(key, Scored(Datasets(data), names, scoring.eval_split))
        found.setdefault(job.cell.row, {})[key] = scored
    return {row: list(each.values()) for row, each in found.items()}


class Scored:
    """Represent the images that a run scores."""

    def __init__(self, datasets, names, split):
        self.datasets, self.names, self.split = datasets, names, split
        self._images = None

    def require_split(self, row):
        for name, task in self._tasks():
            if self.split not in task.splits:
                raise UserError(f"select: row {row}: {name} has no {self.split} split to choose on; it has "
                                f"{', '.join(task.splits)}; hold out some of its training images, with on: "
                                f"{{val-fraction: 0.1}}")

    def images(self):
        """Return {identity of an image: its dataset}."""
        if self._images is None:
            self._images = {image: name for name, task in self._tasks() if self.split in task.splits
                            for image in _images(task, name, self.split)}
        return self._images

    def trained_images(self):
        """Yield a text for each dataset that trains on some of its val images."""
        for name, task in self._tasks():
            both = set(_paths(task, self.split)) & set(_paths(task, "train"))
            if both:
                yield f"{len(both)} val images of {name} are training images too"

    def _tasks(self):
        """Return [(name, Task)] of the data that can be opened."""
        found = []
        for name in self.names:
            with contextlib.suppress(UserError, ImportError), contextlib.redirect_stdout(io.StringIO()):
                found.append((name, self.datasets.open(name)))
        return found


def _images(task, name, part):
    """Return the identities of a split's images: their paths, or their index in the split.

    The split counts as test if both splits are the same object.
    """
    split, base = task.split(part), class_split(phase_of(name)[0])[0]
    if split.path:
        return map(os.path.realpath, _paths(task, part))
    if split.files:
        return ((base, file) for file in split.files)
    part = "test" if split is task.splits.get("test") else part
    return [(base, part, index) for index in range(len(split))]


def _paths(task, part):
    split = task.split(part) if part in task.splits else None
    return [str(split.path(index)) for index in range(len(split))] if split and split.path else []
