"""Stream image-text pairs: phases, captions as items, several datasets as one."""

from dataclasses import replace

from src.datasets.common import Split, Task
from src.datasets.seeds import balanced_halves, order_of_epoch, seed_of
from src.datasets.splits import RANDOM_SEED, TRAIN_SHARE, stored_lists
from src.errors import UserError

JOINT = "joint"  # the name of several datasets trained as one


def boundaries(count, phases):
    """Return [b_0, ..., b_K] with b_k = floor(n k / K)."""
    return [count * phase // phases for phase in range(phases + 1)]


def with_phase(task, phase, phases, how="contiguous", seed=0):
    """Reduce ``train`` to part ``phase`` (from 1) of ``phases``, in the order of the files or of a seeded shuffle."""
    train = task.split("train")
    if not 1 <= phase <= phases:
        raise UserError(f"--phase {phase}: there are phases 1 to {phases} (--num-phases)")
    if len(train) < phases:
        raise UserError(f"--num-phases {phases}: {task.name} has only {len(train)} images")
    cuts = boundaries(len(train), phases)
    order = list(range(len(train))) if how == "contiguous" else order_of_epoch(
        len(train), seed_of(seed, task.name, "phases"), 0)
    return replace(task, name=f"{task.name}_phase{phase}", train_data=f"phase {phase} of {phases}",
                   splits={**task.splits, "train": train.subset(order[cuts[phase - 1]:cuts[phase]])})


def with_all_captions(task):
    """Make each caption of a training image a separate item."""
    train = task.split("train")
    owners = [index for index, captions in enumerate(train.captions) for _ in captions]
    items = replace(train.subset(owners), captions=[[caption] for captions in train.captions for caption in captions])
    return replace(task, splits={**task.splits, "train": items})


def with_held_out(task, name, root):
    """Return custom pairs with a test split: the val split if there is one, else a stored, seeded 20 % of the
    images.

    One line announces it. A single image stays in train.
    """
    if "test" in task.splits or "train" not in task.splits:
        return task
    if "val" in task.splits:
        print(f"{name}: no test split, so its val split is used as test")
        return replace(task, splits={**task.splits, "test": task.split("val")})
    everything = task.split("train")
    if len(everything) < 2:
        return task
    lists = stored_lists(root, task.place, everything.files, lambda: dict(zip(
        ("train", "test"), balanced_halves(everything.labels, TRAIN_SHARE, RANDOM_SEED), strict=True)), RANDOM_SEED)
    print(f"{name}: no test split: holding out {len(lists['test'])} of {len(everything)} images (20 %)")
    train, test = (everything.subset(lists[part]) for part in ("train", "test"))
    return replace(task, splits={**task.splits, "train": train, "test": test},
                   sentences=[caption for captions in train.captions for caption in captions])


def with_parts(task, parts):
    """Join the named parts, such as ``train+val``, as ``train``."""
    return replace(task, splits={**task.splits, "train": joined([task.split(part) for part in parts])})


def joined(splits):
    """Concatenate several Splits; the caller numbers class labels consecutively."""
    place = [(split, index) for split in splits for index in range(len(split))]
    whole = all(split.captions is not None for split in splits)
    return Split(lambda position: place[position][0].image(place[position][1]),
                 [split.labels[index] for split, index in place],
                 captions=[split.captions[index] for split, index in place] if whole else None,
                 path=(lambda position: place[position][0].path(place[position][1]))
                 if all(split.path for split in splits) else None)


def joint_task(tasks):
    """Join several tasks: pairs side by side, or classes numbered consecutively over all of them (``Task.parts``)."""
    pairs = {task.pairs for task in tasks}
    if len(pairs) > 1:
        raise UserError("--joint takes datasets of one kind: image-text pairs, or classes")
    trains, wholes, first = [], [], 0
    for task in tasks:
        train = task.split("train")
        trains.append(train if task.pairs else _counted_from(first, train))
        wholes.append(_counted_from(first, task.drawn_from) if task.drawn_from else trains[-1])
        first += len(task.classnames)
    few = any(task.drawn_from for task in tasks)
    return Task(JOINT, [name for task in tasks for name in task.classnames], tasks[0].templates,
                {"train": joined(trains)}, in_memory=all(task.in_memory for task in tasks), pairs=pairs.pop(),
                parts=() if tasks[0].pairs else tuple(tasks), drawn_from=joined(wholes) if few else None)


def _counted_from(first, split):
    return replace(split, labels=[first + label for label in split.labels])
