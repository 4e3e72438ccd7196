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
    """1/2 [CE(e^s M, y) + CE(e^s M^T, y)] over the cosines M = I T^T of a batch of N pairs, y_i = i; s is trained and
    kept in [0, ln 100]."""

    def begin(self, state):
        split = state.task.split("train")
        captions = [caption for texts in split.captions for caption in texts]
        self.tokens = clip.tokenize(captions, state.model.context_length)                        # (M, L) on the host
        self.lengths = self.tokens.argmax(dim=-1) + 1
        state.model.logit_scale.requires_grad_(True)

    def pairs(self, state, batch):
        """The batch's tokens (N, L'), cut behind the longest caption without waiting for the device."""
        rows = batch.labels_on_host
        return self.tokens[rows, :int(self.lengths[rows].max())].to(batch.images.device, non_blocking=True)

    def losses(self, state, batch):
        images = image_features(state.model, batch.images)                                       # (N, D)
        texts = text_features(state.model, self.pairs(state, batch))                             # (N, D)
        scale = state.model.logit_scale.exp()
        state.metrics["scale"] = scale.detach()
        return {"contrastive": contrastive(similarity(images, texts, 1.0), scale)}

    @torch.no_grad()
    def after_step(self, state):
        state.model.logit_scale.clamp_(0, LARGEST_SCALE)


class ModX(Contrastive):
    """Contrastive, and alpha / 2 [D(O, M) + D(O^T, M^T)]: the off-diagonal cosines stay as the model had them when it
    entered the task, O, wherever it ranked the own pair first (``off_diagonal``)."""

    def __init__(self, modx_alpha=20.0, modx_temperature=1.0, modx_reduction="sum"):
        self.alpha, self.temperature, self.reduction = modx_alpha, modx_temperature, modx_reduction

    def begin(self, state):
        super().begin(state)
        self.old = state.frozen()

    def losses(self, state, batch):
        tokens = self.pairs(state, batch)
        images, texts = image_features(state.model, batch.images), text_features(state.model, tokens)  # (N, D)
        with torch.no_grad():
            old = similarity(image_features(self.old, batch.images), text_features(self.old, tokens), 1.0)
        cosines = similarity(images, texts, 1.0)                                                 # (N, N)
        scale = state.model.logit_scale.exp()
        state.metrics["scale"] = scale.detach()
        terms = []
        for name, before, now in (("i2t", old, cosines), ("t2i", old.T, cosines.T)):
            loss, kept = off_diagonal(before, now, self.temperature, self.reduction)
            state.metrics[f"keep_{name}"] = kept
            terms.append(loss)
        return {"contrastive": contrastive(cosines, scale), "off_diagonal": self.alpha / 2 * sum(terms)}


def contrastive(cosines, scale):
    """(N, N) cosines of N pairs -> the mean of both directions' cross-entropies, each pair's own being right."""
    own = torch.arange(len(cosines), device=cosines.device)
    return (F.cross_entropy(scale * cosines, own) + F.cross_entropy(scale * cosines.T, own)) / 2


def off_diagonal(old, new, temperature=1.0, reduction="sum"):
    """D(O, M) = sum over rows i of keep_i KL(softmax(O_i / T) || softmax(M_i / T)), keep_i where O_i is largest at i;
    (N, N) cosines each -> (scalar, share of kept rows).

    The paper overwrites a wrong row of O by the new model's; such a row has no divergence and no gradient.
    """
    keep = old.argmax(dim=1) == torch.arange(len(old), device=old.device)                        # (N,)
    target = F.log_softmax(old.detach() / temperature, dim=1)
    rows = F.kl_div(F.log_softmax(new / temperature, dim=1), target, reduction="none", log_target=True).sum(dim=1)
    rows = torch.where(keep, rows, rows.new_zeros(()))
    return rows.sum() if reduction == "sum" else rows.mean(), keep.to(rows.dtype).mean()
