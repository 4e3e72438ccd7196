"""Open datasets published as two folders of class folders, ``train/`` and ``test/``."""

from dataclasses import replace

from src.datasets.common import Task
from src.datasets.coop import OWN_SPLIT
from src.datasets.images import class_folders, folder_split
from src.errors import UserError

PARTS = ("train", "test")
LISTED = "CUB200"  # split by folders in PILOT, by lists in its archive


def has_parts(folder):
    """Return whether a dataset is stored there as two parts."""
    return all((folder / part).is_dir() for part in PARTS)


def task_of_parts(name, folder, classes, called, templates):
    """Return a Task of ``train/<class>/`` and ``test/<class>/``, class folders in sorted order.

    ``called``: a function from a folder's name to its class name, or the list of names. Raises UserError for
    unexpected classes.
    """
    folders = {part: class_folders(folder / part) for part in PARTS}
    for part, found in folders.items():
        if len(found) != classes or found != folders["train"]:
            raise UserError(f"{name}: {folder / part} has {len(found)} class folders, but the same {classes} are "
                            f"expected in train/ and test/; see section {name} "
                            "of datasets.md")
    names = list(map(called, folders["train"])) if callable(called) else list(called)
    splits = {part: folder_split(folder / part, found) for part, found in folders.items()}
    return Task(name, names, templates, splits, train_data="train folder")


def with_remark(task):
    """Mark a dataset that is not split by PILOT's folders, and print a note."""
    if task.name != LISTED or task.train_data != "all":
        return task
    print(f"note: {task.name}: the split is that of the archive's lists, not of PILOT's folders train/ and test/: own "
          "split, not comparable with its tables")
    return replace(task, train_data=f"{OWN_SPLIT}, not comparable")
