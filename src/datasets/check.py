"""What can be wrong with a dataset: faults of structure, which stop a run, and all that ``--check-data`` looks for."""

from src.datasets import find_entry, open_task
from src.errors import UserError

SAMPLE = 200  # images decoded in each split
SHOWN = 5     # of one kind of fault


def structural_faults(task, splits):
    """Sentences about labels that no class has and classes that no image has, over the named splits."""
    faults, classes = [], len(task.classnames)
    for name in splits:
        labels = set(task.split(name).labels)
        faults += outside_faults(task, name)
        if missing := [task.classnames[label] for label in range(classes) if label not in labels]:
            faults.append(f"{task.name}: no image of {_some(missing)} in the {name} split")
    return faults


def outside_faults(task, split):
    """A sentence about the first label that no class has, where there is one."""
    classes = len(task.classnames)
    outside = sorted(label for label in set(task.split(split).labels) if not 0 <= label < classes)
    return [f"{task.name}: the {split} split has label {outside[0]}, outside the {classes} classes"] if outside else []


def check_dataset(name, root):
    """(one line of counts, list of faults) of a dataset as it lies there: counts against the expected, every class with
    images, a sample of each split decoded. A reader's own complaint is the only fault where it cannot be opened."""
    entry = find_entry(name)
    try:
        task = open_task(name, root)
        splits = {split: task.split(split) for split in task.splits}
    except UserError as error:
        return f"{name}: cannot be opened", [str(error)]
    faults = []
    if entry.classes and len(task.classnames) != entry.classes:
        faults.append(f"{name}: {len(task.classnames)} classes, not {entry.classes}")
    for split, expected in entry.sizes.items():
        if split in splits and len(splits[split]) != expected:
            faults.append(f"{name}: {len(splits[split])} images in the {split} split, not {expected}")
    if task.classnames:
        faults += structural_faults(task, splits)
    for split in splits.values():
        faults += _undecodable(split)
    counts = ", ".join(f"{split} {len(images)}" for split, images in splits.items())
    return f"{name}: {len(task.classnames)} classes, {counts} images", list(dict.fromkeys(faults))


def _undecodable(split):
    step = max(1, len(split) // SAMPLE)
    faults = []
    for index in range(0, len(split), step):
        try:
            split.image(index)
        except UserError as error:
            faults.append(str(error))
    return faults


def _some(names):
    shown = ", ".join(names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more classes" if len(names) > SHOWN else "")
