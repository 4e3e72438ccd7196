"""Custom methods that Python gives: under which name, what their objects were made with, and when code is another."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.errors import UserError
from src.models import custom, find_method
from src.models.custom import class_of, code_digest_of, made_of
from src.models.finetune import Finetune
from src.models.hooks import Hooks

ROOT = Path(__file__).parents[2]


class Plain(Hooks):
    pass


class Mine(Finetune):
    def __init__(self, strength, name="a", *, parts=(1, 2), ls=0.0, **others):
        super().__init__(ls)
        self.strength, self._name, self.parts, self.others = strength * 2, name, parts, others


class Sub(Mine):
    pass


class Shorter(Mine):
    def __init__(self, name):
        super().__init__(3, name)


def test_a_class_has_a_name_while_its_call_runs():
    with custom.given({"Mine": Mine}):
        assert class_of("python:Mine") is Mine and find_method("python:Mine").hook() is Mine
        assert isinstance(find_method("python:Mine").build({"set": {"strength": 1}}), Mine)
        with pytest.raises(UserError, match="missing a required argument: 'strength'; give --set"):
            find_method("python:Mine").build({"set": {}})
    with pytest.raises(UserError, match="--method python:Mine: this class was passed to a call from Python"):
        class_of("python:Mine")


@pytest.mark.parametrize(("hook", "keywords"), [
    (Plain(), {}), (Mine(1), {"strength": 1}), (Mine(1, "b", ls=0.5), {"strength": 1, "name": "b", "ls": 0.5}),
    (Mine(1, parts=[3], more=4), {"strength": 1, "parts": [3], "more": 4}), (Sub(strength=2), {"strength": 2}),
    (Shorter("x"), {"name": "x"}), (Finetune(), {})])
def test_what_an_object_was_made_with(hook, keywords):
    """By the outermost class, whatever it calls its attributes."""
    assert made_of(hook) == keywords


def test_an_object_that_was_changed_is_refused():
    hook = Mine(1)
    hook.strength = 7
    with pytest.raises(UserError, match=r"--method Mine\(...\): each task .* and strength would differ"):
        made_of(hook)


@pytest.mark.parametrize(("name", "value"), [
    ("parts", (1, 3)), ("parts", (1, 2, 3)), ("others", {"a": [1]}), ("mask", object()), ("_name", len),
    ("others", None)])
def test_a_changed_list_and_an_added_attribute_are_refused(name, value):
    """The object that a task makes again would be without them."""
    hook = Mine(1)
    setattr(hook, name, value)
    with pytest.raises(UserError, match=f"each task rebuilds the object from its keywords, and {name} would differ"):
        made_of(hook)


def test_what_a_class_makes_by_itself_is_no_change():
    class Rich(Finetune):
        def __init__(self, most=float("nan"), layers=("a",)):
            super().__init__()
            self.most, self.layers, self.rest = most, list(layers), {"x": [object()]}
    assert made_of(Rich(layers=["b"])) == {"layers": ["b"]} and made_of(Rich()) == {}


def test_what_cannot_be_told():
    @dataclasses.dataclass
    class Data(Finetune):
        strength: int = 1

    class Star(Hooks):
        def __init__(self, *parts):
            pass
    with pytest.raises(UserError, match="does not record its arguments; give the class"):
        made_of(Data(2))
    with pytest.raises(UserError, match=r"takes \*parts"):
        made_of(Star(1))


def test_signatures_stay(capsys):
    """Keywords that a class does not take are still found."""
    assert find_method("ewc").hook().__init__.__wrapped__.__name__ == "__init__"
    with pytest.raises(TypeError, match="unexpected keyword"):
        Finetune(strength=1)
    with pytest.raises(TypeError):
        Plain(strength=1)


# -- code --------------------------------------------------------------------------------------------------------------

CODE = """
import functools
from src.models.finetune import Finetune
from src.models.custom import code_digest_of, given


def wrapped(function):
    @functools.wraps(function)
    def call(*arguments):
        return function(*arguments)
    return call


class Base(Finetune):
    other_terms = ("a", "b")


class Mine(Base):
    def losses(self, state, batch):
        found = [part for part in ("x", "y") if part in {"x", "y", "zeta", "eta"}]
        return {"task": (lambda: 1.5)(), "found": found}

    @wrapped
    def begin(self, state):
        return 3

    @property
    def half(self):
        return 0.5

with given({"Mine": Mine}):
    print(code_digest_of("python:Mine")["the class Mine"])
"""


def digest(tmp_path, code=CODE, seed="0"):
    (tmp_path / "own_classes.py").write_text(code, encoding="utf-8")
    done = subprocess.run([sys.executable, "own_classes.py"], cwd=tmp_path, capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed})
    return done.stdout


def test_the_same_code_has_the_same_digest_in_every_process(tmp_path):
    """Also where sets list their parts in another order, and where lines and comments move."""
    first = digest(tmp_path)
    assert first == digest(tmp_path, seed="1") == digest(tmp_path, f"# moved\n\n{CODE}", seed="2")


def variants():
    names = {}
    exec(CODE.replace("print", "str"), names)
    yield names
    for old, new in (("1.5", "2.5"), ("return 3", "return 4"), ("0.5", "0.25"), ('("a", "b")', '("a", "c")'),
                     ('"zeta"', '"theta"'), ("def losses(self, state, batch)", "def losses(self, state, batch=1)"),
                     ("    @wrapped\n", "")):
        assert old in CODE
        names = {}
        exec(CODE.replace(old, new).replace("print", "str"), names)
        yield names


def test_other_code_has_another_digest():
    found = []
    for names in variants():
        names["Mine"].__module__ = names["Base"].__module__ = "notebook"
        with custom.given({"Mine": names["Mine"]}):
            found += code_digest_of("python:Mine").values()
    assert len(set(found)) == len(found) == 8


def test_only_classes_of_python_have_one():
    assert code_digest_of("finetune") == code_digest_of("my.py:EWC") == {}
