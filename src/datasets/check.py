"""What can be wrong with a dataset: faults of structure, which stop a run, findings that only the user can judge, and
all that ``--check-data`` looks for."""

import os
import re
import statistics
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

from src.datasets import PREFIXES, comes_from_code, find_entry, open_task
from src.datasets.class_names import CODED
from src.datasets.common import some
from src.errors import UserError
from src.machine.files import digest_of

SAMPLE = 200  # images decoded in each split
SHOWN = 5     # of one kind of fault
NAMES = 10    # class names that are printed
NO_WORD = re.compile(  # a number such as 3 or 1.0, an id of WordNet, "class 7", true and false
    r"[\d.,_+-]+|n\d{8}|(?:class|cls|category|cat|label|id)[\s_-]*\d+|true|false|yes|no", re.IGNORECASE)
LIST = re.compile(r"\[.*\]|\{.*\}|[^|;]+[|;].+", re.DOTALL)  # ['red'], red|green
NUMBERED = re.compile(r"(n\d{8}|\d+)[\s._:-]+.*[^\W\d]", re.DOTALL)  # 001.Albatross, n02085620-Chihuahua, 0_cat
COPY = re.compile(r"\s*(\(\d+\)|(-\s*)?\bcopy(\s*\(?\d+\)?)?)$", re.IGNORECASE)  # cat (1), cat - Copy, cat copy 2


@dataclass
class Report:
    """What ``--check-data`` prints of one dataset: a line of counts, more lines about the user's own data, faults,
    findings, and what to say where there are neither."""

    counts: str
    details: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    findings: list = field(default_factory=list)
    verdict: str = "as expected"

    @property
    def is_clean(self):
        return not self.faults and not self.findings

    def lines(self):
        """The lines to print."""
        return [self.counts + (f": {self.verdict}" if self.is_clean else ""), *(f"  {text}" for text in self.details),
                *(f"  fault: {text}" for text in self.faults), *(f"  finding: {text}" for text in self.findings)]


def structural_faults(task, splits):
    """Sentences about labels that no class has and classes that no image has, over the named splits."""
    faults, classes = [], len(task.classnames)
    for name in splits:
        labels = set(task.split(name).labels)
        faults += outside_faults(task, name)
        if missing := [task.classnames[label] for label in range(classes) if label not in labels]:
            faults.append(f"{task.name}: no image of {some(missing, SHOWN)} in the {name} split")
    return faults


def outside_faults(task, split):
    """A sentence about the first label that no class has, where there is one."""
    classes = len(task.classnames)
    outside = sorted(label for label in set(task.split(split).labels) if not 0 <= label < classes)
    return [f"{task.name}: the {split} split has label {outside[0]}, outside the {classes} classes"] if outside else []


def is_own(name):
    """Whether a name is of the user's own data: ``folder:``, ``csv:``, ``pairs:``, or what code gives."""
    return name.partition(":")[0] in PREFIXES or comes_from_code(name)


def findings_of(name, task):
    """Sentences about what is odd in the user's own data, as far as names and counts tell; no file is read."""
    if not is_own(name):
        return []
    if task.pairs:
        return list(task.findings)
    return [*task.findings, *_too_few_classes(task), *_no_words(task), *_numbered(task), *_lists(task), *_coded(task),
            *_alike_names(task)]


def _too_few_classes(task):
    if len(task.classnames) != 1:
        return []
    return [f"{task.name}: has one class, {task.classnames[0]!r}: there is nothing to tell apart"]


def _no_words(task):
    """Class names that are numbers, ids, or yes and no: the prompts of them say nothing."""
    names = task.classnames
    if len(names) < 2 or not all(NO_WORD.fullmatch(name) for name in names):
        return []
    return [f"{task.name}: all class names are numbers, ids or yes and no ({some(names, SHOWN)}), so the prompts say "
            "nothing; give words: classnames.txt in a folder, a column class_name in a table"]


def _numbered(task):
    """Class names that each have a number or an id of their own before the words, as the folders of CUB-200 have."""
    found = [NUMBERED.fullmatch(name) for name in task.classnames]
    if len(found) < 2 or not all(found) or len({match[1] for match in found}) < len(found):
        return []
    return [f"{task.name}: all class names begin with a number or an id ({some(task.classnames, SHOWN)}), which the "
            "prompts then hold; give the words alone: classnames.txt in a folder, a column class_name in a table"]


def _coded(task):
    """Class names with signs that a program put in for others."""
    names = [name for name in task.classnames if CODED.search(name)]
    if not names:
        return []
    return [f"{task.name}: {len(names)} of {len(task.classnames)} class names hold codes of signs or formulas "
            f"({some(names, SHOWN)}), which the prompts then hold; write the signs themselves"]


def _lists(task):
    """Class names that are written as lists, of labels that an image has side by side."""
    lists = [name for name in task.classnames if LIST.fullmatch(name)]
    if not lists:
        return []
    return [f"{task.name}: {len(lists)} of {len(task.classnames)} class names look like lists ({some(lists, SHOWN)}); "
            "each is read as one class, and an image has one label"]


def _alike_names(task):
    """Class names that are equal, or that differ by what a reader overlooks."""
    alike, found = {}, []
    for label, classname in enumerate(task.classnames):
        alike.setdefault(_as_read(classname), []).append(label)
    for labels in alike.values():
        if len(labels) > 1:
            names = list(dict.fromkeys(task.classnames[label] for label in labels))
            where = ", ".join(filter(None, (_example(task, label) for label in labels[:SHOWN])))
            how = f"have the same name {names[0]!r}, so that one can never win" if len(names) == 1 else (
                f"differ by {_difference(names)} only: {', '.join(map(repr, names[:SHOWN]))}")
            found.append(f"{task.name}: {len(labels)} classes {how}" + (f" ({where})" if where else ""))
    return found


