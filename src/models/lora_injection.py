"""Low-rank adapters on CLIP's transformer blocks (LoRA, Hu et al., 2021, arXiv:2106.09685), by peft or by
our own injection, which also adapts q, k and v of the fused projection and lets layers share factors.

A weight W (out, in) acts as W + (alpha/r) B A, with A (r, in) drawn and B (out, r) zero, and is itself
unchanged. An adapted module holds the one it replaces as ``base_layer``, so that parameter names keep their
tower's prefix.
"""

import copy
import difflib
import json
import math
import re

import torch
from torch import nn

from clip.model import Attention, ModifiedResNet, ResidualAttentionBlock
from src.errors import UserError
from src.models.wrapped import (
    BASE,
    PEFT,
    PROJECTIONS,
    Pair,
    has_lora,
    is_wrapped,
    merge,
    plain_name,
    put_in,
    wrapped_layers,
)

FLAG = "--lora-target-modules"
merge_lora = merge  # merges every wrapped layer; scripts use this name


def drawn_pair(weight, r, alpha, generator):
    """Return the pair of a weight (out, in): A (r, in) drawn, B (out, r) zero, scale alpha/r."""
    out_features, in_features = weight.shape
    # Draw on the host in fp32, so that a seed gives the same factors on every device and in every precision.
    start = torch.empty(r, in_features, dtype=torch.float32, device="cpu")
    nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)  # as in peft: U(-1/sqrt(in), 1/sqrt(in))
    return Pair(nn.Parameter(start.to(weight)), nn.Parameter(weight.new_zeros(out_features, r)), alpha / r)


def pairs_of_attention(attention, r, alpha, generator):
    """Return {projection: its pair} for q, k, v and o."""
    weights = (*attention.in_proj_weight.detach().chunk(3), attention.out_proj.weight.detach())  # 4 x (W, W)
    return {name: drawn_pair(weight, r, alpha, generator) for name, weight in zip(PROJECTIONS, weights, strict=True)}


# -- which modules -----------------------------------------------------------------------------------------------------


def adaptable_sites(model):
    """Return {module name: nn.Linear} of all layers of a plain CLIP that can be adapted: ``attn.out_proj``,
    ``mlp.c_fc`` and ``mlp.c_proj`` of every transformer block of both towers, in the model's order."""
    return {f"{name}.{part}": block.get_submodule(part)
            for name, block in model.named_modules() if isinstance(block, ResidualAttentionBlock)
            for part in ("attn.out_proj", "mlp.c_fc", "mlp.c_proj")}


def _select(model, targets, blocks):
    """Return the sites whose names end in one of the targets, in the model's order, if their weights
    require a gradient. With ``blocks`` a target may also name the attention block around ``out_proj``."""
    if is_wrapped(model):
        raise ValueError("the model has adapters already: merge first")
    if not targets:
        raise UserError(f"{FLAG}: names no module; its default is attn.out_proj,mlp.c_fc,mlp.c_proj")
    sites, chosen = adaptable_sites(model), set()
    names = {name: name for name in sites}
    if blocks:
        names |= {name.removesuffix(".out_proj"): name for name in sites if name.endswith(".out_proj")}
    for target in targets:
        found = {site for name, site in names.items() if _ends_in(name, target)}
        if not found:
            raise UserError(f"{FLAG} {target}: {_why_nothing(model, target, names)}")
        trained = {site for site in found if sites[site].weight.requires_grad}
        if not trained:
            hint = " (a ResNet image tower has no blocks)" if isinstance(model.visual, ModifiedResNet) else ""
            raise UserError(f"{FLAG} {target}: all that it names ({min(found)}, ...) is in a tower that --train-mode "
                            f"does not train{hint}; change one of the two")
        chosen |= trained
    return [name for name in sites if name in chosen]


def _ends_in(name, target):
    return f".{name}".endswith(f".{target}")


def _why_nothing(model, target, names):
    if any(_ends_in(name, target) for name, _ in model.named_modules() if "attnpool" in name):
        return ("the attention pool of a ResNet cannot be adapted, only transformer blocks can: name some of "
                "attn.out_proj, mlp.c_fc, mlp.c_proj, which the text tower has")
    endings = {re.sub(r".*resblocks\.\d+\.", "", name) for name in names}
    near = difflib.get_close_matches(target, sorted(endings | names.keys()), cutoff=0.4) or sorted(endings)
    return (f"nothing that can be adapted has this name or ending; near matches: {', '.join(near)}. "
            "`python list_clip_layers.py --lora` lists all")


# -- injection ---------------------------------------------------------------------------------------------------------


def inject_lora(model, targets, r=8, alpha=16, generator=None):
    """Put our own pairs, in place, on the modules whose names end in one of ``targets``; return the sites'
    names.

    ``attn.out_proj`` or ``attn`` selects the whole attention block: q, k, v and o. Only towers whose
    weights require a gradient are adapted; afterwards only the factors and ``head.*`` do. ``generator`` is
    a host generator. Raises UserError for a target that matches nothing, or nothing that is trained.
    """
    names, layers = _select(model, targets, blocks=True), {}
    for name in names:
        place = name.removesuffix(".out_proj")
        layer = model.get_submodule(place)
        attends = isinstance(layer, Attention)
        layers[place] = (pairs_of_attention(layer, r, alpha, generator) if attends
                         else drawn_pair(layer.weight.detach(), r, alpha, generator))
    put_in(model, layers)
    model.lora_settings = {"r": r, "alpha": alpha, "targets": list(targets), "sites": names, "shared": False,
                           "split_qkvo": False}
    return names


