"""Open a custom table of labelled images: ``csv:FILE``."""

import re
import unicodedata
from pathlib import PurePosixPath

from src.datasets.common import Task, file_split, own_path
from src.datasets.folder import place_of, stored_halves
from src.datasets.images import read_upright
from src.datasets.places import Places, leave_out
from src.datasets.rows import IMAGE_COLUMNS, LABEL_COLUMNS, MISSING, SPLITS, read_table, split_of
from src.datasets.texts import read_text
from src.errors import UserError
from src.templates.collections import SIMPLE

WANTED = "csv:FILE with the columns image and label"


def open_csv(name, root, skip_missing=False):
    """Open a table with the columns image (relative to the file) and label (a class name), and optionally split
    (train, val, test).

    Class names are the sorted labels; whole-number labels sort as numbers. Without test rows the val rows are
    the test part; without either, a stored, seeded, balanced 20 % of each class. ``skip_missing``: leave out
    any number of rows whose image is missing.
    """
    path = own_path(name)
    table = read_table(name, path, read_text(name, path, WANTED), image=IMAGE_COLUMNS, label=LABEL_COLUMNS)
    rows, faults, places = [], [], Places(path.parent)
    for row in table.rows:
        image, label = (_text(name, path, table, row, kind) for kind in ("image", "label"))
        part, file = split_of(name, path, table, row), places.find(image)
        if file is None:
            faults.append((row.place, f"{image} is not there"))
        else:
            rows.append((part, file, label))
    noted = leave_out(name, path, faults, len(table.rows), skip_missing)
    if not rows:
        raise UserError(f"{name}: none of the images that {path} names exists")
    labels = sorted({label for _, _, label in rows}, key=_numbers_first)
    splits = _splits(path.parent, rows, {label: number for number, label in enumerate(labels)})
    if "train" not in splits:
        raise UserError(f"{name}: {path} has no row whose split is train")
    if "test" not in splits and "val" in splits:
        print(f"{name}: no test split, so its val split is used as test")
        splits["test"] = splits["val"]
    if "test" not in splits:
        splits |= stored_halves(name, path, root, splits["train"])
    return Task(path.stem, [text.replace("_", " ") for text in labels], SIMPLE, splits, place=place_of(path),
                findings=(*noted, *_contradictions(name, rows), *_drawn_twice(name, rows, splits),
                          *_no_labels(name, rows)), noted=tuple(noted))


def _text(name, path, table, row, kind):
    value = table.of(row, kind)
    if isinstance(value, list | dict):
        raise UserError(f"{name}: {row.place} of {path} has {type(value).__name__} in {table.columns[kind]}, where "
                        "a text belongs")
    if value is None or value == "":
        raise UserError(f"{name}: {row.place} of {path} lacks its {table.columns[kind]}")
    return unicodedata.normalize("NFC", str(value)) if kind == "label" else str(value)


def _splits(folder, rows, numbers):
    splits = {}
    for part in SPLITS:
        members = [(file, numbers[label]) for split, file, label in rows if split == part]
        if members:
            splits[part] = file_split(folder, [file for file, _ in members], [label for _, label in members],
                                      read_upright)
    return splits


def _contradictions(name, rows):
    """Yield sentences about images with two labels or in two splits."""
    labels, parts = {}, {}
    for part, listed, label in rows:
        file = PurePosixPath(listed).as_posix()  # ./1.jpg is 1.jpg
        labels.setdefault(file, set()).add(label)
        parts.setdefault(file, set()).add(part)
    for found, what in ((labels, "labels"), (parts, "splits")):
        several = [file for file, values in found.items() if len(values) > 1]
        if several:
            first = several[0]
            yield (f"{name}: {len(several)} images have several {what}, such as {first} "
                   f"({', '.join(sorted(found[first]))})")


def _drawn_twice(name, rows, splits):
    """Yield a sentence about images with several rows of which the drawn halves have one each."""
    if {part for part, _, _ in rows} != {"train"} or "test" not in splits:
        return
    test = set(splits["test"].files)
    both = [file for file in dict.fromkeys(splits["train"].files) if file in test]
    if both:
        yield (f"{name}: {len(both)} images have several rows and are in both drawn halves, train and test, such as "
               f"{both[0]}; leave one row per image, or name their splits")


def _no_labels(name, rows):
    if missing := [label for _, _, label in rows if label in MISSING]:
        yield (f"{name}: {len(missing)} rows have the label {missing[0]!r}, which is taken for the name of a class; if "
               "it stands for a missing label, remove these rows")


def _numbers_first(text):
    return (0, int(text), "") if re.fullmatch(r"\d{1,300}", text) else (1, 0, text)
