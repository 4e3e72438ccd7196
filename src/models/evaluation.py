"""Zero-shot classification: classifier weights, accuracy, one image."""

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from src.datasets.cache import as_it_is, cached_split
from src.datasets.common import Split, Task, fill
from src.datasets.loading import evaluation_batches, joined_evaluation_batches
from src.datasets.seeds import balanced_subset
from src.datasets.transforms import EvalTransform
from src.errors import UserError
from src.machine.distributed import World
from src.models.helpers import similarity, top_k_hits
from src.models.modeling import ClassificationHead, ImageEncoder, constant_text_features, image_features, tokens_of

SUBSET_SEED = 0  # of --max-evaluation-size: the same images in every run
WITHOUT_TEXT = ("visual.", "head.", "logit_scale")  # of a CLIP: what no text feature depends on
CHUNK, CHUNK_OF_CPU = 2 ** 20, 2 ** 16  # words of a tensor that are summed at a time; a CPU keeps fewer in its cache
WORD = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int32}  # a value's bits as integers, by its bytes


@dataclass(frozen=True)
class Scores:
    """top-1 and top-k in percent over ``n`` images; k = min(5, number of classes). ``per_class`` is the mean of the
    classes' own top-1, over those that have an image; scores of older runs lack it. Frames of videos also have pm-0 and
    pm-10 (``src.datasets.video``)."""

    top1: float
    top5: float
    k: int
    n: int
    pm0: float | None = None
    pm10: float | None = None
    per_class: float | None = None

    def summary(self):
        """What a checkpoint's history tells."""
        return {"top1": self.top1, "top5": self.top5}

    def __str__(self):
        return f"{self.top1:.1f}"


def mean_per_class(hits, support):
    """Hits and images of each class -> the mean of the classes' own accuracies in percent, of those with images."""
    shares = [right / images for right, images in zip(hits, support, strict=True) if images]
    return 100 * sum(shares) / len(shares)


@contextlib.contextmanager
def in_eval_mode(model):
    """All modules in eval mode, uncompiled; afterwards each one's flag is as it was."""
    was_training = [module for module in model.modules() if module.training]
    compiled = any(module._compiled_call_impl for module in model.modules())
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
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


def other_classes(history, file, classnames):
    """Return why the head that a checkpoint keeps for the dataset ``file`` must not score these classes; None if the
    checkpoint's ``history`` names the same classes in the same order.

    Files are called by the last word of a path, which two datasets may share.
    """
    known = next((entry["classnames"] for entry in reversed(history)
                  if entry.get("dataset") == file and "classnames" in entry), None)
    if known is None:
        return "the checkpoint does not say which classes it was trained on"
    pairs = enumerate(itertools.zip_longest(known, classnames), start=1)
    for number, (there, here) in pairs:
        if there != here:
            return (f"it was trained on other classes or another order (number {number} of {len(known)} is {there!r} "
                    f"there, {here!r} here)")
    return None


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


class ZeroshotClassifiers:
    """Classifiers kept as long as the text tower that made them is the same, bit for bit; those of another one take
    their place."""

    def __init__(self, device):
        self.device, self._tower, self._kept = device, None, {}

    def __call__(self, model, tasks):
        """{name: Task} -> {name: its zero-shot Classifier}, built where this tower has not seen its prompts yet."""
        if tasks:
            self._forget_others((text_fingerprint(model), self.device.autocast_type))
        return {name: self._of(model, task) for name, task in tasks.items()}

    def _forget_others(self, tower):
        if tower != self._tower:
            self._tower, self._kept = tower, {}

    def _of(self, model, task):
        prompts = tuple(task.classnames), tuple(task.templates)
        if prompts not in self._kept:
            self._kept[prompts] = classifier(model, task, self.device)
        return self._kept[prompts]


