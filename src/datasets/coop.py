"""Read the lists of the CoOp family of papers: one folder of split files splits a whole sequence of datasets.

CoOp's lists are ``split_zhou_<Dataset>.json``, {"train": [[path, label, class name], ...], "val": ..., "test":
...}. Aircraft has text lists in its archive, ``images_variant_<part>.txt``. Other datasets have no list.
"""

import hashlib
import json
import os
import random
from dataclasses import replace
from pathlib import Path

from src.datasets.common import some
from src.datasets.splits import find_images, images_by_name, refuse_repeated, split_of, with_validation
from src.errors import UserError
from src.machine.files import digest_of, read_json, read_lines

WORD = "coop"  # value of --split-file for the lists under --data-location
PARTS = ("train", "val", "test")
LISTS = {"Caltech101": "split_zhou_Caltech101.json", "DTD": "split_zhou_DescribableTextures.json",
         "EuroSAT": "split_zhou_EuroSAT.json", "Flowers": "split_zhou_OxfordFlowers.json",
         "Food": "split_zhou_Food101.json", "OxfordPet": "split_zhou_OxfordPets.json",
         "StanfordCars": "split_zhou_StanfordCars.json", "SUN397": "split_zhou_SUN397.json"}
VARIANTS = "Aircraft"  # the dataset with text lists
VARIANT_LISTS = {part: f"images_variant_{part}.txt" for part in PARTS}
OWN_VAL = 0.2  # without a list: the share of each train class that CoOp's rule holds out
OWN_SPLIT = "own split"
ARCHIVE = "archive split"  # for a dataset split by the lists in its archive
DIKI = "diki"  # value of --val-fraction: without a list, draw like DIKI's code
DIKI_DRAWS, DIKI_SEED = ("CIFAR100", "MNIST"), 42
DRAWN = "drawn as by DIKI"


def folder_of(split_file, root):
    """Return the folder that --split-file names, ``root`` for the word coop; None if it is not given or names a
    file."""
    if split_file == WORD:
        return root
    return None if split_file is None or is_file(split_file) else split_file


def is_file(split_file):
    """Return whether --split-file names the file of one dataset."""
    return split_file not in (None, WORD) and os.path.isfile(split_file)


def has_list(name):
    """Return whether the CoOp papers have lists for a dataset."""
    return name in LISTS or name == VARIANTS


def with_lists(task, folder):
    """Split a dataset by the lists in ``folder`` or one folder below it, with their classes and class names.

    A dataset without a list is unchanged. Raises UserError for a missing list, or one that does not fit.
    """
    if task.name in LISTS:
        path, = find_lists(task.name, folder)
        parts = read_split(path)
        return _split_by(task, parts, _classnames(parts, f"--split-file: {path}"), [path])
    if task.name == VARIANTS:
        paths = find_lists(task.name, folder)
        if not paths:
            return replace(task, train_data=ARCHIVE)
        return _split_by(task, read_variants(task, paths), task.classnames, paths)
    return task


def find_lists(name, folder):
    """Return the paths of a dataset's lists in ``folder`` or one folder below. All of Aircraft's may be
    missing: the dataset itself is split by them."""
    files = [LISTS[name]] if name in LISTS else list(VARIANT_LISTS.values())
    found = [_find(file, folder) for file in files]
    if name == VARIANTS and not any(found):
        return []
    if missing := [file for file, path in zip(files, found, strict=True) if path is None]:
        raise UserError(f"--split-file: no {some(missing)} for {name} in {folder} or one folder below it; see section "
                        "CoOp's split files of datasets.md")
    return found


def _find(file, folder):
    places = [path for path in (Path(folder) / file, *sorted(Path(folder).glob(f"*/{file}"))) if path.is_file()]
    if len({digest_of(path) for path in places}) > 1:
        raise UserError(f"--split-file: {places[0]} and {places[1]} differ; remove one, or name its folder")
    return places[0] if places else None


# -- what a list says ------------------------------------------------------------------------------------------------


def read_split(path):
    """Read one of CoOp's lists. -> {part: [(image path, label, class name)]}; raises UserError for anything else"""
    try:
        content = read_json(path)
        parts = {part: [_row(row) for row in content[part]] for part in PARTS}
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"--split-file: {path} is not a list of CoOp's, {{\"train\": [[\"a/1.jpg\", 0, \"cat\"]], "
                        f"\"val\": ..., \"test\": ...}} ({reason})") from None
    if strangers := content.keys() - set(PARTS):
        raise UserError(f"--split-file: {path} has the part {sorted(strangers)[0]}; expected train, val and test")
    return parts


def _row(row):
    path, label, name = row
    if not (isinstance(path, str) and type(label) is int and isinstance(name, str)):
        raise TypeError(f"{row!r} is not [path, label, class name]")
    return path, label, name


