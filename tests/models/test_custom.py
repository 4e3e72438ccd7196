"""Custom classes: under which name they are found, with which keywords, and what their objects were made with."""

import dataclasses

import pytest

from src.cli.flags import FLAGS
from src.cli.texts import read_value, shown
from src.errors import UserError
from src.models import custom, find_hooks, find_method
from src.models.custom import call_text, call_texts, class_of, hooks_class, made_of, read_calls
from src.models.finetune import Finetune
from src.models.hooks import Hooks


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


# -- hooks as text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "calls"), [
    ("my.py:A", [("my.py:A", {})]), ("my.py:A()", [("my.py:A", {})]),
    ("a b/my.py:A(x=1, y='b,c)')", [("a b/my.py:A", {"x": 1, "y": "b,c)"})]),
    ("my.py:A(x=(1, 2)), your.py:B , my.py:C(z={'a': [None, -0.5]})",
     [("my.py:A", {"x": (1, 2)}), ("your.py:B", {}), ("my.py:C", {"z": {"a": [None, -0.5]}})]),
    ("a,b.py:C,python:D(x=True)", [("a,b.py:C", {}), ("python:D", {"x": True})])])
def test_hooks_as_text(text, calls):
    """The form that is kept reads as the same, and as the same text again."""
    assert read_calls(text) == calls
    kept = call_texts(text)
    assert kept == tuple(call_text(*call) for call in calls) == call_texts(",".join(kept))
    assert find_hooks(kept)[0][0].target == calls[0][0] and find_hooks(kept)[0][1] == {"set": calls[0][1]}


def test_hooks_that_are_given_twice_are_one_list():
    value = read_value(FLAGS["hooks"], ["my.py:A(x=1),my.py:B", "your.py:A"])
    assert value == ("my.py:A(x=1)", "my.py:B", "your.py:A") and shown(value) == "my.py:A(x=1),my.py:B,your.py:A"
    with pytest.raises(UserError, match=r"--hooks my.py:A,my.py:A\(x=1\): names my.py:A twice"):
        read_value(FLAGS["hooks"], ["my.py:A", "my.py:A(x=1)"])


@pytest.mark.parametrize(("text", "message"), [
    ("ewc", "expected FILE.py:Class or"), ("my.py", "expected FILE.py"), ("my.py:1", "expected FILE.py"),
    ("my.py:A,", "expected FILE.py"), ("my.py:A B", "expected FILE.py"), ("my.py:A(x=1", "holds no key=value pairs"),
    ("my.py:A(1)", "has no name"), ("my.py:A(**{'x': 1})", "has no name"), ("my.py:A(x=1, x=2)", "gives x twice"),
    ("my.py:A(x=y)", "x: expected a finite number, a text in quotes"), ("my.py:A(x=print(1))", "x: expected"),
    ("my.py:A(x=1e999)", "x: expected"), ("my.py:A(x={1, 2})", "x: expected"), ("my.py:A(x=b'')", "x: expected"),
    ("my.py:A(x=" + "(" * 3000, "holds no key"), ("my.py:A(x=0x" + "f" * 5000 + ")", "x: expected")])
def test_what_is_no_text_of_hooks(text, message):
    with pytest.raises(ValueError, match=message):
        read_calls(text)


class Idle(Hooks):
    def __init__(self, every=1):
        self.every = every

    def state_dict(self):
        return {}


class Closed(Hooks):
    closed_form = True

    def end(self, state):
        pass


@pytest.mark.parametrize(("kind", "message"), [
    (Idle, "Idle overrides nothing that a run calls"), (Closed, "give --method python:Closed"), (dict, "is no class"),
    (len, "is no class derived from Hooks")])
def test_what_does_not_act_beside_a_method(kind, message):
    target = f"python:{kind.__name__}"
    with custom.given({kind.__name__: kind}), pytest.raises(UserError, match=f"--hooks {target}: .*{message}"):
        hooks_class(target)


def test_keywords_that_a_class_of_hooks_lacks():
    (row, _), = find_hooks(["python:Mine"])
    with custom.given({"Mine": Mine}), pytest.raises(UserError, match="--hooks python:Mine: missing .*in the bracket"):
        row.build({"set": {}})
