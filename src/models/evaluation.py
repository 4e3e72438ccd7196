"""Zero-shot classification: classifier weights, accuracy, one image."""

import contextlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from src.datasets.cache import as_it_is, cached_split
from src.datasets.common import balanced_subset, evaluation_batches, fill
from src.datasets.transforms import EvalTransform
from src.models.helpers import similarity, top_k_hits
from src.models.modeling import constant_text_features, image_features, tokens_of

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


@torch.no_grad()
def plain_logits(model, images, heads):
    """CLIP's own scores: (B, 3, R, R) and [(D, C_t)] -> [(B, C_t)]."""
    features = image_features(model, images)
    return [similarity(features, head.T, model.logit_scale.exp()) for head in heads]


@torch.no_grad()
def evaluate(model, task, device, split="test", batch_size=128, max_size=None, workers=0, logits=None, cache=None):
    """Scores of a model on one split of a task. ``max_size`` images are drawn evenly over the classes.

    ``logits(images, heads) -> [(B, C_t)] or None`` takes the place of CLIP's own scores where it gives some. ``cache``:
    folder under which decoded images are kept.
    """
    images, transform = task.split(split), EvalTransform(model.image_resolution)
    if cache is not None:
        images = cached_split(images, f"{task.name}-{split}", transform, cache, workers)
        transform, workers = as_it_is, 0
    if max_size is not None and images.video is None:  # frames count together with their neighbours
        images = images.subset(balanced_subset(images.labels, max_size, SUBSET_SEED))
    k = min(5, len(task.classnames))
    hits, total, predictions = torch.zeros(k, dtype=torch.long, device=device.device), 0, []
    with in_eval_mode(model), device.autocast():
        heads = [zeroshot_weights(model, task.classnames, task.templates)]
        for batch in map(device.batch, evaluation_batches(images, transform, batch_size, workers)):
            scores = (logits and logits(batch.images, heads)) or plain_logits(model, batch.images, heads)
            hits += top_k_hits(scores[0], batch.labels, k).sum(dim=0)
            total += len(batch.labels)
            if images.video is not None:
                predictions += scores[0].argmax(dim=1).tolist()
    top1, top5 = (100 * hits[[0, -1]].double() / total).tolist()
    if images.video is None:
        return Scores(top1, top5, k, total)
    top1, pm0, pm10 = images.video.scores(predictions)
    return Scores(top1, top5, k, total, pm0, pm10)


@torch.no_grad()
def classify_image(model, image, classnames, device, template="a photo of a {c}."):
    """PIL image -> [(class name, probability)], highest first: softmax of s * cosine, at most five."""
    pixels = device.images(EvalTransform(model.image_resolution)(image)[None])
    with in_eval_mode(model), device.autocast():
        head = zeroshot_weights(model, classnames, [template])
        probabilities = plain_logits(model, pixels, [head])[0][0].softmax(dim=-1)   # (C,)
    values, indices = probabilities.topk(min(5, len(classnames)))
    return [(classnames[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True)]
