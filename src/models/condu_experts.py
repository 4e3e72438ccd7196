"""Experts of several tasks, stored as one delta with a mask and a factor per task (ConDU, Gao et al., 2025,
arXiv:2503.10705), and a CLIP that holds one of them at a time."""

import functools

import torch
import torch.nn.functional as F

from src.models.algebra import wide
from src.models.classifiers import zeroshot_weights
from src.models.helpers import similarity
from src.models.modeling import frozen_copy, image_features

BITS = 8  # per byte


def unify(deltas):
    """Unify [d_i], tensors of one shape -> (U, [m_i]).

    s = sign(sum_i d_i), where 0 counts as -1; m_i = d_i s > 0, boolean; U = s times the largest |d_i| among
    the tasks with m_i, 0 where no task agrees.
    """
    signs = torch.where(sum(deltas) > 0, 1.0, -1.0).to(deltas[0])
    masks = [delta * signs > 0 for delta in deltas]
    largest = functools.reduce(torch.maximum, (delta.abs() * mask for delta, mask in zip(deltas, masks, strict=True)))
    return signs * largest, masks


def packed(mask):
    """Pack a boolean tensor of n values into bytes (ceil(n / 8),), the first value in the lowest bit of the
    first byte."""
    bits = F.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % BITS)).view(-1, BITS)
    return (bits << _places(bits.device)).sum(dim=1, dtype=torch.uint8)


def unpacked(content, shape):
    """Undo ``packed``: bytes -> the boolean tensor of this shape."""
    bits = content[:, None] >> _places(content.device) & 1                               # (ceil(n / 8), 8)
    return bits.flatten()[:shape.numel()].view(shape).bool()


def _places(device):
    return torch.arange(BITS, dtype=torch.uint8, device=device)


class Unified:
    """Deltas of tasks, as ``values`` {name: U}, ``masks`` {task: {name: packed m}} and ``factors`` {task:
    l}. The delta of a task is l U m."""

    def __init__(self, values, masks, factors):
        self.values, self.masks, self.factors = values, masks, factors

    def delta(self, task, name):
        """Return l U m of one tensor."""
        value = self.values[name]
        return self.factors[task] * value * unpacked(self.masks[task][name], value.shape)

    @torch.no_grad()
    def with_task(self, task, deltas):
        """Return the Unified of these tasks and one more, on the host; a task of the same name is replaced.

        ``deltas`` are pairs (name, d); an earlier task's d is what ``delta`` returns for it. Works tensor
        by tensor, on the device of the deltas.

        l_i = (sum over tensors of mean |d_i|) / (sum of mean |U m_i|), or 1 for a task with no value left.
        """
        tasks = [*(other for other in self.factors if other != task), task]
        values, masks, sizes = {}, {other: {} for other in tasks}, dict.fromkeys(tasks, 0)
        for name, delta in deltas:
            here = self.of_one(name).to(delta) if self.values else self
            found = [*(here.delta(other, name) for other in tasks[:-1]), delta]
            value, chosen = unify(found)
            values[name] = value.cpu()
            for other, own, mask in zip(tasks, found, chosen, strict=True):
                masks[other][name] = packed(mask).cpu()
                sizes[other] = sizes[other] + wide(torch.stack([own.abs(), value.abs() * mask])).flatten(1).mean(dim=1)
        factors = {other: _ratio(*size.tolist()) for other, size in sizes.items()}
        return Unified(values, masks, factors)

    def of_one(self, name):
        """Return the Unified restricted to one tensor."""
        masks = {task: {name: content[name]} for task, content in self.masks.items()}
        return Unified({name: self.values[name]}, masks, self.factors)

    def to(self, like):
        """Return the Unified on the device and in the dtype of a tensor."""
        masks = {task: {name: content.to(like.device) for name, content in of_task.items()}
                 for task, of_task in self.masks.items()}
        return Unified({name: value.to(like) for name, value in self.values.items()}, masks, self.factors)

    def carry(self):
        """Return what ``Unified`` is built from, as tensors and plain types."""
        return {"values": self.values, "masks": self.masks, "factors": self.factors}


def _ratio(own, left):
    return own / left if left else 1.0


class Towers:
    """One copy of a CLIP that holds one expert at a time, and each expert's text features, encoded once.

    ``weights(task)`` yields (parameter name, value) of an expert, of th0 for None, always for the same
    parameters.
    """

    def __init__(self, th0, weights):
        self.clip, self.weights, self.held, self._texts = frozen_copy(th0), weights, None, {}
        self._hold(None)

    def features(self, task, images):
        """Encode images by an expert, (B, 3, R, R) -> (B, D), unit."""
        self._hold_other(task)
        return image_features(self.clip, images)

    def logits(self, task, features, joined):
        """Return an expert's logits (B, sum of C) over the classes of ``joined`` Classes, from its features
        (B, D)."""
        texts = torch.cat([self._texts_of(task, part) for part in joined], dim=1)                # (D, sum of C)
        return similarity(features, texts.T, self.clip.logit_scale.exp())

    def vote(self, prototypes, most, images, spaces):
        """Return {label space: (B, sum of C)}, the mean of the logits of th0 and of the ``most`` experts
        nearest to each image.

        Nearness is the highest cosine of the image's feature under th0 to ``prototypes`` {task: (C, D)};
        ties go to the earlier task.
        """
        features = self.features(None, images)                                           # (B, D)
        near = [similarity(features, classes, 1.0).amax(dim=1) for classes in prototypes.values()]
        ranked = torch.stack(near, dim=1).argsort(dim=1, descending=True, stable=True)   # (B, tasks)
        chosen = ranked[:, :most]
        total = {space: self.logits(None, features, joined) for space, joined in spaces.items()}
        for number, task in enumerate(prototypes):
            rows = (chosen == number).any(dim=1).nonzero()[:, 0]
            if len(rows):
                features = self.features(task, images[rows])
                for space, joined in spaces.items():
                    total[space].index_add_(0, rows, self.logits(task, features, joined))
        return {space: logits / (1 + chosen.shape[1]) for space, logits in total.items()}

    def _texts_of(self, task, classes):
        key = task, tuple(classes.classnames), tuple(classes.templates)
        if key not in self._texts:
            self._hold_other(task)
            self._texts[key] = zeroshot_weights(self.clip, classes.classnames, classes.templates)
        return self._texts[key]

    def _hold_other(self, task):
        if task != self.held:
            self._hold(task)

    def _hold(self, task):
        fill(self.clip, self.weights(task))
        self.held = task


@torch.no_grad()
def fill(clip, weights):
    """Set parameters of a CLIP, in place, to ``weights``, pairs (name, value). Return the CLIP."""
    parameters = dict(clip.named_parameters())
    for name, value in weights:
        parameters[name].copy_(value)
    return clip
