"""Accuracy on class data from one pass over the images, or over features kept of them: several label
spaces, every prediction, and single images."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from src.datasets.common import Split, Task
from src.datasets.loading import joined_evaluation_batches
from src.datasets.seeds import balanced_subset
from src.datasets.transforms import EvalTransform
from src.errors import UserError
from src.machine.batch import Batch
from src.machine.distributed import World
from src.models.classifiers import classifier
from src.models.features import KeptRows, encode_split, features_as_images, numbered_batches, recorded, uncounted
from src.models.helpers import top_k_hits
from src.models.modeling import image_features, in_eval_mode, unit

SUBSET_SEED = 0  # for --max-evaluation-size: the same images in every run


@dataclass(frozen=True)
class Scores:
    """top-1 and top-k in percent over ``n`` images; k = min(5, number of classes).

    ``per_class`` is the mean of per-class top-1 over classes with images; scores of older runs lack it.
    Frames of videos also have pm-0 and pm-10 (``src.datasets.video``).
    """

    top1: float
    top5: float
    k: int
    n: int
    pm0: float | None = None
    pm10: float | None = None
    per_class: float | None = None

    def summary(self):
        """Return what a checkpoint's history records."""
        return {"top1": self.top1, "top5": self.top5}

    def __str__(self):
        return f"{self.top1:.1f}"


def mean_per_class(hits, support):
    """Return the mean per-class accuracy in percent, from hits and images per class; classes without images
    do not count."""
    shares = [right / images for right, images in zip(hits, support, strict=True) if images]
    return 100 * sum(shares) / len(shares)


def evaluate(model, task, device, split="test", batch_size=128, max_size=None, workers=0, method=None, cache=None,
             classifiers=None, spaces=None, name=None, world=None):
    """Score a model on one split of a task in one pass over its images -> {label space: Scores}.

    ``spaces`` maps a label space to the datasets whose classes it joins; one that lacks the task itself is left out.
    ``classifiers`` has the Classifier of each of them, by name; ``name`` is the task's own there. None of these: the
    task's own classes, zero-shot, as "task".
    ``max_size`` images are drawn evenly over the classes. ``method(images, {space: [Classes]})`` gives {space: (B, sum
    of its classes)}, or None; its scores take the place of CLIP's in the label spaces that it gives.
    ``cache``: the ImageCache of a run. Each process of ``world`` scores a share of the images, ``batch_size`` at a
    time, and has all the scores.
    """
    name = name or task.name
    classifiers = classifiers or {name: classifier(model, task, device)}
    joined = {name: spaces or {"task": (name,)}}
    return next(evaluate_each(model, {name: task}, device, classifiers, joined, split, batch_size, max_size,
                              {name: workers}, method, cache, world))


@torch.no_grad()
def evaluate_each(model, tasks, device, classifiers, spaces, split="test", batch_size=128, max_size=None, workers=None,
                  method=None, cache=None, world=None, counted=uncounted, keep=None, keep_rows=None):
    """Yield ``evaluate``'s result for each of ``tasks`` {name: Task}, in order, scored when requested. All
    tasks are opened before the first is scored; tasks with equal ``workers`` {name: number} share one pool
    of them.

    ``spaces``: {name: ``evaluate``'s ``spaces`` for that task}. ``counted``: see ``uncounted``.
    ``keep(name, space, Predictions)`` is called with every image's prediction, once per task and space.
    ``keep_rows(name, KeptSplit)`` is called with every image's features, once per task, in all processes.
    The other options are those of ``evaluate``.
    """
    world, workers = world or World(), workers or dict.fromkeys(tasks, 0)
    spaces = {name: {space: names for space, names in spaces[name].items() if name in names} for name in tasks}
    scored = {name: _open_images(task, split, model.image_resolution, max_size, workers[name], cache)
              for name, task in tasks.items() if spaces[name]}
    loaded = _loaded(scored.values(), batch_size, world)
    for name in tasks:
        found = {} if name not in scored else _scores(model, name, scored[name], device.batches(next(loaded)), device,
                                                      classifiers, spaces[name], method, world, counted, keep,
                                                      keep_rows)
        if cache is not None:
            cache.settle()
        yield found