def _plain(name):
    """A class name without capitals and spaces."""
    return "".join(name.replace("_", " ").casefold().split())


def _as_read(name):
    """A class name without capitals, spaces, marks of copies, hidden characters and forms of letters, such as those of
    full width."""
    shown = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    return _plain(_without_copy(unicodedata.normalize("NFKC", shown)))


def _without_copy(name):
    return COPY.sub("", name.replace("_", " ")) or name


def _difference(names):
    if len(set(map(_plain, names))) == 1:
        return "capitals or spaces"
    return "the mark of a copy" if any(map(COPY.search, names)) else "hidden characters or forms of letters"


def _example(task, label):
    """The first file of a class; None where images are no files."""
    splits = [task.split(name) for name in task.splits]
    return min((file for split in splits if split.files
                for file, owner in zip(split.files, split.labels, strict=True) if owner == label), default=None)


def check_dataset(name, root):
    """Check a dataset as it lies there -> Report: counts against the expected, every class with images, a sample of
    each split decoded; of the user's own data the names, the counts per class and the content of every file too. A
    reader's own complaint is the only fault where it cannot be opened."""
    entry = find_entry(name)
    try:
        task = open_task(name, root)
        splits = {split: task.split(split) for split in task.splits}
    except UserError as error:
        return Report(f"{name}: cannot be opened", faults=[str(error)])
    faults = []
    if entry.classes and len(task.classnames) != entry.classes:
        faults.append(f"{name}: {len(task.classnames)} classes, not {entry.classes}")
    for split, expected in entry.sizes.items():
        if split in splits and len(splits[split]) != expected:
            faults.append(f"{name}: {len(splits[split])} images in the {split} split, not {expected}")
    if task.classnames:
        # FMOW and IWildCam come without known sizes, and without all classes in the splits for evaluation.
        whole = splits if is_own(name) or entry.sizes else splits.keys() & {"train"}
        faults += structural_faults(task, whole)
        faults += [fault for split in splits for fault in outside_faults(task, split)]
    for split in splits.values():
        faults += _undecodable(split)
    counts = ", ".join(f"{split} {len(images)}" for split, images in splits.items())
    report = Report(f"{name}: {len(task.classnames)} classes, {counts} images", faults=faults)
    if is_own(name):
        report.verdict = "nothing odd found"
        report.details = _details(task, splits)
        report.findings = findings_of(name, task)
        _check_contents(report, task, splits)
    report.faults = list(dict.fromkeys(report.faults))
    return report


def _undecodable(split):
    step = max(1, len(split) // SAMPLE)
    faults = []
    for index in range(0, len(split), step):
        try:
            split.image(index)
        except UserError as error:
            faults.append(str(error))
    return faults


def _details(task, splits):
    details = []
    if task.classnames:
        details.append(f"classes: {some(task.classnames, NAMES)}")
        for name, split in splits.items():
            counts = Counter(split.labels)
            numbers = {label: counts[label] for label in range(len(task.classnames))}
            least, most = min(numbers, key=numbers.get), max(numbers, key=numbers.get)
            details.append(
                f"{name} images per class: least {numbers[least]} ({task.classnames[least]}), "
                f"median {statistics.median(numbers.values()):g}, most {numbers[most]} ({task.classnames[most]})")
    if task.left_out:
        details.append(f"left out: {task.left_out}")
    return details


# -- contents ------------------------------------------------------------------------------------------------------


def _check_contents(report, task, splits):
    """Add a finding for splits, and one for classes, that share files of the same content."""
    owners = _owners(splits)
    parts, classes = {}, []
    for paths in _of_one_content(owners, report.faults):
        by_part, by_label = {}, {}
        for path in paths:
            for part, label in owners[path]:
                by_part.setdefault(part, path)
                by_label.setdefault(label, path)
        if len(by_part) > 1:
            parts.setdefault(tuple(by_part), []).append(by_part)
        if len(by_label) > 1:
            classes.append(by_label)
    for names, found in parts.items():
        report.findings.append(f"{task.name}: the same image is in {' and '.join(names)}: {len(found)} such images, "
                               f"the first is {_shown(found[0])}")
    if classes:
        names = " and ".join(repr(task.classnames[label]) for label in classes[0])
        report.findings.append(f"{task.name}: the same image has two labels: {len(classes)} such images, the first is "
                               f"{_shown(classes[0])} ({names})")


def _owners(splits):
    """{path: [(split, label), ...]} of all files."""
    owners, seen = {}, set()
    for name, split in splits.items():
        if split.path is None or id(split) in seen:  # val may serve as test too
            continue
        seen.add(id(split))
        for index, label in enumerate(split.labels):
            owners.setdefault(str(split.path(index)), []).append((name, label))
    return owners


def _of_one_content(owners, faults):
    """Lists of the paths that are equal byte by byte, and of single ones with several owners. Only what has the size of
    another file is read."""
    sizes = {}
    for path in owners:
        try:
            sizes.setdefault(os.stat(path).st_size, []).append(path)
        except OSError as error:
            faults.append(f"{path} cannot be read ({error.strerror})")
    for paths in sizes.values():
        for group in _by_content(paths, faults) if len(paths) > 1 else [paths]:
            if len(group) > 1 or len(owners[group[0]]) > 1:
                yield group


def _by_content(paths, faults):
    groups = {}
    for path in paths:
        try:
            groups.setdefault(digest_of(path), []).append(path)
        except OSError as error:
            faults.append(f"{path} cannot be read ({error.strerror})")
    return groups.values()


def _shown(paths):
    return " and ".join(list(dict.fromkeys(paths.values()))[:SHOWN])
