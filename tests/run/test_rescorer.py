"""Parts of a rescoring by themselves: galleries, what it says of itself. Whole ones are in test_rescore."""

from types import SimpleNamespace

import pytest
import torch

from src.run.rescorer import Rescorer, StoredTower

EAST, NORTH, WEST = torch.eye(2)[0], torch.eye(2)[1], -torch.eye(2)[0]
OWNER = torch.tensor([0, 1])


def test_queries_of_a_later_model_search_the_gallery_of_an_earlier_one():
    """The later model turns captions round, not images: they find the wrong image in the old gallery, and its own old
    captions find the new images."""
    images, texts = torch.stack([EAST, NORTH]), torch.stack([EAST, NORTH])
    turned = texts.flip(0)
    row = Rescorer._gallery(None, "", "DTD", images, texts, OWNER, images, turned, OWNER)
    assert row[:2] == ["start", "DTD"]
    i2t, t2i = row[2:5], row[5:]
    assert i2t == ["100.0000"] * 3             # new images among old captions
    assert t2i == ["0.0000", "100.0000", "100.0000"]  # new captions among old images
    row = Rescorer._gallery(None, "DTD", "MNIST", torch.stack([WEST, NORTH]), turned, OWNER, images, texts, OWNER)
    assert [row[2], row[5]] == ["0.0000", "50.0000"]


def rescorer(**members):
    kept = {"recomputed": set(), "deviations": [], "calibration": [], "source": "ckpt/run",
            "described": {"precision": "bf16"}}
    return SimpleNamespace(**kept | members)


@pytest.mark.parametrize("members, expected", [
    ({}, "as scored by ckpt/run, to the last digit"),
    ({"recomputed": {"seen", "all"}}, "rescored from fp16 features of ckpt/run: label space all, seen"),
    ({"deviations": [0.0, 0.02]}, "within 0.0100 points on average, 0.020 at most")])
def test_the_last_lines_say_how_exact_it_is(members, expected):
    text = Rescorer.statement(rescorer(**members))
    assert expected in text and "warning" not in text


def test_features_that_are_off_are_warned_of():
    assert "warning: more than 0.05 points on average" in Rescorer.statement(rescorer(deviations=[0.0, 0.2]))


@pytest.mark.parametrize("space, expected", [
    ("task", {"precision": "bf16"}),
    ("all", {"precision": "bf16", "rescored": "rescored from fp16 features of ckpt/run"})])
def test_summaries_have_the_precision_of_the_run(space, expected):
    assert Rescorer.remarks(rescorer(recomputed={"all"}), space) == expected


def test_the_stand_in_has_the_scale_alone():
    tower = StoredTower(2.5)
    assert tower.logit_scale.item() == 2.5 and [name for name, _ in tower.named_parameters()] == ["logit_scale"]
    assert not hasattr(tower, "visual")