@torch.no_grad()
def evaluate_features(model, name, split, places, features, device, classifiers, spaces, batch_size=128, method=None,
                      keep=None):
    """Score a dataset from kept ``features`` (N, D) instead of images -> {label space: Scores}.

    ``places`` (N,) are the images' indices in their split. ``split`` holds their labels and other metadata.
    ``model`` needs no image tower. The other options are those of ``evaluate_each``.
    """
    def batches():
        for first in range(0, len(split), batch_size):
            rows = slice(first, first + batch_size)
            labels = torch.tensor(split.labels[rows])
            yield Batch(images=features[rows].to(device.device), labels=labels.to(device.device), labels_on_host=labels,
                        indices=torch.arange(len(split))[rows])
    images = _Images(split, None, 0, split, places)
    with features_as_images(model):
        return _scores(model, name, images, batches(), device, classifiers, spaces, method, World(), uncounted, keep)


@dataclass(frozen=True)
class _Images:
    """The scored images of a task, their transform and number of worker processes. ``whole`` is the split
    they come from, ``numbers`` their indices there."""

    split: Split
    transform: Callable[..., Any]
    workers: int
    whole: Split
    numbers: Sequence[int]

    def share(self, world):
        """Return (the images that this process of ``world`` scores, their transform)."""
        if world.size == 1:
            return self.split, self.transform
        return self.split.subset(range(world.rank, len(self.split), world.size)), self.transform


def _open_images(task, split, resolution, max_size, workers, cache):
    transform = EvalTransform(resolution)
    whole = task.split(split) if cache is None else cache.of_task(task, split, transform)
    if max_size is None or whole.video is not None:  # frames are scored with their neighbours, so keep all
        return _Images(whole, transform, workers, whole, range(len(whole)))
    numbers = balanced_subset(whole.labels, max_size, SUBSET_SEED)
    return _Images(whole.subset(numbers), transform, workers, whole, numbers)


def _loaded(scored, batch_size, world):
    """Yield, for each of several _Images in order, an iterator over this process's Batches. One pool per
    number of workers."""
    pools = {workers: joined_evaluation_batches([images.share(world) for images in scored if images.workers == workers],
                                                batch_size, workers)
             for workers in {images.workers for images in scored}}
    for images in scored:
        yield next(pools[images.workers])


@dataclass(frozen=True)
class Predictions:
    """The prediction of each scored image that could be decoded, in one label space: lists of equal length,
    in the order of the ``images`` Split.

    ``places``: the image's index there, even if only a subset is scored. ``labels``: its class.
    ``predictions``: (dataset, class index) of the highest score; ``probabilities``: its softmax.
    ``losses``: the cross-entropy. ``ranks``: the rank of the true class, from 1. ``hits`` and ``support``
    count per class.
    """

    images: Split
    places: Sequence[int]
    labels: Sequence[int]
    predictions: Sequence[tuple]
    probabilities: Sequence[float]
    losses: Sequence[float]
    ranks: Sequence[int]
    hits: Sequence[int]
    support: Sequence[int]


@dataclass(frozen=True)
class KeptSplit:
    """The n scored images of a split that could be decoded.

    Their indices ``places`` (n,) in the ``images`` Split, ``labels`` (n,), L2-normalised ``features`` (n,
    D), and for each label space the ``ranks`` of the true class, from 1, {space: (n,)}, and the ``best``
    classes, {space: (n, k)}. Class indices of a space run through its datasets.
    """

    images: Split
    places: torch.Tensor
    labels: torch.Tensor
    features: torch.Tensor
    ranks: dict
    best: dict


