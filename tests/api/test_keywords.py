"""Keywords become the words that a command line would have, and messages name keywords."""

from pathlib import Path

import numpy as np
import pytest

from src.api.keywords import in_python, words_of
from src.args import parse
from src.errors import UserError


@pytest.mark.parametrize(("keywords", "words"), [
    ({"method": "ZSCL", "ls": 0.2}, "--method=ZSCL --ls=0.2"),
    ({"dataset_order": ["DTD", "MNIST"]}, "--dataset-order=DTD,MNIST"),
    ({"label_space": ("task", "all")}, "--label-space=task,all"),
    ({"save": Path("ckpt") / "a b"}, "--save=ckpt/a b"),
    ({"resume": True, "overwrite": False, "load": None}, "--resume"),
    ({"iterations": np.int64(7), "lr": np.float32(0.5)}, "--iterations=7 --lr=0.5"),
    ({"lr": {None: 1e-5, "MNIST": 5e-5}}, "--lr=1e-05,MNIST=5e-05"),
    ({"epochs": {"MNIST": 5, "others": 10}}, "--epochs=10,MNIST=5"),
    ({"set": {"strength": 1, "name": "a"}}, "--set=strength=1|--set=name=a"),
    ({"set": {"name": "1", "parts": [1, "b"]}}, "--set=name='1'|--set=parts=[1, 'b']"),
    ({"image_dir": {"coco": Path("/data/coco")}}, "--image-dir=coco=/data/coco"),
    ({"flickr_splits": ["train", "val"]}, "--flickr-splits=train+val"),
    ({"warmup_length": "20%", "workers": 0}, "--warmup-length=20%|--workers=0"),
])
def test_words(keywords, words):
    expected = words.split("|") if "|" in words or "a b" in words else words.split()
    assert words_of(keywords) == expected


def test_what_goes_in_comes_out():
    """The parser of the command line reads the values back."""
    config = parse(words_of({"dataset_order": ["DTD", "MNIST"], "lr": {None: 1e-5, "MNIST": 5e-5}, "method": "my.py:A",
                             "set": {"a": "1", "b": None, "c": {"d": (1, 2.5)}, "e": "x y"}, "iterations": 3}))
    assert config.dataset_order == ("DTD", "MNIST") and config.lr == {None: 1e-5, "MNIST": 5e-5}
    assert config.set == {"a": "1", "b": None, "c": {"d": (1, 2.5)}, "e": "x y"} and config.iterations == 3


@pytest.mark.parametrize(("keywords", "message"), [
    ({"datset_order": "toy"}, "unknown keyword datset_order; did you mean dataset_order"),
    ({"resume": 1}, "--resume 1: expected True or False"), ({"lr": True}, "--lr True: expected a text, a number"),
    ({"set": {"a": object}}, "--set a=<class 'object'>: a run records"),
    ({"set": {"a": float("nan")}}, "--set a=nan: a run records"), ({"set": "a=1"}, "--set 'a=1': expected a dict"),
    ({"load": object()}, "expected a text"), ({"dataset_order": ["folder:a,b", "DTD"]}, "folder:a,b: contains ','"),
])
def test_what_no_text_stands_for(keywords, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        words_of(keywords)


def test_a_file_may_have_a_comma_in_its_name(tmp_path):
    (tmp_path / "a,b.pth").write_bytes(b"")
    assert words_of({"load": [tmp_path / "a,b.pth", "c.pth"]}) == [f"--load={tmp_path}/a,b.pth,c.pth"]


@pytest.mark.parametrize(("message", "expected"), [
    ("--lr -1: expected a rate", "`lr` -1: expected a rate"),
    ("give --dataset-order NAMES", "give `dataset_order` NAMES"),
    ("see --help", "see --help"), ("a--lr", "a--lr"), ("torchrun --nproc-per-node 2", "torchrun --nproc-per-node 2")])
def test_messages_name_keywords(message, expected):
    assert in_python(message) == expected
