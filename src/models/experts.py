"""Mixtures of experts beside the MLPs of both towers, with one router per task: the modules of MoE-Adapters
(Yu et al., 2024, arXiv:2403.11549). Formulas and sources: docs/methods/moe-adapters.md."""

import contextlib
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

CHOSEN, SCALE, LEAST_NOISE = 2, 0.1, 0.01


class Expert(nn.Module):
    """Two layers, W -> rank -> W; initially returns zero."""

    def __init__(self, width, rank):
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        for value in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(value)


class Mixture(nn.Module):
    """(B, L, W) -> (B, L, W): the two experts that a task's router picks for a sequence by its first token.

    ``routers`` (2, W, E), one per task: weights of the experts' logits, and of the noise on them.
    ``counts`` (E,): number of sequences of the current task that picked each expert. ``frozen``: indices of
    experts that no longer train.
    """

    def __init__(self, width, experts, rank, dropout):
        super().__init__()
        self.experts = nn.ModuleList(Expert(width, rank) for _ in range(experts))
        self.routers, self.dropout, self.frozen = nn.ParameterList(), nn.Dropout(dropout), []
        self.register_buffer("counts", torch.zeros(experts, dtype=torch.long))
        self.noise = None  # (B, E), standard normal, on the logits of a training step
        self.chosen = None  # (E,), counts of the training step under way, while it computes its loss

    def add_router(self):
        like = self.experts[0].down.weight                                               # (rank, W)
        self.routers.append(nn.Parameter(like.new_zeros(2, like.shape[1], len(self.experts))))

    def train_task(self, task):
        """Unfreeze a task's router and the experts that are not ``frozen``, and count from zero."""
        self.counts.zero_()
        for number, expert in enumerate(self.experts):
            expert.requires_grad_(number not in self.frozen)
        for number, router in enumerate(self.routers):
            router.requires_grad_(number == task)

    def free(self):
        """Return the indices of the experts that train."""
        return torch.tensor([number for number in range(len(self.experts)) if number not in self.frozen])

    def trained(self):
        """Return lists of like parameters, one per expert that trains."""
        return [*zip(*(self.experts[number].parameters() for number in self.free()), strict=True)]

    def forward(self, x, task):
        gates, experts = self.gates(x[:, 0], *self.routers[task]), self.experts          # (B, E)
        if self.chosen is not None:  # None when backward recomputes a block
            self.chosen += (gates > 0).sum(dim=0)
        if not self.training:  # a training step computes all, most times 0, so as not to wait for the device
            used = gates.any(dim=0).nonzero()[:, 0]
            gates, experts = gates[:, used], [experts[number] for number in used.tolist()]
        down, bias = (torch.cat([getattr(expert.down, name) for expert in experts]) for name in ("weight", "bias"))
        hidden = self.dropout(F.linear(x, down, bias).relu()).unflatten(-1, (len(experts), -1))  # (B, L, E, rank)
        hidden = (hidden * gates[:, None, :, None].to(hidden.dtype)).flatten(-2)
        up = torch.cat([expert.up.weight for expert in experts], dim=1)                  # (W, E * rank)
        bias = gates @ torch.stack([expert.up.bias for expert in experts])               # (B, W)
        return SCALE * (F.linear(hidden, up) + bias[:, None])

    def gates(self, first, choice, spread):
        """Return the gates of first tokens, (B, W) -> (B, E): softmax over the two largest logits, 0
        elsewhere. Ties go to the lower index."""
        with torch.autocast(first.device.type, enabled=False):
            first = first.to(choice.dtype)
            logits = first @ choice
            if self.training and self.noise is not None:
                logits = logits + self.noise * (F.softplus(first @ spread) + LEAST_NOISE)
        best, experts = logits.sort(dim=-1, descending=True, stable=True)
        return torch.zeros_like(logits).scatter(-1, experts[:, :CHOSEN], best[:, :CHOSEN].softmax(dim=-1))

    def most_chosen(self, number):
        """Return the indices of the ``number`` most picked experts, frozen ones included; ties go to the
        lower index."""
        return self.counts.sort(descending=True, stable=True).indices[:number].tolist()


class Mixtures(nn.Module):
    """A Mixture for each block of both towers (a ResNet has no blocks); at test ``ddas`` picks the router.

    In training they are attached to the towers with the router of ``task``. Scoring attaches them
    explicitly (``routed``).
    """

    def __init__(self, model, ddas, experts, rank, dropout):
        super().__init__()
        self.images, self.texts = (
            nn.ModuleList(Mixture(block.ln_1.normalized_shape[0], experts, rank, dropout) for block in blocks)
            for blocks in blocks_of(model))
        self.ddas, self.task = ddas, None

    def all(self):
        """Return all Mixtures, those of the image tower first."""
        return [*self.images, *self.texts]

    @contextlib.contextmanager
    def counted(self):
        """Count the choices of experts inside the context; on exit, the yielded list holds one (E,) per Mixture."""
        mixtures, found = self.all(), []
        for mixture in mixtures:
            mixture.chosen = torch.zeros_like(mixture.counts)
        try:
            yield found
        finally:
            found += [mixture.chosen for mixture in mixtures]
            for mixture in mixtures:
                mixture.chosen = None

    def places(self, model):
        return self.routed(self.task).places(model) if self.training and self.task is not None else []

    def routed(self, task):
        """Return an object that ``attached`` accepts to put the experts into the towers with a task's router."""
        def places(model):
            blocks = [block for tower in blocks_of(model) for block in tower]
            return [(block, "beside", partial(mixture, task=task))
                    for block, mixture in zip(blocks, self.all(), strict=True)]
        return SimpleNamespace(places=places)


def disturb(mixtures, noise):
    """Give Mixtures their noise on the logits, (B, blocks, E)."""
    for mixture, part in zip(mixtures, noise.unbind(dim=1), strict=True):
        mixture.noise = part


def blocks_of(model):
    """Return the transformer blocks of the image tower and of the text tower."""
    images = getattr(model.visual, "transformer", None)
    return images.resblocks if images else [], model.transformer.resblocks
