"""What every dataset is made of: splits, prompts, entries."""

import pytest
from PIL import Image

from src.datasets.common import Entry, Split, Task, fill
from src.errors import UserError


def test_a_subset_keeps_images_beside_their_labels():
    split = Split(lambda index: Image.new("RGB", (index + 1, 1)), [10, 11, 12, 13])
    part = split.subset([3, 1])
    assert len(part) == 2 and list(part.labels) == [13, 11]
    assert [part.image(position).width for position in range(2)] == [4, 2]
    assert part.subset([1]).image(0).width == 2


def test_a_split_that_is_not_there_is_named_with_those_that_are(task):
    with pytest.raises(UserError, match="tiny has no video split; it has train, val, test"):
        task.split("video")


def test_the_reference_split_is_training_images_or_else_test_images(task):
    train, test = task.split("train"), task.split("test")
    assert task.reference_split is train
    assert Task("x", [], [], {"test": test}).reference_split is test
    with pytest.raises(UserError, match="no test split"):
        _ = Task("x", [], [], {"val": test}).reference_split


def test_prompts_are_made_by_the_first_template_unless_another_is_given(make_task):
    task = make_task(2)
    assert task.prompts() == ["a photo of a cat.", "a photo of a red bird."]
    assert task.prompts("the {c}, a {c}") == ["the cat, a cat", "the red bird, a red bird"]


def test_class_names_may_hold_what_looks_like_a_pattern():
    assert fill("a {c}.", r"100% \1 {x} [y]") == r"a 100% \1 {x} [y]."


def test_an_entry_opens_what_its_target_says():
    entry = Entry("builtins:divmod", classes=3)
    assert entry.open(7, 2) == (3, 1)
