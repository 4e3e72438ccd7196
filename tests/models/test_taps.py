"""What attention layers are given, against hooks put there by hand and the layer's own arithmetic."""

import torch
import torch.nn.functional as F
from conftest import tiny_clip

import clip
from src.machine.distributed import World
from src.models.taps import Moments, tapped
from src.models.wrapped import Pair, sites, wrap

TEXTS = ["a cat", "a photo of a rather long dog"]


def images(model):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, model.image_resolution, model.image_resolution, generator=generator, dtype=torch.float64)


@torch.no_grad()
def test_inputs_give_what_the_layer_gives():
    model = tiny_clip("vit").eval()
    outputs = {}
    for name, module in model.named_modules():
        if name.endswith(".attn"):
            module.register_forward_hook(lambda module, _, out, name=name: outputs.update({name: out}))
    with tapped(model) as seen:
        model.encode_image(images(model))
        model.encode_text(clip.tokenize(TEXTS, context_length=model.context_length), cut=False)
    assert seen.keys() == outputs.keys()
    for name, (given, mixed) in seen.items():
        layer = model.get_submodule(name)
        assert torch.equal(layer.out_proj(mixed), outputs[name])
        if name.startswith("visual."):
            assert torch.equal(layer(given), outputs[name])


@torch.no_grad()
def test_texts_with_their_padding():
    model = tiny_clip("vit").eval()
    tokens = clip.tokenize(TEXTS, context_length=model.context_length)
    with tapped(model) as seen:
        whole = model.encode_text(tokens, cut=False)
        lengths = {given.shape[1] for name, (given, _) in seen.items()}
        cut = model.encode_text(tokens)
        shorter = {given.shape[1] for name, (given, _) in seen.items()}
    assert lengths == {model.context_length}
    assert max(shorter) < model.context_length
    assert torch.allclose(whole, cut, rtol=0, atol=1e-12)


@torch.no_grad()
def test_wrapped_layers_have_the_names_of_the_plain_clip():
    model = tiny_clip("vit").eval()
    with tapped(model) as plain:
        model.encode_image(images(model))
    wrap(model, {site: Pair(weight.new_zeros(1, weight.shape[1]), torch.nn.Parameter(weight.new_zeros(len(weight), 1)))
                 for site, weight in sites(model).items() if ".attn." in site})
    with tapped(model) as wrapped:
        model.encode_image(images(model))
    assert plain.keys() == wrapped.keys()
    for name in plain:
        for ours, theirs in zip(wrapped[name], plain[name], strict=True):
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_nothing_is_left_behind():
    model = tiny_clip("vit")
    with tapped(model) as seen:
        model.encode_image(images(model))
    count = len(seen)
    seen.clear()
    F.normalize(model.encode_image(images(model)), dim=-1)
    assert count
    assert not seen


class Two(World):
    """Of two processes that have the same, one."""

    def __init__(self):
        super().__init__(size=2)

    def sum(self, tensor):
        return 2 * tensor


def outer_products(x):
    """(B, L, d) -> (d, d), token by token."""
    return sum(torch.outer(token, token) for token in x.flatten(0, 1))


@torch.no_grad()
def test_moments_are_sums_over_every_token():
    """Of images and texts in any batches, padding included; of texts, which each process has, once."""
    model = tiny_clip("vit").eval()
    tokens = clip.tokenize(TEXTS, context_length=model.context_length)
    with tapped(model) as seen:
        model.encode_image(images(model))
        model.encode_text(tokens, cut=False)
    moments = Moments({name: 16 for name in seen}, model.logit_scale)
    for batch in images(model).split(2):
        moments.add(model, batch)
    moments.add(model, tokens=tokens)
    moments.add(model, images(model)[:0])
    for name, moment in moments.of_all(World()).items():
        assert torch.allclose(moment, outer_products(seen[name][0]), rtol=1e-10, atol=0)
    for name, moment in moments.of_all(Two()).items():
        factor = 2 if name.startswith("visual.") else 1
        assert torch.allclose(moment, factor * outer_products(seen[name][0]), rtol=1e-10, atol=0)


@torch.no_grad()
def test_moments_leave_a_tower_out_that_is_not_asked_for(monkeypatch):
    model = tiny_clip("vit").eval()
    monkeypatch.setattr(model, "encode_image", None)
    moments = Moments({"transformer.resblocks.0.attn": 16}, model.logit_scale)
    moments.add(model, images(model), clip.tokenize(TEXTS, context_length=model.context_length))
    assert moments.sums["transformer.resblocks.0.attn"].trace() > 0


def test_moments_under_autocast_are_in_full_precision_and_leave_the_step_its_gradient():
    """A weight that autocast has cast without gradient would be taken for the step too, which then has none."""
    model = tiny_clip("vit", dtype=torch.float32).requires_grad_(True)
    x = images(model).float()
    moments, alone = (Moments({"visual.transformer.resblocks.1.attn": 16}, model.logit_scale) for _ in range(2))
    alone.add(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        moments.add(model, x)
        loss = model.encode_image(x).float().square().sum()
    loss.backward()
    assert model.visual.transformer.resblocks[0].attn.in_proj_weight.grad.abs().max() > 0
    for name in moments.sums:
        assert torch.equal(moments.sums[name], alone.sums[name])
