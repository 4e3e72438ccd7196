"""List every dataset that a flag can name, in DATASETS. The table imports nothing; ``open_task`` opens one."""

import difflib
import os
import re
from pathlib import Path

from src.datasets.class_orders import split_count
from src.datasets.common import Entry, own_path
from src.datasets.sources import how_it_comes
from src.errors import UserError

_COLLECTION = "src.datasets.collections:open_collection"
_SHIFT = "src.datasets.imagenet:open_shift"
_TOY = "src.datasets.toy:open_toy"
_MINI = "src.datasets.mini:open_mini"


def _sizes(train, test, val=None):
    return {split: size for split, size in (("train", train), ("val", val), ("test", test)) if size}


_PAIR_SIZES = _sizes(1500, 300, 200)
_TOY_SIZES = _sizes(720, 504, 216)

DATASETS = {
    "Aircraft": Entry(_COLLECTION, "fgvc-aircraft-2013b", 100, _sizes(3334, 3333, 3333), downloads=True),
    "Caltech101": Entry("src.datasets.collections:open_caltech", "caltech101", 101, _sizes(6941, 1736), downloads=True),
    "CIFAR10": Entry(_COLLECTION, "cifar-10-batches-py", 10, _sizes(50000, 10000), downloads=True),
    "CIFAR100": Entry(_COLLECTION, "cifar-100-python", 100, _sizes(50000, 10000), downloads=True),
    "DTD": Entry(_COLLECTION, "dtd", 47, _sizes(1880, 1880, 1880), downloads=True),
    "EuroSAT": Entry("src.datasets.collections:open_eurosat", "eurosat", 10, _sizes(21600, 5400), downloads=True),
    "Flowers": Entry(_COLLECTION, "flowers-102", 102, _sizes(1020, 6149, 1020), downloads=True),
    "Food": Entry(_COLLECTION, "food-101", 101, _sizes(75750, 25250), downloads=True),
    "MNIST": Entry(_COLLECTION, "MNIST", 10, _sizes(60000, 10000), downloads=True),
    "OxfordPet": Entry(_COLLECTION, "oxford-iiit-pet", 37, _sizes(3680, 3669), downloads=True),
    "StanfordCars": Entry(_COLLECTION, "stanford_cars", 196, _sizes(8144, 8041)),
    "SUN397": Entry("src.datasets.collections:open_sun", "SUN397", 397, _sizes(87003, 21751), downloads=True),
    "ImageNet": Entry("src.datasets.imagenet:open_imagenet", "ImageNet", 1000, _sizes(1281167, 50000)),
    "ImageNetA": Entry(_SHIFT, "imagenet-a", 200, _sizes(None, 7500)),
    "ImageNetR": Entry(_SHIFT, "imagenet-r", 200, _sizes(None, 30000)),
    "ImageNetSketch": Entry(_SHIFT, "sketch", 1000, _sizes(None, 50889)),
    "ImageNetV2": Entry(_SHIFT, "imagenetv2-matched-frequency-format-val", 1000, _sizes(None, 10000),
                        fetch="src.datasets.imagenet:download_v2"),
    "ObjectNet": Entry("src.datasets.objectnet:open_objectnet", "objectnet-1.0", 113, _sizes(None, 18574)),
    "YTBB": Entry("src.datasets.video:open_ytbb", "imagenet_vid_ytbb_robust/ytbb-robust", 24),
    "ImageNetVidRobust": Entry("src.datasets.video:open_vid", "imagenet_vid_ytbb_robust/imagenet-vid-robust", 30),
    "CUB200": Entry("src.datasets.cub:open_cub", "CUB_200_2011", 200, _sizes(5994, 5794)),
    "TinyImageNet": Entry("src.datasets.tiny_imagenet:open_tiny_imagenet", "tiny-imagenet-200", 200,
                          _sizes(100000, 10000)),
    "FMOW": Entry("src.datasets.wilds:open_fmow", "fmow_v1.1", 62, fetch="src.datasets.wilds:download"),
    "IWildCam": Entry("src.datasets.wilds:open_iwildcam", "iwildcam_v2.0", 182, fetch="src.datasets.wilds:download"),
    "conceptual_captions": Entry("src.datasets.captions:open_conceptual_captions", "conceptual_captions", pairs=True),
    "coco": Entry("src.datasets.captions:open_coco", "coco", pairs=True),
    "flickr30k": Entry("src.datasets.captions:open_flickr", "flickr30k", pairs=True),
    "toy-digits": Entry(_TOY, classes=10, sizes=_sizes(1000, 500, 200)),
    "toy-new-shapes": Entry(_TOY, classes=6, sizes=_TOY_SIZES),
    "toy-new-textures": Entry(_TOY, classes=6, sizes=_TOY_SIZES),
    "toy-shapes": Entry(_TOY, classes=8, sizes=_TOY_SIZES),
    "toy-textures": Entry(_TOY, classes=6, sizes=_TOY_SIZES),
    "toy-sizes": Entry(_TOY, classes=3, sizes=_TOY_SIZES),
    "toy-positions": Entry(_TOY, classes=9, sizes=_TOY_SIZES),
    "toy-colours": Entry(_TOY, classes=8, sizes=_TOY_SIZES),
    "toy-backgrounds": Entry(_TOY, classes=4, sizes=_TOY_SIZES),
    "toy-reference": Entry(_TOY),
    "toy-other-reference": Entry(_TOY),
    "toy-pairs-new": Entry(_TOY, sizes=_PAIR_SIZES, pairs=True),
    "toy-pairs-dull": Entry(_TOY, sizes=_PAIR_SIZES, pairs=True),
    "toy-pairs-night": Entry(_TOY, sizes=_PAIR_SIZES, pairs=True),
    "mini-digits": Entry(_MINI, classes=10, sizes=_sizes(500, 1000, 200)),
    "mini-letters": Entry(_MINI, classes=26, sizes=_sizes(1560, 1040, 312)),
    "mini-pictograms": Entry(_MINI, classes=84, sizes=_sizes(6300, 1008, 336)),
    "mini-surfaces": Entry(_MINI, classes=13, sizes=_sizes(520, 1040, 260)),
    "mini-shapes": Entry(_MINI, classes=28, sizes=_sizes(1400, 1008, 280)),
    "mini-colours": Entry(_MINI, classes=12, sizes=_sizes(720, 1008, 240)),
    "mini-things": Entry(_MINI, classes=40, sizes=_sizes(2400, 1000, 280)),
    "mini-patterns": Entry(_MINI, classes=10, sizes=_sizes(300, 1000, 280)),
    "mini-counts": Entry(_MINI, classes=6, sizes=_sizes(600, 1008, 270)),
    "mini-places": Entry(_MINI, classes=9, sizes=_sizes(540, 1008, 270)),
    "mini-sizes": Entry(_MINI, classes=4, sizes=_sizes(200, 1000, 280)),
    "mini-reference": Entry(_MINI),
}
# Custom data: a path follows the colon.
PREFIXES = {"folder": Entry("src.datasets.folder:open_folder"), "csv": Entry("src.datasets.table:open_csv"),
            "pairs": Entry("src.datasets.captions:open_pairs", pairs=True)}
