"""The example methods of ``examples/methods/`` as the tests run them, and what their runs have written."""

import contextlib
import csv
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from src.machine.code_files import load_file
from src.models.state import TrainingState

FOLDER = Path(__file__).parents[2] / "examples" / "methods"
TASKS = ("colours", "tones", "shades")
COMMON = "--batch-size 4 --workers 0 --precision fp64 --label-space task,all".split()
STEPS = "--lr 1e-2 --warmup-length 0 --iterations 3".split()


@dataclass(frozen=True)
class Example:
    """A class in a file, keywords that are not its defaults, and whether it takes steps and owns modules."""

    file: str
    kind: str
    keywords: tuple = ()
    steps: bool = True
    owns: bool = False

    @property
    def method(self):
        return ["--method", f"{FOLDER / self.file}:{self.kind}"]

    @property
    def words(self):
        return [*self.method, *(word for keyword in self.keywords for word in ("--set", keyword)), *self.length]

    @property
    def length(self):
        return STEPS if self.steps else []

    @property
    def scored_by(self):
        """What a row of scores says; plain CLIP where weights are all that it trains."""
        return f"with:{self.kind}" if self.owns else "zeroshot" if self.steps else f"logits:{self.kind}"

    def hook(self):
        """The class, as a run in this process takes it."""
        return getattr(load_file(FOLDER / self.file), self.kind)


EXAMPLES = {"ewc": Example("ewc.py", "EWC", ("strength=1e4",)),
            "ridge": Example("ridge.py", "Ridge", ("strength=0.3",), steps=False),
            "prompts": Example("prompts.py", "Prompts", ("length=3",), owns=True),
            "experts": Example("experts.py", "Experts", ("experts=3", "rank=4"), owns=True),
            "prefixes": Example("prefixes.py", "Prefixes", ("length=2",), owns=True)}
OWN = [name for name, example in EXAMPLES.items() if example.owns]
STEPPING = [name for name, example in EXAMPLES.items() if example.steps]


def those(names):
    return pytest.mark.parametrize("name", names, indirect=True)


def quick(*names, among=EXAMPLES):
    """A mark: with all examples ``among`` these, of which those of other names are slow tests."""
    return those([name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in among])


def loaded(path):
    return torch.load(path, weights_only=True)


def equal(one, other, without=("config",)):
    """Whether nested contents are equal, tensors to the bit, but for keys that name folders."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key], without) for key in one.keys() - without)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(equal(*pair, without) for pair in zip(one, other, strict=True))
    return one == other


def last_rows(folder, *datasets):
    """{(dataset, label space): the last row of its metrics}"""
    rows = {}
    for name in datasets:
        with (folder / f"metrics_{name}.csv").open() as file:
            rows |= {(name, row["label_space"]): row for row in csv.DictReader(file)}
    return rows


def wait_for_writers():
    """Resume points are written by a thread, which a process that ends would wait for."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()


@contextlib.contextmanager
def broken(kind, moment, task):
    """While entered, Ctrl-C comes at the end of ``begin`` or ``end`` of a task by a class of hooks, or after the first
    batch of a pass: of any one ("pass"), or of the one whose purpose is the moment. Then the writers are waited for."""
    def late(original):
        def call(hook, state):
            original(hook, state)
            if state.task.name == task:
                raise KeyboardInterrupt
        return call

    def within(original):
        def once(state, split, purpose, *words, **options):
            for index, batch in enumerate(original(state, split, purpose, *words, **options)):
                if index and state.task.name == task and moment in ("pass", purpose):
                    raise KeyboardInterrupt
                yield batch
        return once
    owner, name, wrapped = (kind, moment, late) if moment in ("begin", "end") else (TrainingState, "once", within)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("src.run.sequence.code_digests", lambda classes: {})  # or the class would count as another
        patched.setattr(owner, name, wrapped(getattr(owner, name)))
        yield
    wait_for_writers()


def assert_as_if_never_interrupted(folder, expected, without=("config",)):
    for task in TASKS:
        assert equal(loaded(folder / f"{task}.pth"), loaded(expected / f"{task}.pth"), without), task
    assert last_rows(folder, *TASKS) == last_rows(expected, *TASKS)
