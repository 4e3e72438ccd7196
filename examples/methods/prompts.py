"""Learned context instead of the words before a class name (CoOp; Zhou et al., 2022, arXiv:2109.01134), one for
all classes and tasks. CLIP itself stays frozen.

    python -m src.main --method examples/methods/prompts.py:Prompts --dataset-order toy --save ckpt/prompts
"""

import torch
from torch import nn

from src.models.finetune import Finetune


class Context(nn.Module):
    """M vectors (M, W). A class prompt is M placeholders, which they replace, and the name of the class."""

    def __init__(self, width, length):
        super().__init__()
        self.vectors = nn.Parameter(0.02 * torch.randn(length, width))
        self.template = " ".join(["a"] * length) + " {c}."  # a word that small models have too: it is never felt

    def places(self, model):
        return [(model, "context", self.vectors)]


class Prompts(Finetune):
    """Fine-tunes a context of ``length`` vectors by cross-entropy over the task's classes. What it has learned stands
    before the names of any classes, those of no task too."""

    all_used = True
    router = "none"

    def __init__(self, ls=0.0, length=4):
        super().__init__(ls)
        self.length = length

    def build(self, model):
        return Context(model.transformer.width, self.length)

    def begin(self, state):
        state.model.requires_grad_(False)
        super().begin(state)
