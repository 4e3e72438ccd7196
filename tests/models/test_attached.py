"""Modules of a method's own in the towers: felt inside, gone outside, recomputed with the blocks."""

import copy

import pytest
import torch
from torch import nn

from src.models.attached import attached, places_of
from src.models.lora_injection import apply_shared_lora, inject_lora, merge_lora
from src.models.modeling import frozen_copy, image_features, recompute_blocks, text_features, tokens_of


class Experts(nn.Module):
    """A linear layer beside the MLP of every block of both towers."""

    def __init__(self, model):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(16, 16, dtype=torch.float64) for _ in blocks_of(model))

    def places(self, model):
        return [(block, "beside", expert) for block, expert in zip(blocks_of(model), self.experts, strict=True)]


class Mixed(nn.Module):
    """A gain on the values of every attention."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, query, key, value):
        return self.gain * value

    def places(self, model):
        return [(block.attn, "beside", self) for block in blocks_of(model)]


class Prompt(nn.Module):
    def __init__(self):
        super().__init__()
        self.context = nn.Parameter(torch.randn(2, 16, dtype=torch.float64))

    def places(self, model):
        return [(model, "context", self.context)]


def blocks_of(model):
    return [*model.visual.transformer.resblocks, *model.transformer.resblocks]


@pytest.fixture
def model(make_model):
    return make_model("vit")


@pytest.fixture
def images():
    return torch.randn(3, 3, 16, 16, dtype=torch.float64)


def features(model, images):
    return image_features(model, images), text_features(model, tokens_of(model, ["a photo of a cat.", "the red bird"]))


@pytest.mark.parametrize(("make", "image", "text"), [
    (Experts, True, True), (lambda model: Mixed(), True, True), (lambda model: Prompt(), False, True),
    (lambda model: nn.Linear(2, 2), False, False)], ids=["experts", "mixed", "prompt", "nowhere"])
def test_felt_inside_and_gone_outside(model, images, make, image, text):
    before = features(model, images)
    with attached(model, [make(model)]):
        inside = features(model, images)
    assert [not torch.equal(one, other) for one, other in zip(before, inside, strict=True)] == [image, text]
    assert all(torch.equal(one, other) for one, other in zip(before, features(model, images), strict=True))


def test_gone_after_an_error(model, images):
    before = features(model, images)
    with pytest.raises(KeyError), attached(model, [Experts(model), Prompt()]):
        raise KeyError
    assert all(torch.equal(one, other) for one, other in zip(before, features(model, images), strict=True))


def test_a_copy_is_plain(model, images):
    before = features(model, images)
    with attached(model, [Experts(model)]):
        pass
    assert all(torch.equal(one, other) for one, other in zip(before, features(frozen_copy(model), images), strict=True))


def test_recomputed_blocks_have_the_same_gradients(model, images):
    plain, recomputing = Experts(model), None
    recomputing = copy.deepcopy(plain)
    for own, recompute in ((plain, False), (recomputing, True)):
        if recompute:
            recompute_blocks(model)
        with attached(model, [own]):
            sum(value.cumsum(1).square().sum() for value in features(model, images)).backward()
    for one, other in zip(plain.parameters(), recomputing.parameters(), strict=True):
        assert one.grad.abs().max() > 1e-6
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_beside_an_adapted_attention(model, images, shared):
    """Adapters that change nothing yet leave the place where it was."""
    own = Mixed()
    with attached(model, [own]):
        expected = features(model, images)
    inject_lora(model, ["attn", "mlp.c_fc"])
    if shared:
        apply_shared_lora(model)
    with attached(model, [own]):
        found = features(model, images)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert not any("beside" in vars(module) for module in merge_lora(model).modules())


def test_places_that_are_none(model):
    class Wrong(nn.Module):
        def places(self, model):
            return [(model.visual, "beside", nn.Identity())]

    with pytest.raises(ValueError, match=r"Wrong.places: VisionTransformer has no seam 'beside'"):
        places_of(model, [Wrong()])


def test_a_place_for_two(model):
    with pytest.raises(ValueError, match="'context' of a CLIP is taken by Prompt"):
        places_of(model, [Prompt(), Prompt()])
