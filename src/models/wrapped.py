"""Wrapped layers: layers of CLIP with low-rank updates of their weights, W + scale B A.

The family is open. A member holds the layer as ``base_layer`` and lists its ``updates()``. ``--lora``
injects some (``src.models.lora_injection``); a method injects others in ``begin``, with ``wrap`` or a
custom class. The merged model, a plain CLIP, is what is scored, saved and carried on, whatever wraps its
layers.

| site | its weight | wrapper |
|---|---|---|
| a block's ``attn.q``, ``attn.k``, ``attn.v`` | a third of ``attn.in_proj_weight`` (W, W) | WrappedAttention |
| a block's ``attn.o`` | ``attn.out_proj.weight`` (W, W) | WrappedAttention |
| a block's ``mlp.c_fc``, ``mlp.c_proj`` | ``weight`` (out, in) | WrappedLinear |
"""

import copy
from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn

from clip.model import Attention, ResidualAttentionBlock, mix
from src.errors import UserError

BASE = "base_layer"
WHOLE = slice(None)
PROJECTIONS = "qkvo"
TOWERS = {"visual.": "image", "transformer.": "text"}  # by the prefix of a site's name
PEFT = "default"  # peft's name for a model's only adapter
PeftPair = namedtuple("PeftPair", "A B scale")  # peft's factors under our names
MARKS_OF_LORA = ("lora_settings", "peft_config")  # attributes of a CLIP adapted by --lora
BESIDE_LORA = ("--lora: the method wraps layers of CLIP itself, and two kinds of factors would train the same weights; "
               "leave --lora out")


# -- members -----------------------------------------------------------------------------------------------------------


class Factors(nn.Module):
    """The update ``scale`` B A of a weight (out, in), as a branch (..., in) -> (..., out).

    A subclass provides ``A`` (r, in) and ``B`` (out, r): trainable as parameters, frozen as buffers, or
    computed from both. A merge ignores whatever its ``forward`` adds in training only, such as dropout.
    """

    scale = 1.0

    def forward(self, x):
        low = F.linear(x, self.A)                                               # (..., in) x (r, in) -> (..., r)
        return F.linear(self.scale * low, self.B)                               # (..., r) x (out, r) -> (..., out)


class DroppedFactors(Factors):
    """Factors with dropout on the branch's input, in training only."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x):
        return super().forward(self.dropout(x))


class Pair(DroppedFactors):
    """Two given factors: a Parameter trains; any other tensor is copied into a frozen buffer."""

    def __init__(self, A, B, scale=1.0, dropout=0.0):
        super().__init__(dropout)
        for name, factor in (("A", A), ("B", B)):
            if isinstance(factor, nn.Parameter):
                self.register_parameter(name, factor)
            else:
                self.register_buffer(name, factor.detach().clone(memory_format=torch.contiguous_format))
        self.scale = scale


class WrappedLayer(nn.Module):
    """A layer of CLIP plus what a method adds to it. A subclass defines ``forward``, with the layer's own
    arguments."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer

    def updates(self):
        """Return what a merge adds, [(name of a weight in ``base_layer``, its rows, Factors)]; an empty
        list leaves the layer unchanged. In eval mode ``forward`` must equal the merged layer."""
        return []


class WrappedLinear(WrappedLayer):
    """A linear layer and its factors, (..., in) -> (..., out)."""

    def __init__(self, base_layer, pair):
        super().__init__(base_layer)
        self.lora_pair = pair

    def forward(self, x):
        return self.base_layer(x) + self.lora_pair(x)

    def updates(self):
        return [("weight", WHOLE, self.lora_pair)]


class WrappedAttention(WrappedLayer):
    """CLIP's self-attention with factors for some of q, k, v and o, (B, L, W) -> (B, L, W)."""

    def __init__(self, base_layer, pairs):
        super().__init__(base_layer)
        self.width = base_layer.out_proj.in_features
        self.lora_pairs = nn.ModuleDict({name: pairs[name] for name in PROJECTIONS if name in pairs})

    def forward(self, x, attend=F.scaled_dot_product_attention):
        base, pairs = self.base_layer, self.lora_pairs
        qkv = F.linear(x, base.in_proj_weight, base.in_proj_bias)                          # (B, L, 3W)
        if pairs.keys() != {"o"}:
            added = [pairs[name](x) if name in pairs else qkv.new_zeros(x.shape) for name in "qkv"]
            qkv = qkv + torch.cat(added, dim=-1)
        mixed = mix(qkv, base.heads, attend, base.beside)                                  # (B, L, W)
        return base.out_proj(mixed) + pairs["o"](mixed) if "o" in pairs else base.out_proj(mixed)

    def updates(self):
        return [place_of(name, self.width) + (pair,) for name, pair in self.lora_pairs.items()]


