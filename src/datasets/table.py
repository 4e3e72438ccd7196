"""The user's own table of labelled images: ``csv:FILE``."""

import csv
import os
import re

from src.datasets.captions import column_of
from src.datasets.common import Task, file_split, own_path
from src.datasets.folder import SPLITS, place_of, stored_halves
from src.datasets.images import read_upright
from src.errors import UserError
from src.templates.collections import SIMPLE

IMAGE_COLUMNS = ("image", "filepath", "path", "file")
LABEL_COLUMNS = ("label", "class", "classname")


def open_csv(name, root):
    """Columns image (relative to the file) and label (a class name), and optionally split (train, val, test).

    Class names are the sorted labels; whole-number labels sort as numbers. Without test rows a stored, seeded, balanced
    20 % of each class is the test part.
    """
    path = own_path(name)
    rows = _rows(name, path)
    image, label = (column_of(name, path, rows[0], wanted) for wanted in (IMAGE_COLUMNS, LABEL_COLUMNS))
    for number, row in enumerate(rows, start=2):
        if not row[image] or not row[label]:
            raise UserError(f"{name}: line {number} of {path} lacks its {image if not row[image] else label}")
        if row.get("split", "train") not in SPLITS:
            raise UserError(f"{name}: line {number} of {path} has split {row['split']!r}, not {', '.join(SPLITS)}")
        if not os.path.isfile(path.parent / row[image]):
            raise UserError(f"{name}: line {number} of {path} names {row[image]}, which is not there")
    labels = sorted({row[label] for row in rows}, key=_numbers_first)
    splits = {}
    for part in SPLITS:
        members = [row for row in rows if row.get("split", "train") == part]
        if members:
            splits[part] = file_split(path.parent, [row[image] for row in members],
                                      [labels.index(row[label]) for row in members], read_upright)
    if "train" not in splits:
        raise UserError(f"{name}: {path} has no row whose split is train")
    if "test" not in splits:
        splits |= stored_halves(name, path, root, splits["train"])
    return Task(path.stem, [text.replace("_", " ") for text in labels], SIMPLE, splits, place=place_of(path))


def _numbers_first(text):
    return (0, int(text), "") if re.fullmatch(r"\d{1,300}", text) else (1, 0, text)


def _rows(name, path):
    if not os.path.isfile(path):
        raise UserError(f"{name}: no such file: {path}; give csv:FILE with the columns image and label")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{name}: {path} cannot be read as csv ({error})") from None
    if not rows:
        raise UserError(f"{name}: {path} holds no rows")
    return rows
