"""Index lists that decide who is in which split: drawn once from a seed, stored, and only read afterwards.

A list is tied to the listing of files it was drawn from, so that a changed folder is an error and never silently
another split.
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
    """(first, second): ``randperm(count)`` by ``torch.Generator().manual_seed(seed)``, cut at floor(share * count)."""
    import torch
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    cut = int(share * count)
    return order[:cut], order[cut:]


def stored_lists(root, name, files, draw, seed, parts=("train", "test")):
    """The index lists of ``<root>/splits/<name>.json``, drawn by ``draw() -> {part: indices}`` the first time, and
    then stored, unless nothing may be written.

    ``files``: the sorted listing as relative POSIX paths, which the lists point into.
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
              f"the same as long as the files are")
    return lists


def _read(path, name, count, listing, parts):
    try:
        content = read_json(path)
        lists, before = content["lists"], (content["count"], content["listing_sha256"])
        indices = [index for part in parts for index in lists[part]]
        if strange := [index for index in indices if type(index) is not int]:
            raise TypeError(f"{strange[0]!r} is no index")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: the stored split {path} is damaged ({error}); remove it to draw it again") from None
    if before != (count, listing):
        raise UserError(f"{name}: the files changed since its split was stored ({before[0]} files then, {count} now); "
                        f"restore them, or remove {path} to draw another split")
    if not all(0 <= index < count for index in indices):
        raise UserError(f"{name}: the stored split {path} points outside the {count} files; remove it to draw it again")
    return lists


def with_validation(task, fraction, root):
    """``val`` becomes a class-balanced part of train, ``fraction`` of each class, stored."""
    train = task.split("train")
    seed = seed_of(f"{task.name}_val{fraction:g}")
    lists = stored_lists(root, _list_name(task, f"val{fraction:g}"), train.listing(), lambda: dict(zip(
        ("train", "val"), balanced_halves(train.labels, 1 - fraction, seed), strict=True)), seed, ("train", "val"))
    return replace(task, splits={**task.splits, "train": train.subset(lists["train"]),
                                 "val": train.subset(lists["val"])},
                   train_data=task.train_data_with(f"val {fraction:g}"))


def with_shots(task, shots, seed, root):
    """``train`` becomes ``shots`` images of each class, drawn by ``seed``, stored."""
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
    """Sorted indices of ``shots`` images a class; all of a class that has fewer."""
    return sorted(index for members in shuffled_classes(labels, seed) for index in members[:shots])


def with_split_file(task, path):
    """Splits as a json file of other people's gives them: {"train": [[image path, label, class name], ...], ...}.

    Images are found by the end of their path; labels stay this framework's. Parts that the file does not list keep
    their images but those that it lists in others.
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
    """{last part of its path: [(path, Split, index there)]} of all images."""
    by_name = {}
    for split in splits:
        for index, file in enumerate(split.listing()):
            by_name.setdefault(file.rsplit("/", 1)[-1], []).append((file, split, index))
    return by_name


def find_images(names, by_name, what):
    """[(Split, index there)] of the images whose paths end as ``names``, in their order. ``by_name`` is what
    ``images_by_name`` gives; ``what`` begins the error of a name that fits none or several."""
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
    """Raise UserError for an image that stands twice in {part: Split}, in one part or in two: an image of train would
    be scored as an image of test. ``what`` begins the error."""
    owners = {}
    for part, split in splits.items():
        for file in split.listing():
            if file in owners:
                raise UserError(f"{what} names {file} twice, in {owners[file]} and in {part}; restore the list")
            owners[file] = part


def split_of(found):
    """The Split of [(Split, index there)]."""
    from src.datasets.common import Split
    return Split(lambda position: found[position][0].image(found[position][1]),
                 [split.labels[index] for split, index in found],
                 [split.listing()[index] for split, index in found],
                 path=(lambda position: found[position][0].path(found[position][1]))
                 if all(split.path for split, _ in found) else None)


def with_classes(task, part, parts, seed, order="seed"):
    """Class split ``part`` of ``parts``: the classes in the order that ``class_order`` gives, cut at floor(C k / parts)
    or, where ``parts`` is (base classes, step), at those; all images of those classes, labels counted from 0."""
    order = class_order(task.name, len(task.classnames), order, seed)
    first, last = class_bounds(len(task.classnames), part, parts)
    chosen = order.numbers[first:last]
    place = {label: position for position, label in enumerate(chosen)}

    def cut(split):
        if callable(split):
            return lambda: cut(split())
        if split.video is not None:
            raise UserError(f"{task.name}: frames of videos count together with their neighbours; it has no class "
                            "splits")
        kept = split.subset([index for index, label in enumerate(split.labels) if label in place])
        return replace(kept, labels=[place[label] for label in kept.labels])
    cut_at = "+".join(map(str, parts)) if isinstance(parts, tuple) else parts
    return replace(task, name=f"{task.name}-{part}of{cut_at}", lists=task.lists | order.lists,
                   place=f"{task.place or task.name}-{part}of{cut_at}_order{order.mark}",
                   classnames=[task.classnames[label] for label in chosen],
                   splits={key: cut(split) for key, split in task.splits.items()})


def tolerant(task):
    """The task with None for images that cannot be decoded; the loaders skip and count them. Frames of videos stay as
    they are: they count together with their neighbours."""
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
    """A list is called by its dataset, of the user's own data also by its place, and by what it was drawn from."""
    drawn_from = "" if task.train_data == "all" else "_" + task.train_data.replace(" ", "")
    return f"{task.place or task.name}{drawn_from}_{text}"
