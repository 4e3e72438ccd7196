"""Low-rank adapters on CLIP's transformer blocks (LoRA, Hu et al., 2021, arXiv:2106.09685): by peft, or injected here,
which adapts q, k and v of the fused projection as well and lets layers share their factors.

A weight W (out, in) acts as W + (alpha/r) B A with A (r, in) drawn and B (out, r) zero, and itself stays as it is.
An adapted module holds the one it replaces as ``base_layer``, so that parameter names keep their tower's prefix.
"""

import copy
import difflib
import json
import math
import re
from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn

from clip.model import ModifiedResNet, ResidualAttentionBlock, mix
from src.errors import UserError

FLAG = "--lora-target-modules"
WHOLE = slice(None)
PEFT = "default"  # peft's name for the only adapter of a model


class Pair(nn.Module):
    """The factors A (r, in) and B (out, r) of a weight (out, in): (..., in) -> (alpha/r) B A x, (..., out)."""

    def __init__(self, weight, r, alpha, generator):
        super().__init__()
        out_features, in_features = weight.shape
        # Drawn on the host in fp32, so that a seed means the same factors on every device and in every precision.
        start = torch.empty(r, in_features, dtype=torch.float32, device="cpu")
        nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)  # as peft: U(-1/sqrt(in), 1/sqrt(in))
        self.A = nn.Parameter(start.to(weight))
        self.B = nn.Parameter(weight.new_zeros(out_features, r))
        self.scale = alpha / r

    def forward(self, x):
        low = F.linear(x, self.A)                                               # (..., in) x (r, in) -> (..., r)
        return F.linear(self.scale * low, self.B)                               # (..., r) x (out, r) -> (..., out)


PeftPair = namedtuple("PeftPair", "A B scale")  # peft's factors under our names


class AdaptedLinear(nn.Module):
    """A linear layer and its pair, (..., in) -> (..., out)."""

    def __init__(self, base_layer, r, alpha, generator):
        super().__init__()
        self.base_layer = base_layer
        self.lora_pair = Pair(base_layer.weight.detach(), r, alpha, generator)

    def forward(self, x):
        return self.base_layer(x) + self.lora_pair(x)

    def updates(self):
        return [("weight", WHOLE, self.lora_pair)]

    def sharing_keys(self, name, split_qkvo):
        layer_type = next((part for part in ("attn", "mlp") if part in name.split(".")), "other")
        return [(layer_type, self.base_layer.in_features, self.base_layer.out_features)]


class AdaptedAttention(nn.Module):
    """CLIP's self-attention with a pair each for q, k, v and o, (B, L, W) -> (B, L, W)."""

    def __init__(self, base_layer, r, alpha, generator):
        super().__init__()
        self.base_layer, self.width = base_layer, base_layer.out_proj.in_features
        weights = (*base_layer.in_proj_weight.detach().chunk(3), base_layer.out_proj.weight.detach())  # 4 x (W, W)
        self.lora_pairs = nn.ModuleDict({projection: Pair(weight, r, alpha, generator)
                                         for projection, weight in zip("qkvo", weights, strict=True)})

    def forward(self, x, attend=F.scaled_dot_product_attention):
        base = self.base_layer
        qkv = F.linear(x, base.in_proj_weight, base.in_proj_bias)                          # (B, L, 3W)
        qkv = qkv + torch.cat([self.lora_pairs[projection](x) for projection in "qkv"], dim=-1)
        mixed = mix(qkv, base.heads, attend, base.beside)                                               # (B, L, W)
        return base.out_proj(mixed) + self.lora_pairs["o"](mixed)

    def updates(self):
        *fused, out = self.lora_pairs.values()
        return [*(("in_proj_weight", slice(row * self.width, (row + 1) * self.width), pair)
                  for row, pair in enumerate(fused)), ("out_proj.weight", WHOLE, out)]

    def sharing_keys(self, name, split_qkvo):
        size = (self.width, self.base_layer.heads)
        return [("attn", projection, *size) if split_qkvo else ("attn", *size) for projection in self.lora_pairs]


# -- which modules -----------------------------------------------------------------------------------------------------


def adaptable_sites(model):
    """{module name: nn.Linear} of all that adapters can go to in a plain CLIP: ``attn.out_proj``, ``mlp.c_fc`` and
    ``mlp.c_proj`` of every transformer block of both towers, in the model's order."""
    return {f"{name}.{part}": block.get_submodule(part)
            for name, block in model.named_modules() if isinstance(block, ResidualAttentionBlock)
            for part in ("attn.out_proj", "mlp.c_fc", "mlp.c_proj")}


