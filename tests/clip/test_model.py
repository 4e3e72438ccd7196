"""The two towers: equal to open_clip's, exact where the text is cut, started as CLIP starts."""

import copy
import math

import open_clip
import pytest
import torch
from torch import nn

import clip
from clip.attention import attend_backwards
from clip.model import CLIP, Attention, QuickGELU, ResidualAttentionBlock, cut_tokens, mix, run_block
from clip.packing import PackedTexts

TEXT = {"context_length": 77, "vocab_size": 500, "width": 128, "heads": 2, "layers": 2}
START, END = 498, 499
SMALL = {  # open_clip's arguments, in OpenAI's proportions: 64 values per head
    "ViT": {"embed_dim": 32, "vision_cfg": {"layers": 2, "width": 128, "patch_size": 8, "image_size": 32}},
    "RN50": {"embed_dim": 48, "vision_cfg": {"layers": [2, 1, 2, 1], "width": 16, "image_size": 64}},
    "RN50x4": {"embed_dim": 40, "vision_cfg": {"layers": [1, 2, 1, 2], "width": 24, "image_size": 96}},
}
ARCHITECTURE = {"embed_dim": 24, "image_resolution": 16, "vision_layers": 2, "vision_width": 128,
                "vision_patch_size": 8, "context_length": 77, "vocab_size": 500, "transformer_width": 64,
                "transformer_heads": 2, "transformer_layers": 3}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@torch.no_grad()
def reference(arguments):
    """open_clip's model with random weights of which each one shows in the features.

    At its start gammas and biases are zero and the batch statistics are 0 and 1: a mistake there would not be seen.
    The batch statistics are those of random images, without which a ResNet's signal dies away from block to block.
    """
    model = open_clip.model.CLIP(**arguments, quick_gelu=True)
    for name, value in model.named_parameters():
        if value.ndim == 1 and name.endswith("weight"):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1:
            value.normal_(std=0.2)
        elif value.ndim == 4:
            nn.init.kaiming_normal_(value)
        elif name.endswith("positional_embedding") or name == "token_embedding.weight":
            value.normal_(std=0.5)
    norms = batch_norms(model).values()
    for norm in norms:
        norm.momentum = 1.0
    model.train().encode_image(some_images(arguments["vision_cfg"]["image_size"], number=8))
    for norm in norms:
        norm.running_var.clamp_(min=0.2)
    return model.eval()


def batch_norms(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}


def small_reference(kind):
    return reference({**SMALL[kind], "text_cfg": TEXT})


def loaded_from_file(model, folder):
    """The model that ``clip.load`` makes of open_clip's own state dict."""
    path = folder / "weights.pt"
    torch.save(model.state_dict(), path)
    return clip.load(str(path))[0]


def some_tokens(lengths):
    """Texts of these numbers of tokens, the end token being the last of them and the largest id."""
    tokens = torch.zeros(len(lengths), 77, dtype=torch.long)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length] = torch.randint(1, START, (length,))
        row[0], row[length - 1] = START, END
    return tokens


def some_images(resolution, number=3):
    """Noise around a colour of its own for each image, so that features differ from image to image."""
    return torch.randn(number, 3, 1, 1) + torch.randn(number, 3, resolution, resolution)


@torch.no_grad()
def features(model, images, tokens):
    return torch.cat([model.encode_image(images), model.encode_text(tokens)])


@torch.no_grad()
def encode_text_uncut(model, tokens):
    """Text features from all positions of the context, written out."""
    rows = tokens if model.token_rows is None else model.token_rows[tokens]
    x = model.token_embedding(rows) + model.positional_embedding
    x = model.ln_final(model.transformer(x))
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection


def assert_same_features(ours, theirs, images, tokens):
    expected = features(theirs, images, tokens)
    for tower in expected.split([len(images), len(tokens)]):
        assert tower.std(dim=0).mean() > 0.1, "features that are alike for all inputs would hide a difference"
    torch.testing.assert_close(features(ours, images, tokens), expected, atol=1e-4, rtol=1e-4)


# Equality with open_clip.