def place_of(projection, width):
    """Return (name of a weight of an attention of this width, rows) of q, k, v or o."""
    if projection == "o":
        return "out_proj.weight", WHOLE
    start = PROJECTIONS.index(projection) * width
    return "in_proj_weight", slice(start, start + width)


def updates_of(module):
    """Return the ``updates()`` of a module that wraps a layer, peft's included; None for any other module."""
    if isinstance(module, WrappedLayer):
        return module.updates()
    if isinstance(getattr(module, "lora_A", None), nn.ModuleDict):
        return [("weight", WHOLE, PeftPair(module.lora_A[PEFT].weight, module.lora_B[PEFT].weight,
                                           module.scaling[PEFT]))]
    return None


def wrapped_layers(model):
    """Yield (name, module, updates) of every module that wraps a layer, outer ones first."""
    for name, module in model.named_modules():
        updates = updates_of(module)
        if updates is not None:
            yield name, module, updates


def is_wrapped(model):
    """Return whether the model has wrapped layers, from --lora or a method."""
    return next(wrapped_layers(model), None) is not None


def has_lora(model):
    """Return whether --lora has adapted the model."""
    return any(hasattr(model, mark) for mark in MARKS_OF_LORA)


# -- injection by a method ---------------------------------------------------------------------------------------------


def sites(model):
    """Return {site: its weight (out, in)} of all that ``wrap`` accepts, in the model's order: in the blocks
    of the towers that train, not wrapped yet. Weights are views without gradient: writing to one changes
    the CLIP.

    Raises UserError with --lora, whose adapters are already there.
    """
    if has_lora(model):
        raise UserError(BESIDE_LORA)
    found = {}
    for name, block in model.named_modules():
        if isinstance(block, ResidualAttentionBlock):
            found |= {f"{name}.{site}": weight.detach() for site, weight in _weights_of(block) if weight.requires_grad}
    return found


def _weights_of(block):
    """Yield (site, weight) of the layers of a block that can be wrapped."""
    if isinstance(block.attn, Attention):
        for name, weight in zip("qkv", block.attn.in_proj_weight.chunk(3), strict=True):
            yield f"attn.{name}", weight
        yield "attn.o", block.attn.out_proj.weight
    for name in ("c_fc", "c_proj"):
        layer = block.mlp.get_submodule(name)
        if isinstance(layer, nn.Linear):
            yield f"mlp.{name}", layer.weight


def attention_sites(model, method, projections=PROJECTIONS):
    """Return those of ``sites(model)`` that are one of ``projections`` of an attention. Raise UserError,
    naming ``method``, if there are none."""
    found = {site: weight for site, weight in sites(model).items() if site.rpartition(".")[2] in projections}
    if not found:
        raise UserError(f"--method {method}: it adapts the attention of transformer blocks, and the tower that trains "
                        "is a ResNet, which has none; give --train-mode whole or text, or a --model with a ViT")
    return found


def towers_in_words(names):
    """Describe sites as "the image tower (blocks: 12) and the text tower (blocks: 12)", or one tower "alone"."""
    counts = {tower: len({name.rsplit(".", 2)[0] for name in names if name.startswith(start)})
              for start, tower in TOWERS.items()}
    counts = {tower: count for tower, count in counts.items() if count}
    alone = " alone" if len(counts) == 1 else ""
    return " and ".join(f"the {tower} tower{alone} (blocks: {count})" for tower, count in counts.items())


def note_few(left, sizes, limit, what):
    """Print a note if some of ``left`` {name: number of directions} are below the limit. ``sizes`` {name:
    number of all directions}; ``what`` states the condition, "weights have fewer than 8 directions ..."."""
    short = [name for name in left if left[name] < limit]
    if short:
        fewest = min(short, key=left.get)
        print(f"note: {len(short)} of {len(left)} {what}: {fewest} has the fewest, {left[fewest]} of "
              f"{sizes[fewest]}")


