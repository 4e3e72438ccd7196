"""Find finished sequences: the folders that --report names directly, by a pattern, or by a folder above."""

import glob
from dataclasses import dataclass, field
from pathlib import Path

from src.errors import UserError
from src.machine.files import LOCK, holder_of

SUMMARY = "summary.json"  # only a finished sequence has it
MARKS = ("run.json", "run_*.json", "log_*.jsonl", "output.txt", "cell.json", "*.pth")  # marks of a run, finished or not
TRIALS = "select"  # folder of a study's trials, which are scored on val
TWICE = "named twice"
MOST_NAMED = 5


@dataclass
class Found:
    """Hold ``runs``: folders of finished sequences; ``skipped``: {why: [paths]}."""

    runs: list = field(default_factory=list)
    skipped: dict = field(default_factory=dict)

    @property
    def taken(self):
        """Return how many finished sequences were named, counting repeats."""
        return len(self.runs) + len(self.skipped.get(TWICE, ()))

    def skip(self, why, path):
        self.skipped.setdefault(why, []).append(path)

    def note(self):
        """Return what is left out, in one sentence; "" if nothing is."""
        parts = [f"{len(paths)} {why} ({_named(paths)})" for why, paths in self.skipped.items()]
        return f"left out: {'; '.join(parts)}" if parts else ""


def _named(paths):
    rest = len(paths) - MOST_NAMED
    return ", ".join(map(str, paths[:MOST_NAMED])) + (f" and {rest} more" if rest > 0 else "")


def find_runs(names):
    """Return Found for the texts of --report: a run folder itself, or every finished sequence below a folder or
    matching a pattern, sorted by path.

    Raises UserError if a text has none.
    """
    found = Found()
    for name in names:
        before = found.taken
        if _is_named(name):
            _take(found, Path(name))
        else:
            _search(found, name)
        if found.taken == before:
            _refuse(name, found)
    return found


def _is_named(name):
    """Return whether a text names one run, or nothing searchable: reading it then reports what is wrong."""
    path = Path(name)
    if _is_run(path):
        return True
    return not path.is_dir() and not glob.has_magic(name)


def _is_run(path):
    return (path / SUMMARY).is_file() or any(next(path.glob(mark), None) for mark in MARKS)


def _search(found, name):
    path = Path(name)
    tops = [path] if path.is_dir() else sorted(map(Path, glob.glob(name, recursive=True)))
    written = Path(name).parts
    for top in tops:
        if not top.is_dir():
            found.skip("files", top)
            continue
        for folder in _folders(top):
            if folder.parts.count(TRIALS) > written.count(TRIALS):
                _skip_trial(found, folder)
            else:
                _look(found, folder)


def _folders(folder, above=()):
    """Yield a folder and all below it, sorted by path, without entering run folders or links to a folder above."""
    yield folder
    above = (*above, folder.resolve())
    for child in () if _is_run(folder) else _below(folder):
        if child.resolve() not in above:
            yield from _folders(child, above)


def _below(folder):
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError as error:
        raise UserError(f"--report {folder}: cannot be read ({error.strerror})") from None


def _skip_trial(found, folder):
    if _is_run(folder):
        found.skip(f"trials below {TRIALS}", folder)


def _look(found, folder):
    if holder := holder_of(folder, LOCK):
        found.skip(f"in use by {holder}", folder)
    elif (folder / SUMMARY).is_file():
        _take(found, folder)
    elif _is_run(folder):
        found.skip("without a finished sequence", folder)


def _take(found, folder):
    if folder.resolve() in [run.resolve() for run in found.runs]:
        found.skip(TWICE, folder)
    else:
        found.runs.append(folder)


def _refuse(name, found):
    left = f" ({note})" if (note := found.note()) else ""
    raise UserError(f"--report {name}: no finished sequence there{left}; give the --save folders of sequences, a "
                    "folder above them, or a pattern in quotes such as 'ckpt/study/*'")
