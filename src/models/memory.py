"""Copies of the weights that a run keeps: counting them, sharing equal ones, and halving those that may be
halved.

A copy is counted in units of the model's own weights, by bytes: a bfloat16 teacher beside fp32 weights
counts 0.5.
"""

from dataclasses import dataclass

import torch
from torch import nn

from clip.model import CLIP, Attention, VisionTransformer
from src.models.wrapped import plain_tensors

# Parameters that autocast casts at each use. It reads all others, norms and embeddings, as stored.
CAST_BY_AUTOCAST = {nn.Linear: ("weight", "bias"), nn.Conv2d: ("weight", "bias"),
                    Attention: ("in_proj_weight", "in_proj_bias"), VisionTransformer: ("proj",),
                    CLIP: ("text_projection",)}
FIRST = ("model", "ensemble", "teacher")  # shared storage counts for the first holder here, then in hook order
OPTIMISER = {"gradients": 1, "AdamW": 2}  # tensors per trainable one


# -- fewer copies ------------------------------------------------------------------------------------------------------


def lower_(model, dtype, shared=frozenset()):
    """Convert, in place, what autocast casts at each use to its type ``dtype``; features under autocast
    stay bit-identical. Storages in ``shared`` are skipped, because others read them. Return the model."""
    for module in model.modules():
        for name in CAST_BY_AUTOCAST.get(type(module), ()):
            parameter = getattr(module, name)
            if parameter is not None and storage_of(parameter) not in shared:
                parameter.data = parameter.data.to(dtype)
    return model


@torch.no_grad()
def share_(model, weights):
    """Make tensors of ``model`` that equal those of the same name in ``weights`` {name: tensor}, in value
    and dtype, share their storage, in place. Neither may be modified afterwards."""
    for name, value in tensors_of(model):
        other = weights.get(name)
        if other is not None and other.dtype == value.dtype and not value.is_meta and torch.equal(value, other):
            value.data = other.data


def resting_weights(model):
    """Return {plain CLIP name: parameter} of what does not train, in wrapped layers too."""
    return {name: tensor for name, tensor in plain_tensors(model).items()
            if isinstance(tensor, nn.Parameter) and not tensor.requires_grad}


def tensors_of(model):
    """Yield (name, parameter or buffer), not detached, unlike a ``state_dict``."""
    yield from model.named_parameters()
    yield from model.named_buffers()


def storage_of(tensor):
    """Return a key that tells storages apart while they are alive."""
    return tensor.untyped_storage().data_ptr()


# -- how many there are ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """``copies`` {holder: share}; ``unit``: bytes of one copy; ``others`` {holder: bytes} of tensors that
    are not weights, such as bases and text features."""

    copies: dict
    unit: int
    others: dict

    @property
    def bytes(self):
        return round(sum(self.copies.values()) * self.unit)

    def facts(self):
        """Return plain types for the run's description."""
        return {"weight_copies": {holder: round(share, 4) for holder, share in self.copies.items()},
                "weight_bytes": self.bytes, "other_bytes": self.others}

    def __str__(self):
        parts = ", ".join(f"{holder} {_short(share)}" for holder, share in self.copies.items() if _short(share) != "0")
        basis = self.others.get("gradient basis", 0)
        return (f"memory: {_short(sum(self.copies.values()))} copies of the weights ({parts}), {_size(self.bytes)}"
                + (f", and a gradient basis of {_size(basis)}" if basis else ""))


def _short(share):
    return f"{round(share, 2):g}"


def _size(number):
    power = 30 if number >= 2 ** 30 else 20
    return f"{number / 2 ** power:.1f} {'GiB' if power == 30 else 'MiB'}"


def weight_copies(state, hooks, kept=None):
    """Return the Memory of a task after ``training.begin``.

    It covers what the state, its hooks (``Hooks.copies``) and the run name on the model's device, each
    storage counted for its first holder, and what gradients and the optimiser will add. ``kept`` {holder:
    modules, dicts, lists or tensors} is what the run holds beside the task.
    """
    model = state.model
    count = _Count(model)
    averages = [value for average in state.own_average.values() for value in average.values()]
    held = [*state.copies().items(), *(("own modules", module) for module in state.own.values()),
            ("ensemble", nn.ParameterList(value for value in averages if value.is_floating_point())),
            *(found for hook in hooks for found in hook.copies().items()), *(kept or {}).items()]
    for holder, thing in sorted(held, key=lambda pair: FIRST.index(pair[0]) if pair[0] in FIRST else len(FIRST)):
        count.add(holder, thing)
    trainable = sum(parameter.nbytes for parameter in state.trained())
    beside = OPTIMISER | ({"gradients between processes": 1} if state.world.size > 1 else {})
    arithmetic = {holder: number * trainable / count.unit for holder, number in beside.items() if trainable}
    measured = {holder: number / count.unit for holder, number in count.weights.items()}
    first = {"model": measured.pop("model")}
    return Memory({**first, **arithmetic, **measured}, count.unit, count.others)


class _Count:
    """Bytes per holder, of weights and of other tensors."""

    def __init__(self, model):
        self.weights, self.others, self.storages, self.device = {}, {}, set(), model.logit_scale.device
        named = plain_tensors(model)
        self.shapes = {name: value.shape for name, value in named.items()}
        self.unit = sum(value.nbytes for name, value in named.items() if _is_clip(name) and value.is_floating_point())

    def add(self, holder, thing):
        for tensor, is_weight in self._held(thing, None):
            if tensor.device == self.device and tensor.nbytes and storage_of(tensor) not in self.storages:
                self.storages.add(storage_of(tensor))
                where = self.weights if is_weight else self.others
                where[holder] = where.get(holder, 0) + tensor.nbytes

    def _held(self, thing, name):
        """Yield (tensor, whether it belongs to a copy of the model) of all in modules, dicts, lists and
        tensors. ``name`` is the tensor's key in a dict, () in a list."""
        if isinstance(thing, torch.Tensor):
            yield thing, isinstance(thing, nn.Parameter) or self.matches_a_weight(thing, name)
        elif isinstance(thing, nn.Module):
            yield from ((value, True) for _, value in tensors_of(thing) if value.is_floating_point())
        elif isinstance(thing, dict):
            for key, value in thing.items():
                yield from self._held(value, key)
        elif isinstance(thing, (list, tuple)):
            for value in thing:
                yield from self._held(value, ())

    def matches_a_weight(self, tensor, name):
        if name == ():  # a list has no names, and vectors of a weight's length are too common
            return tensor.ndim > 1 and tensor.shape in self.shapes.values()
        return name is not None and self.shapes.get(name) == tensor.shape


def _is_clip(name):
    return not name.startswith("head.")
