"""Make Tasks in Python: from torch datasets of (image, label), and from folders."""

import contextlib
import dataclasses
import functools
import io
import re

from src.datasets import common
from src.datasets.common import Split
from src.datasets.folder import open_folder, own_path
from src.datasets.images import rgb_of
from src.datasets.seeds import balanced_halves
from src.datasets.splits import RANDOM_SEED, TRAIN_SHARE
from src.errors import UserError
from src.templates.collections import SIMPLE

NAME = re.compile(r"\w[\w .+-]*")
LABELS = ("targets", "labels", "_labels")  # attributes by which datasets of torchvision list their labels


@dataclasses.dataclass(frozen=True)
class Task(common.Task):
    """A dataset to pass in ``train_dataset``, ``dataset_order`` and ``eval_datasets``, alone or beside names.

    ``announced``: choices made when it was built, which each run prints.
    """

    announced: str = ""

    # Compared by identity: its splits have no equality, and it may be a key, as in lr={None: 1e-5, task: 5e-5}.
    __eq__, __hash__ = object.__eq__, object.__hash__

    @classmethod
    def from_dataset(cls, train, classnames=None, *, test=None, val=None, templates=None, name="mine", in_memory=False):
        """Return the Task of datasets whose items are (image, label).

        An image is a PIL image, a uint8 array (H, W, 3), or a tensor (3, H, W) of bytes or of floats from 0 to
        1; leave out Resize and Normalize, which CLIP's own transform does. Labels index ``classnames`` from 0,
        by default ``train.classes``. ``train`` may be None for a Task that is only scored. Without ``test``, 20
        % of each class of ``train``, drawn with a fixed seed, are held out. ``templates``: prompts with {c} for
        the class name. ``name``: its name in files. ``in_memory``: reading an image costs nothing, so no worker
        processes are used.

        If a dataset lists its labels (``targets``), they are compared with those of its items as these are
        read; otherwise every item is read once now. Raises UserError for data that cannot be trained on.
        """
        parts = {"train": train, "val": val, "test": test}
        if train is None and test is None and val is None:
            raise UserError(f"{name}: has no dataset; give train, or only test for scoring")
        classnames = _classnames(classnames, parts)
        splits = {part: _split(dataset, f"{name}, {part}", classnames) for part, dataset in parts.items()
                  if dataset is not None}
        splits, announced = _with_test(splits)
        return cls(_named(name), classnames, _templates(templates), splits, in_memory=in_memory, announced=announced)

    @classmethod
    def from_folder(cls, path, *, classnames=None, templates=None, name=None, data_location="./data"):
        """Return the Task of a folder as ``folder:PATH`` reads it: class folders, or train/ and test/ that hold
        them.

        ``classnames``, in the order of the sorted folders, and ``templates`` override those of the folder;
        ``name`` overrides its name. Without a test part, the lists of held-out images are kept under
        ``data_location``.
        """
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            task = open_folder(f"folder:{path}", data_location)
        announced = "; ".join(line.removeprefix(f"folder:{path}: ") for line in printed.getvalue().splitlines())
        if classnames is not None and len(classnames) != len(task.classnames):
            raise UserError(f"classnames: {len(classnames)} names, and {path} has {len(task.classnames)} classes: "
                            f"{common.some(task.classnames)}")
        found = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
        given = {"name": _named(name or own_path(f"folder:{path}").name), "announced": announced}
        given |= {} if classnames is None else {"classnames": _classnames(classnames, {})}
        given |= {} if templates is None else {"templates": _templates(templates)}
        return cls(**found | given)


def _named(name):
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"name {name!r}: may only have letters, digits, blanks, and . + - _, because files are named "
                        "after it")
    return name


def _classnames(classnames, parts):
    if classnames is None:
        classnames = next(filter(None, map(_classes, parts.values())), None)
    if classnames is None:
        raise UserError("classnames: give a list of texts, one for each label; the dataset has no attribute `classes`")
    if isinstance(classnames, str) or not all(isinstance(name, str) and name.strip() for name in classnames):
        raise UserError(f"classnames {classnames!r}: expected a list of texts, one for each label")
    return tuple(classnames)


def _classes(dataset):
    """Return the class names of a dataset, or of the dataset behind a Subset; None without."""
    inner = getattr(dataset, "dataset", None)
    return getattr(dataset, "classes", None) or (None if inner is None else _classes(inner))


