"""The user's own pictures: a folder of class folders, ``folder:PATH``."""

from pathlib import Path

from src.datasets.common import Split, Task, balanced_halves
from src.errors import UserError
from src.templates.collections import SIMPLE

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = ("train", "val", "test")
SPLIT_SEED, TRAIN_SHARE = 42, 0.8


def open_folder(name, root):
    """PATH holds class folders, or train/ and test/ (and val/) that hold them. Without a test part, 20 % of each
    class, drawn with a fixed seed from the sorted listing, become it. Class names are the folders' names."""
    path = Path(name.partition(":")[2]).expanduser()
    if not path.is_dir():
        raise UserError(f"{name}: no such folder: {path}; give folder:PATH of a folder that holds one folder a class")
    parts = {split: path / split for split in SPLITS if (path / split).is_dir()}
    if not parts:
        parts = {"train": path}
    if "train" not in parts:
        raise UserError(f"{name}: has {', '.join(parts)} but no train folder")
    folders = sorted(folder.name for folder in parts["train"].iterdir() if folder.is_dir())
    if not folders:
        raise UserError(f"{name}: {parts['train']} holds no class folders")
    listings = {split: _listing(name, folder, folders) for split, folder in parts.items()}
    splits = {split: _split(files, labels) for split, (files, labels) in listings.items()}
    if "test" not in splits:
        train, test = balanced_halves(splits["train"].labels, TRAIN_SHARE, SPLIT_SEED)
        splits |= {"train": splits["train"].subset(train), "test": splits["train"].subset(test)}
        print(f"{name}: no test part, so {len(test)} of {len(train) + len(test)} images, 20 % of each class, are it")
    return Task(path.name, [folder.replace("_", " ") for folder in folders], SIMPLE, splits)


def _listing(name, folder, classes):
    files, labels = [], []
    for label, classname in enumerate(classes):
        images = sorted(path for path in (folder / classname).glob("**/*") if path.suffix.lower() in IMAGES)
        if not images:
            raise UserError(f"{name}: the class folder {folder / classname} holds no image")
        files += images
        labels += [label] * len(images)
    return files, labels


def _split(files, labels):
    return Split(lambda index: open_image(files[index]), labels)


def open_image(path):
    """Path -> RGB PIL image; a file that cannot be decoded is named."""
    from PIL import Image
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be decoded ({error}); repair or remove it") from None