def text_fingerprint(model):
    """A digest of all that a model's text features depend on: architecture and the bits of every tensor."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    return fingerprint([(name, tensor) for name, tensor in tensors if not name.startswith(WITHOUT_TEXT)],
                       repr(model.architecture))


@torch.no_grad()
def fingerprint(named, more=""):
    """[(name, tensor)], all on one device, and a text -> a digest in hex.

    Of each chunk of a tensor's bits, words w_i of 32, counts sum_i m_i w_i modulo 2^64 with random odd m_i: no change
    of one word keeps it, and a change of several does with probability 2^-32 at most. The sums are made where the
    tensors are, and the host waits once, for all of them.
    """
    digest, sums = hashlib.blake2b(more.encode(), digest_size=16), []
    for name, tensor in named:
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape), tensor.device)).encode())
        multipliers = _multipliers(tensor.device)
        words = tensor.contiguous().flatten().view(WORD[tensor.element_size()])
        sums += [(part * multipliers[:len(part)]).sum() for part in words.split(len(multipliers))]
    digest.update(repr(torch.stack(sums).tolist()).encode())
    return digest.hexdigest()


@functools.cache
def _multipliers(device):
    """Odd 64-bit integers, one a word of a chunk, the same in every process."""
    count = CHUNK_OF_CPU if device.type == "cpu" else CHUNK
    drawn = torch.randint(-2 ** 63, 2 ** 63 - 1, (count,), generator=torch.Generator().manual_seed(0))
    return (drawn | 1).to(device)


@torch.no_grad()
def head_of(built, model):
    """The ClassificationHead that scores as a model's zero-shot Classifier does: weight s * text features, bias 0."""
    weights = built.weights.T                                                        # (C, D)
    return ClassificationHead(model.logit_scale.exp() * weights, weights.new_zeros(len(weights)))


def zeroshot_head(model, task, device):
    """``head_of`` a task's zero-shot classifier."""
    return head_of(classifier(model, task, device), model)


def uncounted(name, images, batches):
    """The Batches themselves, of a dataset of which ``images`` are scored here. In its place ``Progress.counted`` shows
    how far they are."""
    return batches


@torch.no_grad()
def encode_split(model, split, device, batch_size=128, workers=0, world=None, counted=uncounted, name=""):
    """Features of a split's images under the evaluation transform -> (positions of those that could be decoded,
    (N, D) L2-normalised). Processes share the images, and each has all features. ``counted``: see ``uncounted``."""
    world = world or World()
    if world.size > 1:
        return _encode_together(model, split, device, batch_size, workers, world, counted, name)
    encoder, positions, features = ImageEncoder(model), [], []
    numbered = replace(split, labels=range(len(split)))  # whatever is skipped, a row knows its place
    with in_eval_mode(model), device.autocast():
        batches = evaluation_batches(numbered, EvalTransform(model.image_resolution), batch_size, workers)
        for batch in counted(name, len(split), device.batches(batches)):
            positions.append(batch.labels)
            features.append(encoder(batch.images))
    return torch.cat(positions).tolist(), torch.cat(features)


def _encode_together(model, split, device, batch_size, workers, world, counted, name):
    """``encode_split`` by several processes, each of which puts its rows into a table of zeros and sums."""
    like = model.logit_scale
    features = like.new_zeros(len(split), model.text_projection.shape[1])                   # (N, D)
    found = torch.zeros(len(split), dtype=torch.long, device=like.device)
    own = range(world.rank, len(split), world.size)
    if own:
        places, rows = encode_split(model, split.subset(own), device, batch_size, workers, None, counted, name)
        places = torch.tensor(places, device=like.device) * world.size + world.rank
        features[places], found[places] = rows, 1
    places = world.sum(found).nonzero()[:, 0]
    return places.tolist(), world.sum(features)[places]


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
    name = name or task.name
    classifiers = classifiers or {name: classifier(model, task, device)}
    joined = {name: spaces or {"task": (name,)}}
    return next(evaluate_each(model, {name: task}, device, classifiers, joined, split, batch_size, max_size,
                              {name: workers}, logits, cache, world))


@torch.no_grad()
def evaluate_each(model, tasks, device, classifiers, spaces, split="test", batch_size=128, max_size=None, workers=None,
                  logits=None, cache=None, world=None, counted=uncounted, keep=None):
    """For each of ``tasks`` {name: Task}, in order, what ``evaluate`` gives of it, scored when it is asked for. All
    are opened before the first is scored; those with equal ``workers`` {name: number} have one pool of them.

    ``spaces``: {name: what ``evaluate`` takes for that task}. ``counted``: see ``uncounted``. ``keep(name, space,
    Predictions)`` is called with every image's prediction, once a task and space. Other options are those of
    ``evaluate``.
    """
    world, workers = world or World(), workers or dict.fromkeys(tasks, 0)
    spaces = {name: {space: names for space, names in spaces[name].items() if name in names} for name in tasks}
    scored = {name: _open_images(task, split, model.image_resolution, max_size, workers[name], cache, world)
              for name, task in tasks.items() if spaces[name]}
    loaded = _loaded(scored.values(), batch_size, world)
    for name in tasks:
        yield {} if name not in scored else _scores(model, name, scored[name], next(loaded), device, classifiers,
                                                    spaces[name], logits, world, counted, keep)


