"""Pickled lists of shots: CoOp's form is read, and nothing in a pickle is executed."""

import os
import pickle
import sys
import types

import pytest

from src.datasets.pickled_shots import MOST_BYTES, read_pickled_shots
from src.datasets.shots import entry_of
from src.errors import UserError


class Datum:
    """As CoOp's code has it: a path, a label, a domain, a name."""

    def __init__(self, impath, label, classname):
        self._impath, self._label, self._domain, self._classname = impath, label, 0, classname


@pytest.fixture(params=["dassl.data.datasets.base_dataset", "DIKI.MTIL_datasets.utils"])
def datum(request, monkeypatch):
    """The class under the module that a published file names, while it is written."""
    parts = request.param.split(".")
    for length in range(1, 1 + len(parts)):
        name = ".".join(parts[:length])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    found = type("Datum", (Datum,), {"__module__": request.param, "__qualname__": "Datum"})
    sys.modules[request.param].Datum = found
    return found


@pytest.fixture
def write(tmp_path):
    def call(content, protocol=pickle.HIGHEST_PROTOCOL):
        path = tmp_path / "shot_2-seed_1.pkl"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        return path
    return call


ROWS = [("/data/dtd/images/banded/b_1.jpg", 0, "banded"), ("/data/dtd/images/dotted/d_4.jpg", 1, "dotted"),
        ("/data/dtd/images/banded/b_2.jpg", 0, "banded")]
TRAIN = [("banded", ["banded/b_1.jpg", "banded/b_2.jpg"]), ("dotted", ["dotted/d_4.jpg"])]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_the_published_form(datum, write, protocol, monkeypatch):
    held_out = datum("/data/dtd/images/banded/b_9.jpg", 0, "banded")
    path = write({"train": [datum(*row) for row in ROWS], "val": [held_out]}, protocol)
    assert b"Datum" in path.read_bytes()
    monkeypatch.delitem(sys.modules, datum.__module__)
    assert read_pickled_shots(path) == entry_of({"train": TRAIN, "val": [("banded", ["banded/b_9.jpg"])]})


@pytest.mark.parametrize("kind", [tuple, list])
def test_plain_rows(write, kind):
    assert read_pickled_shots(write({"train": [kind(row) for row in ROWS]})) == entry_of({"train": TRAIN})


@pytest.mark.parametrize(("paths", "shown"), [
    (["a/1.jpg", "b/2.jpg"], ["a/1.jpg", "b/2.jpg"]), (["/x/1.jpg", "/x/2.jpg"], ["1.jpg", "2.jpg"]),
    (["/x/1.jpg", "y/2.jpg"], ["x/1.jpg", "y/2.jpg"]),
    (["C:\\data\\a\\1.jpg", "C:\\data\\b\\2.jpg"], ["a/1.jpg", "b/2.jpg"]),
    (["/data/ab/1.jpg", "/data/a/2.jpg"], ["ab/1.jpg", "a/2.jpg"])])
def test_the_folder_of_all_images_is_left_out(write, paths, shown):
    entry = read_pickled_shots(write({"train": [(path, index, f"c{index}") for index, path in enumerate(paths)]}))
    assert [row["images"] for row in entry["train"]] == [[path] for path in shown]


# -- nothing is executed ----------------------------------------------------------------------------------------------


class Calls:
    """An object whose pickle calls ``function``."""

    def __init__(self, function, *words):
        self.call = function, words

    def __reduce__(self):
        return self.call


def stack_global(module, name, *words):
    """A pickle that calls what it finds under a name, dotted ones too, as protocol 4 allows."""
    text = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    return b"\x80\x04" + text + b"\x93" + pickle.dumps(words, 2)[2:-1] + b"R."


HOSTILE = {
    "a call": lambda marker: pickle.dumps({"train": [Calls(os.mkdir, marker)]}),
    "a call, text protocol": lambda marker: pickle.dumps(Calls(os.mkdir, marker), 0),
    "a call by a dotted name": lambda marker: stack_global("os", "path.os.mkdir", marker),
    "through the name that is known": lambda marker: stack_global("os", "Datum.mkdir", marker),
    "an attribute of it": lambda marker: stack_global("any", "Datum.__subclasses__"),
    "an instance": lambda marker: b"(S'" + marker.encode() + b"'\nios\nmkdir\n.",
    "an object": lambda marker: b"(cos\nmkdir\nS'" + marker.encode() + b"'\no.",
    "an extension": lambda marker: b"\x80\x02\x82\x01.", "a persistent id": lambda marker: b"Pabc\n.",
    "eval": lambda marker: pickle.dumps(Calls(eval, f"__import__('os').mkdir({marker!r})")),
    "getattr": lambda marker: pickle.dumps(Calls(getattr, "", "join")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_is_executed(write, tmp_path, case):
    marker = str(tmp_path / "done")
    path = write(HOSTILE[case](marker))
    with pytest.raises(UserError) as caught:
        read_pickled_shots(path)
    assert not os.path.exists(marker) and str(path) in str(caught.value)


def test_the_hostile_ones_would_do_something(tmp_path):
    """Under the plain unpickler the same bytes act, so that the test above shows something."""
    for case in ("a call", "a call, text protocol", "a call by a dotted name", "an instance", "an object", "eval"):
        marker = tmp_path / case.replace(" ", "_").replace(",", "")
        pickle.loads(HOSTILE[case](str(marker)))
        assert marker.is_dir(), case


def test_a_row_only_keeps_its_state(datum, write, monkeypatch):
    """What a class of that name does in its own code is not even looked for."""
    def explode(*_):
        raise AssertionError("executed")
    path = write({"train": [datum(*ROWS[0])]})
    monkeypatch.setattr(datum, "__setstate__", explode, raising=False)
    monkeypatch.setattr(datum, "__init__", explode)
    assert read_pickled_shots(path) == entry_of({"train": [("banded", ["b_1.jpg"])]})


# -- what is not such a list ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [
    b"", b"\x80", b"json: 1", {}, [], {"train": []}, {"val": []}, {"train": 3}, {"train": [1]}, {"train": ["abc"]},
    {"train": [("a.jpg", "0", "a")]}, {"train": [(1, 0, "a")]}, {"train": [("a.jpg", 0, "a"), ("b.jpg", 0, "b")]},
    {"train": [("a.jpg", True, "a")]}, {"train": [("a.jpg", 0)]}], ids=repr)
def test_a_file_that_is_not_a_list(write, content):
    path = write(content)
    with pytest.raises(UserError) as caught:
        read_pickled_shots(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_too_large(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_pickled_shots(tmp_path / "none.pkl")
    with (tmp_path / "large.pkl").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(UserError, match="exceeds 64 MiB"):
        read_pickled_shots(tmp_path / "large.pkl")