def _scores(model, own, images, batches, device, classifiers, spaces, method, world, counted, keep, keep_rows=None):
    """Score the ``own`` dataset's _Images, of which ``batches`` are this process's -> {label space: Scores}."""
    classes = {space: [classifiers[part].classes for part in names] for space, names in spaces.items()}
    tallies = {space: _Tally(own, [(part, len(classifiers[part].classes.classnames)) for part in names], images, device,
                             world, keep is not None)
               for space, names in spaces.items()}
    share = len(range(world.rank, len(images.split), world.size))
    rows = keep_rows and KeptRows(len(images.split), model.text_projection.shape[1],
                                  {space: tally.k for space, tally in tallies.items()}, device.device, world)
    with in_eval_mode(model), device.autocast(), recorded(model) if rows else contextlib.nullcontext() as seen:
        for batch in counted(own, share, batches):
            scores = (method(batch.images, classes) if method else None) or {}
            left = {space: names for space, names in spaces.items() if space not in scores}
            scores = _plain_scores(model, batch.images, classifiers, left) | scores
            for space, tally in tallies.items():
                tally.add(scores[space], batch)
            if rows:
                rows.add(batch, _features_of(model, batch, seen), scores,
                         {space: batch.labels + tally.first for space, tally in tallies.items()})
    found = {space: tally.scores() for space, tally in tallies.items()}
    if rows:
        keep_rows(own, _kept_split(images, rows))
    if keep is not None:
        for space, tally in tallies.items():
            keep(own, space, tally.collect())
    return found


def _features_of(model, batch, seen):
    """Return the features (B, D) behind the scores of a batch, from all that was encoded for them."""
    if any(len(features) != len(batch.labels) for features in seen) or not seen:
        raise UserError("--keep-features: the method encodes other images than those it scores, so its scores cannot "
                        "be reproduced from features; leave the flag out")
    features = unit(seen[-1], model.logit_scale)
    seen.clear()
    return features


def _kept_split(images, rows):
    """Return the KeptSplit of _Images from their KeptRows, over all processes."""
    positions, columns = rows.whole()
    labels = torch.tensor(images.split.labels)[positions]
    places = torch.tensor(images.numbers)[positions]
    spaces = {space: found for space, found in columns.items() if space != "features"}
    return KeptSplit(images.whole, places, labels, columns["features"],
                     ranks={space: found[:, 0] for space, found in spaces.items()},
                     best={space: found[:, 1:] for space, found in spaces.items()})


def _plain_scores(model, images, classifiers, spaces):
    """Score images by CLIP in one pass through its image tower -> {label space: (B, sum of its classes)};
    {} without spaces."""
    if not spaces:
        return {}
    features, scale = image_features(model, images), model.logit_scale.exp()
    needed = dict.fromkeys(part for names in spaces.values() for part in names)
    scores = {part: classifiers[part](features, scale) for part in needed}
    return {space: torch.cat([scores[part] for part in names], dim=1) for space, names in spaces.items()}


