"""DDAS, the choice of a router for an image (Yu et al., 2024, arXiv:2403.11549).

An autoencoder per task: its error measures how unlike the task's images another image is. Formulas and
sources: docs/methods/moe-adapters.md.
"""

import functools
import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from src.errors import UserError
from src.models.modeling import image_features, in_eval_mode
from src.models.training import weighed

PLAIN = -1  # instead of a router's index: CLIP without experts
HIDDEN, WEIGHT_DECAY = 100, 1e-4  # of an autoencoder and its Adam
THRESHOLDS = {"alexnet": 0.0655, "clip": "95%"}  # --ddas-threshold, by --ddas-features
ALEXNET_SIDE, ALEXNET_SIZE = 224, 256 * 13 * 13
SHOWN_EVERY = 100  # steps


@functools.cache
def alexnet():
    """Load AlexNet with torchvision's ImageNet weights up to its fifth convolution, (B, 3, 224, 224) -> (B,
    256, 13, 13). Raise UserError if they cannot be loaded."""
    from torchvision import models
    weights = models.AlexNet_Weights.IMAGENET1K_V1
    try:
        return models.alexnet(weights=weights).features[:11].eval().requires_grad_(False)
    except (OSError, RuntimeError) as error:  # no network, no room, a damaged file
        raise UserError("--ddas-features alexnet: torchvision cannot load its ImageNet weights of AlexNet "
                        f"({error}); put {weights.url.rpartition('/')[2]} into {torch.hub.get_dir()}/checkpoints, or "
                        "give --ddas-features clip") from None


def alexnet_inputs(model, images):
    """Map images normalised for CLIP to AlexNet's features, (B, 3, R, R) -> (B, 43264)."""
    if images.shape[-1] != ALEXNET_SIDE:
        images = F.interpolate(images, size=2 * (ALEXNET_SIDE,), mode="bilinear", antialias=True)
    with torch.autocast(images.device.type, enabled=False):
        return alexnet().to(images)(images).flatten(1).sigmoid()


def clip_inputs(model, images):
    """Map images to unit image features, rescaled because their values are of order 1 / sqrt(D), (B, 3, R,
    R) -> (B, D)."""
    features = image_features(model, images)
    return (math.sqrt(features.shape[1]) * features).sigmoid()


INPUTS = {"alexnet": alexnet_inputs, "clip": clip_inputs}  # by --ddas-features: plain CLIP, images -> (B, F)


class Autoencoder(nn.Sequential):
    """(B, F) -> (B, F). ``limit``: the error above which an image belongs to another kind, if it was measured."""

    def __init__(self, size):
        super().__init__(nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, size), nn.Sigmoid())
        self.register_buffer("limit", torch.tensor(math.inf))
        self.requires_grad_(False)

    @torch.no_grad()
    def errors(self, inputs):
        """Return the mean squared error of each input, (B, F) -> (B,)."""
        with torch.autocast(inputs.device.type, enabled=False):
            return (self(inputs) - inputs).square().mean(dim=1)


