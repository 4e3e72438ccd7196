"""Keep the index lists that define splits: drawn once from a seed, stored, and only read afterwards.

A list is tied to the file listing it was drawn from, so that a changed folder is an error and never silently another
split.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

from src.datasets.class_orders import class_bounds, class_order
from src.datasets.common import listing_digest
from src.datasets.seeds import balanced_halves, seed_of, shuffled_classes
from src.datasets.shots import shots_of
from src.errors import UserError
from src.machine.files import atomic_file, digest_of, may_write, read_json

FOLDER = "splits"  # under --data-location
RANDOM_SEED, TRAIN_SHARE = 42, 0.8


def random_halves(count, share=TRAIN_SHARE, seed=RANDOM_SEED):
    """Return (first, second): ``randperm(count)`` by ``torch.Generator().manual_seed(seed)``, cut at
    floor(share * count)."""
    import torch
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    cut = int(share * count)
    return order[:cut], order[cut:]


def stored_lists(root, name, files, draw, seed, parts=("train", "test")):
    """Return the index lists of ``<root>/splits/<name>.json``.

    The first time, ``draw() -> {part: indices}`` draws them; they are then stored, unless nothing may be
    written. ``files``: the sorted listing as relative POSIX paths, which the lists index.
    """
    path = Path(root) / FOLDER / f"{name}.json"
    listing = listing_digest(files)
    if path.is_file():
        return _read(path, name, len(files), listing, parts)
    lists = draw()
    if not may_write():
        return lists
    content = {"dataset": name, "seed": seed, "count": len(files), "listing_sha256": listing, "lists": lists}
    try:
        with atomic_file(path, "w") as file:
            json.dump(content, file)
    except OSError as error:
        print(f"note: the split of {name} could not be stored in {path} ({error.strerror}); it will be drawn again, "
              "the same while the files are the same")
    return lists


def _read(path, name, count, listing, parts):
    try:
        content = read_json(path)
        lists, before = content["lists"], (content["count"], content["listing_sha256"])
        indices = [index for part in parts for index in lists[part]]
        if strange := [index for index in indices if type(index) is not int]:
            raise TypeError(f"{strange[0]!r} is not an index")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: the stored split {path} is damaged ({error}); remove it to draw it again") from None
    if before != (count, listing):
        raise UserError(f"{name}: the files changed since its split was stored ({before[0]} files then, {count} now); "
                        f"restore them, or remove {path} to draw another split")
    if not all(0 <= index < count for index in indices):
        raise UserError(f"{name}: the stored split {path} points outside the {count} files; remove it to draw it again")
    return lists


def with_validation(task, fraction, root):
    """Split a class-balanced ``val`` off train, ``fraction`` of each class, and store it."""
    train = task.split("train")
    seed = seed_of(f"{task.name}_val{fraction:g}")
    lists = stored_lists(root, _list_name(task, f"val{fraction:g}"), train.listing(), lambda: dict(zip(
        ("train", "val"), balanced_halves(train.labels, 1 - fraction, seed), strict=True)), seed, ("train", "val"))
    return replace(task, splits={**task.splits, "train": train.subset(lists["train"]),
                                 "val": train.subset(lists["val"])},
                   train_data=task.train_data_with(f"val {fraction:g}"))


def with_shots(task, shots, seed, root):
    """Reduce ``train`` to ``shots`` images per class, drawn by ``seed``, and store the list."""
    train = task.split("train")
    if few := sum(number < shots for number in Counter(train.labels).values()):
        print(f"note: {task.name}: {few} of {len(task.classnames)} classes have fewer than {shots} training images "
              "(--shots); all of theirs are used")
    lists = stored_lists(root, _list_name(task, f"{shots}shot_seed{seed}"), train.listing(),
                         lambda: {"train": draw_shots(train.labels, shots, seed)}, seed, ("train",))
    return replace(task, splits={**task.splits, "train": train.subset(lists["train"])},
                   train_data=task.train_data_with(f"{shots} shots seed {seed}"),
                   shots=shots_of(task.classnames, train, lists["train"]), drawn_from=train)


def draw_shots(labels, shots, seed):
    """Return sorted indices of ``shots`` images per class; all of a class that has fewer."""
    return sorted(index for members in shuffled_classes(labels, seed) for index in members[:shots])


def with_split_file(task, path):
    """Split as an external json file does: {"train": [[image path, label, class name], ...], ...}.

    Images are matched by the end of their path; labels stay this framework's. Parts that the file does not list
    keep their images, except those that it lists elsewhere.
    """
    try:
        content = read_json(path)
        named = {part: [(row if isinstance(row, str) else row[0]).lstrip("/") for row in rows]
                 for part, rows in content.items()}
    except OSError as error:
        raise UserError(f"--split-file {path}: cannot be read ({error.strerror}); restore it, or give --train-dataset "
                        f"{task.name} --split-file FILE") from None
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise UserError(f"--split-file {path}: expected json such as {{\"train\": [[\"a/1.jpg\", 0, \"cat\"]]}} "
                        f"({error})") from None
    if not named or named.keys() - {"train", "val", "test"}:
        raise UserError(f"--split-file {path}: has the parts {', '.join(named) or 'none'}; give train, val, test")
    parts = {part: task.split(part) for part in ("train", "val", "test") if part in task.splits}
    by_name = images_by_name(parts.values())
    found = {part: find_images(rows, by_name, f"--split-file {path}:") for part, rows in named.items()}
    splits = {part: split_of(places) for part, places in found.items()}
    refuse_repeated(splits, f"--split-file {path}:")
    taken = {(id(split), index) for places in found.values() for split, index in places}
    for part, split in parts.items():
        kept = [index for index in range(len(split)) if (id(split), index) not in taken]
        if part not in named and len(kept) < len(split):
            print(f"note: --split-file {path}: {len(split) - len(kept)} images of {part} are listed in other parts and "
                  "leave it")
            splits[part] = split.subset(kept)
    return replace(task, splits={**task.splits, **splits},
                   train_data=task.train_data_with(f"split file {Path(path).name}"),
                   lists={**task.lists, "--split-file": digest_of(path)})


def images_by_name(splits):
    """Return {last component of its path: [(path, Split, index there)]} of all images."""
    by_name = {}
    for split in splits:
        for index, file in enumerate(split.listing()):
            by_name.setdefault(file.rsplit("/", 1)[-1], []).append((file, split, index))
    return by_name


def find_images(names, by_name, what):
    """Return [(Split, index there)] of the images whose paths end in ``names``, in order.

    ``by_name``: from ``images_by_name``. ``what`` begins the error for a name that fits no image or several.
    """
    found = []
    for name in names:
        matches = {}
        for file, split, index in by_name.get(name.rsplit("/", 1)[-1], ()):
            if f"/{file}".endswith(f"/{name}"):
                matches.setdefault(file, (split, index))
        if not matches:
            raise UserError(f"{what} names {name}, which this dataset does not have")
        if len(matches) > 1 and name not in matches:
            raise UserError(f"{what} names {name}, which fits {' and '.join(sorted(matches)[:2])}; give more of its "
                            "path")
        found.append(matches[name] if name in matches else next(iter(matches.values())))
    return found


def refuse_repeated(splits, what):
    """Raise UserError for an image that is twice in {part: Split}: a training image would be scored as a test
    image.

    ``what`` begins the error.
    """
    owners = {}
    for part, split in splits.items():
        for file in split.listing():
            if file in owners:
                raise UserError(f"{what} names {file} twice, in {owners[file]} and in {part}; restore the list")
            owners[file] = part


def split_of(found):
    """Return the Split of [(Split, index there)]."""
    from src.datasets.common import Split
    return Split(lambda position: found[position][0].image(found[position][1]),
                 [split.labels[index] for split, index in found],
                 [split.listing()[index] for split, index in found],
                 path=(lambda position: found[position][0].path(found[position][1]))
                 if all(split.path for split, _ in found) else None)


def with_classes(task, part, parts, seed, order="seed"):
    """Return class split ``part`` of ``parts``: all images of its classes, labels counted from 0.

    The classes, in the order that ``class_order`` gives, are cut at floor(C k / parts), or by (base classes,
    step).
    """
    order = class_order(task.name, len(task.classnames), order, seed)
    first, last = class_bounds(len(task.classnames), part, parts)
    chosen = order.numbers[first:last]
    place = {label: position for position, label in enumerate(chosen)}

    def cut(split):
        if callable(split):
            return lambda: cut(split())
        if split.video is not None:
            raise UserError(f"{task.name}: frames of videos are scored together with their neighbours, so it has no "
                            "class splits")
        kept = split.subset([index for index, label in enumerate(split.labels) if label in place])
        return replace(kept, labels=[place[label] for label in kept.labels])
    cut_at = "+".join(map(str, parts)) if isinstance(parts, tuple) else parts
    return replace(task, name=f"{task.name}-{part}of{cut_at}", lists=task.lists | order.lists,
                   place=f"{task.place or task.name}-{part}of{cut_at}_order{order.mark}",
                   classnames=[task.classnames[label] for label in chosen],
                   splits={key: cut(split) for key, split in task.splits.items()})


def tolerant(task):
    """Return the task with None for images that cannot be decoded; the loaders skip and count them.

    Frames of videos stay: they are scored together with their neighbours.
    """
    def wrap(split):
        if callable(split):
            return lambda: wrap(split())
        if split.video is not None:
            return split
        return replace(split, image=lambda index: _image_or_none(split, index))
    return replace(task, splits={name: wrap(split) for name, split in task.splits.items()},
                   drawn_from=task.drawn_from and wrap(task.drawn_from))


def _image_or_none(split, index):
    try:
        return split.image(index)
    except UserError:
        return None


def _list_name(task, text):
    """Return the name of a list: its dataset, for custom data also its location, and what it was drawn from."""
    drawn_from = "" if task.train_data == "all" else "_" + task.train_data.replace(" ", "")
    return f"{task.place or task.name}{drawn_from}_{text}"
