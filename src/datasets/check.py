"""Check datasets: faults of structure, which stop a run; findings, which only the user can judge; and
everything that ``--check-data`` looks for."""

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
SHOWN = 5     # per kind of fault
NAMES = 10    # class names to print
NO_WORD = re.compile(  # a number such as 3 or 1.0, an id of WordNet, "class 7", true and false
    r"[\d.,_+-]+|n\d{8}|(?:class|cls|category|cat|label|id)[\s_-]*\d+|true|false|yes|no", re.IGNORECASE)
LIST = re.compile(r"\[.*\]|\{.*\}|[^|;]+[|;].+", re.DOTALL)  # ['red'], red|green
NUMBERED = re.compile(r"(n\d{8}|\d+)[\s._:-]+.*[^\W\d]", re.DOTALL)  # 001.Albatross, n02085620-Chihuahua, 0_cat
COPY = re.compile(r"\s*(\(\d+\)|(-\s*)?\bcopy(\s*\(?\d+\)?)?)$", re.IGNORECASE)  # cat (1), cat - Copy, cat copy 2


@dataclass
class Report:
    """Hold what ``--check-data`` prints about one dataset: a line of counts, further lines about custom data,
    faults, findings, and the verdict if there are neither."""

    counts: str
    details: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    findings: list = field(default_factory=list)
    verdict: str = "as expected"

    @property
    def is_clean(self):
        return not self.faults and not self.findings

    def lines(self):
        """Return the lines to print."""
        return [self.counts + (f": {self.verdict}" if self.is_clean else ""), *(f"  {text}" for text in self.details),
                *(f"  fault: {text}" for text in self.faults), *(f"  finding: {text}" for text in self.findings)]


def structural_faults(task, splits):
    """Return sentences about labels without a class and classes without an image, in the named splits."""
    faults, classes = [], len(task.classnames)
    for name in splits:
        labels = set(task.split(name).labels)
        faults += outside_faults(task, name)
        if missing := [task.classnames[label] for label in range(classes) if label not in labels]:
            faults.append(f"{task.name}: no image of {some(missing, SHOWN)} in the {name} split")
    return faults


def outside_faults(task, split):
    """Return [a sentence about the first label without a class], or []."""
    classes = len(task.classnames)
    outside = sorted(label for label in set(task.split(split).labels) if not 0 <= label < classes)
    return [f"{task.name}: the {split} split has label {outside[0]}, outside the {classes} classes"] if outside else []


def is_own(name):
    """Return whether a name stands for custom data: ``folder:``, ``csv:``, ``pairs:``, or data from code."""
    return name.partition(":")[0] in PREFIXES or comes_from_code(name)


def findings_of(name, task):
    """Return sentences about oddities in custom data, judging by names and counts; no file is read."""
    if not is_own(name):
        return []
    if task.pairs:
        return list(task.findings)
    return [*task.findings, *_too_few_classes(task), *_no_words(task), *_numbered(task), *_lists(task), *_coded(task),
            *_alike_names(task)]


def _too_few_classes(task):
    if len(task.classnames) != 1:
        return []
    return [f"{task.name}: has one class, {task.classnames[0]!r}: there is nothing to classify"]


def _no_words(task):
    """Find class names that are only numbers, ids, or yes and no: their prompts say nothing."""
    names = task.classnames
    if len(names) < 2 or not all(NO_WORD.fullmatch(name) for name in names):
        return []
    return [f"{task.name}: all class names are numbers, ids or yes and no ({some(names, SHOWN)}), so the prompts say "
            "nothing; give words: classnames.txt in a folder, a column class_name in a table"]


def _numbered(task):
    """Find class names that each begin with a number or an id, as the folders of CUB-200 do."""
    found = [NUMBERED.fullmatch(name) for name in task.classnames]
    if len(found) < 2 or not all(found) or len({match[1] for match in found}) < len(found):
        return []
    return [f"{task.name}: all class names begin with a number or an id ({some(task.classnames, SHOWN)}), which the "
            "prompts then hold; give the words alone: classnames.txt in a folder, a column class_name in a table"]


def _coded(task):
    """Find class names with signs replaced by codes."""
    names = [name for name in task.classnames if CODED.search(name)]
    if not names:
        return []
    return [f"{task.name}: {len(names)} of {len(task.classnames)} class names hold codes of signs or formulas "
            f"({some(names, SHOWN)}), which the prompts then hold; write the signs themselves"]


def _lists(task):
    """Find class names written as lists, of several labels for one image."""
    lists = [name for name in task.classnames if LIST.fullmatch(name)]
    if not lists:
        return []
    return [f"{task.name}: {len(lists)} of {len(task.classnames)} class names look like lists ({some(lists, SHOWN)}); "
            "each is read as one class, and an image has one label"]


def _alike_names(task):
    """Find class names that are equal, or that differ in ways a reader overlooks."""
    alike, found = {}, []
    for label, classname in enumerate(task.classnames):
        alike.setdefault(_as_read(classname), []).append(label)
    for labels in alike.values():
        if len(labels) > 1:
            names = list(dict.fromkeys(task.classnames[label] for label in labels))
            where = ", ".join(filter(None, (_example(task, label) for label in labels[:SHOWN])))
            how = f"have the same name {names[0]!r}, so one of them can never win" if len(names) == 1 else (
                f"differ by {_difference(names)} only: {', '.join(map(repr, names[:SHOWN]))}")
            found.append(f"{task.name}: {len(labels)} classes {how}" + (f" ({where})" if where else ""))
    return found


def _plain(name):
    """Return a class name without case and spaces."""
    return "".join(name.replace("_", " ").casefold().split())


def _as_read(name):
    """Return a class name without case, spaces, copy marks, hidden characters and letter forms such as full width."""
    shown = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    return _plain(_without_copy(unicodedata.normalize("NFKC", shown)))


def _without_copy(name):
    return COPY.sub("", name.replace("_", " ")) or name


def _difference(names):
    if len(set(map(_plain, names))) == 1:
        return "case or spaces"
    return "the mark of a copy" if any(map(COPY.search, names)) else "hidden characters or forms of letters"


def _example(task, label):
    """Return the first file of a class; None if images are not files."""
    splits = [task.split(name) for name in task.splits]
    return min((file for split in splits if split.files
                for file, owner in zip(split.files, split.labels, strict=True) if owner == label), default=None)


def check_dataset(name, root):
    """Check the files of a dataset. -> Report

    It compares counts with the expected ones, requires images for every class, and decodes a sample of each
    split; for custom data it also checks the names, the counts per class and the content of every file. If the
    dataset cannot be opened, the reader's error is the only fault.
    """
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
        # FMOW and IWildCam have no known sizes, and lack some classes in their evaluation splits.
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
    """Return {path: [(split, label), ...]} of all files."""
    owners, seen = {}, set()
    for name, split in splits.items():
        if split.path is None or id(split) in seen:  # val may serve as test too
            continue
        seen.add(id(split))
        for index, label in enumerate(split.labels):
            owners.setdefault(str(split.path(index)), []).append((name, label))
    return owners


def _of_one_content(owners, faults):
    """Return lists of paths that are equal byte by byte, and of single ones with several owners.

    Only files that share their size with another are read.
    """
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