@pytest.mark.parametrize("kind", SMALL)
def test_towers_equal_open_clip(kind, tmp_path):
    theirs = small_reference(kind)
    ours = loaded_from_file(theirs, tmp_path)
    assert_same_features(ours, theirs, some_images(SMALL[kind]["vision_cfg"]["image_size"]), some_tokens([3, 20, 77]))


@pytest.mark.parametrize("kind", SMALL)
def test_every_tensor_of_the_reference_shows_in_its_features(kind):
    """What makes the comparison with open_clip able to fail: no tensor is without effect (to first order)."""
    model = small_reference(kind)
    images, tokens = some_images(SMALL[kind]["vision_cfg"]["image_size"]), some_tokens([3, 20, 77])
    both = torch.cat([model.encode_image(images), model.encode_text(tokens)])
    (both * torch.randn_like(both)).sum().backward()
    silent = {name for name, value in model.named_parameters()
              if value.grad is None or (value.grad * value).norm() < 0.02}
    # A softmax does not feel a number added to all its keys; the temperature is no part of the features.
    assert silent <= {"logit_scale", "visual.attnpool.k_proj.bias"}
    for name, norm in batch_norms(model).items():
        assert norm.running_mean.abs().mean() > 0.02 and (norm.running_var - 1).abs().mean() > 0.02, name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "RN50x4"])
def test_full_size_towers_equal_open_clip(name, tmp_path):
    config = open_clip.get_model_config(f"{name}-quickgelu")
    assert config.pop("quick_gelu")
    theirs = reference(config)
    ours = loaded_from_file(theirs, tmp_path)
    tokens = clip.tokenize(["a photo of a cat", "two words " * 60])
    assert_same_features(ours, theirs, some_images(config["vision_cfg"]["image_size"]), tokens)


def test_forward_gives_scaled_cosines_and_their_transpose(tmp_path):
    theirs = small_reference("ViT")
    ours = loaded_from_file(theirs, tmp_path)
    images, tokens = some_images(32), some_tokens([4, 9])
    with torch.no_grad():
        image_features, text_features, scale = theirs(images, tokens)
        per_image, per_text = ours(images, tokens)
    torch.testing.assert_close(per_image, scale * image_features @ text_features.T, atol=1e-4, rtol=1e-4)
    assert per_image.shape == (3, 2) and torch.equal(per_text, per_image.T)


def test_every_parameter_gets_a_gradient():
    for architecture in (ARCHITECTURE, {**ARCHITECTURE, "vision_layers": [1, 1], "vision_patch_size": None}):
        model = CLIP(**architecture)
        model(some_images(16), some_tokens([4, 9]))[0].square().sum().backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("kind", ["ViT", "RN50"])
def test_other_precisions_agree_with_fp32(kind, tmp_path):
    """fp64 by conversion, bf16 by autocast around the model."""
    model = loaded_from_file(small_reference(kind), tmp_path)
    images, tokens = some_images(SMALL[kind]["vision_cfg"]["image_size"]), some_tokens([3, 20])
    expected = features(model, images, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = features(model, images, tokens)
    assert (rough - expected).norm() < 0.05 * expected.norm()
    exact = features(model.double(), images.double(), tokens)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, expected.double(), atol=1e-4, rtol=1e-4)


# Attention.

@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_torch(causal):
    ours, theirs = Attention(48, 3), nn.MultiheadAttention(48, 3, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 7, 48)
    mask = torch.full((7, 7), -torch.inf).triu(1) if causal else None
    expected, _ = theirs(x, x, x, need_weights=False, attn_mask=mask)
    torch.testing.assert_close(ours(x, attend_backwards) if causal else ours(x), expected, atol=1e-6, rtol=1e-5)


def test_attention_calls_its_output_projection():
    """torch's own attention reads the weight past the module, so that an adapter there would do nothing."""
    attention, seen = Attention(48, 3), []
    nn.init.normal_(attention.in_proj_weight)
    attention.out_proj.register_forward_hook(lambda module, args, output: seen.append(output) or output + 1)
    result = attention(torch.randn(2, 7, 48))
    assert len(seen) == 1 and torch.equal(result, seen[0] + 1)


