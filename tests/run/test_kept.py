"""What --keep-features is not for, how much it writes, and what tells weights apart."""

from types import SimpleNamespace

import pytest
import torch

from src.datasets.common import Split, Task
from src.errors import UserError
from src.models.bounds import ClassMeans
from src.models.hooks import Hooks
from src.models.rail import Rail
from src.run.kept import refuse_other_scores, size_text, text_digest, vectors_of


class OwnScores(Hooks):
    def scores(self, state, images, spaces):
        return None


class Promised(OwnScores):
    scores_features = True

    def scores(self, state, images, spaces):
        return None


class Broken(Promised):
    def scores(self, state, images, spaces):
        return None


@pytest.mark.parametrize("hook", [Hooks(), ClassMeans(), Rail(), Promised()])
def test_scores_that_features_give_again(hook):
    refuse_other_scores([hook])
    refuse_other_scores([])


@pytest.mark.parametrize("hook", [OwnScores(), Broken()])
def test_other_scores_are_refused_with_the_way_out(hook):
    with pytest.raises(UserError, match=f"--keep-features: {type(hook).__name__} defines its own scores.*"
                                        "scores_features = True"):
        refuse_other_scores([hook])


def test_the_size_by_hand():
    """MTIL: 12 x 97,209 x 512 values of two bytes are 1,194,504,192 bytes, 1139.17 x 2^20."""
    assert size_text([90_000, 7_209], 512, 12) == ("--keep-features: 12 evaluations of 97,209 x 512 values in fp16, "
                                                   "1,139.2 MiB in all")
    assert size_text([4], 2, 1).startswith("--keep-features: 1 evaluation of 4 x 2")


@pytest.mark.parametrize("most, expected", [(None, 3 + 6), (2, 2 + 3), (9, 3 + 6)])
def test_captions_have_features_too(most, expected):
    scoring = SimpleNamespace(eval_split="test", max_evaluation_size=most)
    captions = [["a"], ["b", "c"], ["d", "e", "f"]]
    pairs = Task("x", [], [], {"test": Split(None, [0] * 3, captions=captions)}, pairs=True)
    assert vectors_of(scoring, pairs) == expected
    assert vectors_of(scoring, Task("y", ["a"], [], {"test": Split(None, [0] * 3)})) == expected - (
        3 if most == 2 else 6)


def test_a_digest_is_of_the_text_tower_alone(make_model):
    weights = make_model("vit", dtype=torch.float32).state_dict()
    digest = text_digest(weights)
    assert digest == text_digest({name: value.double() for name, value in reversed(weights.items())})
    for name, same in (("visual.proj", True), ("text_projection", False), ("ln_final.bias", False)):
        assert (text_digest(weights | {name: weights[name] + 1}) == digest) == same