class DDAS(nn.Module):
    """One autoencoder per task, preceded by one for reference images, which belong to no task, if there are
    any.

    An image takes the router of the task whose autoencoder has the lowest error, the first in a tie; images
    scored together take the one with the lowest mean error. No router is taken if the reference wins, or if
    the error exceeds the threshold: a number, or a share such as "95%" of the task's validation images that
    must stay at or below it.
    """

    def __init__(self, model, tasks, ddas_features="alexnet", ddas_reference=None, ddas_threshold=None,
                 ddas_iterations=300, ddas_reference_iterations=1000, ddas_lr=0.01, ddas_decay=10):
        super().__init__()
        self.features, self.reference, self.lr, self.decay = ddas_features, ddas_reference, ddas_lr, ddas_decay
        self.steps, self.reference_steps = ddas_iterations, ddas_reference_iterations
        self.threshold = THRESHOLDS[ddas_features] if ddas_threshold is None else ddas_threshold
        self.chosen = {"features": ddas_features, "reference": ddas_reference or "none", "threshold": self.threshold}
        self.size = ALEXNET_SIZE if ddas_features == "alexnet" else model.text_projection.shape[1]
        self.first = int(ddas_reference is not None)  # index of the first task's autoencoder
        self.autoencoders = nn.ModuleList(Autoencoder(self.size) for _ in range(tasks and self.first + tasks))

    def fit(self, state, number):
        """Fit the autoencoder of the current task, whose index is ``number``; before the first task, fit
        the reference's too."""
        found = [*self.autoencoders]
        if self.first and not found:
            images = state.open_task(self.reference).reference_split
            found = [self._fitted(state, self.reference, images, self.reference_steps)]
        own = self._fitted(state, state.task.name, state.task.split("train"), self.steps)
        if isinstance(self.threshold, str) and not state.planned:
            own.limit.fill_(self._limit(state, own))
        found[self.first + number:self.first + number + 1] = [own]
        self.autoencoders = nn.ModuleList(found)

    def _fitted(self, state, name, split, steps):
        autoencoder = Autoencoder(self.size).to(state.model.logit_scale).requires_grad_(True)
        optimizer = torch.optim.Adam(autoencoder.parameters(), weight_decay=WEIGHT_DECAY)
        for step, (epoch, batch) in enumerate(itertools.islice(self._batches(state, name, split), steps), start=1):
            optimizer.param_groups[0]["lr"] = self.lr * 0.1 ** (epoch // self.decay if self.decay else 0)
            optimizer.zero_grad()
            inputs = self._inputs(state, batch.images)
            error = weighed(F.mse_loss(autoencoder(inputs), inputs), batch.weight)       # (B, F) x (B, F) -> scalar
            error.backward()
            state.world.average_gradients(autoencoder)
            optimizer.step()
            if step % SHOWN_EVERY == 0 or step == steps:
                mean = state.world.means({"error": error})["error"]
                print(f"DDAS: autoencoder of {name}, step {step} of {steps}, error {mean:.4g}", flush=True)
        return autoencoder.requires_grad_(False)

    def _batches(self, state, name, split):
        """Yield (index of the pass, Batch), one pass after the other; nothing in a dry run."""
        for epoch in itertools.count() if not state.planned else ():
            purpose = f"autoencoder of {name}, pass {epoch}"
            for batch in state.once(split, purpose, state.settings.batch_size, train_transform=True, shuffle=True):
                yield epoch, batch

    def _limit(self, state, autoencoder):
        """Return the error that the share ``threshold`` of the task's validation images stays at or below."""
        kind = "val" if "val" in state.task.splits else "train"
        if kind == "train":
            print(f"note: {state.task.name} has no val split; --ddas-threshold {self.threshold} uses training images")
        split = state.task.split(kind)
        found = state.model.logit_scale.new_zeros(2, len(split))  # errors, and which images were read
        for batch in state.once(split, "DDAS threshold", state.settings.batch_size):
            found[0, batch.indices] = autoencoder.errors(self._inputs(state, batch.images))
            found[1, batch.indices] = 1
        errors, read = state.world.sum(found)
        return errors[read > 0].quantile(float(self.threshold[:-1]) / 100)

    @torch.no_grad()
    def _inputs(self, state, images):
        with state.device.autocast(), in_eval_mode(state.model):
            return INPUTS[self.features](state.model, images)

    def routes(self, model, images, together):
        """Return the index of the task whose router each image takes, or PLAIN: images -> (B,). With
        ``together``, all take one."""
        inputs = INPUTS[self.features](model, images)                                    # (B, F)
        errors = torch.stack([autoencoder.errors(inputs) for autoencoder in self.autoencoders])  # (A, B)
        if together:
            errors = errors.mean(dim=1, keepdim=True).expand_as(errors)
        best, limit = errors.argmin(dim=0), self.threshold                               # (B,)
        if isinstance(limit, str):
            limit = torch.stack([autoencoder.limit for autoencoder in self.autoencoders])[best]
        routed = (best >= self.first) & (errors.amin(dim=0) <= limit)
        return torch.where(routed, best - self.first, PLAIN)
