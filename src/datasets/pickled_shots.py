"""Read pickled lists of few-shot draws, ``shot_<K>-seed_<S>.pkl``, without executing anything.

Such a file is {"train": [Datum, ...], "val": [Datum, ...]}, where a Datum is an object with the path of an
image, its label and the name of its class. A pickle can name any function and call it; here every name is
rejected except Datum, which becomes a row that only keeps its state.
"""

import io
import os
import pickle
import posixpath

from src.datasets.shots import entry_of
from src.errors import UserError

MOST_BYTES = 64 * 2 ** 20  # 200 times the longest such list
ROW = "Datum"


class Row:
    """Stand in for a pickle's Datum: keep the given state and do nothing else."""

    __slots__ = ("state",)

    def __new__(cls):
        return object.__new__(cls)

    def __setstate__(self, state):
        self.state = state


class RowsOnly(pickle.Unpickler):
    """Accept only Row, whatever module a pickle claims for it, and reject every other name."""

    def find_class(self, module, name):
        if name != ROW:
            raise pickle.UnpicklingError(f"it names {module}.{name}, but a list of shots may only name {ROW}")
        return Row


def read_pickled_shots(path):
    """Return the entry of a shots file (see ``src.datasets.shots``) from a pickle.

    The folder common to all paths is dropped, so that the images are found wherever they are. Raises UserError
    for anything else.
    """
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
            raise UserError(f"{path}: exceeds {MOST_BYTES >> 20} MiB, more than any list of shots")
        with open(path, "rb") as file:
            content = file.read()
        return RowsOnly(io.BytesIO(content)).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError,
            OverflowError, RecursionError, MemoryError) as error:  # raised by damaged pickles
        raise UserError(f"{path}: cannot be read as a pickled list of shots ({error})") from None


def _fields(row):
    """Return (path, label, class name) of a Datum, or of a list or tuple of these."""
    if isinstance(row, Row):
        state = row.state
        path, label, name = state["_impath"], state["_label"], state["_classname"]
    else:
        path, label, name = row
    if not (isinstance(path, str) and type(label) is int and isinstance(name, str)):
        raise ValueError(f"{path!r}, {label!r}, {name!r} is not a path, a label, a name")
    return path.replace("\\", "/"), label, name


def _top(paths):
    """Return the folder that all paths share; "" if there is none."""
    folders = [posixpath.dirname(path) for path in paths]
    absolute = {folder.startswith("/") for folder in folders}
    return posixpath.commonpath(folders) if len(absolute) == 1 else ""


def _by_class(rows, top):
    """Return [(class name, [image below ``top``])], classes sorted by label."""
    names, images = {}, {}
    for path, label, name in rows:
        if names.setdefault(label, name) != name:
            raise ValueError(f"label {label} is called {names[label]!r} and {name!r}")
        images.setdefault(label, []).append(path[len(top):].lstrip("/"))
    return [(names[label], images[label]) for label in sorted(images)]
