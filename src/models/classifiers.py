"""Classifiers of a dataset's classes: zero-shot ones, and the linear heads left by training."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from src.datasets.common import fill
from src.errors import UserError
from src.models.attached import prompted
from src.models.fingerprints import text_fingerprint
from src.models.helpers import similarity
from src.models.modeling import ClassificationHead, constant_text_features, in_eval_mode, tokens_of


@torch.no_grad()
def zeroshot_weights(model, classnames, templates):
    """Build the zero-shot classifier of C classes from T templates -> (D, C), unit columns (Radford et al.,
    2021, section 3.1.4).

    Encodes all prompts in few length-sorted batches; normalises, averages over templates, normalises.
    """
    return F.normalize(text_means(model, classnames, templates), dim=-1).T


def text_means(model, classnames, templates):
    """Return the means of the unit features of each class's prompts, without gradient: C classes, T
    templates -> (C, D)."""
    prompts = [fill(template, name) for name in classnames for template in templates]
    features = constant_text_features(model, tokens_of(model, prompts))             # (C * T, D)
    return features.unflatten(0, (len(classnames), len(templates))).mean(dim=1)


@dataclass(frozen=True, eq=False)  # compare by identity: tensors have no single truth value
class Classes:
    """The C classes of one dataset, against which images are scored.

    ``name``: the dataset's name in files, and ``state.task.name`` while it was trained. ``source``: the
    dataset as given on the command line. Both are "" if the classes belong to no known dataset.
    ``templates``: prompts with {c} for the class name. ``weights`` (D, C): zero-shot, unit columns; for a
    trained head, its weights over s.
    """

    name: str
    source: str
    classnames: Sequence[str]
    templates: Sequence[str]
    weights: torch.Tensor


@dataclass(frozen=True, eq=False)
class Classifier:
    """CLIP's own scores for one dataset's ``classes``: s * cosine with their weights, or a trained linear
    ``head``."""

    classes: Classes
    head: ClassificationHead | None = None

    def __call__(self, features, scale):
        """Score features, (B, D) -> (B, C)."""
        return similarity(features, self.classes.weights.T, scale) if self.head is None else self.head(features)

    def named(self, name, source):
        """Return the same classifier with its classes renamed."""
        return replace(self, classes=replace(self.classes, name=name, source=source))


def other_classes(history, file, classnames):
    """Return why the head that a checkpoint keeps for the dataset ``file`` must not score these classes;
    None if the checkpoint's ``history`` names the same classes in the same order.

    Files are named after the last component of a path, which two datasets may share.
    """
    known = next((entry["classnames"] for entry in reversed(history)
                  if entry.get("dataset") == file and "classnames" in entry), None)
    if known is None:
        return "the checkpoint does not record which classes it was trained on"
    pairs = enumerate(itertools.zip_longest(known, classnames), start=1)
    for number, (there, here) in pairs:
        if there != here:
            return (f"it was trained on other classes or another order (number {number} of {len(known)} is {there!r} "
                    f"there, {here!r} here)")
    return None


def require_head_fits(head, task, width):
    """Refuse a packed head (C, D + 1) if its number of classes differs from the task's."""
    if head.shape != (len(task.classnames), width + 1):
        raise UserError(f"the head of {task.name} has shape {tuple(head.shape)}; {len(task.classnames)} classes need "
                        f"{(len(task.classnames), width + 1)}")


@torch.no_grad()
def classifier(model, task, device, head=None):
    """Return the Classifier of a task, built from the packed ``head`` (C, D + 1) if one was trained."""
    if head is not None:
        require_head_fits(head, task, model.text_projection.shape[1])
        head = ClassificationHead.unpacked(head, model.logit_scale)
        weights = head.weight.T / model.logit_scale.exp()
    else:
        with in_eval_mode(model), device.autocast():
            weights = zeroshot_weights(model, task.classnames, task.templates)
    return Classifier(Classes(task.name, "", task.classnames, task.templates, weights), head)


class ZeroshotClassifiers:
    """A cache of zero-shot classifiers, valid as long as the text tower stays bit-identical; another tower
    empties it."""

    def __init__(self, device):
        self.device, self._tower, self._kept = device, None, {}

    def __call__(self, model, tasks, modules=()):
        """Return {name: zero-shot Classifier} for {name: Task}, building those whose prompts this tower has
        not encoded yet. ``modules``: own modules with parts in the tower."""
        if tasks:
            self._forget_others((text_fingerprint(model, modules), self.device.autocast_type))
        return {name: self._of(model, prompted(task, modules)) for name, task in tasks.items()}

    def _forget_others(self, tower):
        if tower != self._tower:
            self._tower, self._kept = tower, {}

    def _of(self, model, task):
        prompts = tuple(task.classnames), tuple(task.templates)
        if prompts not in self._kept:
            self._kept[prompts] = classifier(model, task, self.device)
        return self._kept[prompts]


@torch.no_grad()
def head_of(built, model):
    """Return the ClassificationHead that scores like a model's zero-shot Classifier: weight s * text
    features, bias 0."""
    weights = built.classes.weights.T                                                # (C, D)
    return ClassificationHead(model.logit_scale.exp() * weights, weights.new_zeros(len(weights)))


def zeroshot_head(model, task, device):
    """Return ``head_of`` a task's zero-shot classifier."""
    return head_of(classifier(model, task, device), model)
