"""What attention layers are given, against hooks put there by hand and the layer's own arithmetic."""

import torch
import torch.nn.functional as F
from conftest import tiny_clip

import clip
from src.models.taps import tapped
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