# Data from code: a Task made in Python, by its name, and a function in a file.
GIVEN, GIVEN_ENTRY = "task", Entry("src.datasets.from_code:open_given")
FUNCTION, FUNCTION_ENTRY = re.compile(r".+\.py:([^\W\d]\w*)"), Entry("src.datasets.from_code:open_function")


NUMBER = r"(?:0|[1-9]\d{0,17})"
CLASS_SPLIT = re.compile(rf"(?P<base>[^:/]+)-(?P<part>{NUMBER})of(?P<parts>{NUMBER}(?:\+{NUMBER})?)", re.ASCII)
STEPS = re.compile(r"(\d{1,18})\+(\d{1,18})", re.ASCII)  # base classes and increments, as in TinyImageNet/100+20


def class_split(name):
    """Parse a class split: ``CIFAR100-3of10`` -> ("CIFAR100", 3, 10), a third tenth of the classes.

    ``TinyImageNet-2of100+20`` -> ("TinyImageNet", 2, (100, 20)), the first 20 after 100. Any other name ->
    (name, None, None).
    """
    match = CLASS_SPLIT.fullmatch(name)
    if not match or match["base"] not in DATASETS:
        return name, None, None
    parts = tuple(map(int, match["parts"].split("+")))
    return match["base"], int(match["part"]), parts if len(parts) > 1 else parts[0]


