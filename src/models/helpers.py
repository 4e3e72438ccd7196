"""Pure functions: one formula each, to be checked by hand arithmetic."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def similarity(image_features: Tensor, text_features: Tensor, scale: Tensor | float) -> Tensor:
    """scale * cosine, both sides L2-normalised before: (B, D) x (C, D) -> (B, C). Never in a low precision."""
    with torch.autocast(image_features.device.type, enabled=False):
        return scale * image_features @ text_features.T


def similarity_between(image_features: Tensor, start: Tensor, end: Tensor, shares: Tensor,
                       scale: Tensor | float) -> Tensor:
    """scale * cosine with the vectors that lie at ``shares`` (B, 1) of the straight way from ``start`` (D, C) to
    ``end`` (D, C), unit columns both: (B, D) x (D, C) -> (B, C). At share 0 and 1 to the bit what ``similarity`` gives
    of one end."""
    mixed = (1 - shares) * similarity(image_features, start.T, scale) + shares * similarity(image_features, end.T,
                                                                                            scale)
    cosines = (start * end).sum(dim=0)                                                  # (C,)
    squared = (1 - shares) ** 2 + shares ** 2 + 2 * shares * (1 - shares) * cosines     # (B, C)
    return mixed / squared.sqrt()


def distillation(teacher_logits: Tensor, student_logits: Tensor, T: float) -> Tensor:
    """T^2 * mean over rows of CE(softmax(teacher / T), student / T), (B, M) x (B, M) -> scalar (Hinton et al., 2015).

    A cross-entropy: its gradient is the KL divergence's, its value is larger by the teacher's entropy.
    """
    return T ** 2 * F.cross_entropy(student_logits / T, F.softmax(teacher_logits / T, dim=-1))


def divergence(teacher_logits: Tensor, student_logits: Tensor, T: float) -> Tensor:
    """T^2 * mean over rows of KL(softmax(teacher / T) || softmax(student / T)), (B, M) x (B, M) -> scalar.

    ``distillation`` less a constant: the bits of its gradient, and 0 for a student that equals the teacher.
    """
    return distillation(teacher_logits, student_logits, T) - teacher_entropy(teacher_logits, T)


@torch.no_grad()
def teacher_entropy(teacher_logits: Tensor, T: float) -> Tensor:
    """What ``distillation`` exceeds the KL by: T^2 * mean entropy of softmax(teacher / T), (B, M) -> scalar. Has no
    gradient."""
    log_probabilities = F.log_softmax(teacher_logits / T, dim=-1)
    return -T ** 2 * (log_probabilities.exp() * log_probabilities).sum(dim=-1).mean()


def image_pairs(features: Tensor, scale: Tensor | float, others: Tensor | None = None, first: int = 0) -> Tensor:
    """scale * cosine between the images of a batch, (B, D) -> (B, B), an image with itself pushed to -1e4: it is not
    compared with itself. ``others`` (N, D): a larger batch that these images are the rows of from ``first`` on; then
    (B, N)."""
    logits = similarity(features, features if others is None else others, scale)
    own = torch.zeros_like(logits, dtype=torch.bool)
    own.diagonal(first).fill_(True)
    return logits.masked_fill(own, -1e4)


def learning_rate(step: int, total: int, warmup: int, peak: float, floor: float = 0.0) -> float:
    """Linear warm-up to ``peak`` over the first ``warmup`` steps, then cosine to ``floor`` at ``total``; counts from 0.

    (k + 1) / W in the warm-up, then (1 + cos(pi (k - W) / (N - W))) / 2 of the way down. Any N, also N <= W.
    """
    if step < warmup:
        return warmed_up(step, warmup, peak)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def warmed_up(step: int, warmup: int, peak: float) -> float:
    """Linear warm-up to ``peak`` over the first ``warmup`` steps, (k + 1) / W, then ``peak``; step counts from 0."""
    return peak * (step + 1) / warmup if step < warmup else peak


def late_cosine(epoch: int, epochs: int, peak: float) -> float:
    """Almost a quarter of a cosine from ``peak`` that comes one epoch late, peak cos(0.495 pi max(e - 1, 0) / (E - 1)),
    constant within an epoch, as InfLoRA's code has it; epoch counts from 0. A single epoch is at the peak."""
    return peak * math.cos(0.495 * math.pi * max(epoch - 1, 0) / max(1, epochs - 1))


def one_cycle(step: int, total: int, start: float, top: float, end: float) -> float:
    """From ``start`` to ``top`` at step 0.3 N - 1 and on to ``end`` at step N - 1, each by half a cosine (Smith and
    Topin, 2018, as torch's OneCycleLR counts); step counts from 0. Below 4 steps there is no rise."""
    turn = 0.3 * total - 1
    if step <= turn:
        first, last, share = start, top, step / turn
    else:
        first, last, share = top, end, (step - turn) / (total - 1 - turn)
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """(B, C), (B,) -> bool (B, k): column j tells whether the true class is among the j + 1 highest scores.

    Equal scores rank by class number, as argmax does. A score that is not a number is never a hit.
    """
    true = logits.gather(1, labels[:, None])                                            # (B, 1)
    later = torch.arange(logits.shape[1], device=logits.device) > labels[:, None]       # (B, C)
    behind = (logits < true) | ((logits == true) & later)
    ahead = logits.shape[1] - 1 - behind.sum(dim=1) + true.isnan()[:, 0]                # (B,)
    return ahead[:, None] < torch.arange(1, k + 1, device=logits.device)


def l2_distance(tensors: Sequence[Tensor], anchors: Sequence[Tensor],
                factors: Sequence[Tensor] | None = None) -> Tensor:
    """Sum over all values of (tensor - anchor)^2, times ``factors`` where they are given; lists of equal shapes ->
    scalar."""
    if len(tensors) != len(anchors):
        raise ValueError(f"{len(tensors)} tensors and {len(anchors)} anchors")
    return SquaredDistance.apply(anchors, factors, *tensors)


class SquaredDistance(torch.autograd.Function):
    """``l2_distance`` with a few launches for a whole list: a ViT-B/16 has 302 tensors, and an operation on each costs
    a GPU's host more than the arithmetic. Differences are computed again by backward instead of being kept; a second
    derivative is not available."""

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
    """In place: model <- share * model + (1 - share) * weights, {name: tensor} for each of the model's parameters and
    floating buffers; counts stay."""
    mix_(model.state_dict(), weights, share)


@torch.no_grad()
def mix_(tensors: Mapping[str, Tensor], others: Mapping[str, Tensor], share: float) -> None:
    """In place: tensors <- share * tensors + (1 - share) * others, {name: tensor} each; integers stay."""
    pairs = [(value, others[name]) for name, value in tensors.items() if value.is_floating_point()]
    if pairs:  # a module need not have any
        torch._foreach_lerp_(*map(list, zip(*pairs, strict=True)), 1 - share)
