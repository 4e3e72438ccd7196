"""The user's own pictures: a folder of class folders, ``folder:PATH``."""

import hashlib
import os

from src.datasets.common import Task, balanced_halves, own_path
from src.datasets.images import class_folders, folder_split
from src.datasets.splits import RANDOM_SEED, TRAIN_SHARE, stored_lists
from src.errors import UserError
from src.machine.files import read_lines
from src.templates.collections import SIMPLE

SPLITS = ("train", "val", "test")


def open_folder(name, root):
    """PATH holds class folders, or train/ and test/ (and val/) that hold them. Without a test part val is it too; with
    neither, 20 % of each class, drawn with a fixed seed from the sorted listing, become it, and the lists are stored.
    Class names are the folders' names, or the lines of ``classnames.txt`` in their sorted order; ``templates.txt`` may
    hold prompts."""
    path = own_path(name)
    if not os.path.isdir(path):
        raise UserError(f"{name}: no such folder: {path}; give folder:PATH of a folder that holds one folder a class")
    parts = {split: path / split for split in SPLITS if (path / split).is_dir()} or {"train": path}
    if "train" not in parts:
        raise UserError(f"{name}: has {', '.join(parts)} but no train folder")
    folders = class_folders(parts["train"])
    if not folders:
        raise UserError(f"{name}: {parts['train']} holds no class folders")
    for folder in parts.values():
        if class_folders(folder) != folders:
            raise UserError(f"{name}: {folder} has other class folders than {parts['train']}; all parts need the same")
    splits = {split: folder_split(folder, folders) for split, folder in parts.items()}
    if "test" not in splits and "val" in splits:
        print(f"{name}: no test part, so its val part is it")
        splits["test"] = splits["val"]
    if "test" not in splits:
        splits |= stored_halves(name, path, root, splits["train"])
    return Task(path.name, _classnames(name, path, folders), _templates(name, path), splits, place=place_of(path))


def place_of(path):
    """A name that no other folder or table of the same name has."""
    return f"{path.name}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"


def stored_halves(name, path, root, everything):
    """A seeded, class-balanced train and test part of data that has no test part; stored, and said in one line."""
    lists = stored_lists(root, place_of(path), everything.files, lambda: dict(zip(
        ("train", "test"), balanced_halves(everything.labels, TRAIN_SHARE, RANDOM_SEED), strict=True)), RANDOM_SEED)
    print(f"{name}: no test part, so {len(lists['test'])} of its {len(everything)} images, 20 % of each class, are it")
    return {split: everything.subset(lists[split]) for split in ("train", "test")}


def _classnames(name, path, folders):
    lines = _lines(path / "classnames.txt")
    if lines and len(lines) != len(folders):
        raise UserError(f"{name}: classnames.txt has {len(lines)} lines for {len(folders)} class folders")
    return lines or [folder.replace("_", " ") for folder in folders]


def _templates(name, path):
    lines = _lines(path / "templates.txt")
    if wrong := [line for line in lines if "{c}" not in line]:
        raise UserError(f"{name}: templates.txt has {wrong[0]!r}, without {{c}} where the class name goes")
    return lines or SIMPLE


def _lines(file):
    if not os.path.isfile(file):
        return []
    try:
        return read_lines(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as UTF-8 text ({error}); repair or remove it") from None
