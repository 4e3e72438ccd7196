"""Read and write lists of the images that few-shot runs train on: written by each such run, read by any.

    {"format": "clip-continual shots 1",
     "datasets": {"DTD": {"train": [{"class": "banded", "images": ["dtd/images/banded/banded_0002.jpg", ...]}, ...],
                          "lists_sha256": ..., "count": 1880, "listing_sha256": ...}}}

``val`` may be beside ``train``. ``lists_sha256`` covers the lists themselves, so that an edited file is an error;
``count`` and ``listing_sha256`` describe the training images that they were drawn from, if known.
"""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

from src.datasets.common import listing_digest, some
from src.errors import UserError
from src.machine.files import read_json

FORMAT = "clip-continual shots 1"
FILE = "shots.json"  # its name in a run's folder
PARTS = ("train", "val")


def entry_of(parts, drawn_from=None):
    """Return a dataset's entry in a file.

    ``parts``: {part: [(class name, [image])]}, classes in order. ``drawn_from``: the listing of the training
    images.
    """
    lists = {part: [{"class": name, "images": list(images)} for name, images in classes]
             for part, classes in parts.items()}
    known = {} if drawn_from is None else {"count": len(drawn_from), "listing_sha256": listing_digest(drawn_from)}
    return {**lists, "lists_sha256": _digest(lists), **known}


def shots_of(classnames, train, indices):
    """Return the entry of a dataset that trains on ``indices`` of its ``train`` Split."""
    listing = train.listing()
    images = {label: [] for label in range(len(classnames))}
    for index in indices:
        images[train.labels[index]].append(listing[index])
    return entry_of({"train": [(classnames[label], found) for label, found in images.items()]}, listing)


def file_of(entries):
    """Return the content of a file with ``entries`` {dataset: entry}."""
    return {"format": FORMAT, "datasets": dict(entries)}


def with_entry(content, name, entry):
    """Return the content of a file with one more dataset; if the content is anything else, a file with that
    dataset alone."""
    kept = content["datasets"] if _is_file(content) else {}
    return file_of(kept | {name: entry})


def _is_file(content):
    return isinstance(content, dict) and content.get("format") == FORMAT and isinstance(content.get("datasets"), dict)


def _digest(lists):
    return hashlib.sha256(json.dumps(lists, sort_keys=True).encode()).hexdigest()


# -- reading ---------------------------------------------------------------------------------------------------------


def with_shots_file(task, path, shots=None):
    """Replace ``train`` by the images that a file lists, and ``val`` too if it lists some.

    ``shots``: how many images of each class are required. Raises UserError for a file or a list that was
    changed or lists other images.
    """
    what = f"--shots-file {path}: {task.name}"
    lists = _lists_of(task, _read(path), path, what)
    found = {"train": _indices(task, "train", lists["train"], what)}
    if any(row["images"] for row in lists.get("val", ())):
        found["val"] = _indices(task, "val", lists["val"], what)
    train = task.split("train")
    if shots is not None:
        _refuse_other_number(task, train, found["train"], shots, what)
    splits = {part: task.split(part).subset(indices) for part, indices in found.items()}
    return replace(task, splits={**task.splits, **splits}, shots=shots_of(task.classnames, train, found["train"]),
                   drawn_from=train, train_data=task.train_data_with(f"shots file {Path(path).name}"),
                   lists=task.lists | {f"--shots-file ({task.name})": _digest(lists)})


def _read(path):
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        pickled = "; python convert_shots.py converts pickled ones" if Path(path).suffix == ".pkl" else ""
        raise UserError(f"--shots-file {path}: cannot be read as json ({error}){pickled}") from None
    if not _is_file(content):
        raise UserError(f"--shots-file {path}: is not a list of shots, which has \"format\": \"{FORMAT}\" and "
                        f"datasets; each few-shot run writes one, <save>/{FILE}")
    return content["datasets"]


def _lists_of(task, entries, path, what):
    """Return {part: [{"class", "images"}]} of a dataset, unchanged and for the images at hand."""
    if task.name not in entries:
        raise UserError(f"{what} is not in it; it has {some(entries) or 'no dataset'}")
    entry = entries[task.name]
    try:
        lists = {part: [{"class": row["class"], "images": list(row["images"])} for row in entry[part]]
                 for part in PARTS if part in entry}
        texts = [text for rows in lists.values() for row in rows for text in (row["class"], *row["images"])]
        digest, drawn_from = entry["lists_sha256"], (entry.get("count"), entry.get("listing_sha256"))
    except (KeyError, TypeError) as error:
        raise UserError(f"{what} is damaged ({error}); restore the file") from None
    if "train" not in lists or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{what} is damaged: it has no list of training images by class; restore the file")
    if digest != _digest(lists):
        raise UserError(f"{what} was changed since it was written; restore the file, or write another with --shots")
    listing = task.split("train").listing()
    if drawn_from != (None, None) and drawn_from != (len(listing), listing_digest(listing)):
        raise UserError(f"{what} was drawn from {drawn_from[0]} training images, but other images are here "
                        f"({len(listing)}, {task.train_data}); give the --split-file, --val-fraction, --class-order "
                        "and --seed of that run, or restore the images")
    return lists


def _indices(task, part, rows, what):
    """Return the sorted indices of a list's images in ``part`` of a Task. Each class of the list must be one of
    the Task's."""
    if part not in task.splits:
        raise UserError(f"{what} lists images of {part}, which the dataset does not have here; give the --split-file "
                        "that they were drawn from")
    split = task.split(part)
    places = _places(split.listing())
    found, owners = [], {}
    for row in rows:
        for image in row["images"]:
            index = _place_of(image, places, part, what)
            label = split.labels[index]
            if owners.setdefault(label, row["class"]) != row["class"]:
                raise UserError(f"{what} lists {image} as {row['class']!r}, and others of "
                                f"{task.classnames[label]!r} as {owners[label]!r}; restore the file")
            found.append(index)
    if twice := [index for index, number in Counter(found).items() if number > 1]:
        raise UserError(f"{what} lists {split.listing()[twice[0]]} twice; restore the file")
    return sorted(found)


def _places(listing):
    """Return {last component of its path: [(path, index)]}."""
    places = {}
    for index, file in enumerate(listing):
        places.setdefault(file.rsplit("/", 1)[-1], []).append((file, index))
    return places


def _place_of(image, places, part, what):
    """Return the index of the image whose path ends in this one, whole or from its last folders on."""
    near = [(file, index) for file, index in places.get(image.rsplit("/", 1)[-1], ())
            if f"/{file}".endswith(f"/{image}")]
    exact = [index for file, index in near if file == image]
    if len(exact or near) != 1:
        fits = f"fits {near[0][0]} and {near[1][0]}" if near else f"is not an image of {part} here"
        raise UserError(f"{what} lists {image}, which {fits}; give the --split-file that the shots were drawn from, or "
                        "restore the images")
    return exact[0] if exact else near[0][1]


def _refuse_other_number(task, train, indices, shots, what):
    """Require ``shots`` images for each class, or all that it has if they are fewer."""
    listed, there = Counter(train.labels[index] for index in indices), Counter(train.labels)
    for label, name in enumerate(task.classnames):
        expected = min(shots, there[label])
        if listed[label] != expected:
            raise UserError(f"{what} lists {listed[label]} images of {name!r}, but {expected} are expected (--shots "
                            f"{shots}); give the file of such a run, or the --shots that it was "
                            "drawn with")
