"""Zero-shot classification: classifier weights, accuracy, one image."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from src.datasets.cache import as_it_is, cached_split
from src.datasets.common import balanced_subset, evaluation_batches, fill
from src.datasets.transforms import EvalTransform
from src.distributed import World
from src.errors import UserError
from src.models.helpers import similarity, top_k_hits
from src.models.modeling import ClassificationHead, ImageEncoder, constant_text_features, image_features, tokens_of

SUBSET_SEED = 0  # of --max-evaluation-size: the same images in every run


@dataclass(frozen=True)
class Scores:
    """top-1 and top-k in percent over ``n`` images; k = min(5, number of classes). Frames of videos also have pm-0 and
    pm-10 (``src.datasets.video``)."""

    top1: float
    top5: float
    k: int
    n: int
    pm0: float | None = None
    pm10: float | None = None

    def summary(self):
        """What a checkpoint's history tells."""
        return {"top1": self.top1, "top5": self.top5}

    def __str__(self):
        return f"{self.top1:.1f}"


@contextlib.contextmanager
def in_eval_mode(model):
    """All modules in eval mode; afterwards each one's flag is as it was."""
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True


@torch.no_grad()
def zeroshot_weights(model, classnames, templates):
    """Classifier of C classes from T templates -> (D, C), columns of length 1 (Radford et al., 2021, section 3.1.4).

    All prompts are encoded in few length-sorted batches; normalised, averaged over templates, normalised.
    """
    prompts = [fill(template, name) for name in classnames for template in templates]
    features = constant_text_features(model, tokens_of(model, prompts))             # (C * T, D)
    means = features.unflatten(0, (len(classnames), len(templates))).mean(dim=1)    # (C, D)
    return F.normalize(means, dim=-1).T


@dataclass
class Classifier:
    """Scores of one dataset's classes: s * cosine with zero-shot ``weights`` (D, C), or a trained linear ``head``,
    whose ``weights`` are its own over s."""

    classnames: Sequence[str]
    weights: torch.Tensor
    head: ClassificationHead | None = None

    def __call__(self, features, scale):
        """(B, D) -> (B, C)"""
        return similarity(features, self.weights.T, scale) if self.head is None else self.head(features)


def require_head_fits(head, task, width):
    """Refuse a packed head (C, D + 1) that was trained on another number of classes than a task has."""
    if head.shape != (len(task.classnames), width + 1):
        raise UserError(f"the head of {task.name} has shape {tuple(head.shape)}; {len(task.classnames)} classes need "
                        f"{(len(task.classnames), width + 1)}")


@torch.no_grad()
def classifier(model, task, device, head=None):
    """-> Classifier of a task, with the packed ``head`` (C, D + 1) where one was trained."""
    if head is not None:
        require_head_fits(head, task, model.text_projection.shape[1])
        head = ClassificationHead.unpacked(head, model.logit_scale)
        return Classifier(task.classnames, head.weight.T / model.logit_scale.exp(), head)
    with in_eval_mode(model), device.autocast():
        return Classifier(task.classnames, zeroshot_weights(model, task.classnames, task.templates))


@torch.no_grad()
def zeroshot_head(model, task, device):
    """The ClassificationHead that scores as the zero-shot classifier does: weight s * text features, bias 0."""
    weights = classifier(model, task, device).weights.T                              # (C, D)
    return ClassificationHead(model.logit_scale.exp() * weights, weights.new_zeros(len(weights)))


@torch.no_grad()
def encode_split(model, split, device, batch_size=128, workers=0, world=None):
    """Features of a split's images under the evaluation transform -> (positions of those that could be decoded,
    (N, D) L2-normalised). Processes share the images, and each has all features."""
    world = world or World()
    if world.size > 1:
        return _encode_together(model, split, device, batch_size, workers, world)
    encoder, positions, features = ImageEncoder(model), [], []
    numbered = replace(split, labels=range(len(split)))  # whatever is skipped, a row knows its place
    with in_eval_mode(model), device.autocast():
        for batch in map(device.batch, evaluation_batches(numbered, EvalTransform(model.image_resolution), batch_size,
                                                          workers)):
            positions.append(batch.labels)
            features.append(encoder(batch.images))
    return torch.cat(positions).tolist(), torch.cat(features)


def _encode_together(model, split, device, batch_size, workers, world):
    """``encode_split`` by several processes, each of which puts its rows into a table of zeros and sums."""
    like = model.logit_scale
    features = like.new_zeros(len(split), model.text_projection.shape[1])                   # (N, D)
    found = torch.zeros(len(split), dtype=torch.long, device=like.device)
    own = range(world.rank, len(split), world.size)
    if own:
        places, rows = encode_split(model, split.subset(own), device, batch_size, workers)
        places = torch.tensor(places, device=like.device) * world.size + world.rank
        features[places], found[places] = rows, 1
    places = world.sum(found).nonzero()[:, 0]
    return places.tolist(), world.sum(features)[places]


