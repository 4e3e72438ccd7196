"""Pickled lists of few-shot draws, ``shot_<K>-seed_<S>.pkl``, read without executing anything.

Such a file is {"train": [Datum, ...], "val": [Datum, ...]}, a Datum an object with the path of an image, its label and
the name of its class. A pickle can name any function and call it; here every name is refused but that of Datum, which
stands for a row that only keeps its state.
"""

import io
import os
import pickle
import posixpath

from src.datasets.shots import entry_of
from src.errors import UserError

MOST_BYTES = 64 * 2 ** 20  # 200 times the longest of such lists
ROW = "Datum"


class Row:
    """What a pickle calls Datum. It keeps the state that it is given, and does nothing else."""

    __slots__ = ("state",)

    def __new__(cls):
        return object.__new__(cls)

    def __setstate__(self, state):
        self.state = state


class RowsOnly(pickle.Unpickler):
    """Knows Row, whatever module a pickle says it is from, and refuses every other name."""

    def find_class(self, module, name):
        if name != ROW:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and a list of shots names {ROW} only")
        return Row


def read_pickled_shots(path):
    """The entry of a shots file (see ``src.datasets.shots``) from a pickle. The folder that all paths begin with is
    left out, so that the images are found wherever they lie. Raises UserError for anything else than such lists."""
    content = _load(path)
    try:
        rows = {part: [_fields(row) for row in content[part]] for part in ("train", "val") if part in content}
        if "train" not in rows or not rows["train"]:
            raise ValueError("it has no train list")
        top = _top([image for part in rows.values() for image, _, _ in part])
        return entry_of({part: _by_class(found, top) for part, found in rows.items()})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: is not a pickled list of shots, {{\"train\": [{ROW}, ...], \"val\": ...}} "
                        f"({error})") from None


def _load(path):
    try:
        if os.path.getsize(path) > MOST_BYTES:
            raise UserError(f"{path}: has more than {MOST_BYTES >> 20} MiB, which no list of shots has")
        with open(path, "rb") as file:
            content = file.read()
        return RowsOnly(io.BytesIO(content)).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError,
            OverflowError, RecursionError, MemoryError) as error:  # what damaged pickles raise
        raise UserError(f"{path}: cannot be read as a pickled list of shots ({error})") from None


def _fields(row):
    """(path, label, class name) of a Datum, or of such a list or tuple."""
    if isinstance(row, Row):
        state = row.state
        path, label, name = state["_impath"], state["_label"], state["_classname"]
    else:
        path, label, name = row
    if not (isinstance(path, str) and type(label) is int and isinstance(name, str)):
        raise ValueError(f"{path!r}, {label!r}, {name!r} is not a path, a label, a name")
    return path.replace("\\", "/"), label, name


def _top(paths):
    """The folder that all paths begin with; "" where there is none."""
    folders = [posixpath.dirname(path) for path in paths]
    absolute = {folder.startswith("/") for folder in folders}
    return posixpath.commonpath(folders) if len(absolute) == 1 else ""


def _by_class(rows, top):
    """[(class name, [image below ``top``])], classes by their labels."""
    names, images = {}, {}
    for path, label, name in rows:
        if names.setdefault(label, name) != name:
            raise ValueError(f"label {label} is called {names[label]!r} and {name!r}")
        images.setdefault(label, []).append(path[len(top):].lstrip("/"))
    return [(names[label], images[label]) for label in sorted(images)]