def read_variants(task, paths):
    """Read Aircraft's text lists, ``1025794 707-320`` per line, in the form of ``read_split``; labels are the
    Task's."""
    labels = {name: label for label, name in enumerate(task.classnames)}
    parts = {}
    for part, path in zip(PARTS, paths, strict=True):
        rows = []
        for line in _lines(path):
            image, _, variant = line.partition(" ")
            name = variant.replace("_", " ")
            if name not in labels:
                raise UserError(f"--split-file: {path} has the line {line!r}; expected the number of an image, "
                                "a space and one of the dataset's variants")
            rows.append((f"{image}.jpg", labels[name], name))
        parts[part] = rows
    return parts


def _lines(path):
    try:
        return read_lines(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--split-file: {path} cannot be read ({error})") from None


# -- to a Task -------------------------------------------------------------------------------------------------------


def _split_by(task, parts, classnames, paths):
    what = f"--split-file: {paths[0]}"
    by_name = images_by_name(task.split(part) for part in PARTS if part in task.splits)
    found = {part: split_of(find_images([path.lstrip("/") for path, _, _ in rows], by_name, what))
             for part, rows in parts.items()}
    refuse_repeated(found, what)
    _refuse_other_labels(task, parts, found, classnames, what)
    splits = {part: replace(split, labels=[label for _, label, _ in parts[part]]) for part, split in found.items()}
    lists = {f"--split-file {path.name}": digest_of(path) for path in paths}
    return replace(task, classnames=classnames, splits=splits, lists=task.lists | lists,
                   train_data=f"split file {paths[0].name}")


def _classnames(parts, what):
    """Return the class names by label, counted from 0."""
    names = {}
    for _, label, name in (row for rows in parts.values() for row in rows):
        if names.setdefault(label, name) != name:
            raise UserError(f"{what} calls class {label} {names[label]!r} and {name!r}; restore the list")
    if sorted(names) != list(range(len(names))) or not names:
        raise UserError(f"{what} has the labels {some(map(str, sorted(names)))}; they must count from 0 without a gap")
    return [names[label].replace("_", " ") for label in range(len(names))]


def _refuse_other_labels(task, parts, found, classnames, what):
    """Require that each class of the list is one of the dataset's, under any name and number: a list that mixes
    two was changed."""
    ours, theirs = {}, {}
    for part, split in found.items():
        for file, own, (_, label, _) in zip(split.listing(), split.labels, parts[part], strict=True):
            if ours.setdefault(label, own) != own or theirs.setdefault(own, label) != label:
                raise UserError(f"{what} calls {file} {classnames[label]!r}, but unlike the rest of that class it is "
                                f"an image of {task.classnames[own]!r}; restore "
                                "the list")


# -- datasets without a list -----------------------------------------------------------------------------------------


def with_own_split(task, root):
    """Hold out val from the train part of a dataset without a list, with a note; test is the official one."""
    print(f"note: {task.name}: no list exists for it, so the split is our own: {100 * OWN_VAL:g} % of each class of "
          "train become val; not comparable with papers that drew another")
    return replace(with_validation(task, OWN_VAL, root), train_data=f"{OWN_SPLIT}, val {OWN_VAL:g}")


def with_diki_split(task, labels):
    """Split train and val of a dataset as DIKI's code does (Tang et al., 2024), with separate draws for train
    and val, so that most of val trains too; a note counts it.

    ``labels``: {dataset: labels of its train part} of all datasets of the sequence that DIKI draws, in order.
    Each draw shifts the ones after it, so the Task names the datasets and has a digest of its draw.
    """
    train, val = drawn_like_diki(labels)[task.name]
    split, draw = task.split("train"), f"{DRAWN} over {'+'.join(labels)}"
    digest = hashlib.sha256(json.dumps([train, val]).encode()).hexdigest()
    both = len(set(train) & set(val))
    print(f"note: {task.name}: no list exists for it, so the split is our own, drawn as DIKI's code does: {both} of "
          f"its {len(val)} val images are training images too")
    return replace(task, splits={**task.splits, "train": split.subset(train), "val": split.subset(val)},
                   train_data=f"{OWN_SPLIT}, {draw}",
                   lists=task.lists | {f"--val-fraction {DIKI} ({task.name})": digest})


def own_draw(train_data):
    """Return how an own split is drawn, from its Task's ``train_data``: "" for CoOp's rule, None for any other
    split."""
    parts = train_data.split(", ")
    if OWN_SPLIT not in parts:
        return None
    return next((part for part in parts if part.startswith(DRAWN)), "")


def drawn_like_diki(labels):
    """Return {dataset: (train indices, val indices)}, drawn with Python's generator.

    A first pass over the datasets draws train, a second val. In each, the classes are shuffled in order of
    appearance and a fifth of each is val.
    """
    generator = random.Random(DIKI_SEED)
    passes = [{name: _shuffled_halves(found, generator) for name, found in labels.items()} for _ in ("train", "val")]
    return {name: (passes[0][name][0], passes[1][name][1]) for name in labels}


def _shuffled_halves(labels, generator):
    by_class = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    train, val = [], []
    for members in by_class.values():
        generator.shuffle(members)
        cut = round(OWN_VAL * len(members))
        val += members[:cut]
        train += members[cut:]
    return train, val
