"""A mixture of low-rank experts beside the MLP of every transformer block, with a router a block (in the manner of
MoE-Adapters, Yu et al., 2024, arXiv:2403.11549). CLIP itself stays frozen.

    python -m src.main --method examples/methods/experts.py:Experts --dataset-order toy --save ckpt/experts
"""

import torch
import torch.nn.functional as F
from torch import nn

from src.models.finetune import Finetune


class Mixture(nn.Module):
    """(B, L, W) -> (B, L, W): of E experts W -> rank -> W the ``chosen`` ones of each token, weighed by the router."""

    def __init__(self, width, experts, rank, chosen):
        super().__init__()
        self.chosen = chosen
        self.router = nn.Linear(width, experts, bias=False)
        self.down = nn.Parameter(torch.randn(experts, width, rank) * width ** -0.5)
        self.up = nn.Parameter(torch.zeros(experts, rank, width))  # a new mixture changes nothing

    def forward(self, x):
        scores = self.router(x)                                                     # (B, L, E)
        best, places = scores.topk(self.chosen, dim=-1)
        gates = torch.zeros_like(scores).scatter(-1, places, best.softmax(dim=-1))  # (B, L, E)
        hidden = F.relu(torch.einsum("blw,ewr->bler", x, self.down))
        return torch.einsum("bler,erw,ble->blw", hidden, self.up, gates)


class Mixtures(nn.Module):
    """A Mixture for each transformer block of both towers; of a ResNet's image tower there is none."""

    token_by_token = True

    def __init__(self, model, experts, rank, chosen):
        super().__init__()
        self.mixtures = nn.ModuleList(Mixture(block.ln_1.normalized_shape[0], experts, rank, chosen)
                                      for block in blocks_of(model))

    def places(self, model):
        return [(block, "beside", mixture) for block, mixture in zip(blocks_of(model), self.mixtures, strict=True)]


def blocks_of(model):
    image_tower = getattr(model.visual, "transformer", None)
    return [*(image_tower.resblocks if image_tower else ()), *model.transformer.resblocks]


class Experts(Finetune):
    """Fine-tunes a mixture of experts beside a frozen CLIP; all tasks share them."""

    averaged = True  # along one run no expert changes places with another
    router = "sample"

    def __init__(self, ls=0.0, experts=4, rank=8, chosen=2):
        super().__init__(ls)
        self.experts, self.rank, self.chosen = experts, rank, chosen

    def build(self, model):
        return Mixtures(model, self.experts, self.rank, self.chosen)

    def begin(self, state):
        state.model.requires_grad_(False)
        super().begin(state)
