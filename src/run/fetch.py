"""--fetch: list size and licence of datasets, download what a library can, check it, and print the steps of the rest.

A dataset is downloaded beside its place and checked there, so that what stands in its place is whole.
"""

import os
import shlex
import shutil
import tempfile
from pathlib import Path

from src.datasets import DATASETS
from src.datasets.check import check_dataset
from src.datasets.sources import REFERENCE, SOURCES, how_it_comes, size_text
from src.errors import UserError
from src.machine.notices import complain
from src.report.tables import markdown_table

BY_HAND, FAULTY, NO_SPACE, FAILED = "by hand", "faulty", "no space", "not downloaded"  # why a dataset is left
HARD_TO_GET = {"ImageNet", "conceptual_captions"}  # what ZSCL's published rows take as reference


def fetch(names, root, only_plan=False):
    """Bring datasets of the table under ``root``. -> exit status: 0 where all are there and pass --check-data, 1 where
    one is left. ``only_plan``: print the list and the steps alone, and return 0."""
    print(plan(names, root), flush=True)
    if only_plan:
        _print_steps([name for name in names if _is_manual(name) and not _is_here(name, root)], root)
        return 0
    found = {name: _obtain(name, root) for name in names}
    left = {name: reason for name, reason in found.items() if reason}
    _print_steps([name for name, reason in left.items() if reason == BY_HAND], root)
    if HARD_TO_GET & left.keys():
        print(f"\nWithout them: --fetch {REFERENCE} ({size_text(REFERENCE)} GB), then --ref-dataset {REFERENCE} "
              f"--ref-sentences {REFERENCE}: its images and class names as reference. Published rows have ImageNet and "
              "the captions of CC3M.")
    if left:
        print("\nleft: " + ", ".join(f"{name} ({reason})" for name, reason in left.items()))
    return 1 if left else 0


def plan(names, root):
    """The table of what is named, and what there is to download."""
    rows = [[name, size_text(name) if name in SOURCES else None,
             SOURCES[name].licence or "not recorded" if name in SOURCES else None, how_it_comes(name),
             "yes" if _is_here(name, root) else "no"] for name in names]
    sizes = [SOURCES[name].gigabytes for name in names if not (_is_here(name, root) or _is_manual(name))]
    total = (f"To download: {sum(sizes):.2f} GB, and as much again to unpack; {_free(root) / 1e9:.0f} GB are free "
             f"under {root}." if sizes else "Nothing to download.")
    return "\n".join([markdown_table(["dataset", "GB", "licence", "comes", "here"], rows), "", total])


def _is_here(name, root):
    folder = DATASETS[name].folder
    return not folder or (Path(root) / folder).exists()


def _is_manual(name):
    return name in SOURCES and not SOURCES[name].by


def _free(root):
    """Bytes that are free under a folder, which need not be there yet."""
    there = next(path for path in (Path(root).absolute(), *Path(root).absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def _obtain(name, root):
    """Download a dataset if it is not there, and check it. -> why it is left, None where it is there and sound"""
    if not (_is_here(name, root) or _is_manual(name)):
        return _download(name, root)
    report = check_dataset(name, root)
    if _is_manual(name) and not _is_here(name, root) and not report.is_clean:
        return BY_HAND
    print("\n".join(report.lines()), flush=True)
    return None if report.is_clean else FAULTY


def _download(name, root):
    """As ``_obtain``, of a dataset that is not there. What has faults is kept aside, under a name that no run reads."""
    folder = DATASETS[name].folder
    place, aside = Path(root) / folder, Path(root) / f"{folder}.faulty"
    if aside.exists():
        complain(f"{name}: {aside} is left of an earlier --fetch; remove it, or rename it to {place} to use it so")
        return FAULTY
    if _free(root) < SOURCES[name].gigabytes * 1e9:
        complain(f"{name}: its archives are {size_text(name)} GB, and {_free(root) / 1e9:.2f} GB are free under "
                 f"--data-location {root}; make room, or give another")
        return NO_SPACE
    print(f"{name}: downloading {size_text(name)} GB by {SOURCES[name].by}", flush=True)
    with _beside(root, folder) as partial:
        try:
            DATASETS[name].download(name, Path(partial))
        except UserError as error:
            complain(str(error).replace(str(Path(partial)), str(root)))
            return FAILED
        report = check_dataset(name, Path(partial))
        kept = place if report.is_clean else aside
        try:
            os.rename(Path(partial) / folder, kept)
        except OSError as error:
            complain(f"{name}: {kept} cannot be made of what was downloaded ({error.strerror}); see section {name} of "
                     "datasets.md")
            return FAILED
    lines = [line.replace(str(Path(partial) / folder), str(kept)) for line in report.lines()]
    print("\n".join(lines), flush=True)
    if kept == aside:
        complain(f"{name}: is kept as {aside}, which no run reads; remove it, or rename it to {place} to use it so")
    return None if report.is_clean else FAULTY


def _beside(root, folder):
    """A folder under ``root`` that goes again; UserError where none can be made."""
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=root, prefix=f".{folder}.")
    except OSError as error:
        raise UserError(f"--data-location {root}: cannot be written ({error.strerror}); give another") from None


def _print_steps(names, root):
    """What a person has to do for each dataset that comes by hand."""
    for name in names:
        source, folder = SOURCES[name], Path(root) / DATASETS[name].folder
        origin = f" from {source.origin}" if source.origin else ""
        print(f"\n{name}, by hand:\n  get {', '.join(source.files)}{origin}\n"
              f"  unpack below {folder}, as section {name} of datasets.md shows\n"
              f"  python -m src.main --check-data {name} --data-location {shlex.quote(str(root))}")
