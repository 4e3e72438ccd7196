"""Features of a split's images, by one process or several: encoding them, keeping them, and using them
instead of images."""

import contextlib
from dataclasses import replace

import torch

from src.datasets.loading import evaluation_batches
from src.datasets.transforms import EvalTransform
from src.machine.distributed import World
from src.models.helpers import top_k_hits
from src.models.modeling import ImageEncoder, in_eval_mode

STORED = torch.float16  # dtype of kept features
BLOCK = 2 ** 22  # values exchanged between processes at a time


def uncounted(name, images, batches):
    """Return the Batches of a dataset, of which ``images`` are scored here. ``Progress.counted`` replaces
    it to show progress."""
    return batches


def numbered_batches(model, split, device, batch_size, workers):
    """Return an iterator over a split's Batches on the device, in order. A row's label is its position;
    undecodable images are missing."""
    numbered = replace(split, labels=range(len(split)))
    return device.batches(evaluation_batches(numbered, EvalTransform(model.image_resolution), batch_size, workers))


@torch.no_grad()
def encode_split(model, split, device, batch_size=128, workers=0, world=None, counted=uncounted, name=""):
    """Encode a split's images under the evaluation transform -> (positions of those that could be decoded,
    (N, D) L2-normalised). Processes share the images, and each gets all features. ``counted``: see
    ``uncounted``."""
    world = world or World()
    if world.size > 1:
        return _encode_together(model, split, device, batch_size, workers, world, counted, name)
    encoder, positions, features = ImageEncoder(model), [], []
    with in_eval_mode(model), device.autocast():
        batches = numbered_batches(model, split, device, batch_size, workers)
        for batch in counted(name, len(split), batches):
            positions.append(batch.labels)
            features.append(encoder(batch.images))
    return torch.cat(positions).tolist(), torch.cat(features)


def _encode_together(model, split, device, batch_size, workers, world, counted, name):
    """Run ``encode_split`` in several processes: each puts its rows into a table of zeros, and the tables
    are summed."""
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


# -- kept features, and features instead of images ---------------------------------------------------------------------


@contextlib.contextmanager
def recorded(model):
    """Record inside the context what each call of ``model.encode_image`` returns, (B, D) unnormalised, in
    the yielded list."""
    seen, encode = [], model.encode_image

    def record(images):
        seen.append(encode(images))
        return seen[-1]
    model.encode_image = record  # shadows the class's method during the pass
    try:
        yield seen
    finally:
        del model.encode_image


@contextlib.contextmanager
def features_as_images(model):
    """Make ``model.encode_image`` accept features (B, D) inside the context and return them unchanged."""
    model.encode_image = lambda features: features
    try:
        yield
    finally:
        del model.encode_image


class KeptRows:
    """What is kept of each image of this process's share: its feature, and per label space its k best
    classes and the rank of the true class.

    ``size``: images of all processes; ``width``: D; ``ks`` {label space: k}. Rows stay on the torch.device
    ``device`` until ``whole``.
    """

    def __init__(self, size, width, ks, device, world):
        self.size, self.ks, self.world, self.places = size, ks, world, [torch.zeros(0, dtype=torch.long)]
        self.columns = {"features": [torch.zeros(0, width, dtype=STORED, device=device)], **{
            space: [torch.zeros(0, 1 + k, dtype=torch.long, device=device)] for space, k in ks.items()}}

    def add(self, batch, features, scores, labels):
        """Add a Batch with its ``features`` (B, D), ``scores`` and ``labels`` {label space: (B, C), (B,)}."""
        self.places.append(batch.indices)  # kept on the host: no copy waits for the device
        self.columns["features"].append(features.to(STORED))
        for space, joined in scores.items():
            best = joined.argsort(dim=1, descending=True, stable=True)[:, :self.ks[space]]  # ties by class index
            rank = (~top_k_hits(joined, labels[space], joined.shape[1])).sum(dim=1, keepdim=True) + 1
            self.columns[space].append(torch.cat([rank, best], dim=1))

    def whole(self):
        """Gather all processes' rows on the host -> (positions (n,) of the images that could be decoded,
        {"features": (n, D), label space: (n, 1 + k), the rank before the best classes})."""
        own = torch.cat(self.places)
        if self.world.size == 1:
            return own, {name: torch.cat(rows).cpu() for name, rows in self.columns.items()}
        own = own * self.world.size + self.world.rank
        found = torch.zeros(self.size, dtype=torch.long)
        found[own] = 1
        found = self.world.sum(found.to(self.columns["features"][0].device)).cpu()
        positions = found.nonzero()[:, 0]
        return positions, {name: self._of_all(torch.cat(rows), own)[positions] for name, rows in self.columns.items()}

    def _of_all(self, rows, own):
        """Gather rows (n, W) at the positions ``own`` into (size, W) on the host, over all processes, block
        by block."""
        width, own = rows.shape[1], own.to(rows.device)
        blocks = []
        for first in range(0, self.size, height := max(1, BLOCK // width)):
            inside = (own >= first) & (own < first + height)
            block = rows.new_zeros(min(height, self.size - first), width)
            block[own[inside] - first] = rows[inside]
            blocks.append(self.world.sum(block).cpu())
        return torch.cat(blocks)
