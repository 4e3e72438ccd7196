"""DATASETS: every dataset that a flag can name. The table imports nothing; ``open_task`` opens one."""

import difflib

from src.datasets.common import Entry
from src.errors import UserError

COLLECTIONS = "src.datasets.collections"
TOY = "src.datasets.embedded:open_toy"
TOY_TASKS = ("toy-digits", "toy-new-shapes", "toy-new-textures", "toy-shapes", "toy-textures", "toy-sizes",
             "toy-positions", "toy-colours", "toy-backgrounds")

DATASETS = {
    "CIFAR10": Entry(f"{COLLECTIONS}:open_cifar", 10, {"train": 50000, "test": 10000}, downloads=True),
    "CIFAR100": Entry(f"{COLLECTIONS}:open_cifar", 100, {"train": 50000, "test": 10000}, downloads=True),
    "DTD": Entry(f"{COLLECTIONS}:open_dtd", 47, {"train": 1880, "val": 1880, "test": 1880}, downloads=True),
    "Flowers": Entry(f"{COLLECTIONS}:open_flowers", 102, {"train": 1020, "val": 1020, "test": 6149}, downloads=True),
    "MNIST": Entry(f"{COLLECTIONS}:open_mnist", 10, {"train": 60000, "test": 10000}, downloads=True),
} | {name: Entry(TOY, downloads=True) for name in (*TOY_TASKS, "toy-reference")}
# In the user's own data the part behind the colon is a path.
PREFIXES = {"folder": Entry("src.datasets.folder:open_folder")}

# Named in the specification; their readers are being written.
LATER = ("Aircraft", "Caltech101", "EuroSAT", "Food", "OxfordPet", "StanfordCars", "SUN397", "ImageNet", "ImageNetA",
         "ImageNetR", "ImageNetSketch", "ImageNetV2", "ObjectNet", "YTBB", "ImageNetVidRobust", "conceptual_captions",
         "FMOW", "IWildCam", "coco", "flickr30k")
LATER_PREFIXES = ("csv", "pairs")


def find_entry(name):
    """The Entry of a name. Raises UserError with near matches, without opening anything."""
    prefix, colon, path = name.partition(":")
    if colon and prefix in PREFIXES:
        return PREFIXES[prefix]
    if name in DATASETS:
        return DATASETS[name]
    if name in LATER or colon and prefix in LATER_PREFIXES:
        raise UserError(f"dataset {name!r} is not built yet; there are {', '.join(DATASETS)} and folder:PATH")
    near = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(DATASETS)}"
    raise UserError(f"no dataset {name!r}; {hint} Your own pictures: folder:PATH")


def open_task(name, root):
    """Open a dataset under ``root`` (``--data-location``), downloading it where it can be. -> Task."""
    return find_entry(name).open(name, root)


def stem(name):
    """What files of a dataset are called: the name itself, or the last part of a path of the user's."""
    prefix, colon, path = name.partition(":")
    return path.rstrip("/").rsplit("/", 1)[-1].split(".")[0] if colon and prefix in PREFIXES else name
