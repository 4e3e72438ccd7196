"""Linear evaluation: one linear layer trained on the frozen image tower's features.

    scores = linear_evaluation(model, task, Device())

The recipe is that of Mod-X (Ni et al., 2023): features before L2 normalisation, weights from N(0, 0.01^2),
bias 0, SGD with momentum 0.9, a cosine schedule stepped once per epoch. Every epoch sees every training
image, including the last partial batch. The layer is scored once, after the last epoch: test images select
nothing.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F

from src.datasets.cache import as_it_is
from src.datasets.common import Split
from src.datasets.loading import evaluation_batches
from src.datasets.seeds import balanced_subset, order_of_epoch, seed_of
from src.datasets.transforms import AugmentTransform, MarginTransform
from src.errors import UserError
from src.machine.distributed import World
from src.models.evaluation import Scores, mean_per_class
from src.models.helpers import learning_rate, top_k_hits
from src.models.modeling import ClassificationHead, in_eval_mode

UNSEEN = -1  # the label of an image that could not be decoded


def linear_evaluation(model, task, device, epochs=100, lr=0.3, wd=1e-6, batch_size=256, percent=100,
                      cache_features=False, seed=42, workers=0, world=None, log=None, split="test", keep=None,
                      start=None):
    """Train a linear layer on a task's ``train`` images and return its Scores, in percent, on ``split``, or
    on ``val`` if the task has no test images. The model is not changed.

    ``percent``: 100, 10 or 1, the share of training images used, the same number per class as far as
    available, at least one (Chen et al., 2020); the smaller share is a subset of the larger. The other
    options are those of ``train_head``. Raises UserError for another ``percent``, or a task without these
    splits.
    """
    if percent not in (100, 10, 1):
        raise UserError(f"--linear-percent {percent}: give one of 100, 10, 1")
    seed, train = seed_of(seed, task.name, "linear evaluation"), task.split("train")
    scored = task.split("val" if split == "test" and "test" not in task.splits else split)
    count = max(len(set(train.labels)), round(len(train) * percent / 100))
    train = train.subset(balanced_subset(train.labels, count, seed_of(seed, "subset")))
    head = train_head(model, train, len(task.classnames), device, epochs, lr, wd, batch_size, cache_features,
                      seed, workers, world, log, keep, start)
    return score_head(model, head, scored, device, batch_size, workers, world)


def train_head(model, split, classes, device, epochs=100, lr=0.3, wd=1e-6, batch_size=256, cache_features=False,
               seed=42, workers=0, world=None, log=None, keep=None, start=None):
    """Train a ClassificationHead (classes, D) on a split's images and return it; D is the model's.

    ``lr`` is the rate of the first epoch, ``wd`` acts on weights and bias, ``batch_size`` is over all
    processes. ``cache_features``: no augmentation; each image is encoded once and its features stay on the
    device. After each epoch ``log({"epoch", "loss", "lr"})`` is called with the mean loss over its images,
    then ``keep({"iteration", "head", "optimizer"})`` with the epochs done. Pass the latter as ``start`` to
    resume there, bit for bit. Raises UserError if the processes cannot share ``batch_size`` evenly.
    """
    world = world or World()
    if batch_size % world.size:
        raise UserError(f"--linear-batch-size {batch_size} must divide by the number of processes, {world.size}")
    local, like, width = batch_size // world.size, model.logit_scale.detach(), model.text_projection.shape[1]
    generator = torch.Generator().manual_seed(seed_of(seed, "weights"))
    weight = 0.01 * torch.randn(classes, width, generator=generator, dtype=torch.float64)  # same in every precision
    head = ClassificationHead(weight.to(like), like.new_zeros(classes))
    optimizer = torch.optim.SGD(head.parameters(), lr, momentum=0.9, weight_decay=wd)
    if start:
        head.load_state_dict(start["head"])
        optimizer.load_state_dict(start["optimizer"])
    nothing = like.new_zeros(0, width), torch.zeros(0, dtype=torch.long, device=like.device)
    with in_eval_mode(model):
        if cache_features:
            features, labels = _all_features(model, split, device, local, workers, world)
        for epoch in range(start["iteration"] if start else 0, epochs):
            optimizer.param_groups[0]["lr"] = learning_rate(epoch, epochs, 0, lr)
            # Every size-th row of the order: this process's rows of each global batch.
            rows = order_of_epoch(len(split), seed, epoch)[world.rank::world.size]
            if cache_features:
                batches = ((features[part], labels[part]) for part in labels.new_tensor(rows).split(local))
            else:
                views = _augmented(split, rows, AugmentTransform(model.image_resolution), seed, epoch)
                batches = _encoded(model, views, as_it_is, device, local, workers)
            total, images = 0, 0
            for _ in range(0, len(split), batch_size):
                # A process may have no row in a small last batch; it still takes part in the average.
                loss, seen = _step(head, optimizer, *next(batches, nothing), world)
                total, images = total + loss, images + seen
            mean = (world.sum(total) / images).item()  # even without a log, since all processes must sum or none
            if log:
                log({"epoch": epoch, "loss": mean, "lr": optimizer.param_groups[0]["lr"]})
            if keep:
                keep({"iteration": epoch + 1, "head": head.state_dict(), "optimizer": optimizer.state_dict()})
    return head


def _step(head, optimizer, features, labels, world):
    """Take one step on this process's rows (B, D), (B,) of a batch -> (sum of their losses, images in the
    whole batch)."""
    seen = world.sum((labels != UNSEEN).sum())
    loss = F.cross_entropy(head(features), labels, ignore_index=UNSEEN, reduction="sum")
    optimizer.zero_grad()
    # The mean over processes of size / seen * (sum over own rows) equals the mean over the batch's rows.
    (loss * world.size / seen.clamp(min=1)).backward()
    world.average_gradients(head)
    optimizer.step()
    return loss.detach(), seen


@torch.no_grad()
def score_head(model, head, split, device, batch_size=256, workers=0, world=None):
    """Score a trained head on a split, every image once, ``batch_size`` images at a time over all processes."""
    world, k = world or World(), min(5, len(head.bias))
    own, local = split.subset(range(world.rank, len(split), world.size)), max(1, batch_size // world.size)
    counts = torch.zeros(k + 1, dtype=torch.long, device=head.bias.device)              # hits among 1 to k, images
    by_class = counts.new_zeros(2, len(head.bias))                                      # hits, images
    with in_eval_mode(model):
        for features, labels in _encoded(model, own, MarginTransform(model.image_resolution), device, local, workers):
            hits = top_k_hits(head(features), labels, k)
            counts[:k] += hits.sum(dim=0)
            counts[k] += len(labels)
            by_class.index_add_(1, labels, torch.stack([hits[:, 0].long(), torch.ones_like(labels)]))
    *hits, images = world.sum(counts).tolist()
    return Scores(100 * hits[0] / images, 100 * hits[-1] / images, k, images,
                  per_class=mean_per_class(*world.sum(by_class).tolist()))


def _augmented(split, rows, transform, seed, epoch):
    """Return a split's ``rows``, transformed. Each row has its own seed, whichever process or worker reads it."""
    def image(position):
        found = split.image(rows[position])
        return None if found is None else transform(found, seed_of(seed, epoch, rows[position]))
    return Split(image, [split.labels[row] for row in rows])


def _encoded(model, split, transform, device, batch_size, workers):
    """Yield pairs (B, D), (B,): unnormalised features in the weights' dtype, and labels, of the images that
    decode."""
    for batch in device.batches(evaluation_batches(split, transform, batch_size, workers)):
        with torch.no_grad(), device.autocast():
            features = model.encode_image(batch.images)
        yield features.to(model.logit_scale.dtype), batch.labels


def _all_features(model, split, device, batch_size, workers, world):
    """Return (N, D), (N,) of all N images on every process; each image is encoded by one of them."""
    rows = range(world.rank, len(split), world.size)
    numbered = replace(split.subset(rows), labels=rows)  # a row keeps its index even if others are skipped
    true = torch.tensor(split.labels, device=model.logit_scale.device)
    features = model.logit_scale.new_zeros(len(split), model.text_projection.shape[1])
    labels = torch.zeros_like(true)  # label + 1, so that 0, the sum for an image no process saw, maps to UNSEEN
    transform = MarginTransform(model.image_resolution)
    for found, places in _encoded(model, numbered, transform, device, batch_size, workers):
        features[places], labels[places] = found, true[places] + 1
    return world.sum(features), world.sum(labels) - 1
