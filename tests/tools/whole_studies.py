"""A study of three cells, shortened from studies/toy.yaml, that runs as real processes, and what must be equal where it
was disturbed. Each cell takes seconds, most of them imports."""

import itertools
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import yaml
from cli_files import lines, listing, read_json, same_weights, weights
from instants import variables
from this_machine import ROOT

from src.run.cells import LOCK
from src.store.checkpoint import read_checked

FLAGS = ("--iterations", "8", "--batch-size", "8", "--warmup-length", "2", "--save-interval", "2",
         "--log-interval", "1", "--max-evaluation-size", "32", "--workers", "0")
SELECT = {"grid": {"lr": {"low": "1e-6", "high": "3e-3"}}, "seeds": [101]}
FIRST, SECOND, THIRD = CELLS = ("finetune_known-first_seed-1", "finetune_new-first_seed-1", "ZSCL_known-first_seed-1")
COMPARISON = {"compare.md", "compare.csv", "compare.tex", "tradeoff.png"}
STARTED, RESUMED = r"^\$ python -m src\.main ", r"^(\S+): resumes after step (\d+) of 8$"  # in what a cell prints
DONE_TASK = r"^(\S+): 8 steps in"


def shortened(**changes):
    """studies/toy.yaml with three cells: both orders of one method, and one of another."""
    content = yaml.safe_load((ROOT / "studies" / "toy.yaml").read_text(encoding="utf-8"))
    axes = content["axes"]
    axes["method"] = {name: axes["method"][name] for name in ("finetune", "ZSCL")}
    axes["orders"] = {name: [task for task in order if task != "toy-shapes"] for name, order in axes["orders"].items()}
    axes["seeds"], content["base"]["lr"] = [1], 3e-3
    content["report"]["names"] = {"finetune": "fine-tuning"}
    return content | {"exclude": [{"method": "ZSCL", "orders": "new-first"}]} | changes


def one_row_selected():
    """The same with two trials and one cell."""
    content = shortened(select=SELECT)
    content["base"].pop("lr")
    content["axes"]["method"].pop("ZSCL")
    content["axes"]["orders"].pop("new-first")
    return content | {"exclude": []}


class Study:
    """A study's file and folder under ``tmp``, and the command that runs it."""

    def __init__(self, tmp, content):
        self.tmp, self.folder, self.hooks = tmp, tmp / "out", itertools.count()
        (tmp / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        self.command = [sys.executable, "-m", "src.main", "--study", str(tmp / "study.yaml"), "--save",
                        str(self.folder), *FLAGS]

    def start(self, *words, instants=()):
        """The launcher's process, which meets the Instants."""
        hooks = self.tmp / f"hooks-{next(self.hooks)}"
        return subprocess.Popen([*self.command, *words], cwd=ROOT, env=os.environ | variables(hooks, *instants),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *words, instants=()):
        """-> its status, what it printed, and the names of the cells that it started."""
        return ended(self.start(*words, instants=instants))

    def output(self, cell):
        path = self.folder / cell / "output.txt"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def starts(self, cell):
        return len(re.findall(STARTED, self.output(cell), re.M))

    def done(self, cells=CELLS):
        """The cells that a launcher has seen end well."""
        return {cell for cell in cells if (self.folder / cell / "cell.json").exists()
                and read_json(self.folder / cell / "cell.json")["status"] == 0}


def ended(process):
    try:
        out, err = process.communicate(timeout=1800)
    finally:
        process.kill()
    return SimpleNamespace(status=process.returncode, out=out, err=err,
                           started=cells_started(out))


def cells_started(output):
    """The names of the cells that a launcher started."""
    return set(re.findall(r"^(\S+): started", output, re.M))


# -- what must be equal ------------------------------------------------------------------------------------------------


def assert_same_study(study, expected, cells=CELLS):
    """The same files; tables, weights, scores and losses to the bit, times aside."""
    assert files(study) == files(expected)
    for name in sorted(listing(expected.folder)):
        one, other = study.folder / name, expected.folder / name
        if one.suffix in (".md", ".csv", ".tex") and one.name != "selection.md":  # which has hours
            assert text_of(study, name) == text_of(expected, name), name
        elif one.suffix == ".pth":
            assert same_weights(weights(one), weights(other)), name
        elif one.suffix == ".jsonl":
            assert without_times(one) == without_times(other), name
    for cell in cells:  # each task is trained to its end once
        tasks = re.findall(DONE_TASK, study.output(cell), re.M)
        assert sorted(tasks) == ["toy-new-shapes", "toy-sizes"], cell


def files(study):
    """All but the lock of a finished cell: it stays, held by none, where a launcher was killed just then."""
    return {name for name in listing(study.folder) if not name.endswith(f"/{LOCK}")}


def text_of(study, name):
    return (study.folder / name).read_text(encoding="utf-8").replace(str(study.folder), "")


def without_times(path):
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines(path)]


def without_seconds(content):
    if isinstance(content, dict):
        return {key: without_seconds(value) for key, value in content.items() if key not in ("seconds", "hours")}
    return content


def resumed_from(study, cell):
    """{task: the step} of its last start."""
    *_, last = re.split(STARTED, study.output(cell), flags=re.M)
    return {task: int(step) for task, step in re.findall(RESUMED, last, re.M)}


def point_of(study, cell):
    """{task: the step} of the newest resume point in its folder."""
    return {path.stem.removeprefix("resume_"): read_checked(path)["iteration"]
            for path in (study.folder / cell).glob("resume_*.pth") if not path.stem.endswith(".prev")}


