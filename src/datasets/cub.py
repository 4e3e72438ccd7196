"""Open CUB-200-2011: birds, split by the lists of the archive."""

from collections import Counter
from pathlib import Path

from src.datasets.common import Task, file_split, missing
from src.datasets.images import read_image
from src.datasets.published_folders import has_parts, task_of_parts
from src.errors import UserError
from src.machine.files import read_lines
from src.templates.collections import BIRDS

FOLDER = "CUB_200_2011"
CLASSES = 200


def open_cub(name, root):
    """Open the archive's ``images.txt``, ``image_class_labels.txt``, ``train_test_split.txt`` and
    ``classes.txt`` beside ``images/``, or ``train/`` and ``test/`` with class folders, PILOT's split.

    Raises UserError for lists that do not agree.
    """
    folder = Path(root) / FOLDER
    if not folder.is_dir():
        raise missing(name, folder, root)
    if has_parts(folder):
        if (folder / "images").is_dir():
            raise UserError(f"{name}: {folder} holds train/, test/ and images/, which split it in two ways; remove one")
        return task_of_parts(name, folder, CLASSES, _called, BIRDS)
    files, labels, trains, classes = (_rows(name, folder / f"{file}.txt") for file in (
        "images", "image_class_labels", "train_test_split", "classes"))
    if len(classes) != CLASSES:
        raise _disagree(name, folder, f"classes.txt has {len(classes)} classes, where {CLASSES} are expected")
    if repeated := [file for file, count in Counter(files.values()).items() if count > 1]:
        raise _disagree(name, folder, f"{repeated[0]} is twice in images.txt")
    if not files.keys() == labels.keys() == trains.keys():
        raise _disagree(name, folder, "they number other images")
    places = {number: label for label, number in enumerate(classes)}
    rows = {"train": [], "test": []}
    for number, file in files.items():
        if labels[number] not in places or trains[number] not in ("0", "1"):
            raise _disagree(name, folder, f"image {number} has class {labels[number]}, split {trains[number]}")
        rows["train" if trains[number] == "1" else "test"].append((file, places[labels[number]]))
    splits = {part: file_split(folder / "images", *map(list, zip(*found, strict=True)), read_image)
              for part, found in rows.items() if found}
    return Task(name, list(map(_called, classes.values())), BIRDS, splits)


def _called(folder):
    """Return the class name of a folder: ``001.Black_footed_Albatross`` -> ``Black footed Albatross``."""
    return (folder.partition(".")[2] or folder).replace("_", " ")


def _rows(name, path):
    """Return {number: the rest} of lines such as ``1 001.Black_footed_Albatross``. Raises UserError for a
    repeated number."""
    try:
        rows = [line.partition(" ")[::2] for line in read_lines(path)]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{name}: {path} cannot be read ({reason}); see section {name} of datasets.md") from None
    if repeated := [number for number, count in Counter(number for number, _ in rows).items() if count > 1]:
        raise _disagree(name, path.parent, f"{path.name} has {repeated[0]} twice")
    return dict(rows)


def _disagree(name, folder, reason):
    return UserError(f"{name}: the lists in {folder} do not agree ({reason}); see section {name} of datasets.md")
