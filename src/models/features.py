"""Features of a split's images, by one process or several."""

from dataclasses import replace

import torch

from src.datasets.loading import evaluation_batches
from src.datasets.transforms import EvalTransform
from src.machine.distributed import World
from src.models.modeling import ImageEncoder, in_eval_mode


def uncounted(name, images, batches):
    """The Batches themselves, of a dataset of which ``images`` are scored here. In its place ``Progress.counted`` shows
    how far they are."""
    return batches


def numbered_batches(model, split, device, batch_size, workers):
    """Iterator over a split's Batches on the device, in order. A row's label is its position: images that cannot be
    decoded are missing."""
    numbered = replace(split, labels=range(len(split)))
    return device.batches(evaluation_batches(numbered, EvalTransform(model.image_resolution), batch_size, workers))


@torch.no_grad()
def encode_split(model, split, device, batch_size=128, workers=0, world=None, counted=uncounted, name=""):
    """Features of a split's images under the evaluation transform -> (positions of those that could be decoded,
    (N, D) L2-normalised). Processes share the images, and each has all features. ``counted``: see ``uncounted``."""
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
