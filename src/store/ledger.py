"""Kept features of what a run scores; ``src.report.predictions`` reads them and documents the layout."""

import json

import numpy as np

from src.machine.files import atomic_file
from src.report.predictions import DESCRIPTION, FORMAT, folder_of

SMALL = (np.uint16, np.uint32)  # integer types to choose from, smallest first


class Ledger:
    """The kept features in the folder of a run, a RunFolder that may be read-only."""

    def __init__(self, folder):
        self.folder = folder

    def has(self, task):
        return self.folder.path is not None and self._file(task, DESCRIPTION).is_file()

    def begin(self, task):
        """Invalidate an earlier evaluation after ``task`` by deleting its description."""
        if self.folder.writes:
            self._file(task, DESCRIPTION).unlink(missing_ok=True)

    def add(self, task, dataset, arrays):
        """Write {name: array} of one dataset."""
        if self.folder.writes:
            with atomic_file(self._file(task, f"{dataset}.npz")) as file:
                np.savez(file, **arrays)

    def finish(self, task, description):
        """Write the description of the arrays, once all of them are written."""
        if self.folder.writes:
            with atomic_file(self._file(task, DESCRIPTION), "w") as file:
                json.dump({"format": FORMAT, **description}, file, indent=1)

    def _file(self, task, name):
        return folder_of(self.folder.path, task) / name


def small(numbers):
    """Return an array of non-negative integers in the smallest type that holds them."""
    numbers = np.asarray(numbers)
    return numbers.astype(next(kind for kind in SMALL if numbers.max(initial=0) <= np.iinfo(kind).max))


def names_as_bytes(names):
    """Return a list of names as an array that needs neither pickle nor a fixed width."""
    return np.frombuffer(json.dumps(list(names)).encode(), dtype=np.uint8)