def wrap(model, factors):
    """Wrap layers in place. ``factors`` {site: Factors} for some of ``sites(model)``, with the weight's
    dtype and device.

    Afterwards only the factors' parameters and a ``head`` train. Raises UserError with --lora; ValueError
    for a name that is not a site, or factors that do not fit.
    """
    found = sites(model)
    for site, update in factors.items():
        if site not in found:
            raise ValueError(f"wrap: {site!r} is not among sites(model): no such layer, wrapped before, or in a tower "
                             "that --train-mode does not train")
        _require_fit(site, update, found[site])
    layers = {}
    for site, update in factors.items():
        path, _, part = site.rpartition(".")
        if part in PROJECTIONS:
            layers.setdefault(path, {})[part] = update
        else:
            layers[site] = update
    put_in(model, layers)


def _require_fit(site, update, weight):
    A, B = update.A, update.B
    shapes = (A.shape[-1], B.shape[0]) == tuple(reversed(weight.shape)) and A.shape[0] == B.shape[-1]
    if not shapes or {(A.dtype, A.device), (B.dtype, B.device)} != {(weight.dtype, weight.device)}:
        raise ValueError(f"wrap: the factors of {site}, A {_described(A)} and B {_described(B)}, do not fit its weight "
                         f"{_described(weight)}: A is (r, in) and B (out, r)")


def _described(tensor):
    return f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"


def put_in(model, layers):
    """Wrap, in place, {name of a linear layer: Factors, of an attention: {projection: Factors}}.
    Afterwards, of the CLIP's own parameters, only those of a ``head`` train; those of existing wrappers
    keep their state."""
    for name, parameter in plain_tensors(model).items():
        if isinstance(parameter, nn.Parameter):
            parameter.requires_grad_(parameter.requires_grad and name.startswith("head."))
    for name, factors in layers.items():
        base_layer = model.get_submodule(name)
        kind = WrappedAttention if isinstance(base_layer, Attention) else WrappedLinear
        model.set_submodule(name, kind(base_layer, factors).train(base_layer.training))


# -- names -------------------------------------------------------------------------------------------------------------


def plain_name(name):
    """Return the name of a wrapped layer's tensor in the plain CLIP."""
    return ".".join(part for part in name.split(".") if part != BASE)


def added_names(model):
    """Return the set of names of all parameters and buffers that wrapping added to the CLIP."""
    found = set()
    for name, module, _ in wrapped_layers(model):
        tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
        found |= {f"{name}.{key}" for key, _ in tensors if not key.startswith(f"{BASE}.")}
    return found


def plain_tensors(model):
    """Return {plain CLIP name: parameter or buffer}, not copied, without those added by wrapping."""
    added = added_names(model)
    return {plain_name(name): value for tensors in (model.named_parameters(), model.named_buffers())
            for name, value in tensors if name not in added}


def added_parameters(model):
    """Return the trainable parameters added by wrapping, each once."""
    added = added_names(model)
    return [value for name, value in model.named_parameters() if name in added and value.requires_grad]


# -- the merged model --------------------------------------------------------------------------------------------------


@torch.no_grad()
def plain_weights(model):
    """Return {plain CLIP name: tensor}, detached, in the order of a plain ``state_dict()``: W + scale B A
    for wrapped layers, the model's own tensors, not copied, for all others."""
    added = added_names(model)
    weights = {plain_name(key): value for key, value in model.state_dict().items() if key not in added}
    for name, _, updates in wrapped_layers(model):
        for key in {plain_name(f"{name}.{weight}") for weight, _, _ in updates}:
            weights[key] = weights[key].clone()
        for weight, rows, pair in updates:
            weights[plain_name(f"{name}.{weight}")][rows].addmm_(pair.B, pair.A, alpha=pair.scale)  # (out, r) x (r, in)
    return weights


@torch.no_grad()
def merge(model):
    """Return an independent plain CLIP in eval mode, without gradients, with weights W + scale B A; a
    ``head`` is copied with it. ``model`` is unchanged."""
    merged = copy.deepcopy(model).eval().requires_grad_(False)
    for name, module, updates in reversed([*wrapped_layers(merged)]):  # inner layers first
        for weight, rows, pair in updates:
            module.base_layer.get_parameter(weight)[rows].addmm_(pair.B, pair.A, alpha=pair.scale)
        merged.set_submodule(name, module.base_layer)
    for mark in MARKS_OF_LORA:
        vars(merged).pop(mark, None)
    return merged


