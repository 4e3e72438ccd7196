"""LoRA against hand arithmetic, a model with its weights set by hand, and peft against our own injection."""

import copy

import pytest
import torch
from cli_files import same_weights
from torch import nn

from clip.catalog import read_architecture
from clip.model import CLIP
from src.errors import UserError
from src.models.lora_injection import (
    adaptable_sites,
    adapter_state,
    apply_shared_lora,
    inject_lora,
    inject_peft,
    load_adapter,
)
from src.models.modeling import select_trainable
from src.models.wrapped import is_wrapped, merge, plain_weights, squared_update

DEFAULTS = ("attn.out_proj", "mlp.c_fc", "mlp.c_proj")
ALL = ("attn", "mlp.c_fc", "mlp.c_proj")
R, ALPHA = 2, 3
SCALE = ALPHA / R


def inject(model, how, targets=DEFAULTS, train_mode="whole", **settings):
    select_trainable(model, train_mode)
    if how == "peft":
        inject_peft(model, targets, R, ALPHA, **{"dropout": 0.0, **settings})
        return model
    inject_lora(model, targets, R, ALPHA, torch.Generator().manual_seed(7))
    if how != "own":
        apply_shared_lora(model, how == "split")
    return model


@pytest.fixture(params=["peft", "own", "shared", "split"])
def how(request):
    return request.param


@pytest.fixture
def plain(make_model, kind):
    return make_model(kind)


@pytest.fixture
def adapted(plain, how):
    """With all factors drawn, so that every pair does something."""
    return draw(inject(copy.deepcopy(plain), how))