def _select(model, targets, blocks):
    """The sites that the targets name by their ending, in the model's order, where the weights require a gradient.
    With ``blocks`` a target may also name the attention block around ``out_proj``."""
    if is_adapted(model):
        raise ValueError("the model has adapters already: merge_lora first")
    if not targets:
        raise UserError(f"{FLAG}: it names no module; its default is attn.out_proj,mlp.c_fc,mlp.c_proj")
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
            hint = " (a ResNet image tower has no block)" if isinstance(model.visual, ModifiedResNet) else ""
            raise UserError(f"{FLAG} {target}: all that it names ({min(found)}, ...) is in the tower that --train-mode "
                            f"does not train{hint}; change one of the two")
        chosen |= trained
    return [name for name in sites if name in chosen]


def _ends_in(name, target):
    return f".{name}".endswith(f".{target}")


def _why_nothing(model, target, names):
    if any(_ends_in(name, target) for name, _ in model.named_modules() if "attnpool" in name):
        return ("the attention pool of a ResNet cannot be adapted, adapters go to transformer blocks: name some of "
                "attn.out_proj, mlp.c_fc, mlp.c_proj, which the text tower has")
    endings = {re.sub(r".*resblocks\.\d+\.", "", name) for name in names}
    near = difflib.get_close_matches(target, sorted(endings | names.keys()), cutoff=0.4) or sorted(endings)
    return (f"nothing that can be adapted has this name or ending; near matches: {', '.join(near)}. "
            "`python list_clip_layers.py --lora` lists all")


# -- injection ---------------------------------------------------------------------------------------------------------


def inject_lora(model, targets, r=8, alpha=16, generator=None):
    """In place: our own pairs on the modules that ``targets`` name by their ending; returns the sites' names.

    ``attn.out_proj`` or ``attn`` selects the whole attention block, q, k, v and o. Only towers whose weights require a
    gradient are adapted; after it the factors are all that does, apart from ``head.*``. ``generator`` is the host's.
    UserError for a target that names nothing, or nothing that is trained.
    """
    names = _select(model, targets, blocks=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name.startswith("head."))
    for name in names:
        kind, place = AdaptedLinear, name
        if name.endswith(".out_proj"):
            kind, place = AdaptedAttention, name.removesuffix(".out_proj")
        base_layer = model.get_submodule(place)
        model.set_submodule(place, kind(base_layer, r, alpha, generator).train(base_layer.training))
    model.lora_settings = {"r": r, "alpha": alpha, "targets": list(targets), "sites": names, "shared": False,
                           "split_qkvo": False}
    return names


def apply_shared_lora(model, split_qkvo=False):
    """After ``inject_lora``: every layer takes the pair (the same Parameter objects) of the first one with its key.

    Linear key (layer_type, in, out); attention key ("attn", width, heads): q, k, v and o of all blocks share one pair,
    or ("attn", projection, width, heads) with ``split_qkvo``. A key names no tower, so towers of equal sizes share.
    """
    if not hasattr(model, "lora_settings") or model.lora_settings["shared"]:
        raise ValueError("apply_shared_lora takes a model that inject_lora has adapted and that does not share yet")
    masters = {}
    for name, module, updates in _adapted(model):
        for key, (_, _, pair) in zip(module.sharing_keys(name, split_qkvo), updates, strict=True):
            master = masters.setdefault(key, pair)
            pair.A, pair.B = master.A, master.B
    model.lora_settings |= {"shared": True, "split_qkvo": split_qkvo}


def inject_peft(model, targets, r=8, alpha=16, dropout=0.1, bias="none", seed=0):
    """In place: peft's adapters on the linear layers that ``targets`` name by their ending; returns their names.

    As ``inject_lora``, but ``attn.out_proj`` is that layer alone. ``bias`` "lora_only" trains the adapted layers'
    biases, "all" every ``*.bias`` of the trained towers (by peft's rule not ``in_proj_bias``). The random state of the
    process stays as it was.
    """
    names = _select(model, targets, blocks=False)
    from peft import LoraConfig, inject_adapter_in_model

    before = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    # A regular expression, because peft takes names as endings: the text tower's would match the image tower's.
    settings = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, bias=bias,
                          target_modules="|".join(map(re.escape, names)))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the host's alone: peft draws there
        inject_adapter_in_model(settings, model, PEFT)
    for name, parameter in model.named_parameters():
        if id(parameter) in before:
            parameter.requires_grad_(before[id(parameter)] and (parameter.requires_grad or name.startswith("head.")))
    for _, module, _ in _adapted(model):
        module.train(module.base_layer.training)
    return names


def is_adapted(model):
    """Whether the model has adapters, ours or peft's."""
    return hasattr(model, "lora_settings") or hasattr(model, "peft_config")


def _adapted(model):
    """(name, module, [(weight's name in base_layer, rows, pair)]) of every adapted module."""
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear | AdaptedAttention):
            yield name, module, module.updates()
        elif isinstance(getattr(module, "lora_A", None), nn.ModuleDict):
            pair = PeftPair(module.lora_A[PEFT].weight, module.lora_B[PEFT].weight, module.scaling[PEFT])
            yield name, module, [("weight", WHOLE, pair)]


def adapter_parameters(model):
    """The trainable factors, a shared one once for each of its sites; [] without adapters."""
    return [factor for _, _, updates in _adapted(model) for _, _, pair in updates for factor in (pair.A, pair.B)]


