"""Experts of several tasks as one delta with a mask and a factor each (ConDU, Gao et al., 2025, arXiv:2503.10705), and
a CLIP that holds one of them at a time."""

import functools

import torch
import torch.nn.functional as F

from src.models.algebra import wide
from src.models.classifiers import zeroshot_weights
from src.models.helpers import similarity
from src.models.modeling import frozen_copy, image_features

BITS = 8  # of a byte


def unify(deltas):
    """[d_i], tensors of one shape -> (U, [m_i]): s = sign(sum_i d_i), where 0 counts as -1; m_i = d_i s > 0, boolean;
    U = s times the largest |d_i| where m_i, 0 where no task agrees."""
    signs = torch.where(sum(deltas) > 0, 1.0, -1.0).to(deltas[0])
    masks = [delta * signs > 0 for delta in deltas]
    largest = functools.reduce(torch.maximum, (delta.abs() * mask for delta, mask in zip(deltas, masks, strict=True)))
    return signs * largest, masks


def packed(mask):
    """Boolean tensor of n values -> bytes (ceil(n / 8),), the first value in the lowest bit of the first."""
    bits = F.pad(mask.flatten().to(torch.uint8), (0, -mask.numel() % BITS)).view(-1, BITS)
    return (bits << _places(bits.device)).sum(dim=1, dtype=torch.uint8)


def unpacked(content, shape):
    """Bytes -> the boolean tensor of this shape that ``packed`` was given."""
    bits = content[:, None] >> _places(content.device) & 1                               # (ceil(n / 8), 8)
    return bits.flatten()[:shape.numel()].view(shape).bool()


def _places(device):
    return torch.arange(BITS, dtype=torch.uint8, device=device)


class Unified:
    """Deltas of tasks: ``values`` {name: U}, ``masks`` {task: {name: packed m}} and ``factors`` {task: l}. That of a
    task is l U m."""

    def __init__(self, values, masks, factors):
        self.values, self.masks, self.factors = values, masks, factors

    def delta(self, task, name):
        """l U m of one tensor."""
        value = self.values[name]
        return self.factors[task] * value * unpacked(self.masks[task][name], value.shape)

    @torch.no_grad()
    def with_task(self, task, deltas):
        """Return the Unified of these tasks and of one more, on the host; one that was there before is replaced.
        ``deltas`` are pairs (name, d); d of an earlier task is what ``delta`` gives of it. Tensor by tensor, where the
        deltas are.

        l_i = sum over tensors of mean |d_i|, over sum of mean |U m_i|; 1 of a task of which no value is left.
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
        """The same of one tensor."""
        masks = {task: {name: content[name]} for task, content in self.masks.items()}
        return Unified({name: self.values[name]}, masks, self.factors)

    def to(self, like):
        """The same on the device and in the type of a tensor."""
        masks = {task: {name: content.to(like.device) for name, content in of_task.items()}
                 for task, of_task in self.masks.items()}
        return Unified({name: value.to(like) for name, value in self.values.items()}, masks, self.factors)

    def carry(self):
        """Tensors and plain types: what ``Unified`` is built from."""
        return {"values": self.values, "masks": self.masks, "factors": self.factors}


def _ratio(own, left):
    return own / left if left else 1.0


class Towers:
    """One copy of a CLIP, which holds one expert at a time, and the text features of each, encoded once.

    ``weights(task)`` yields (name of a parameter, its value) of an expert, of th0 for None, always of the same
    parameters.
    """

    def __init__(self, th0, weights):
        self.clip, self.weights, self.held, self._texts = frozen_copy(th0), weights, None, {}
        self._hold(None)

    def features(self, task, images):
        """(B, 3, R, R) -> (B, D), unit."""
        self._hold_other(task)
        return image_features(self.clip, images)

    def logits(self, task, features, joined):
        """Features (B, D) that the expert gave -> its logits (B, sum of C) over the classes of some Classes."""
        texts = torch.cat([self._texts_of(task, part) for part in joined], dim=1)                # (D, sum of C)
        return similarity(features, texts.T, self.clip.logit_scale.exp())

    def vote(self, prototypes, most, images, spaces):
        """{label space: (B, sum of C)}: the mean of the logits of th0 and, of each image, of the ``most`` experts it is
        nearest to, by the highest cosine of its feature under th0 to ``prototypes`` {task: (C, D)}; of equal ones the
        earlier task."""
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
    """In place: parameters of a CLIP become ``weights``, pairs (name, value). Returns the CLIP."""
    parameters = dict(clip.named_parameters())
    for name, value in weights:
        parameters[name].copy_(value)
    return clip
