"""A flag's text -> its value, and a value -> the text of it."""

import pytest

from src.cli.definition import Flag, switch
from src.cli.flags import FLAGS
from src.cli.texts import read_value, shown, unnamed_choices
from src.cli.values import keyword, whole
from src.errors import UserError


def test_what_a_text_means():
    assert read_value(Flag("--n", "", parse=whole(1)), "3") == 3
    assert read_value(switch("--s", ""), "") is True
    assert read_value(Flag("--k", "", {}, keyword, repeated=True), ["a=1", "b=x"]) == {"a": 1, "b": "x"}
    with pytest.raises(UserError, match="--m nother: did you mean other"):
        read_value(Flag("--m", "", choices=("one", "other")), "nother")


@pytest.mark.parametrize(("key", "text", "value"), [
    ("device", "gpu", "cuda"), ("device", "CPU", "cpu"), ("precision", "bfloat16", "bf16"),
    ("precision", "FP16", "fp16"), ("precision", "float16", "fp16"), ("precision", "half", "fp16"),
    ("precision", "Float32", "fp32"),
    ("precision", "double", "fp64"), ("method", "zscl", "ZSCL"), ("method", "LwF", "lwf"), ("method", "iCaRL", "icarl"),
    ("method", "Mod.py:ZSCL", "Mod.py:ZSCL"), ("orthogonal_dtype", "bfloat16", "bf16"), ("init", "Scratch", "scratch"),
    ("eval_split", "VAL", "val"), ("model", "vit-b/16", "ViT-B/16")])
def test_other_words_for_a_choice_are_taken_as_meant(key, text, value):
    assert read_value(FLAGS[key], text) == value


def test_a_word_whose_meaning_is_no_choice_is_refused():
    with pytest.raises(UserError, match="--orthogonal-dtype fp64: .*there are fp32, fp16, bf16"):
        read_value(FLAGS["orthogonal_dtype"], "double")


@pytest.mark.parametrize(("value", "text"), [
    (None, "none"), (False, "off"), (True, "on"), (1e-5, "1e-05"), ((1, 2), "1,2"), ({}, "none"),
    ({None: 0.1, "DTD": 0.2}, "0.1,DTD=0.2"), ("a", "a")])
def test_a_value_as_one_would_write_it(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(("text", "choices"), [
    ("one or other", ()), ("one", ("one", "other")), ("the first", ("one", "other"))])
def test_choices_that_a_help_leaves_out(text, choices):
    assert unnamed_choices(Flag("--m", text, choices=("one", "other"))) == choices