# -- what the adapted model stands for ---------------------------------------------------------------------------------


@torch.no_grad()
def plain_weights(model):
    """{plain CLIP name: tensor}, detached, in the order of a plain ``state_dict()``: W + (alpha/r) B A where adapted,
    everything else the model's own tensors, not copies."""
    weights = {key.replace(".base_layer.", "."): value for key, value in model.state_dict().items()
               if ".lora_" not in key}
    for name, _, updates in _adapted(model):
        for key in {f"{name}.{weight}" for weight, _, _ in updates}:
            weights[key] = weights[key].clone()
        for weight, rows, pair in updates:
            weights[f"{name}.{weight}"][rows].addmm_(pair.B, pair.A, alpha=pair.scale)  # (out, r) x (r, in)
    return weights


@torch.no_grad()
def merge_lora(model):
    """An independent plain CLIP in eval mode, without gradients, with W + (alpha/r) B A as its weights; a ``head`` is
    copied with it. ``model`` stays as it is."""
    merged = copy.deepcopy(model).eval().requires_grad_(False)
    for name, module, updates in list(_adapted(merged)):
        for weight, rows, pair in updates:
            module.base_layer.get_parameter(weight)[rows].addmm_(pair.B, pair.A, alpha=pair.scale)
        merged.set_submodule(name, module.base_layer)
    for attribute in ("lora_settings", "peft_config"):
        vars(merged).pop(attribute, None)
    return merged


def squared_update(model):
    """Sum over adapted weights of |(alpha/r) B A|_F^2, a scalar with gradient (0 without adapters).

    |B A|_F^2 = tr((B^T B)(A A^T)) needs r x r matrices only. A shared pair's are computed once and count for each site.
    """
    alike = {}  # {shapes: {pair: [A, B, sum of scale^2 over its sites]}}
    for _, _, updates in _adapted(model):
        for _, _, pair in updates:
            pairs = alike.setdefault((pair.A.shape, pair.B.shape), {})
            pairs.setdefault((id(pair.A), id(pair.B)), [pair.A, pair.B, 0.0])[2] += pair.scale ** 2
    total = model.logit_scale.new_zeros(())
    with torch.autocast(model.logit_scale.device.type, enabled=False):
        for pairs in alike.values():
            A, B, factors = zip(*pairs.values(), strict=True)
            A, B = torch.stack(A), torch.stack(B)                                # (n, r, in), (n, out, r)
            traces = ((B.mT @ B) * (A @ A.mT)).sum(dim=(1, 2))                   # (n, r, r) x (n, r, r) -> (n,)
            total = total + traces @ torch.tensor(factors).to(traces, non_blocking=True)
    return total


# -- the adapter's file ------------------------------------------------------------------------------------------------


def adapter_state(model):
    """The adapter alone, plain types and tensors on the host: {"peft": peft's state dict, "config": its settings}, or
    {"lora": {name: factor}, "r", "alpha", "targets", "sites", "shared", "split_qkvo"} with a shared factor under its
    first name; "sites" are the names of the adapted layers.
    """
    if not is_adapted(model):
        raise ValueError("the model has no adapter")
    if hasattr(model, "lora_settings"):
        factors = {name: _on_host(value) for name, value in model.named_parameters() if ".lora_" in name}
        return {"lora": factors, **copy.deepcopy(model.lora_settings)}
    from peft import get_peft_model_state_dict
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    settings = json.dumps(model.peft_config[PEFT].to_dict(), default=sorted)  # plain types: no enumerations, no sets
    return {"peft": {name: _on_host(value) for name, value in found.items() if not name.startswith("head.")},
            "config": json.loads(settings)}


def _on_host(value):
    return value.detach().cpu().clone()


@torch.no_grad()
def load_adapter(model, content):
    """Put the factors of an ``adapter_state`` into a model that was injected in the same way; shared ones stay shared.
    UserError where the kind, rank, scale, sharing, names or shapes differ."""
    here, there = _described(adapter_state(model)), _described(content)
    differing = [f"{key} is {there.get(key)} there and {here.get(key)} here" for key in {**here, **there}
                 if here.get(key) != there.get(key)]
    if differing:
        raise UserError(f"the adapter does not fit the model in {len(differing)} points: {'; '.join(differing[:3])}")
    if "peft" in content:
        from peft import set_peft_model_state_dict
        set_peft_model_state_dict(model, content["peft"])
        return
    for name, parameter in model.named_parameters():
        if name in content["lora"]:
            parameter.copy_(content["lora"][name])


def _described(content):
    """What two adapters must agree in: {setting: value, tensor name: shape}."""
    settings, tensors = content.get("config", content), content.get("peft", content.get("lora", {}))
    return {**{key: settings.get(key) for key in ("r", "alpha", "lora_alpha", "bias", "shared", "split_qkvo")},
            **{name: tuple(value.shape) for name, value in tensors.items()}}