def updates_by_site(model):
    """Return [(A, B, scale)] of all updates, a shared pair once for each of its sites."""
    return [(pair.A, pair.B, pair.scale) for _, _, updates in wrapped_layers(model) for _, _, pair in updates]


@torch.no_grad()
def start_of_updates(model):
    """Return copies of the factors [(A, B)] at each site, for ``squared_update``; [] if none changes its
    weight yet."""
    found = updates_by_site(model)
    if not found or not torch.stack([A.any() & B.any() for A, B, _ in found]).any():
        return []
    return [(A.detach().clone(), B.detach().clone()) for A, B, _ in found]


def squared_update(model, start=()):
    """Return the sum over wrapped weights of |scale B A - its value at the start|_F^2, a scalar with
    gradient (0 without any). ``start``: what ``start_of_updates`` returned.

    Since |B A|_F^2 = tr((B^T B)(A A^T)), it needs only r x r matrices. A shared pair is computed once and
    counts for each site. With a start, B A - B' A' = (B - B') A + B' (A - A'), so that a small movement is
    not the difference of large products.
    """
    updates, distinct = updates_by_site(model), {}  # {pair: [A, B, their start, sum of scale^2 over its sites]}
    for (A, B, scale), before in zip(updates, start or [None] * len(updates), strict=True):
        distinct.setdefault((id(A), id(B)), [A, B, before, 0.0])[3] += scale ** 2
    alike = {}  # {shapes: [(A, B, sum of scale^2)]}
    for A, B, before, factor in distinct.values():
        if before is not None:
            A, B = torch.cat([A, A - before[0]]), torch.cat([B - before[1], before[1]], dim=1)
        alike.setdefault((A.shape, B.shape), []).append((A, B, factor))
    total = model.logit_scale.new_zeros(())
    with torch.autocast(model.logit_scale.device.type, enabled=False):
        for pairs in alike.values():
            A, B, factors = zip(*pairs, strict=True)
            A, B = torch.stack(A), torch.stack(B)                                # (n, r, in), (n, out, r)
            traces = ((B.mT @ B) * (A @ A.mT)).sum(dim=(1, 2))                   # (n, r, r) x (n, r, r) -> (n,)
            total = total + traces @ torch.tensor(factors).to(traces, non_blocking=True)
    return total


# -- what a method may not wrap ----------------------------------------------------------------------------------------


def refuse_lost(model, names, kind):
    """Raise UserError if the wrapped layers ``names``, added by a method of class ``kind``, hold what a
    merge or a resume point would lose: a trained parameter that no update depends on, or an unregistered
    tensor."""
    for name, module, updates in wrapped_layers(model):
        if name not in names:
            continue
        where = f"{kind} wraps {name} and"
        trained = {key: value for key, value in module.named_parameters()
                   if value.requires_grad and not key.startswith(f"{BASE}.")}
        unmerged = trained.keys() - _merged_parameters(trained, updates)
        if unmerged:
            raise UserError(f"{where} trains its parameter {min(unmerged)}, on which none of its updates() depends: a "
                            f"merge would lose it. Modules that no merge can hold belong into {kind}.build")
        for part, inner in module.named_modules():
            loose = [key for key, value in vars(inner).items() if isinstance(value, torch.Tensor)]
            if loose and not f"{part}.".startswith(f"{BASE}."):
                raise UserError(f"{where} keeps the tensor {loose[0]} as a plain attribute, which no resume point "
                                "holds; register_buffer makes it part of one")


def _merged_parameters(trained, updates):
    """Return the names in ``trained`` {name: parameter} that the updates depend on."""
    with torch.enable_grad():
        factors = [factor for _, _, pair in updates for factor in (pair.A, pair.B) if factor.requires_grad]
        if not factors or not trained:
            return set()
        slopes = torch.autograd.grad(sum(factor.sum() for factor in factors), [*trained.values()], allow_unused=True)
    return {name for name, slope in zip(trained, slopes, strict=True) if slope is not None}