@dataclass(frozen=True)
class _Images:
    """What is scored of a task, how it is transformed, and how many worker processes load it. ``whole`` is the split
    that it comes from, ``numbers`` are its images' numbers there."""

    split: Split
    transform: Callable[..., Any]
    workers: int
    whole: Split
    numbers: Sequence[int]

    def share(self, world):
        """(the images that this process of ``world`` scores, their transform)."""
        if world.size == 1:
            return self.split, self.transform
        return self.split.subset(range(world.rank, len(self.split), world.size)), self.transform


def _open_images(task, split, resolution, max_size, workers, cache, world):
    whole, transform = task.split(split), EvalTransform(resolution)
    if cache is not None:
        found = whole, f"{task.place or task.name}-{split}", transform, cache, workers
        whole = world.first_then_others(lambda: cached_split(*found))
        transform, workers = as_it_is, 0
    if max_size is None or whole.video is not None:  # frames count together with their neighbours
        return _Images(whole, transform, workers, whole, range(len(whole)))
    numbers = balanced_subset(whole.labels, max_size, SUBSET_SEED)
    return _Images(whole.subset(numbers), transform, workers, whole, numbers)


def _loaded(scored, batch_size, world):
    """For each of several _Images, in order, an iterator over this process's Batches; one pool a number of workers."""
    pools = {workers: joined_evaluation_batches([images.share(world) for images in scored if images.workers == workers],
                                                batch_size, workers)
             for workers in {images.workers for images in scored}}
    for images in scored:
        yield next(pools[images.workers])


@dataclass(frozen=True)
class Predictions:
    """The prediction of each scored image that could be decoded, in one label space: lists of equal length, in the
    order of the ``images`` Split.

    ``places``: the image's number there, also where only a subset is scored; ``labels``: its class; ``predictions``:
    (dataset, class number) of the highest score; ``probabilities``: its softmax; ``ranks``: the place of the true
    class, from 1. ``hits`` and ``support`` count per class.
    """

    images: Split
    places: Sequence[int]
    labels: Sequence[int]
    predictions: Sequence[tuple]
    probabilities: Sequence[float]
    ranks: Sequence[int]
    hits: Sequence[int]
    support: Sequence[int]


def _scores(model, own, images, batches, device, classifiers, spaces, logits, world, counted, keep):
    """{label space: Scores} of the ``own`` dataset's _Images, of which ``batches`` are this process's."""
    tallies = {space: _Tally(own, [(part, len(classifiers[part].classnames)) for part in names], images, device, world,
                             keep is not None)
               for space, names in spaces.items()}
    needed = list(dict.fromkeys(part for names in spaces.values() for part in names))
    heads = [classifiers[part].weights for part in needed]
    share = len(range(world.rank, len(images.split), world.size))
    with in_eval_mode(model), device.autocast():
        for batch in counted(own, share, device.batches(batches)):
            scores = logits and logits(batch.images, heads, needed)
            if not scores:
                features = image_features(model, batch.images)
                scores = [classifiers[part](features, model.logit_scale.exp()) for part in needed]
            scores = dict(zip(needed, scores, strict=True))
            for tally in tallies.values():
                tally.add(scores, batch)
    found = {space: tally.scores() for space, tally in tallies.items()}
    if keep is not None:
        for space, tally in tallies.items():
            keep(own, space, tally.collect())
    return found


