"""Prefixes: keys and values of several tasks side by side, beside the attention of a frozen CLIP, for
methods that route."""

import contextlib
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from src.models.attached import attached


class Prefix(nn.Module):
    """The mix of a task's values (M, W) for the queries of one attention, by a softmax over its keys (M, W)
    alone: (B, H, L, W/H) -> (B, H, L, W/H). ``rows`` holds keys and values per task (2, M, W).

    In training mode the last task's act; in eval mode those named by ``route``, a list [tasks (B,) or (1,),
    their weights].
    """

    def __init__(self, heads, route, rows):
        super().__init__()
        self.heads, self.route, self.rows = heads, route, nn.ParameterList(rows)

    def forward(self, query, key, value):
        tasks, weights = self.route
        rows = self.rows[-1][None] if self.training else torch.stack([*self.rows])[tasks]    # (B, 2, M, W)
        keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(len(query), -1, -1, -1)
                        for part in rows.to(query.dtype).unbind(1))                          # (B, H, M, W/H)
        mixed = F.scaled_dot_product_attention(query, keys, values)
        return mixed if self.training else weights.to(query.dtype)[:, None, None, None] * mixed


class Prefixes(nn.Module):
    """A Prefix for each attention of the first ``depth`` blocks of both towers, M = ``length``, for
    ``tasks`` tasks whose tensors are to be loaded.

    In training they are attached to the towers. Scoring attaches them explicitly (``acting``).
    """

    token_by_token = True

    def __init__(self, model, depth, length, tasks):
        super().__init__()
        self.depth, self.length, self.route = depth, length, [None, None]
        self.parts = nn.ModuleList(
            Prefix(attention.heads, self.route, [attention.out_proj.bias.new_zeros(2, length, width(attention))
                                                 for _ in range(tasks)])
            for attention in attentions(model, depth).values())

    def places(self, model):
        return self.everywhere(model) if self.training else []

    def everywhere(self, model):
        return [(attention, "beside", part)
                for part, attention in zip(self.parts, attentions(model, self.depth).values(), strict=True)]

    def grow(self, model, seed):
        """Add a task, the only one that trains from now on: keys from U(-1, 1), drawn on the host, and values 0."""
        self.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        for attention, _, part in self.everywhere(model):
            keys = 2 * torch.rand(self.length, width(attention), generator=generator) - 1
            part.rows.append(nn.Parameter(torch.stack([keys, torch.zeros_like(keys)]).to(attention.out_proj.bias)))

    @contextlib.contextmanager
    def acting(self, model, tasks, weights):
        """Attach the prefixes of ``tasks`` to the towers at ``weights`` inside the context, in eval mode:
        (B,) each, or (1,) for all rows."""
        self.route[:] = tasks, weights
        try:
            with attached(model, [SimpleNamespace(places=self.everywhere)]):
                yield
        finally:
            self.route[:] = None, None


def attentions(model, depth):
    """Return {name: attention} of the first ``depth`` blocks of both towers; a ResNet image tower has none."""
    towers = {"visual.transformer": getattr(model.visual, "transformer", None), "transformer": model.transformer}
    return {f"{name}.resblocks.{index}.attn.": block.attn for name, tower in towers.items() if tower is not None
            for index, block in enumerate(tower.resblocks[:depth])}


def width(attention):
    return attention.out_proj.in_features
