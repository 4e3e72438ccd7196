"""Open Tiny ImageNet: 200 of ImageNet's classes at 64 x 64 pixels. Its val part is the test part here, because
its own test images have no published labels."""

from pathlib import Path

from src.datasets.common import Task, file_split, missing
from src.datasets.images import read_image
from src.datasets.listing import listing_of
from src.errors import UserError
from src.machine.files import read_lines
from src.templates.collections import SIMPLE

FOLDER = "tiny-imagenet-200"


def open_tiny_imagenet(name, root):
    """Open Tiny ImageNet. ``wnids.txt`` numbers the classes, ``words.txt`` names them,
    ``train/<wnid>/images/*.JPEG`` are to train on, ``val/val_annotations.txt`` labels ``val/images/*.JPEG``.

    Raises UserError for anything missing or inconsistent.
    """
    folder = Path(root) / FOLDER
    if not folder.is_dir():
        raise missing(name, folder, root)
    wnids = _lines(name, folder / "wnids.txt")
    words = dict(line.partition("\t")[::2] for line in _lines(name, folder / "words.txt"))
    if nameless := [wnid for wnid in wnids if wnid not in words]:
        raise _damaged(name, folder / "words.txt", f"has no name for {nameless[0]}")
    classnames = [words[wnid].split(",")[0].strip() for wnid in wnids]
    return Task(name, classnames, SIMPLE, {"train": _train(name, folder, wnids), "test": _test(name, folder, wnids)})


def _train(name, folder, wnids):
    files, labels = [], []
    for label, wnid in enumerate(wnids):
        place = f"train/{wnid}/images"
        if not (folder / place).is_dir():
            raise _damaged(name, folder / place, "is missing")
        found = listing_of(folder, place).files
        files += found
        labels += [label] * len(found)
    return file_split(folder, files, labels, read_image)


def _test(name, folder, wnids):
    path, places = folder / "val" / "val_annotations.txt", {wnid: label for label, wnid in enumerate(wnids)}
    rows = [line.split("\t") for line in _lines(name, path)]
    if strange := [row for row in rows if len(row) < 2 or row[1] not in places]:
        line = " ".join(strange[0])
        raise _damaged(name, path, f"has the line {line!r}; expected a file, a tab, a wnid of wnids.txt")
    rows = sorted((f"val/images/{row[0]}", places[row[1]]) for row in rows)
    return file_split(folder, [file for file, _ in rows], [label for _, label in rows], read_image)


def _lines(name, path):
    try:
        return read_lines(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise _damaged(name, path, f"cannot be read ({reason})") from None


def _damaged(name, path, reason):
    return UserError(f"{name}: {path} {reason}; see section {name} of datasets.md")
