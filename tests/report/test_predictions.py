"""What a run has kept, read again; and files that cannot be used."""

import json

import numpy as np
import pytest

from src.errors import UserError
from src.report.predictions import files_of, predictions, read_arrays, read_description
from src.store.ledger import Ledger, names_as_bytes, small
from src.store.records import RunFolder

DESCRIBED = {
    "task": "", "iteration": 0, "history": [], "evaluation": False, "flags": {}, "precision": "fp32",
    "label_space": ["task", "all"], "logit_scale": 4.6, "by_method": False, "weights": {}, "scores": {}, "by": {},
    "datasets": {"one": {"classnames": ["a", "b"]}, "two": {"classnames": ["c", "d", "e"]}},
    "spaces": {"two": {"task": ["two"], "all": ["one", "two"]}}}
ARRAYS = {"features": np.zeros((2, 4), np.float16), "labels": small([2, 0]), "places": small([0, 5]),
          "classifier": np.zeros((3, 4), np.float32), "ranks_task": small([1, 3]), "best_task": small([[2, 0], [1, 2]]),
          "ranks_all": small([2, 1]), "best_all": small([[0, 4], [2, 1]]), "files": names_as_bytes(["x.png", "y.png"])}


@pytest.fixture
def run(tmp_path):
    ledger = Ledger(RunFolder(tmp_path))
    ledger.add("", "two", ARRAYS)
    ledger.finish("", DESCRIBED)
    return tmp_path


def test_predictions_of_a_label_space(run):
    """In ``all`` two classes come before: class 2 is number 4 there."""
    own, joined = (predictions(run, "", "two", space) for space in ("task", "all"))
    assert own.labels.tolist() == [2, 0] and joined.labels.tolist() == [4, 2]
    assert own.hits.tolist() == [True, False] and joined.hits.tolist() == [False, True]
    assert joined.best[:, 0].tolist() == [0, 2] and joined.places.tolist() == [0, 5]
    assert joined.files == ["x.png", "y.png"]


@pytest.mark.parametrize("task, dataset, space, message", [
    ("", "two", "seen", "has no predictions of two in label space seen before training; it has task, all of two"),
    ("", "one", "task", "has no predictions of one"),
    ("DTD", "two", "task", "no features after DTD .*--keep-features")])
def test_what_is_not_there_is_named(run, task, dataset, space, message):
    with pytest.raises(UserError, match=message):
        predictions(run, task, dataset, space)


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[:len(content) // 2]
    elif how == "flipped":
        place = content.index(b"\x93NUMPY") + 140  # inside the first array
        content[place] ^= 1
    elif how == "text":
        content = b"no archive"
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("how", ["cut", "flipped", "text"])
def test_damaged_arrays_are_refused_in_one_message(run, how):
    damage(run / "features/start/two.npz", how)
    with pytest.raises(UserError, match=r"--rescore: .*two\.npz cannot be used \(.*\); to keep the features again"):
        read_arrays(run, "", "two", "--rescore")


@pytest.mark.parametrize("change, message", [
    ({"labels": None}, "it lacks labels"), ({"features": np.zeros(2)}, "it lacks features"),
    ({"ranks_all": small([1])}, "ranks_all and places have different lengths"),
    ({"labels": np.array([object(), object()])}, "allow_pickle")])
def test_arrays_of_something_else_are_refused(run, change, message):
    kept = {name: array for name, array in (ARRAYS | change).items() if array is not None}
    np.savez(run / "features/start/two.npz", **kept)
    with pytest.raises(UserError, match=message):
        read_arrays(run, "", "two", "--rescore")


@pytest.mark.parametrize("content, message", [
    ("{", "cannot be used"), ("[]", "not a description of kept features"), (json.dumps(DESCRIBED), "of format 1"),
    (json.dumps({"format": 1, **DESCRIBED, "flags": None}), "it lacks flags")])
def test_other_descriptions_are_refused(run, content, message):
    (run / "features/start/evaluation.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_description(run, "", "--rescore")


def test_images_that_are_no_files_have_no_names():
    assert files_of({}) is None
