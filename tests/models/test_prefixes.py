"""Prefixes of several tasks in the attention of a tiny CLIP: written out, off, at weight 0, packed, and counted."""

import math

import pytest
import torch

from clip.model import CLIP
from clip.packing import PackedTexts
from src.models.attached import attached
from src.models.modeling import image_features, recompute_blocks, text_features, tokens_of
from src.models.prefixes import Prefixes, attentions

TEXTS = ["a photo of a cat.", "a photo of a dog.", "a drawing of the very old green tree", "blue"]
VIT_B_16 = {"embed_dim": 512, "image_resolution": 224, "vision_layers": 12, "vision_width": 768,
            "vision_patch_size": 16, "context_length": 77, "vocab_size": 49408, "transformer_width": 512,
            "transformer_heads": 8, "transformer_layers": 12}


@pytest.fixture
def model(make_model):
    return make_model("vit")


def images(count=5):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def prefixes(model, tasks=3, depth=8, length=3, random=True):
    """Of tasks whose values are no longer 0, unless they are not to be ``random``."""
    module = Prefixes(model, depth, length, 0)
    for task in range(tasks):
        module.grow(model, task)
    if random:
        with torch.no_grad():
            for value in module.parameters():
                value.normal_(generator=torch.Generator().manual_seed(len(value)))
    return module


def route(*numbers):
    return torch.tensor(numbers)


def written_out(query, keys, values, heads):
    """(B, H, L, d) and (M, W) of keys and values -> (B, H, L, d), number by number."""
    keys, values = ([[row[head * query.shape[-1]:(head + 1) * query.shape[-1]] for row in part]
                     for head in range(heads)] for part in (keys, values))
    mixed = torch.zeros_like(query)
    for image, head, place in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        asked = query[image, head, place]
        shares = [math.exp(sum(asked * key) / math.sqrt(len(asked))) for key in keys[head]]
        mixed[image, head, place] = sum(share / sum(shares) * value
                                        for share, value in zip(shares, values[head], strict=True))
    return mixed


@torch.no_grad()
def test_queries_mix_values_by_a_softmax_of_their_own(model):
    """Of the last task in training mode; in eval mode of each image's own one, by its weight. No mask."""
    part = prefixes(model).parts[0]
    query = torch.randn(2, 2, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    of_task = [written_out(query, *rows, heads=2) for rows in part.rows]
    close = dict(rtol=0, atol=1e-13)
    torch.testing.assert_close(part(query, query + 1, query + 2), of_task[2], **close)
    part.eval()
    part.route[:] = route(1, 0), route(0.25, 0.5)
    torch.testing.assert_close(part(query, query, query), torch.stack([of_task[1][0] / 4, of_task[0][1] / 2]), **close)
    part.route[:] = route(1), route(0.75)
    torch.testing.assert_close(part(query, query, query), 0.75 * of_task[1], **close)


@torch.no_grad()
def test_without_a_route_at_weight_0_and_untrained_clip_is_plain_to_the_bit(model):
    def features():
        return image_features(model, images()), text_features(model, tokens_of(model, TEXTS))
    plain, trained, fresh = features(), prefixes(model).eval(), prefixes(model, random=False)
    with attached(model, [fresh]):
        assert all(map(torch.equal, features(), plain))
    for module, acts in ((trained, (route(2), route(0.0))), (fresh.eval(), (route(1), route(0.8)))):
        assert module.places(model) == []  # before and after a score
        with attached(model, [module]), module.acting(model, *acts):
            assert all(map(torch.equal, features(), plain))
        assert all(map(torch.equal, features(), plain))
    with trained.acting(model, route(0, 1, 2, 0, 1), route(0.5, 0.0, 0.1, 1.0, 0.0)):
        found = image_features(model, images())
    apart = (found - plain[0]).abs().amax(dim=1)
    assert ((apart > 1e-4).tolist()) == [True, False, True, True, False] and apart[[1, 4]].max() == 0


@torch.no_grad()
def test_each_image_has_the_features_that_it_has_alone(model):
    module, tasks, weights = prefixes(model).eval(), (2, 0, 1, 1, 2), (0.9, 0.5, 0.25, 1.0, 0.125)
    with module.acting(model, route(*tasks), route(*weights)):
        found = image_features(model, images())
    for row, (task, weight) in enumerate(zip(tasks, weights, strict=True)):
        with module.acting(model, route(task), route(weight)):
            alone = image_features(model, images()[row:row + 1])
        torch.testing.assert_close(found[row:row + 1], alone, rtol=0, atol=1e-13)
    assert module.route == [None, None]


@torch.no_grad()
def test_packed_texts_and_single_ones_have_the_same_features(model):
    module, tokens = prefixes(model), tokens_of(model, TEXTS)
    packed = PackedTexts(tokens)
    assert packed.first and len(packed) < tokens.numel()
    plain = text_features(model, tokens)
    for training, put_in in ((True, attached(model, [module])), (False, module.acting(model, route(1), route(0.6)))):
        module.train(training)
        with put_in:
            single, joined = text_features(model, tokens), text_features(model, packed)
        torch.testing.assert_close(joined, single, rtol=0, atol=1e-13)
        assert (single - plain).abs().max() > 1e-3


def test_recomputed_blocks_have_the_same_gradients(model):
    module, found = prefixes(model), []
    for recompute in (False, True):
        if recompute:
            recompute_blocks(model)
        with attached(model, [module]):
            features = image_features(model, images()), text_features(model, tokens_of(model, TEXTS))
            (features[0] @ features[1].T).square().sum().backward()
        found.append([part.rows[-1].grad.clone() for part in module.parts])
        module.zero_grad(set_to_none=True)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        assert one.abs().max() > 0


def test_a_new_task_draws_keys_and_is_all_that_trains(model):
    module = prefixes(model, tasks=2, length=50, random=False)
    again, other = (prefixes(model, tasks=tasks, length=50, random=False) for tasks in (2, 1))
    for part, same, less in zip(module.parts, again.parts, other.parts, strict=True):
        assert [rows.requires_grad for rows in part.rows] == [False, True]
        keys, values = part.rows[1]
        assert torch.equal(part.rows[1], same.rows[1]) and not torch.equal(part.rows[0], part.rows[1])
        assert torch.equal(part.rows[0], less.rows[0])
        assert values.abs().max() == 0 and 0.9 < keys.abs().max() <= 1 and abs(keys.mean()) < 0.1
        assert abs(keys.std() * 3 ** 0.5 - 1) < 0.1
    assert not torch.equal(module.parts[0].rows[1], module.parts[1].rows[1])


def test_which_blocks_have_prefixes(model, make_model):
    assert [*attentions(model, 8)] == ["visual.transformer.resblocks.0.attn.", "visual.transformer.resblocks.1.attn.",
                                       "transformer.resblocks.0.attn."]
    assert [*attentions(model, 1)] == ["visual.transformer.resblocks.0.attn.", "transformer.resblocks.0.attn."]
    assert [*attentions(make_model("resnet"), 8)] == ["transformer.resblocks.0.attn."]


def test_values_that_train_on_a_vit_b_16():
    with torch.device("meta"):
        model = CLIP(**VIT_B_16)
    module = Prefixes(model, 8, 8, 10)
    module.grow(model, 0)
    assert sum(value.numel() for value in module.parameters()) == 1_802_240
    assert sum(value.numel() for value in module.parameters() if value.requires_grad) == 163_840
