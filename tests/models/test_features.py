"""Features of a split."""

import dataclasses

import slow_reference as slow
import torch
from slow_zeroshot import pixels

from src.models.features import encode_split


def test_features_of_a_split_know_their_places(kind, make_model, task, device):
    """One image that cannot be decoded leaves a gap and moves nothing."""
    model, split = make_model(kind), task.split("test")
    holed = dataclasses.replace(split, image=lambda index: None if index == 2 else split.image(index))
    positions, features = encode_split(model.train(), holed, device, batch_size=7)
    assert model.training and positions == [index for index in range(31) if index != 2]
    model.eval()
    expected = [slow.image_feature(model, image)
                for image in pixels(device, [split.image(index) for index in positions])]
    torch.testing.assert_close(features, torch.stack(expected).detach())
