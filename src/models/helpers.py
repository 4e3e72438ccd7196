"""Pure functions, one formula each, checkable by hand arithmetic."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def similarity(image_features: Tensor, text_features: Tensor, scale: Tensor | float) -> Tensor:
    """Return scale * cosine of L2-normalised features, (B, D) x (C, D) -> (B, C). Not autocast to low precision."""
    with torch.autocast(image_features.device.type, enabled=False):
        return scale * image_features @ text_features.T


def similarity_between(image_features: Tensor, start: Tensor, end: Tensor, shares: Tensor,
                       scale: Tensor | float) -> Tensor:
    """Return scale * cosine with vectors on the straight line from ``start`` (D, C) to ``end`` (D, C), unit
    columns both, at ``shares`` (B, 1) of the way: (B, D) x (D, C) -> (B, C). At share 0 and 1 it equals
    ``similarity`` with that end, bit for bit."""
    mixed = (1 - shares) * similarity(image_features, start.T, scale) + shares * similarity(image_features, end.T,
                                                                                            scale)
    cosines = (start * end).sum(dim=0)                                                  # (C,)
    squared = (1 - shares) ** 2 + shares ** 2 + 2 * shares * (1 - shares) * cosines     # (B, C)
    return mixed / squared.sqrt()


def distillation(teacher_logits: Tensor, student_logits: Tensor, T: float) -> Tensor:
    """Return T^2 * mean over rows of CE(softmax(teacher / T), student / T), (B, M) x (B, M) -> scalar
    (Hinton et al., 2015).

    A cross-entropy: its gradient equals that of the KL divergence, its value exceeds it by the teacher's
    entropy.
    """
    return T ** 2 * F.cross_entropy(student_logits / T, F.softmax(teacher_logits / T, dim=-1))


def divergence(teacher_logits: Tensor, student_logits: Tensor, T: float) -> Tensor:
    """Return T^2 * mean over rows of KL(softmax(teacher / T) || softmax(student / T)), (B, M) x (B, M) ->
    scalar.

    Computed as ``distillation`` minus a constant: the same gradient bit for bit, and 0 for a student that
    equals the teacher.
    """
    return distillation(teacher_logits, student_logits, T) - teacher_entropy(teacher_logits, T)


@torch.no_grad()
def teacher_entropy(teacher_logits: Tensor, T: float) -> Tensor:
    """Return T^2 * mean entropy of softmax(teacher / T), (B, M) -> scalar, by which ``distillation``
    exceeds the KL divergence. Has no gradient."""
    log_probabilities = F.log_softmax(teacher_logits / T, dim=-1)
    return -T ** 2 * (log_probabilities.exp() * log_probabilities).sum(dim=-1).mean()


def image_pairs(features: Tensor, scale: Tensor | float, others: Tensor | None = None, first: int = 0) -> Tensor:
    """Return scale * cosine between the images of a batch, (B, D) -> (B, B), with the diagonal at -1e4, so
    that no image is compared with itself. ``others`` (N, D): a larger batch whose rows from ``first`` on
    are these images; then (B, N)."""
    logits = similarity(features, features if others is None else others, scale)
    own = torch.zeros_like(logits, dtype=torch.bool)
    own.diagonal(first).fill_(True)
    return logits.masked_fill(own, -1e4)


def learning_rate(step: int, total: int, warmup: int, peak: float, floor: float = 0.0) -> float:
    """Return the rate of a step: linear warm-up to ``peak`` over ``warmup`` steps, then cosine to ``floor``
    at ``total``; counts from 0.

    (k + 1) / W in the warm-up, then (1 + cos(pi (k - W) / (N - W))) / 2 of the way down. Works for any N,
    also N <= W.
    """
    if step < warmup:
        return warmed_up(step, warmup, peak)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def warmed_up(step: int, warmup: int, peak: float) -> float:
    """Return the rate of a step, from 0: linear warm-up to ``peak`` over ``warmup`` steps, (k + 1) / W,
    then ``peak``."""
    return peak * (step + 1) / warmup if step < warmup else peak


def late_cosine(epoch: int, epochs: int, peak: float) -> float:
    """Return the rate of an epoch, from 0: almost a quarter of a cosine from ``peak`` that starts one epoch
    late, peak cos(0.495 pi max(e - 1, 0) / (E - 1)), constant within an epoch, as in InfLoRA's code. A
    single epoch runs at the peak."""
    return peak * math.cos(0.495 * math.pi * max(epoch - 1, 0) / max(1, epochs - 1))


def one_cycle(step: int, total: int, start: float, top: float, end: float) -> float:
    """Return the rate of a step, from 0: from ``start`` to ``top`` at step 0.3 N - 1 and on to ``end`` at
    step N - 1, each by half a cosine (Smith and Topin, 2018, counted as in torch's OneCycleLR). Below 4
    steps there is no rise."""
    turn = 0.3 * total - 1
    if step <= turn:
        first, last, share = start, top, step / turn
    else:
        first, last, share = top, end, (step - turn) / (total - 1 - turn)
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return whether the true class is among the j + 1 highest scores, as column j of a bool (B, k), from
    (B, C) and (B,).

    Ties rank by class index, as in argmax. A NaN score is never a hit.
    """
    true = logits.gather(1, labels[:, None])                                            # (B, 1)
    later = torch.arange(logits.shape[1], device=logits.device) > labels[:, None]       # (B, C)
    behind = (logits < true) | ((logits == true) & later)
    ahead = logits.shape[1] - 1 - behind.sum(dim=1) + true.isnan()[:, 0]                # (B,)
    return ahead[:, None] < torch.arange(1, k + 1, device=logits.device)


def l2_distance(tensors: Sequence[Tensor], anchors: Sequence[Tensor],
                factors: Sequence[Tensor] | None = None) -> Tensor:
    """Return the sum over all values of (tensor - anchor)^2, times ``factors`` if given; lists of equal
    shapes -> scalar."""
    if len(tensors) != len(anchors):
        raise ValueError(f"{len(tensors)} tensors and {len(anchors)} anchors")
    return SquaredDistance.apply(anchors, factors, *tensors)


class SquaredDistance(torch.autograd.Function):
    """``l2_distance`` with a few launches for a whole list.

    A ViT-B/16 has 302 tensors, and one operation on each costs a GPU's host more than the arithmetic.
    Backward recomputes the differences instead of storing them; there is no second derivative.
    """

    @staticmethod
    def forward(context: Any, anchors: Sequence[Tensor], factors: Sequence[Tensor] | None, *tensors: Tensor) -> Tensor:
        context.anchors, context.factors = anchors, factors
        context.save_for_backward(*tensors)
        differences = torch._foreach_sub(tensors, anchors)
        if factors is None:
            return torch.stack(torch._foreach_norm(differences)).square().sum()
        weighed = torch._foreach_mul(differences, factors)
        torch._foreach_mul_(weighed, differences)
        return torch.stack([values.sum() for values in weighed]).sum()

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slopes = torch._foreach_sub(context.saved_tensors, context.anchors)
        if context.factors is not None:
            torch._foreach_mul_(slopes, context.factors)
        torch._foreach_mul_(slopes, 2 * gradient)
        return None, None, *slopes


@torch.no_grad()
def interpolate_(model: nn.Module, weights: Mapping[str, Tensor], share: float) -> None:
    """Set, in place, model <- share * model + (1 - share) * weights, {name: tensor} for each of the model's
    parameters and floating buffers; counts stay."""
    mix_(model.state_dict(), weights, share)


@torch.no_grad()
def mix_(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor], share: float) -> None:
    """Set, in place, tensors <- share * tensors + (1 - share) * others, {name: tensor} each; integers stay."""
    pairs = [(value, others[name]) for name, value in tensors.items() if value.is_floating_point()]
    if pairs:  # a module may have none
        torch._foreach_lerp_(*map(list, zip(*pairs, strict=True)), 1 - share)