def apply_shared_lora(model, split_qkvo=False):
    """Share factors after ``inject_lora``: every layer takes the pair (the same Parameter objects) of the
    first one with its key.

    Linear key: (layer_type, in, out). Attention key: ("attn", width, heads), so that q, k, v and o of all
    blocks share one pair, or ("attn", projection, width, heads) with ``split_qkvo``. A key does not include
    the tower, so towers of equal sizes share.
    """
    if not hasattr(model, "lora_settings") or model.lora_settings["shared"]:
        raise ValueError("apply_shared_lora takes a model that inject_lora has adapted and that does not share yet")
    masters = {}
    for name, module, updates in wrapped_layers(model):
        for key, (_, _, pair) in zip(_sharing_keys(name, module, split_qkvo), updates, strict=True):
            master = masters.setdefault(key, pair)
            pair.A, pair.B = master.A, master.B
    model.lora_settings |= {"shared": True, "split_qkvo": split_qkvo}


def _sharing_keys(name, module, split_qkvo):
    """Return the key of each of a wrapped layer's pairs."""
    base = module.base_layer
    if isinstance(base, Attention):
        size = (module.width, base.heads)
        return [("attn", projection, *size) if split_qkvo else ("attn", *size) for projection in module.lora_pairs]
    layer_type = next((part for part in ("attn", "mlp") if part in name.split(".")), "other")
    return [(layer_type, base.in_features, base.out_features)]


def inject_peft(model, targets, r=8, alpha=16, dropout=0.1, bias="none", seed=0):
    """Put peft's adapters, in place, on the linear layers whose names end in one of ``targets``; return
    their names.

    Like ``inject_lora``, but ``attn.out_proj`` is that layer alone. ``bias`` "lora_only" trains the adapted
    layers' biases, "all" every ``*.bias`` of the trained towers (by peft's rule not ``in_proj_bias``). The
    process's random state is not changed.
    """
    names = _select(model, targets, blocks=False)
    from peft import LoraConfig, inject_adapter_in_model

    before = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    # A regular expression, because peft matches names by their ending: the text tower's would match the image tower's.
    settings = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, bias=bias,
                          target_modules="|".join(map(re.escape, names)))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # only the host's: peft draws there
        inject_adapter_in_model(settings, model, PEFT)
    for name, parameter in model.named_parameters():
        if id(parameter) in before:
            parameter.requires_grad_(before[id(parameter)] and (parameter.requires_grad or name.startswith("head.")))
    for _, module, _ in wrapped_layers(model):
        module.train(module.base_layer.training)
    return names


# -- the adapter's file ------------------------------------------------------------------------------------------------


def adapter_state(model):
    """Return the adapter alone, as plain types and tensors on the host.

    {"peft": peft's state dict, "config": its settings}, or {"lora": {name: factor}, "r", "alpha",
    "targets", "sites", "shared", "split_qkvo"} with a shared factor under its first name; "sites" are the
    names of the adapted layers.

    For layers wrapped by a method: {"updates": {plain weight name: [{"rows": (first, last + 1), "A", "B",
    "scale"}]}}, which, added to the weights they were trained on, give the merged ones.
    """
    if not is_wrapped(model):
        raise ValueError("the model has no adapter")
    if not has_lora(model):
        return {"updates": _updates(model)}
    if hasattr(model, "lora_settings"):
        factors = {name: _on_host(value) for name, value in model.named_parameters() if ".lora_" in name}
        return {"lora": factors, **copy.deepcopy(model.lora_settings)}
    from peft import get_peft_model_state_dict
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    settings = json.dumps(model.peft_config[PEFT].to_dict(), default=sorted)  # plain types: no enumerations, no sets
    return {"peft": {name: _on_host(value) for name, value in found.items() if not name.startswith("head.")},
            "config": json.loads(settings)}


def _updates(model):
    found = {}
    for name, module, updates in wrapped_layers(model):
        for weight, rows, pair in updates:
            first, end, _ = rows.indices(len(module.get_parameter(f"{BASE}.{weight}")))
            found.setdefault(plain_name(f"{name}.{weight}"), []).append(
                {"rows": (first, end), "A": _on_host(pair.A), "B": _on_host(pair.B), "scale": pair.scale})
    return found


def _on_host(value):
    return value.detach().cpu().clone()


@torch.no_grad()
def load_adapter(model, content):
    """Load an ``adapter_state`` into a model that was injected in the same way; shared factors stay shared.
    Raise UserError if kind, rank, scale, sharing, names or shapes differ."""
    here, there = _described(adapter_state(model)), _described(content)
    differing = [f"{key} is {there.get(key)} there and {here.get(key)} here" for key in {**here, **there}
                 if here.get(key) != there.get(key)]
    if differing:
        raise UserError(f"the adapter differs from the model in {len(differing)} points: {'; '.join(differing[:3])}")
    if "peft" in content:
        from peft import set_peft_model_state_dict
        set_peft_model_state_dict(model, content["peft"])
        return
    for name, parameter in model.named_parameters():
        if name in content["lora"]:
            parameter.copy_(content["lora"][name])


def _described(content):
    """Return what two adapters must agree on: {setting: value, tensor name: shape}."""
    settings, tensors = content.get("config", content), content.get("peft", content.get("lora", {}))
    return {**{key: settings.get(key) for key in ("r", "alpha", "lora_alpha", "bias", "shared", "split_qkvo")},
            **{name: tuple(value.shape) for name, value in tensors.items()}}