class _Tally:
    """Hits in one label space: the classes of ``parts`` [(dataset, classes)] side by side."""

    def __init__(self, own, parts, images, device, world, keeps):
        sizes, self.world, self.images, self.keeps = dict(parts), world, images, keeps
        self.sizes, self.places, self.rows = sizes, [], []
        self.names, self.classes = list(sizes), sum(sizes.values())
        self.first = sum(sizes[name] for name in self.names[:self.names.index(own)])  # where the own classes begin
        self.k, self.total, self.video = min(5, self.classes), 0, images.split.video
        self.hits, self.predictions = torch.zeros(self.k, dtype=torch.long, device=device.device), []
        self.by_class = torch.zeros(2, sizes[own], dtype=torch.long, device=device.device)  # top-1 hits, images

    def add(self, scores, batch):
        """{dataset: (B, C)}, and the Batch with its (B,) labels among the own classes."""
        joined, labels = torch.cat([scores[name] for name in self.names], dim=1), batch.labels  # (B, sum of C)
        hits = top_k_hits(joined, labels + self.first, self.k)                             # (B, k)
        self.hits += hits.sum(dim=0)
        self.total += len(labels)
        self.by_class.index_add_(1, labels, torch.stack([hits[:, 0].long(), torch.ones_like(labels)]))
        if self.keeps:
            self.places.append(batch.indices)  # they stay on the host, where no copy waits for the device
            self.rows.append(self._rows(joined, labels))
        if self.video is not None:  # a class of another dataset is a negative number or one too large: a miss
            self.predictions += (joined.argmax(dim=1) - self.first).tolist()

    def scores(self):
        """Of all processes' images, each counted once."""
        *hits, total = self.world.sum(torch.cat([self.hits, self.hits.new_tensor([self.total])])).tolist()
        top1, top5 = 100 * hits[0] / total, 100 * hits[-1] / total
        self.by_class = self.world.sum(self.by_class)
        per_class = mean_per_class(*self.by_class.tolist())
        if self.video is None:
            return Scores(top1, top5, self.k, total, per_class=per_class)
        top1, pm0, pm10 = self.video.scores(self.world.interleave(self.predictions, len(self.images.split)))
        return Scores(top1, top5, self.k, total, pm0, pm10, per_class)

    def _rows(self, joined, labels):
        """(B, 4): of each image its label, the predicted class, its probability, and the rank of the label. Double
        precision holds all of them."""
        wide = joined if joined.device.type == "mps" else joined.double()
        ranks = (~top_k_hits(joined, labels + self.first, joined.shape[1])).sum(dim=1) + 1
        probabilities, predicted = wide.softmax(dim=1), joined.argmax(dim=1)
        chosen = probabilities.gather(1, predicted[:, None])[:, 0]
        return torch.stack([column.to(wide.dtype) for column in (labels, predicted, chosen, ranks)], dim=1)

    def collect(self):
        """Return the Predictions of all processes' images, once ``scores`` has summed the counts per class."""
        size = len(self.images.split)
        own = [None] * len(range(self.world.rank, size, self.world.size))
        for places, rows in zip(self.places, self.rows, strict=True):
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                own[place] = row
        whole = zip(self.images.numbers, self.world.interleave(own, size), strict=True)
        numbers, rows = zip(*((number, row) for number, row in whole if row is not None), strict=True)
        labels, predicted, probabilities, ranks = zip(*rows, strict=True)
        owners = [(name, number) for name in self.names for number in range(self.sizes[name])]
        hits, support = self.by_class.tolist()
        return Predictions(self.images.whole, list(numbers), list(map(int, labels)),
                           [owners[int(number)] for number in predicted], list(probabilities), list(map(int, ranks)),
                           hits, support)


def classify_image(model, image, classnames, device, template="a photo of a {c}."):
    """PIL image -> [(class name, probability)], highest first: softmax of s * cosine, at most five."""
    return classify_split(model, Split(lambda index: image, [0]), classnames, device, template)[0]


@torch.no_grad()
def classify_split(model, split, classnames, device, template="a photo of a {c}.", batch_size=128, workers=0,
                   head=None):
    """{position: what ``classify_image`` gives} of those of a split's images that could be decoded; the prompts are
    encoded once. A packed ``head`` (C, D + 1) that was trained on these classes takes the place of prompts."""
    task = Task("images", classnames, [template], {})
    scorer = classifier(model, task, device, head)
    positions, features = encode_split(model, split, device, batch_size, workers)
    logits = scorer(features, model.logit_scale.exp())                              # (N, C)
    values, indices = logits.softmax(dim=-1).topk(min(5, len(classnames)))
    return {position: [(classnames[index], value) for index, value in zip(*row, strict=True)]
            for position, *row in zip(positions, indices.tolist(), values.tolist(), strict=True)}