def _templates(templates):
    if templates is None:
        return SIMPLE  # the object itself: --template recognises data without their own prompts by it
    templates = [templates] if isinstance(templates, str) else list(templates)
    if faulty := [text for text in templates if not isinstance(text, str) or "{c}" not in text]:
        raise UserError(f"templates: {faulty[0]!r} lacks {{c}} for the class name")
    return templates


def _with_test(splits):
    """Return (the splits, with one to score; a sentence on what was held out)."""
    if "test" in splits or "train" not in splits:
        return splits, ""
    train = splits["train"]
    kept, held_out = balanced_halves(train.labels, TRAIN_SHARE, RANDOM_SEED)
    if not held_out:
        return splits, "no test split, and no class has two images, so nothing is held out"
    return splits | {"train": train.subset(kept), "test": train.subset(held_out)}, (
        f"no test split: holding out {len(held_out)} of {len(train)} images (20 % of each class, at least one)")


# -- items of a dataset ------------------------------------------------------------------------------------------------


def _split(dataset, what, classnames):
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise UserError(f"{what}: {type(dataset).__name__} has no length, or cannot be indexed; give a map-style "
                        "dataset, such as a list of (image, label)")
    if not len(dataset):
        raise UserError(f"{what}: has no items")
    labels = _labels(dataset, what)
    if outside := sorted(label for label in set(labels) if not 0 <= label < len(classnames)):
        raise UserError(f"{what}: label {outside[0]} is outside the {len(classnames)} class names; labels count from 0")
    return Split(functools.partial(_image, dataset, labels, what), labels)


def _labels(dataset, what):
    """Return the labels of all items: the dataset's list if its first and last item agree with it, else by
    reading all."""
    listed, last = _listed(dataset), len(dataset) - 1
    if listed is not None and all(listed[index] == _item(dataset, index, what)[1] for index in {0, last}):
        return listed
    return [_item(dataset, index, what)[1] for index in range(len(dataset))]


def _listed(dataset):
    """Return the labels listed by a dataset, or by those in a Subset or ConcatDataset; None without a list."""
    if hasattr(dataset, "cumulative_sizes"):
        parts = [_listed(part) for part in dataset.datasets]
        return None if None in parts else [label for part in parts for label in part]
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):
        inner = _listed(dataset.dataset)
        return inner and [inner[index] for index in dataset.indices]
    if getattr(dataset, "target_transform", None) is not None:
        return None
    found = next((getattr(dataset, name) for name in LABELS if hasattr(dataset, name)), None)
    if found is None or len(found) != len(dataset):
        return None
    labels = [_whole(label) for label in found]
    return None if None in labels else labels


def _item(dataset, index, what):
    """Return (image as given, label)."""
    item = dataset[index]
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise UserError(f"{what}: item {index} is {type(item).__name__}, not (image, label)")
    label = _whole(item[1])
    if label is None:
        raise UserError(f"{what}: item {index} has the label {item[1]!r}, not a whole number")
    return item[0], label


def _whole(label):
    """Return a label as int; None if it is not a whole number."""
    value = label.item() if getattr(label, "shape", None) == () else label
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _image(dataset, labels, what, index):
    image, label = _item(dataset, index, what)
    if label != labels[index]:
        raise UserError(f"{what}: item {index} has label {label}, but the dataset lists {labels[index]}; make them "
                        "agree")
    return _of_bytes(image, f"{what}: item {index}")


def _of_bytes(image, what):
    """Convert an image as given to an RGB PIL image or uint8 (3, H, W)."""
    from PIL import Image
    if isinstance(image, Image.Image):
        return rgb_of(image, what)
    shape, kind = tuple(getattr(image, "shape", ())), str(getattr(image, "dtype", ""))
    if kind == "uint8" and (len(shape) == 2 or len(shape) == 3 and shape[2] in (1, 3)):         # a numpy array
        return Image.fromarray(image.squeeze(-1) if shape[2:] == (1,) else image).convert("RGB")
    if not kind.startswith("torch.") or len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"{what} is {type(image).__name__} {kind} {shape or ''}; an image is a PIL image, a uint8 "
                        "array (H, W, 3), or a tensor (3, H, W)")
    if kind != "torch.uint8":
        low, high = float(image.min()), float(image.max())
        if not (image.is_floating_point() and low >= 0 and high <= 1):
            raise UserError(f"{what} has values from {low:.3g} to {high:.3g}; a tensor is of uint8, or of floats from "
                            "0 to 1. Leave Normalize out: CLIP's own transform does that")
        image = (image * 255).round().byte()
    return image.expand(3, -1, -1)