def test_quick_gelu():
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(QuickGELU()(x), x / (1 + (-1.702 * x).exp()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_query_key_and_value_have_the_bits_of_one_tensor_that_is_taken_apart(dtype):
    """(B, L, 3W) as (B, L, 3, H, W/H): values and gradient."""
    given = torch.randn(3, 7, 48, generator=torch.Generator().manual_seed(0), dtype=dtype, requires_grad=True)
    found = mix(given, 2, lambda query, key, value: query * key + 2 * value)
    query, key, value = given.unflatten(-1, (3, 2, -1)).unbind(2)                        # (B, L, H, W/H)
    expected = (query * key + 2 * value).flatten(2)
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(side.square().sum(), given)[0] for side in (found, expected)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_quick_gelu_has_the_bits_of_its_formula(dtype):
    """With and without a gradient to come; extremes too, whose slopes are 1 and 0."""
    x = torch.tensor([-1e4, -80.0, -3.0, -0.0, 1e-9, 0.5, 7.0, 80.0, 1e4], dtype=dtype)
    expected = x * torch.sigmoid(1.702 * x)
    watched = x.clone().requires_grad_()
    assert torch.equal(QuickGELU()(x), expected) and torch.equal(QuickGELU()(watched), expected)
    [slope] = torch.autograd.grad(QuickGELU()(watched).sum(), watched)
    assert slope[0] == 0 and slope[-1] == 1 and slope[3] == 0.5 and slope.isfinite().all()


def test_quick_gelu_has_the_derivatives_of_its_formula():
    """Against autograd's, and against differences, the second derivative too."""
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    weights = torch.linspace(-1, 2, 15, dtype=torch.float64).view(3, 5)
    [found] = torch.autograd.grad((QuickGELU()(x) * weights).sum(), x)
    [expected] = torch.autograd.grad((x * torch.sigmoid(1.702 * x) * weights).sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(QuickGELU(), x) and torch.autograd.gradgradcheck(QuickGELU(), x)


def test_quick_gelu_keeps_its_input_alone():
    kept, x = [], torch.randn(4, 6).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        y = QuickGELU()(2 * x)
    assert [value.shape for value in kept if value.ndim] == [x.shape]
    y.sum().backward()
    with torch.no_grad():
        assert not QuickGELU()(x).requires_grad


@pytest.mark.parametrize("recompute", [False, True])
def test_quick_gelu_under_autocast_and_when_recomputed(recompute):
    block, x = ResidualAttentionBlock(16, 2), torch.randn(2, 3, 16)
    for value in block.parameters():
        torch.nn.init.normal_(value, std=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        run_block(block, recompute, x).sum().backward()
    slope = block.mlp.c_fc.weight.grad.clone()
    block.zero_grad()
    block(x).sum().backward()
    assert slope.dtype == torch.float32
    torch.testing.assert_close(slope, block.mlp.c_fc.weight.grad, rtol=0.1, atol=0.05)


# Text: the cut behind the last end token, and small vocabularies.

@pytest.mark.parametrize("lengths, positions", [([5, 9, 3], 9), ([77, 4], 77), ([2], 2)])
def test_cut_text_equals_uncut_text(lengths, positions):
    model, tokens = CLIP(**ARCHITECTURE).eval(), some_tokens(lengths)
    seen = []
    model.transformer.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    with torch.no_grad():
        cut = model.encode_text(tokens)
    assert seen == [positions], "the text tower must run over no more than the longest text"
    torch.testing.assert_close(cut, encode_text_uncut(model, tokens), atol=1e-5, rtol=1e-5)


def test_nothing_behind_the_end_token_matters():
    model, tokens = CLIP(**ARCHITECTURE).eval(), some_tokens([5, 9])
    noisy = torch.where(tokens == 0, torch.randint(1, START, tokens.shape), tokens)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(noisy), model.encode_text(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [9, 20])
def test_tokens_that_were_cut_before_are_taken_as_they_are(length):
    model, tokens = CLIP(**ARCHITECTURE).eval(), some_tokens([5, 9])
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(tokens[:, :length]), model.encode_text(tokens),
                                   atol=1e-5, rtol=1e-5)


def test_cut_tokens_ends_with_the_last_end_token():
    assert torch.equal(cut_tokens(torch.tensor([[5, 9, 0, 0], [5, 6, 9, 0]])), torch.tensor([[5, 9, 0], [5, 6, 9]]))


def small_vocabulary_models():
    """A model with rows for four ids, and one with a row for each id of CLIP that means the same."""
    vocabulary = [320, 2368, 49406, 49407]
    sizes = {**ARCHITECTURE, "context_length": 10}
    small = CLIP(**{**sizes, "vocab_size": 5}, vocabulary=vocabulary).eval()
    large = CLIP(**{**sizes, "vocab_size": 49408}).eval()
    state_dict = small.state_dict()
    rows = state_dict["token_embedding.weight"]
    table = rows[:1].repeat(49408, 1)
    table[vocabulary] = rows[1:]
    large.load_state_dict({**state_dict, "token_embedding.weight": table})
    return small, large


def test_small_vocabulary_shares_one_row_for_all_other_ids():
    small, large = small_vocabulary_models()
    tokens = torch.tensor([[49406, 320, 2368, 49407, 0, 0, 0, 0, 0, 0],      # all known
                           [49406, 320, 1125, 539, 49407, 0, 0, 0, 0, 0],    # two unknown
                           [49406, 320, 7, 49405, 49407, 0, 0, 0, 0, 0]])    # two other unknown
    with torch.no_grad():
        ours, expected = small.encode_text(tokens), large.encode_text(tokens)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours[1], ours[2], atol=1e-6, rtol=1e-5)
    assert (ours[0] - ours[1]).abs().max() > 0.01
    torch.testing.assert_close(ours, encode_text_uncut(small, tokens), atol=1e-5, rtol=1e-5)


def test_small_vocabulary_is_part_of_the_architecture_but_not_of_the_weights():
    small, _ = small_vocabulary_models()
    assert small.architecture["vocabulary"] == [320, 2368, 49406, 49407]
    assert "token_rows" not in small.state_dict()
    assert torch.equal(CLIP(**small.architecture).token_rows, small.token_rows)


# What a new model starts from.

def weights_at_start(**changes):
    return CLIP(**{**ARCHITECTURE, "embed_dim": 96, "vision_width": 192, "transformer_width": 128, **changes})


def assert_spread(values, std):
    """Mean 0 and this standard deviation, as far as the number of values can tell."""
    few = 5 / math.sqrt(values.numel())
    assert abs(values.std() / std - 1) < few and abs(values.mean()) < few * std


def test_initial_spread_of_the_text_tower():
    model = weights_at_start()
    assert_spread(model.token_embedding.weight, 0.02)
    assert_spread(model.positional_embedding, 0.01)
    assert_spread(model.text_projection, 128 ** -0.5)
    assert model.logit_scale.item() == pytest.approx(math.log(1 / 0.07), abs=1e-4)


@pytest.mark.parametrize("tower, width, layers", [("transformer", 128, 3), ("visual.transformer", 192, 2)])
def test_initial_spread_of_the_transformers(tower, width, layers):
    for block in weights_at_start().get_submodule(tower).resblocks:
        assert_spread(block.attn.in_proj_weight, width ** -0.5)
        assert_spread(block.attn.out_proj.weight, width ** -0.5 * (2 * layers) ** -0.5)
        assert_spread(block.mlp.c_fc.weight, (2 * width) ** -0.5)
        assert_spread(block.mlp.c_proj.weight, width ** -0.5 * (2 * layers) ** -0.5)
        assert not block.attn.in_proj_bias.any() and not block.attn.out_proj.bias.any()


def test_initial_spread_of_the_vit():
    visual = weights_at_start(image_resolution=64).visual
    for values in (visual.class_embedding, visual.positional_embedding, visual.proj):
        assert_spread(values, 192 ** -0.5)


def test_initial_values_of_the_resnet():
    visual = weights_at_start(vision_layers=[2, 1], vision_width=32, vision_patch_size=None, image_resolution=64).visual
    pool, channels = visual.attnpool, 32 * 2 * 4
    assert_spread(pool.positional_embedding, channels ** -0.5)
    for projection in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
        assert_spread(projection.weight, channels ** -0.5)
    norms = batch_norms(visual)
    assert len(norms) == 3 + 3 * 3 + 2  # stem, three blocks, two shortcuts
    for name, norm in norms.items():
        last_of_a_block = name.startswith("layer") and name.endswith("bn3")
        assert torch.equal(norm.weight, torch.full_like(norm.weight, 0.0 if last_of_a_block else 1.0)), name


def test_architecture_rebuilds_the_model():
    for architecture in (ARCHITECTURE, {**ARCHITECTURE, "vision_layers": [1, 1], "vision_width": 16,
                                        "vision_patch_size": None}):
        model = CLIP(**architecture)
        again = CLIP(**model.architecture)
        assert again.architecture == model.architecture
        again.load_state_dict(model.state_dict())


def test_narrow_vit_has_at_least_one_head():
    """By the rule of 64 values per head, a width below 64 would have none."""
    model = CLIP(**{**ARCHITECTURE, "vision_width": 32})
    assert model.encode_image(some_images(16)).shape == (3, 24)


# -- seams for modules that are no part of CLIP ------------------------------------------------------------------------


@pytest.fixture
def clip_of_two_towers():
    return CLIP(**ARCHITECTURE).double()


def fill_in(owner, seam, part):
    """As ``src.models.attached`` does: past nn.Module, so that the part is none of the model's."""
    vars(owner)[seam] = part


def test_what_stands_beside_a_block_is_added_to_its_mlp():
    block, x = ResidualAttentionBlock(64, 2).double(), torch.randn(3, 5, 64, dtype=torch.float64)
    nn.init.normal_(block.attn.in_proj_weight)
    plain, behind_attention = block(x), x + block.attn(block.ln_1(x))
    fill_in(block, "beside", lambda x: 3 * x.square())
    torch.testing.assert_close(block(x), plain + 3 * behind_attention.square(), rtol=1e-12, atol=1e-12)


def test_what_stands_beside_attention_is_added_to_the_mix_of_the_heads():
    attention, x = Attention(64, 2).double(), torch.randn(3, 5, 64, dtype=torch.float64)
    nn.init.normal_(attention.in_proj_weight)
    plain = attention(x)
    fill_in(attention, "beside", lambda query, key, value: query - 2 * value)
    query, _, value = (x @ attention.in_proj_weight.T).chunk(3, dim=-1)
    expected = plain + (query - 2 * value) @ attention.out_proj.weight.T
    torch.testing.assert_close(attention(x), expected, rtol=1e-12, atol=1e-12)


def texts(*lengths):
    """Token ids (N, 77) of texts with the given numbers of tokens between start and end."""
    tokens = torch.zeros(len(lengths), 77, dtype=torch.long)
    for row, length in zip(tokens, lengths, strict=True):
        row[:length + 2] = torch.tensor([START, *torch.randint(1, START, (length,)).tolist(), END])
    return tokens


@pytest.mark.parametrize("packed", [False, True])
def test_context_stands_in_the_place_of_embeddings(clip_of_two_towers, packed):
    """The same as writing it into the table of embeddings, under ids that nothing else has."""
    model, tokens = clip_of_two_towers, texts(6, 9, 7, 9)
    context = torch.randn(4, 64, dtype=torch.float64)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        expected.token_embedding.weight[1:5] = context
    tokens[:, 5:] += 5 * ((tokens[:, 5:] > 0) & (tokens[:, 5:] < 6))
    replaced = tokens.clone()
    replaced[:, 1:5] = torch.arange(1, 5)
    fill_in(model, "context", context)
    found = model.encode_packed(PackedTexts(tokens)) if packed else model.encode_text(tokens)
    torch.testing.assert_close(found, expected.encode_text(replaced), rtol=1e-10, atol=1e-10)


def test_seams_are_no_part_of_the_model(clip_of_two_towers):
    names = clip_of_two_towers.state_dict().keys()
    fill_in(clip_of_two_towers, "context", nn.Parameter(torch.randn(4, 64)))
    fill_in(clip_of_two_towers.transformer.resblocks[0], "beside", nn.Linear(64, 64))
    fill_in(clip_of_two_towers.transformer.resblocks[0].attn, "beside", nn.Linear(64, 64))
    assert clip_of_two_towers.state_dict().keys() == names
    assert {name for name, _ in clip_of_two_towers.named_parameters()} == set(names)
