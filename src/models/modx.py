"""Training on image-text pairs: Contrastive (Radford et al., 2021) and ModX (Ni et al., 2023, ICML, "Continual
Vision-Language Representation Learning with Off-Diagonal Information")."""

import math

import torch
import torch.nn.functional as F

import clip
from src.models.helpers import similarity
from src.models.hooks import Hooks
from src.models.modeling import image_features, text_features

LARGEST_SCALE = math.log(100)


class Contrastive(Hooks):
    """1/2 [CE(e^s M, y) + CE(e^s M^T, y)] over the cosines M = I T^T of a batch of N pairs, y_i = i; s is
    trained and clamped to [0, ln 100]."""

    data = "pairs"
    all_used = True

    def begin(self, state):
        split = state.task.split("train")
        captions = [caption for texts in split.captions for caption in texts]
        self.tokens = clip.tokenize(captions, state.model.context_length)                        # (M, L) on the host
        self.lengths = self.tokens.argmax(dim=-1) + 1
        state.model.logit_scale.requires_grad_(True)

    def pairs(self, state, batch):
        """Return the batch's tokens (N, L'), cut behind the longest caption without waiting for the device."""
        rows = batch.labels_on_host
        return self.tokens[rows, :int(self.lengths[rows].max())].to(batch.images.device, non_blocking=True)

    def losses(self, state, batch):
        images = image_features(state.model, batch.images)                                       # (n, D)
        texts = text_features(state.model, self.pairs(state, batch))                             # (n, D)
        i2t, t2i = both_ways(state.world, images, texts)
        scale = state.model.logit_scale.exp()
        state.metrics["scale"] = scale.detach()
        return {"contrastive": contrastive(i2t, scale, t2i, state.world.first_row(images))}

    @torch.no_grad()
    def after_step(self, state):
        state.model.logit_scale.clamp_(0, LARGEST_SCALE)


class ModX(Contrastive):
    """Contrastive plus alpha / 2 [D(O, M) + D(O^T, M^T)]: keeps the off-diagonal cosines at O, those of the
    model at the start of the task, wherever it ranked the own pair first (``off_diagonal``)."""

    all_used = True

    def __init__(self, modx_alpha=20.0, modx_temperature=1.0, modx_reduction="sum"):
        self.alpha, self.temperature, self.reduction = modx_alpha, modx_temperature, modx_reduction

    def begin(self, state):
        super().begin(state)
        self.old = state.teacher

    def losses(self, state, batch):
        tokens, world = self.pairs(state, batch), state.world
        images, texts = image_features(state.model, batch.images), text_features(state.model, tokens)  # (n, D)
        with torch.no_grad():
            before = both_ways(world, image_features(self.old, batch.images), text_features(self.old, tokens))
        now, first = both_ways(world, images, texts), world.first_row(images)
        scale = state.model.logit_scale.exp()
        state.metrics["scale"] = scale.detach()
        # The step averages over processes, and the mean of (processes * sum over own rows) is the sum over all.
        share = world.size if self.reduction == "sum" else 1
        terms = []
        for name, old, new in zip(("i2t", "t2i"), before, now, strict=True):
            loss, kept = off_diagonal(old, new, self.temperature, self.reduction, first)
            state.metrics[f"keep_{name}"] = kept
            terms.append(share * loss)
        return {"contrastive": contrastive(now[0], scale, now[1], first), "off_diagonal": self.alpha / 2 * sum(terms)}


def both_ways(world, images, texts):
    """Return the cosines (n, N) of the own images with all processes' texts, and of the own texts with all
    processes' images, from features (n, D) of the own pairs."""
    i2t = similarity(images, world.gather(texts), 1.0)
    return i2t, i2t.T if world.size == 1 else similarity(texts, world.gather(images), 1.0)


def contrastive(i2t, scale, t2i=None, first=0):
    """Return the mean of both directions' cross-entropies, from cosines (n, N) of n images with N texts and
    of the n texts with N images (None: the transpose); the partner of row i is column ``first`` + i."""
    own = first + torch.arange(len(i2t), device=i2t.device)
    t2i = i2t.T if t2i is None else t2i
    return (F.cross_entropy(scale * i2t, own) + F.cross_entropy(scale * t2i, own)) / 2


def off_diagonal(old, new, temperature=1.0, reduction="sum", first=0):
    """Return D(O, M) = sum over rows i of keep_i KL(softmax(O_i / T) || softmax(M_i / T)) and the share of
    kept rows, from (n, N) cosines each. keep_i is 1 if O_i is largest at its own partner, column ``first``
    + i.

    The paper overwrites a wrong row of O with the new model's; such a row has zero divergence and no
    gradient.
    """
    keep = old.argmax(dim=1) == first + torch.arange(len(old), device=old.device)                # (n,)
    target = F.log_softmax(old.detach() / temperature, dim=1)
    rows = F.kl_div(F.log_softmax(new / temperature, dim=1), target, reduction="none", log_target=True).sum(dim=1)
    rows = torch.where(keep, rows, rows.new_zeros(()))
    return rows.sum() if reduction == "sum" else rows.mean(), keep.to(rows.dtype).mean()