def expand(names):
    """Expand ``CIFAR100/10`` in a list of names to its ten class splits, CIFAR100-1of10 and so on.

    ``TinyImageNet/100+20`` means 100 base classes and steps of 20. Raises ValueError for an impossible number
    and for repeated names.
    """
    expanded = []
    for name in names:
        base, slash, parts = name.partition("/")
        if not slash or ":" in name:
            expanded.append(name)
        elif match := STEPS.fullmatch(parts):
            cut = int(match[1]), int(match[2])
            count = split_count(DATASETS[base].classes or 0, cut) if base in DATASETS else 1
            expanded += [f"{base}-{part}of{cut[0]}+{cut[1]}" for part in range(1, 1 + max(1, count))]
        elif not re.fullmatch(r"\d{1,18}", parts) or int(parts) < 2:
            raise ValueError(f"{name}: expected a number of class splits, two or more, as in CIFAR100/10, or base "
                             "classes and a step, as in CIFAR100/50+10")
        else:
            most = 1 + (DATASETS[base].classes or 0 if base in DATASETS else 0)  # find_entry rejects the one beyond
            expanded += [f"{base}-{part}of{int(parts)}" for part in range(1, min(int(parts), most) + 1)]
    if twice := {name for name in expanded if expanded.count(name) > 1}:
        raise ValueError(f"names {', '.join(sorted(twice))} twice")
    return tuple(expanded)


PHASE = re.compile(r"(?P<base>.+)_phase(?P<phase>\d{1,9})")


def phase_of(name):
    """Parse ``flickr30k_phase2`` to ("flickr30k", 2), the second part of image-text pairs; any other name ->
    (name, None)."""
    match = PHASE.fullmatch(name)
    if not match or not (match["base"].startswith("pairs:") or getattr(DATASETS.get(match["base"]), "pairs", False)):
        return name, None
    return match["base"], int(match["phase"])


def is_pairs(name):
    """Return whether a name stands for images with captions."""
    return find_entry(name).pairs


def known_pairs(name):
    """Return whether a name stands for image-text pairs; False for an unknown name."""
    try:
        return is_pairs(name)
    except UserError:
        return False


def find_entry(name):
    """Return the Entry of a name, without opening anything. Raises UserError with near matches."""
    name, _ = phase_of(name)
    whole, part, parts = class_split(name)
    if part is not None and not 1 <= part <= split_count(DATASETS[whole].classes or 0, parts):
        raise UserError(f"{name}: {whole} has {DATASETS[whole].classes or 'no'} classes and no such split")
    name = whole
    prefix, colon, _ = name.partition(":")
    if colon and prefix in PREFIXES:
        return PREFIXES[prefix]
    if comes_from_code(name):
        return GIVEN_ENTRY if prefix == GIVEN else FUNCTION_ENTRY
    if name in DATASETS:
        return DATASETS[name]
    spelled = {known.lower(): known for known in DATASETS}
    near = [spelled[match] for match in difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"no dataset {name!r}; {hint}--list-datasets shows all; your own data are folder:PATH, csv:FILE, "
                    "pairs:FILE or FILE.py:function")


def comes_from_code(name):
    """Return whether a name stands for data from code: ``task:NAME`` of Python, or ``my.py:open_mine``."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix not in PREFIXES and (prefix == GIVEN or bool(FUNCTION.fullmatch(name)))


def open_task(name, root, class_seed=42, **options):
    """Open a dataset under ``root`` (``--data-location``), downloading it if possible. -> Task

    ``class_seed`` shuffles the classes before they are split (``CIFAR100-3of10``). ``options``: locations of a
    caption dataset's files (``images``, ``annotations``).
    """
    whole, part, parts = class_split(name)
    task = find_entry(name).open(whole, root, **options)
    if part is None:
        return task
    from src.datasets.splits import with_classes
    return with_classes(task, part, parts, class_seed)


def stem(name):
    """Return the name of a dataset in file names: the name itself, the stem of a custom path, or the name of a
    Task or function."""
    base, phase = phase_of(name)
    if phase is not None:
        return f"{stem(base)}_phase{phase}"
    prefix, colon, path = name.partition(":")
    if comes_from_code(name):
        return name.rpartition(":")[2]
    if not (colon and prefix in PREFIXES):
        return name
    resolved = own_path(name).absolute()
    found = os.path.normpath(resolved).rsplit(os.sep, 1)[-1] if prefix == "folder" else resolved.stem
    if not path or not found.strip("."):
        raise UserError(f"{name}: has no name to use for its files; give {prefix}:PATH")
    return found


def list_datasets(root):
    """Return rows (name, classes, train, test, how to get it, whether it is there) of the whole table, without
    opening anything."""
    rows = []
    for name, entry in DATASETS.items():
        here = "embedded" if not entry.folder else "yes" if (Path(root) / entry.folder).exists() else "no"
        rows.append([name, entry.classes, entry.sizes.get("train"), entry.sizes.get("test"), how_it_comes(name), here])
    return rows