@torch.no_grad()
def draw(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if ".lora_" in name:
            value.copy_(torch.randn(value.shape, generator=generator, dtype=value.dtype) / (4 * value.shape[1]) ** 0.5)
    return model


def trainable(model):
    return {name for name, value in model.named_parameters() if value.requires_grad}


def features(model, seed=3):
    """All features of three images and three texts, one vector."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64).to(model.logit_scale)
    tokens = model.token_rows.nonzero().flatten()[torch.randint(1, 12, (3, 14), generator=generator)]
    tokens[:, 9], tokens[:, 10:] = 49407, 0
    return torch.cat([model.encode_image(images).flatten(), model.encode_text(tokens).flatten()])


def loss_of(model):
    outputs = features(model)
    return (outputs * torch.linspace(-1, 1, len(outputs), dtype=outputs.dtype)).sum()


def sites_by_hand(model):
    """{(weight's plain name, row block or None): (A, B)} read off the adapted model's parameter names (duplicates
    kept, so that a shared pair stands at each of its sites)."""
    named, found = dict(model.named_parameters(remove_duplicate=False)), {}
    for name in named:
        if ".lora_A." in name:
            site = name.split(".lora_A.")[0]
            found[site + ".weight", None] = named[name], named[name.replace("lora_A", "lora_B")]
        elif ".lora_pair.A" in name:
            found[name.replace(".lora_pair.A", ".weight"), None] = named[name], named[name[:-1] + "B"]
        elif ".lora_pairs." in name and name.endswith(".A"):
            site, projection = name[:-2].split(".lora_pairs.")
            place = (f"{site}.out_proj.weight", None) if projection == "o" else \
                (f"{site}.in_proj_weight", "qkv".index(projection))
            found[place] = named[name], named[name[:-1] + "B"]
    return found


def block_of(weight, row):
    return weight if row is None else weight.chunk(3)[row]


@torch.no_grad()
def set_by_hand(plain, adapted):
    """A plain model whose weights are W + (alpha/r) B A."""
    model = copy.deepcopy(plain)
    weights = dict(model.named_parameters())
    for (name, row), (A, B) in sites_by_hand(adapted).items():
        block_of(weights[name], row).add_(SCALE * B.detach() @ A.detach())
    return model


def close(a, b, tolerance=1e-12):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


# -- which modules -----------------------------------------------------------------------------------------------------


def test_the_registry_holds_every_block_of_both_towers(plain, kind):
    visual = [f"visual.transformer.resblocks.{block}.{part}" for block in range(2) for part in DEFAULTS]
    text = [f"transformer.resblocks.0.{part}" for part in DEFAULTS]
    sites = adaptable_sites(plain)
    assert list(sites) == (visual if kind == "vit" else []) + text
    assert all(plain.get_submodule(name) is module and isinstance(module, nn.Linear) for name, module in sites.items())


def test_every_site_is_adapted(plain, how):
    expected = {(f"{name}.weight", None) for name in adaptable_sites(plain)}
    if how != "peft":
        expected |= {(name.removesuffix("out_proj") + "in_proj_weight", row)
                     for name in adaptable_sites(plain) if name.endswith("out_proj") for row in range(3)}
    assert sites_by_hand(inject(plain, how)).keys() == expected


@pytest.mark.parametrize("target", ["attn", "attn.out_proj", "out_proj", "transformer.resblocks.0.attn"])
def test_either_name_selects_the_whole_attention(make_model, target):
    model = inject(make_model("vit"), "own", [target])
    places = {(f"{tower}transformer.resblocks.0.attn.{weight}", row) for tower in ("", "visual.")
              for weight, row in [("in_proj_weight", 0), ("in_proj_weight", 1), ("in_proj_weight", 2),
                                  ("out_proj.weight", None)]}
    found = sites_by_hand(model).keys()
    assert found == places if "resblocks" in target else places < found
    assert not any("mlp" in name for name, _ in found)


@pytest.mark.parametrize(("train_mode", "prefix"), [("image", "visual."), ("text", "transformer."), ("whole", "")])
def test_only_the_trained_tower_is_adapted(make_model, how, train_mode, prefix):
    """The text tower's names are endings of the image tower's: neither may bring in the other."""
    model = inject(make_model("vit"), how, train_mode=train_mode)
    towers = {name.split(".")[0] for name, _ in sites_by_hand(model)}
    assert towers == ({prefix[:-1]} if prefix else {"visual", "transformer"})
    assert trainable(model) and all(name.startswith(prefix) and ".lora_" in name for name in trainable(model))


def test_a_resnet_with_only_its_image_tower_trained_is_refused(make_model, how):
    with pytest.raises(UserError, match=r"--lora-target-modules attn.out_proj.*--train-mode.*ResNet"):
        inject(make_model("resnet"), how, train_mode="image")


@pytest.mark.parametrize(("target", "near"), [
    ("mlp.c_fcc", "mlp.c_fc"), ("attn.outproj", "attn.out_proj"), ("c_f", "mlp.c_fc"), ("zzz", "attn.out_proj"),
    ("transformer.resblocks.7.mlp.c_fc", "transformer.resblocks.0.mlp.c_fc"), ("", "mlp.c_proj"), ("ln_1", "mlp.c_fc")])
def test_a_target_that_matches_nothing(plain, how, target, near):
    before = trainable(plain)
    with pytest.raises(UserError) as error:
        inject(plain, how, ["mlp.c_fc", target])
    message = str(error.value)
    assert f"--lora-target-modules {target}:" in message and near in message.partition("near matches")[2]
    assert "list_clip_layers.py" in message and not is_wrapped(plain) and before - trainable(plain) == {"logit_scale"}


def test_no_target_at_all(plain, how):
    with pytest.raises(UserError, match="--lora-target-modules"):
        inject(plain, how, [])


@pytest.mark.parametrize("target", ["attnpool", "visual.attnpool", "attnpool.c_proj", "q_proj"])
def test_the_attention_pool_is_refused_with_the_reason(make_model, how, target):
    with pytest.raises(UserError, match="attention pool .* only transformer blocks can"):
        inject(make_model("resnet"), how, ["mlp.c_fc", target])


def test_an_adapted_model_is_not_adapted_again(adapted):
    with pytest.raises(ValueError, match="merge first"):
        inject_lora(adapted, DEFAULTS)
    with pytest.raises(ValueError, match="merge first"):
        inject_peft(adapted, DEFAULTS)


# -- what trains -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "targets", "count"), [
    ("peft", DEFAULTS, 1_474_560), ("own", ALL, 2_211_840), ("shared", ALL, 122_880), ("split", ALL, 184_320)])
def test_trainable_values_of_the_published_vit(how, targets, count):
    with torch.device("meta"):
        model = CLIP(**read_architecture("ViT-B/16"))
    select_trainable(model, "whole")
    if how == "peft":
        inject_peft(model, targets)
    else:
        inject_lora(model, targets)
    if how in ("shared", "split"):
        apply_shared_lora(model, split_qkvo=how == "split")
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) == count


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_the_temperature_never_trains_and_a_head_stays_as_it_is(plain, how, bias):
    """Also where requires_grad was never narrowed down before."""
    plain.head = nn.ModuleDict({"live": nn.Linear(8, 3), "still": nn.Linear(8, 3).requires_grad_(False)})
    if how == "peft":
        inject_peft(plain, DEFAULTS, bias=bias)
    else:
        inject_lora(plain, DEFAULTS)
    others = {name for name in trainable(plain) if ".lora_" not in name and not name.endswith(".bias")}
    assert others == {"head.live.weight"} and "head.live.bias" in trainable(plain)
    assert not {name for name in trainable(plain) if name.startswith("head.still")}


@pytest.mark.parametrize("train_mode", ["whole", "text"])
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_peft_trains_the_biases_that_were_asked_for(plain, bias, train_mode):
    names, targets = list(plain.state_dict()), ("mlp.c_fc",)
    model = inject(copy.deepcopy(plain), "peft", targets, train_mode, bias=bias)
    wanted = {name for name in names if name.endswith(".bias" if bias == "all" else "mlp.c_fc.bias")
              and (train_mode == "whole" or not name.startswith("visual."))}
    found = {name for name in trainable(model) if ".lora_" not in name}
    assert {name.replace(".base_layer", "") for name in found} == wanted
    with torch.no_grad():
        for name in found:
            model.get_parameter(name).add_(1)
    changed = {name for name, value in plain_weights(model).items() if not torch.equal(value, plain.state_dict()[name])}
    assert changed == wanted
    assert close(features(merge(model)), features(model))
    content = adapter_state(model)
    again = inject(copy.deepcopy(plain), "peft", targets, train_mode, bias=bias)
    load_adapter(again, content)
    assert same_weights(plain_weights(again), plain_weights(model)) and close(features(again), features(model))


def test_a_starts_at_random_and_b_at_zero(plain, how):
    reference = features(plain)
    model = inject(copy.deepcopy(plain), how)
    assert torch.equal(features(model), reference) or close(features(model), reference, 1e-15)
    for A, B in sites_by_hand(model).values():
        bound = A.shape[1] ** -0.5  # sqrt(6 / ((1 + 5) in))
        assert A.shape[0] == B.shape[1] == R and not B.any()
        assert bound / 3 < A.abs().max() <= bound and A.unique().numel() == A.numel()


def test_a_seed_draws_the_same_factors_and_leaves_the_process_as_it_was(make_model, how):
    state = torch.get_rng_state()
    first, second = inject(make_model("vit"), how), inject(make_model("vit"), how)
    narrow = inject(make_model("vit", dtype=torch.float32), how)
    assert torch.equal(torch.get_rng_state(), state)
    for name in trainable(first):
        assert torch.equal(first.get_parameter(name), second.get_parameter(name)), name
        assert torch.equal(first.get_parameter(name).float(), narrow.get_parameter(name)), name
    starts = [A for A, _ in {id(pair[0]): pair for pair in sites_by_hand(first).values()}.values()]
    assert len({float(A[0, 0].detach()) for A in starts}) == len(starts)


def test_pefts_seed_counts(make_model):
    drawn = [sites_by_hand(inject(make_model("vit"), "peft", seed=seed)) for seed in (0, 1)]
    assert all(not torch.equal(drawn[0][place][0], drawn[1][place][0]) for place in drawn[0])


# -- every adapted site is felt ----------------------------------------------------------------------------------------


def outputs_of_sites(model):
    """{site: output of its module} and the features."""
    outputs, hooks = {}, []
    for name, module in model.named_modules():
        if hasattr(module, "base_layer"):
            hooks.append(module.register_forward_hook(
                lambda _, inputs, output, name=name: outputs.update({name: (inputs[0].detach(), output.detach())})))
    result = features(model)
    for hook in hooks:
        hook.remove()
    return outputs, result


def test_every_site_moves_its_output_and_has_a_gradient(plain, how):
    model = inject(plain, how)
    places = sites_by_hand(model)
    assert len(places) == len(adaptable_sites_of(how, model))
    before, start = outputs_of_sites(model)
    for A, B in {id(pair[0]): pair for pair in places.values()}.values():
        with torch.no_grad():
            B.normal_(generator=torch.Generator().manual_seed(2))
        here = [name for (name, _), pair in places.items() if pair[1] is B]
        after, moved = outputs_of_sites(model)
        assert not close(moved, start, 1e-6)
        sites = {next(site for site in before if name.startswith(f"{site}.")) for name in here}
        for site in sites:
            assert not close(after[site][1], before[site][1], 1e-6), site
        gradients = torch.autograd.grad(loss_of(model), [A, B])
        assert all(gradient.abs().max() > 1e-8 for gradient in gradients), here
        with torch.no_grad():
            B.zero_()
    assert close(features(model), start, 1e-15)


def adaptable_sites_of(how, model):
    """What must be adapted by the merged model's registry: one pair a linear layer, four an attention block."""
    sites = adaptable_sites(merge(model))
    return [name for name in sites for _ in range(4 if how != "peft" and name.endswith("out_proj") else 1)]


def test_outputs_and_gradients_equal_a_model_set_by_hand(plain, adapted):
    """dL/dA = s B^T G and dL/dB = s G A^T, G the gradient of the whole weight; a shared pair's sum over its sites."""
    by_hand = set_by_hand(plain, adapted).requires_grad_(True)
    assert not close(features(plain), features(by_hand), 1e-3)
    assert close(features(adapted), features(by_hand))
    loss_of(by_hand).backward()
    loss_of(adapted).backward()
    expected = {}
    for (name, row), (A, B) in sites_by_hand(adapted).items():
        G = block_of(by_hand.get_parameter(name).grad, row)
        for factor, gradient in ((A, SCALE * B.detach().T @ G), (B, SCALE * G @ A.detach().T)):
            expected[factor] = expected.get(factor, 0) + gradient
    assert expected.keys() == {value for value in adapted.parameters() if value.requires_grad}
    for factor, gradient in expected.items():
        assert gradient.abs().max() > 1e-8 and close(factor.grad, gradient)
    assert all(value.grad is None for value in adapted.parameters() if not value.requires_grad)


def test_own_and_peft_agree_for_equal_factors(plain):
    own, peft = (inject(copy.deepcopy(plain), how, ["mlp.c_fc"]) for how in ("own", "peft"))
    with torch.no_grad():
        for place, (A, B) in sites_by_hand(draw(own)).items():
            for theirs, ours in zip(sites_by_hand(peft)[place], (A, B), strict=True):
                theirs.copy_(ours)
    assert not close(features(own), features(plain), 1e-3) and close(features(own), features(peft))


def test_lower_precision_stays_near(make_model, how):
    model = draw(inject(make_model("vit", dtype=torch.float32), how))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = features(model)
        gradients = torch.autograd.grad(loss_of(model), [value for value in model.parameters() if value.requires_grad])
    assert 0 < (low - features(model)).abs().max() < 0.1 * features(model).abs().max()
    assert all(gradient.dtype == torch.float32 and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("training", [False, True])
def test_pefts_dropout_acts_in_training_only(make_model, training):
    """The modules that come new take the mode of those they replace, without a call."""
    model = draw(inject(make_model("vit").train(training), "peft", dropout=0.5))
    assert torch.equal(features(model), features(model)) == (not training)
    assert torch.equal(features(model.eval()), features(model))


# -- sharing -----------------------------------------------------------------------------------------------------------


def expected_key(place, split, model):
    """By the definition: layer type and sizes of the linear layers, width and heads of an attention."""
    name, row = place
    if ".attn." in name:
        tower = model.visual if name.startswith("visual.") else model
        size = (tower.transformer.width, tower.transformer.resblocks[0].attn.heads)
        return ("attn", "o" if row is None else "qkv"[row], *size) if split else ("attn", *size)
    return ("mlp", model.get_parameter(name).shape[1], model.get_parameter(name).shape[0])


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("widths", ["equal", "different"])
def test_layers_share_exactly_by_key(make_model, split, widths):
    model = make_model("vit")
    if widths == "different":
        model = CLIP(**{**model.architecture, "transformer_width": 24})
    plain = copy.deepcopy(model)
    places = sites_by_hand(inject(model, "split" if split else "shared"))
    for one, (A, B) in places.items():
        for other, pair in places.items():
            alike = expected_key(one, split, plain) == expected_key(other, split, plain)
            assert (A is pair[0]) == (B is pair[1]) == alike, (one, other)
    attention = 4 if split else 1
    assert len({id(A) for A, _ in places.values()}) == (attention + 2) * (1 if widths == "equal" else 2)


def test_an_attention_with_other_heads_does_not_share(make_model):
    model = make_model("vit")
    model.transformer.resblocks[0].attn.heads = 4
    places = sites_by_hand(inject(model, "shared"))
    masters = {(name.split(".")[0], "attn" in name): id(A) for (name, _), (A, _) in places.items()
               if "c_proj" not in name}
    assert masters["visual", True] != masters["transformer", True]
    assert masters["visual", False] == masters["transformer", False]


def test_the_first_layer_is_the_master(make_model):
    alone, shared = inject(make_model("vit"), "own"), inject(make_model("vit"), "shared")
    first = "visual.transformer.resblocks.0.attn.in_proj_weight", 0
    assert torch.equal(sites_by_hand(alone)[first][0], sites_by_hand(shared)[first][0])


def test_sharing_needs_our_own_unshared_injection(plain, how):
    model = inject(copy.deepcopy(plain), how)
    for wrong in (plain, model) if how != "own" else (plain,):
        with pytest.raises(ValueError, match="inject_lora"):
            apply_shared_lora(wrong)


def identity_of(model):
    """Which factors are one and the same object, as a partition of names."""
    groups = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(value), set()).add(name)
    return {frozenset(names) for names in groups.values()}


def test_shared_factors_are_the_same_objects_after_a_copy_and_a_state_dict(plain, adapted, how, kind):
    objects = {name: value for name, value in adapted.named_parameters(remove_duplicate=False)}
    other = draw(inject(copy.deepcopy(plain), how), seed=9)
    twin = copy.deepcopy(adapted)
    assert not close(features(other), features(adapted), 1e-3)
    other.load_state_dict(adapted.state_dict())
    adapted.load_state_dict(copy.deepcopy(adapted.state_dict()))
    assert all(objects[name] is value for name, value in adapted.named_parameters(remove_duplicate=False))
    for model in (other, twin, adapted):
        assert identity_of(model) == identity_of(adapted) and torch.equal(features(model), features(adapted))
    if how == "shared" or (how, kind) == ("split", "vit"):  # a ResNet has one block here: q, k, v, o once
        assert any(len(names) > 1 for names in identity_of(twin))
    draw(twin, seed=10)
    assert not close(features(twin), features(adapted), 1e-3)


# -- merging -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_merged_and_unmerged_agree(make_model, kind, how, dtype, tolerance):
    plain = make_model(kind, dtype=dtype)
    model = draw(inject(copy.deepcopy(plain), how))
    merged, size = merge(model), features(model).abs().max()
    assert (features(merged) - features(model)).abs().max() < tolerance * size
    assert (features(plain) - features(model)).abs().max() > 1e-2 * size
    plain.load_state_dict(plain_weights(model))
    assert same_weights(merged.state_dict(), plain.state_dict())
    assert close(features(plain), features(merged), tolerance) and features(merged).dtype == dtype


def test_plain_weights_are_those_set_by_hand_and_copy_nothing_else(plain, adapted, how):
    weights, expected = plain_weights(adapted), set_by_hand(plain, adapted).state_dict()
    own = {key.replace(".base_layer", ""): value for key, value in adapted.state_dict().items()}
    changed = {name for name, _ in sites_by_hand(adapted)}
    assert list(weights) == list(plain.state_dict()) and type(weights) is dict
    for name, value in weights.items():
        assert value.shape == expected[name].shape and not value.requires_grad and close(value, expected[name])
        assert (value.data_ptr() != own[name].data_ptr()) == (name in changed)
        assert torch.equal(value, plain.state_dict()[name]) == (name not in changed)
        assert torch.equal(own[name], plain.state_dict()[name])  # and the model's own stay


def test_plain_weights_of_a_model_without_adapters(plain):
    weights = plain_weights(plain)
    assert list(weights) == list(plain.state_dict()) and not is_wrapped(plain)
    assert all(value.data_ptr() == plain.state_dict()[name].data_ptr() for name, value in weights.items())


def test_merging_leaves_a_plain_model(plain, adapted):
    adapted.train()
    before = copy.deepcopy(adapted.state_dict())
    merged = merge(adapted)
    assert not is_wrapped(merged) and is_wrapped(adapted) and vars(merged).keys() == vars(plain).keys()
    assert [type(module) for module in merged.modules()] == [type(module) for module in plain.modules()]
    assert not any(module.training for module in merged.modules()) and all(m.training for m in adapted.modules())
    assert not trainable(merged) and trainable(adapted)
    CLIP(**merged.architecture).load_state_dict(merged.state_dict(), strict=True)
    assert torch.equal(merged.token_rows, plain.token_rows) and merged.token_rows is not adapted.token_rows
    with torch.no_grad():
        for value in merged.parameters():
            value.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())
    assert inject_lora(merged.requires_grad_(True), DEFAULTS)  # the next task's


def test_merging_a_model_without_adapters_is_a_frozen_copy(plain):
    merged = merge(plain.train())
    assert same_weights(merged.state_dict(), plain.state_dict()) and not trainable(merged) and trainable(plain)
    assert close(features(merged), features(plain.eval()))
    shared = {value.data_ptr() for value in merged.parameters()} & {value.data_ptr() for value in plain.parameters()}
    assert not shared and not merged.training


def test_a_head_is_merged_as_a_copy_and_kept_in_the_plain_weights(adapted):
    adapted.head = nn.Linear(8, 3, dtype=torch.float64)
    merged = merge(adapted)
    assert torch.equal(merged.head.weight, adapted.head.weight) and merged.head.weight is not adapted.head.weight
    assert not merged.head.weight.requires_grad and adapted.head.weight.requires_grad
    assert list(plain_weights(adapted)) == list(merged.state_dict())
    assert not [name for name in adapter_state(adapted) if "head" in name]


# -- the size of the update --------------------------------------------------------------------------------------------


def test_squared_update_of_the_whole_matrices(adapted):
    expected = sum((SCALE * B @ A).square().sum() for A, B in sites_by_hand(adapted).values())
    value = squared_update(adapted)
    factors = [value for value in adapted.parameters() if value.requires_grad]
    assert close(value, expected) and value.shape == () and value > 1
    for ours, theirs in zip(torch.autograd.grad(value, factors), torch.autograd.grad(expected, factors), strict=True):
        assert theirs.abs().max() > 1e-3 and close(ours, theirs)


def test_squared_update_keeps_its_precision_under_autocast(make_model):
    model = draw(inject(make_model("vit", dtype=torch.float32), "own"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = squared_update(model)
    expected = sum((SCALE * B.double() @ A.double()).square().sum() for A, B in sites_by_hand(model).values())
    assert value.dtype == torch.float32 and abs(value / expected - 1) < 1e-6


def test_squared_update_without_adapters_is_zero(plain):
    assert squared_update(plain) == 0


# -- the adapter's file ------------------------------------------------------------------------------------------------


def test_the_file_brings_the_adapter_back(tmp_path, plain, adapted, how):
    content = adapter_state(adapted)
    torch.save(content, tmp_path / "toy.lora.pth")
    read = torch.load(tmp_path / "toy.lora.pth", weights_only=True)
    other = inject(copy.deepcopy(plain), how)
    objects = dict(other.named_parameters(remove_duplicate=False))
    load_adapter(other, read)
    assert torch.equal(features(other), features(adapted)) and not close(features(other), features(plain), 1e-3)
    assert all(objects[name] is value for name, value in other.named_parameters(remove_duplicate=False))
    assert identity_of(other) == identity_of(adapted)
    tensors = content["peft" if how == "peft" else "lora"]
    assert sum(value.numel() for value in tensors.values()) == \
        sum(value.numel() for value in adapted.parameters() if value.requires_grad)
    assert not {value.data_ptr() for value in tensors.values()} & {value.data_ptr() for value in adapted.parameters()}


def test_what_the_file_says(plain, adapted, how):
    from peft import LoraConfig, get_peft_model_state_dict
    content = adapter_state(adapted)
    if how == "peft":
        theirs = get_peft_model_state_dict(adapted)
        assert content.keys() == {"peft", "config"} and content["peft"].keys() == theirs.keys()
        settings = LoraConfig(**content["config"])
        assert (settings.r, settings.lora_alpha, settings.peft_type) == (R, ALPHA, "LORA")
    else:
        assert content["sites"] == [name for name in adaptable_sites(plain) if name.endswith(DEFAULTS)]
        assert {key: value for key, value in content.items() if key not in ("lora", "sites")} == {
            "r": R, "alpha": ALPHA, "targets": list(DEFAULTS), "shared": how != "own", "split_qkvo": how == "split"}


@pytest.mark.parametrize(("settings", "word"), [
    ({"r": 3}, "r is 2"), ({"alpha": 5}, "alpha is 3"), ({"targets": ["mlp.c_fc"]}, "None here")])
def test_a_file_of_another_injection_is_refused(make_model, plain, adapted, how, settings, word):
    select_trainable(plain, "whole")
    given = {"targets": DEFAULTS, "r": R, "alpha": ALPHA, **settings}
    if how == "peft":
        inject_peft(plain, **given)
    else:
        inject_lora(plain, **given)
        if how != "own":
            apply_shared_lora(plain, how == "split")
    before = features(plain)
    with pytest.raises(UserError, match=word):
        load_adapter(plain, adapter_state(adapted))
    assert torch.equal(features(plain), before)


@pytest.mark.parametrize("other", ["peft", "own", "shared", "split"])
def test_a_file_of_another_kind_is_refused(make_model, how, other):
    if how != other:
        with pytest.raises(UserError, match="differs from the model"):
            load_adapter(inject(make_model("vit"), how), adapter_state(inject(make_model("vit"), other)))


def test_no_adapter_no_file(plain):
    with pytest.raises(ValueError, match="no adapter"):
        adapter_state(plain)