@torch.no_grad()
def evaluate(model, task, device, split="test", batch_size=128, max_size=None, workers=0, logits=None, cache=None,
             classifiers=None, spaces=None, name=None, world=None):
    """{label space: Scores} of a model on one split of a task, from one pass over its images.

    ``spaces`` maps a label space to the datasets whose classes it joins; one that lacks the task itself is left out.
    ``classifiers`` has the Classifier of each of them, by name; ``name`` is the task's own there. None of these: the
    task's own classes, zero-shot, as "task".
    ``max_size`` images are drawn evenly over the classes. ``logits(images, heads, names) -> [(B, C_t)] or None``,
    heads being the classifiers' weights [(D, C_t)], takes the place of CLIP's own scores where it gives some.
    ``cache``: folder under which decoded images are kept. Each process of ``world`` scores a share of the images,
    ``batch_size`` at a time, and has all the scores.
    """
    name, world = name or task.name, world or World()
    classifiers = classifiers or {name: classifier(model, task, device)}
    spaces = {space: names for space, names in (spaces or {"task": (name,)}).items() if name in names}
    if not spaces:
        return {}
    images, transform = task.split(split), EvalTransform(model.image_resolution)
    if cache is not None:
        found = images, f"{task.name}-{split}", transform, cache, workers
        images = world.first_then_others(lambda: cached_split(*found))
        transform, workers = as_it_is, 0
    if max_size is not None and images.video is None:  # frames count together with their neighbours
        images = images.subset(balanced_subset(images.labels, max_size, SUBSET_SEED))
    tallies = {space: _Tally(name, [(part, len(classifiers[part].classnames)) for part in names], images, device, world)
               for space, names in spaces.items()}
    needed = list(dict.fromkeys(part for names in spaces.values() for part in names))
    heads = [classifiers[part].weights for part in needed]
    if world.size > 1:
        images = images.subset(range(world.rank, len(images), world.size))
    with in_eval_mode(model), device.autocast():
        for batch in map(device.batch, evaluation_batches(images, transform, batch_size, workers)):
            scores = logits and logits(batch.images, heads, needed)
            if not scores:
                features = image_features(model, batch.images)
                scores = [classifiers[part](features, model.logit_scale.exp()) for part in needed]
            scores = dict(zip(needed, scores, strict=True))
            for tally in tallies.values():
                tally.add(scores, batch.labels)
    return {space: tally.scores() for space, tally in tallies.items()}


class _Tally:
    """Hits in one label space: the classes of ``parts`` [(dataset, classes)] side by side."""

    def __init__(self, own, parts, images, device, world):
        sizes, self.world, self.images = dict(parts), world, len(images)
        self.names, self.classes = list(sizes), sum(sizes.values())
        self.first = sum(sizes[name] for name in self.names[:self.names.index(own)])  # where the own classes begin
        self.k, self.total, self.video = min(5, self.classes), 0, images.video
        self.hits, self.predictions = torch.zeros(self.k, dtype=torch.long, device=device.device), []

    def add(self, scores, labels):
        """{dataset: (B, C)}, (B,) labels among the own classes."""
        joined = torch.cat([scores[name] for name in self.names], dim=1)                   # (B, sum of C)
        self.hits += top_k_hits(joined, labels + self.first, self.k).sum(dim=0)
        self.total += len(labels)
        if self.video is not None:  # a class of another dataset is a negative number or one too large: a miss
            self.predictions += (joined.argmax(dim=1) - self.first).tolist()

    def scores(self):
        """Of all processes' images, each counted once."""
        *hits, total = self.world.sum(torch.cat([self.hits, self.hits.new_tensor([self.total])])).tolist()
        top1, top5 = 100 * hits[0] / total, 100 * hits[-1] / total
        if self.video is None:
            return Scores(top1, top5, self.k, total)
        top1, pm0, pm10 = self.video.scores(self.world.interleave(self.predictions, self.images))
        return Scores(top1, top5, self.k, total, pm0, pm10)


@torch.no_grad()
def classify_image(model, image, classnames, device, template="a photo of a {c}."):
    """PIL image -> [(class name, probability)], highest first: softmax of s * cosine, at most five."""
    pixels = device.images(EvalTransform(model.image_resolution)(image)[None])
    with in_eval_mode(model), device.autocast():
        head = zeroshot_weights(model, classnames, [template])
        logits = similarity(image_features(model, pixels), head.T, model.logit_scale.exp())
        probabilities = logits[0].softmax(dim=-1)                                   # (C,)
    values, indices = probabilities.topk(min(5, len(classnames)))
    return [(classnames[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True)]