class _Tally:
    """Hits in one label space: the classes of ``parts`` [(dataset, number of classes)] side by side."""

    def __init__(self, own, parts, images, device, world, keeps):
        sizes, self.world, self.images, self.keeps = dict(parts), world, images, keeps
        self.sizes, self.places, self.rows = sizes, [], []
        self.names, self.classes = list(sizes), sum(sizes.values())
        self.first = sum(sizes[name] for name in self.names[:self.names.index(own)])  # index of the first own class
        self.k, self.total, self.video = min(5, self.classes), 0, images.split.video
        self.hits, self.predictions = torch.zeros(self.k, dtype=torch.long, device=device.device), []
        self.by_class = torch.zeros(2, sizes[own], dtype=torch.long, device=device.device)  # top-1 hits, images

    def add(self, joined, batch):
        """Add the scores (B, sum of C) of a Batch, whose labels (B,) are among the own classes."""
        labels = batch.labels
        hits = top_k_hits(joined, labels + self.first, self.k)                             # (B, k)
        self.hits += hits.sum(dim=0)
        self.total += len(labels)
        self.by_class.index_add_(1, labels, torch.stack([hits[:, 0].long(), torch.ones_like(labels)]))
        if self.keeps:
            self.places.append(batch.indices)  # kept on the host: no copy waits for the device
            self.rows.append(self._rows(joined, labels))
        if self.video is not None:  # a class of another dataset is negative or too large: a miss
            self.predictions += (joined.argmax(dim=1) - self.first).tolist()

    def scores(self):
        """Return the Scores over all processes' images, each counted once."""
        *hits, total = self.world.sum(torch.cat([self.hits, self.hits.new_tensor([self.total])])).tolist()
        top1, top5 = 100 * hits[0] / total, 100 * hits[-1] / total
        self.by_class = self.world.sum(self.by_class)
        per_class = mean_per_class(*self.by_class.tolist())
        if self.video is None:
            return Scores(top1, top5, self.k, total, per_class=per_class)
        top1, pm0, pm10 = self.video.scores(self.world.interleave(self.predictions, len(self.images.split)))
        return Scores(top1, top5, self.k, total, pm0, pm10, per_class)

    def _rows(self, joined, labels):
        """Return, per image, its label, the predicted class, its probability, the label's cross-entropy and
        the label's rank, (B, 5). Double precision holds all of them."""
        wide = joined if joined.device.type == "mps" else joined.double()
        ranks = (~top_k_hits(joined, labels + self.first, joined.shape[1])).sum(dim=1) + 1
        logs, predicted = wide.log_softmax(dim=1), joined.argmax(dim=1)
        chosen = logs.gather(1, predicted[:, None])[:, 0].exp()
        losses = -logs.gather(1, labels[:, None] + self.first)[:, 0]
        return torch.stack([column.to(wide.dtype) for column in (labels, predicted, chosen, losses, ranks)], dim=1)

    def collect(self):
        """Return the Predictions over all processes' images; call after ``scores``, which sums the counts
        per class."""
        size = len(self.images.split)
        own = [None] * len(range(self.world.rank, size, self.world.size))
        for places, rows in zip(self.places, self.rows, strict=True):
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                own[place] = row
        whole = zip(self.images.numbers, self.world.interleave(own, size), strict=True)
        numbers, rows = zip(*((number, row) for number, row in whole if row is not None), strict=True)
        labels, predicted, probabilities, losses, ranks = zip(*rows, strict=True)
        owners = [(name, number) for name in self.names for number in range(self.sizes[name])]
        hits, support = self.by_class.tolist()
        return Predictions(self.images.whole, list(numbers), list(map(int, labels)),
                           [owners[int(number)] for number in predicted], list(probabilities), list(losses),
                           list(map(int, ranks)), hits, support)


def classify_image(model, image, classnames, device, template="a photo of a {c}."):
    """Classify a PIL image -> [(class name, probability)], highest first, at most five: softmax of s * cosine."""
    return classify_split(model, Split(lambda index: image, [0]), classnames, device, template)[0]


@torch.no_grad()
def classify_split(model, split, classnames, device, template="a photo of a {c}.", batch_size=128, workers=0,
                   head=None, method=None, name="", source="", most=5):
    """Classify the images of a split that could be decoded -> {position: ``classify_image``'s list, of the
    ``most`` probable classes}. Prompts are encoded once.

    A packed ``head`` (C, D + 1) trained on these classes replaces the prompts; so do the scores of
    ``method`` (see ``evaluate``) in label space "task", if it returns any. ``name`` and ``source``: those
    of Classes.
    """
    scorer = classifier(model, Task("images", classnames, [template], {}), device, head).named(name, source)
    if method is not None:
        with in_eval_mode(model), device.autocast():
            batches = numbered_batches(model, split, device, batch_size, workers)
            positions, scores = _by_method(model, batches, scorer, method)
    else:
        positions, features = encode_split(model, split, device, batch_size, workers)
        scores = scorer(features, model.logit_scale.exp())                          # (N, C)
    values, indices = scores.softmax(dim=-1).topk(min(most, len(classnames)))
    return {position: [(classnames[index], value) for index, value in zip(*row, strict=True)]
            for position, *row in zip(positions, indices.tolist(), values.tolist(), strict=True)}


def _by_method(model, batches, scorer, method):
    """Score by a method, or by CLIP if it returns None -> (positions of the images that could be decoded, (N, C))."""
    positions, scores = [], []
    for batch in batches:
        own = (method(batch.images, {"task": [scorer.classes]}) or {}).get("task")
        plain = own is None
        scores.append(scorer(image_features(model, batch.images), model.logit_scale.exp()) if plain else own)
        positions += batch.labels.tolist()
    return positions, torch.cat(scores)
