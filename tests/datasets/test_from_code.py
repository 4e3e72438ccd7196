"""Data that code gives: which names they have, when code runs, and what is refused."""

import sys

import pytest

from src.datasets import comes_from_code, find_entry, from_code, open_task, stem
from src.datasets.common import Split, Task
from src.errors import UserError

FILE = """
from src.datasets.common import Split, Task

CALLS = []
CLASSES = ["cat", "dog"]


def open_mine():
    CALLS.append("open_mine")
    return Task("whatever", CLASSES, ["{c}"], {"train": Split(None, [0, 1]), "test": Split(None, [0])})


def rooted(root):
    return Task(root, CLASSES, (), {"test": Split(None, [0])})


def two(name, root):
    pass


def nothing():
    return None


def pairs():
    return Task("p", (), (), {}, pairs=True)


def unnamed():
    return Task("p", ["a", ""], (), {"test": Split(None, [0])})


def promptless():
    return Task("p", ["a"], ["b"], {"test": Split(None, [0])})


def partless():
    return Task("p", ["a"], (), {"test": [0]})
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "my.py").write_text(FILE, encoding="utf-8")
    monkeypatch.setattr(from_code, "_allowed", set())
    return tmp_path / "my.py"


def opened(name, root="."):
    from_code.allow(name)
    return open_task(name, root)


@pytest.mark.parametrize(("name", "is_code", "file"), [
    ("my.py:open_mine", True, "open_mine"), ("a b/my.py:f", True, "f"), ("/x/my.py:f", True, "f"),
    ("task:my photos", True, "my photos"), ("folder:x.py:y", False, "x.py:y"), ("my.py", False, "my.py"),
    ("my.py:1a", False, "my.py:1a"), ("tasks:a", False, "tasks:a"), ("toy-digits", False, "toy-digits")])
def test_names(name, is_code, file):
    assert comes_from_code(name) is is_code and stem(name) == file


def test_a_function_runs_only_where_the_command_line_names_it(file):
    name = f"{file}:open_mine"
    assert not find_entry(name).pairs
    with pytest.raises(UserError, match="is code, and only the command line may choose code to run: .*--eval-datasets"):
        open_task(name, ".")
    assert "own_method_my" not in sys.modules or not getattr(sys.modules["own_method_my"], "CALLS", ())
    task = opened(name)
    assert (task.name, task.classnames, task.templates) == ("open_mine", ["cat", "dog"], ["{c}"])
    assert sys.modules["own_method_my"].CALLS == ["open_mine"]


def test_a_function_may_take_the_root(file):
    assert opened(f"{file}:rooted", "there").name == "rooted"


@pytest.mark.parametrize(("function", "message"), [
    ("missing", "it has no function missing; it has open_mine, rooted"), ("CLASSES", "no function CLASSES"),
    ("two", r"takes \(name, root\)"), ("nothing", "returns NoneType, not a Task"), ("pairs", "give pairs:FILE"),
    ("unnamed", "classnames must be texts"), ("promptless", r"template 'b' lacks \{c\}"),
    ("partless", "its splits must be")])
def test_what_is_refused(file, function, message):
    with pytest.raises(UserError, match=message):
        opened(f"{file}:{function}")


def test_a_task_lives_while_its_call_runs(capsys):
    task = Task("mine", ["a"], (), {"train": Split(None, [0])})
    with from_code.given({"mine": task}):
        with from_code.given({"other": task}):
            assert open_task("task:mine", ".").name == "mine" and open_task("task:other", ".").name == "other"
        with pytest.raises(UserError, match="task:other is a Task from another call"):
            open_task("task:other", ".")
    with pytest.raises(UserError, match="task:mine is a Task from another call in Python: pass it again"):
        open_task("task:mine", ".")


def test_what_its_names_and_labels_are_is_known(file):
    def digest(**changes):
        content = {"classnames": ["a", "b"], "templates": ["{c}"], "splits": {"train": Split(None, [0, 1])}}
        with from_code.given({"mine": Task("mine", **content | changes)}):
            return open_task("task:mine", ".").list_digests["task:mine"]
    def scored(labels):
        return digest(splits={"train": Split(None, [0, 1]), "test": Split(None, labels)})
    assert digest() == digest() and scored([0]) == scored([0])
    others = [digest(classnames=["a", "c"]), digest(templates=["a {c}"]), digest(splits={"train": Split(None, [1, 1])})]
    others += [scored([0]), scored([1]), scored([0, 0])]  # finished scores are of these very images
    assert len({digest(), *others}) == 7
