"""When the code of a custom class is another: what its digest counts, and what it says that it does not count."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from src.models.class_code import code_digests, uncounted

ROOT = Path(__file__).parents[2]
CODE = """
import functools
import json
import torch
import clip_continual as cc
import helpers_of_mine
from src.models.finetune import Finetune

SHARE, SIZES, TABLE = 0.125, [7, 8], torch.zeros(2)


def helped(value):
    return further(value) + SHARE


def further(value):
    return value * 11 if value else helped(1)


def not_named():
    return 19


class Part(torch.nn.Module):
    width = 13


def wrapped(function):
    @functools.wraps(function)
    def call(*arguments):
        return function(*arguments)
    return call


def times(number):
    def call(self, state):
        return 3 * number
    return call


class Base(Finetune):
    other_terms = ("a", "b")
    limits = {"low": 23}


class Mine(Base):
    seen, after_step = [], times(29)

    class Inner:
        depth = 17

    def __init__(self):
        self.part, self.table = Part(), TABLE + helpers_of_mine.some()

    def end(self, state):
        return [helped(size) for size in SIZES], json.dumps(3), torch.ones(1), cc.Hooks

    def losses(self, state, batch):
        found = [part for part in ("x", "y") if part in {"x", "y", "zeta", "eta"}]
        return {"task": (lambda: 1.5)(), "found": found}

    @wrapped
    def begin(self, state):
        return 3

    @property
    def half(self):
        return 0.5
"""
PRINTED = """
from src.models.class_code import code_digests
print(code_digests([("Mine", Mine)]))
"""


@pytest.fixture(autouse=True)
def helpers(monkeypatch):
    monkeypatch.setitem(sys.modules, "helpers_of_mine", types.ModuleType("helpers_of_mine"))


def digest(tmp_path, code=CODE, seed="0"):
    """By a process of its own."""
    (tmp_path / "helpers_of_mine.py").write_text("", encoding="utf-8")
    (tmp_path / "own_classes.py").write_text(code + PRINTED, encoding="utf-8")
    done = subprocess.run([sys.executable, "own_classes.py"], cwd=tmp_path, capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed})
    return done.stdout


def made(code=CODE):
    """The class of a session that has run this code."""
    names = {"__name__": "notebook"}
    exec(code, names)
    return names["Mine"]


def test_the_same_code_has_the_same_digest_in_every_process(tmp_path):
    """Also where sets list their parts in another order, and where lines and comments move."""
    first = digest(tmp_path)
    assert first == digest(tmp_path, f"# moved\n\n{CODE}", seed="2") and "the class Mine (Python 3." in first


@pytest.mark.parametrize(("old", "new"), [
    ("1.5", "2.5"), ("return 3\n", "return 4\n"), ("0.5", "0.25"), ('("a", "b")', '("a", "c")'), ('"zeta"', '"theta"'),
    ("losses(self, state, batch)", "losses(self, state, batch=1)"), ("    @wrapped\n", ""),
    ("SHARE, SIZES, TABLE = 0.125", "SHARE, SIZES, TABLE = 0.25"), ("[7, 8]", "[7, 9]"), ("value * 11", "value * 12"),
    ("depth = 17", "depth = 18"), ("width = 13", "width = 14"), ('"low": 23', '"low": 24'), ("times(29)", "times(30)"),
    ("class Part(torch.nn.Module)", "class Part(torch.nn.Linear)")])
def test_other_code_has_another_digest(old, new):
    """Of the class, of a base or nested class, and of what it names: functions and classes through others, and plain
    values, also in lists and closures."""
    assert CODE.count(old) == 1 and code_digests([("Mine", made())]) == code_digests([("Mine", made())])
    assert code_digests([("Mine", made(CODE.replace(old, new)))]) != code_digests([("Mine", made())])


def test_what_the_class_does_not_name_does_not_count():
    assert code_digests([("Mine", made(CODE.replace("19", "20")))]) == code_digests([("Mine", made())])


def test_what_a_run_collects_in_lists_is_no_change():
    """A class has no other way to leave something to the session that gives it."""
    kind = made()
    before = code_digests([("Mine", kind)])
    kind.seen.append(1)
    kind.end.__globals__["SIZES"].append(9)
    kind.limits["high"] = 30
    assert code_digests([("Mine", kind)]) == before
    kind.seen = [1]
    assert code_digests([("Mine", kind)]) != before, "another list"


def test_what_does_not_count_has_a_name():
    """A module of the user's and a tensor; Python's and packages' modules change with their versions alone."""
    assert uncounted(made()) == ["TABLE", "helpers_of_mine"]


def test_functions_of_other_files_of_the_user_count():
    helpers = {"__name__": "helpers_of_mine"}
    found = []
    for number in (1, 2):
        exec(f"def some():\n    return {number}", helpers)
        names = {"__name__": "notebook", "some": helpers["some"]}
        exec("class Mine:\n    def end(self):\n        return some()", names)
        found.append(code_digests([("Mine", names["Mine"])]))
    assert found[0] != found[1]


def test_a_function_that_makes_hooks_has_a_digest():
    assert code_digests([("made", made)]) != code_digests([("made", digest)])
