"""A method with a module of its own: a small network beside the MLP of every block of the text tower, CLIP frozen.

    python -m examples.own_module           # three embedded tasks; a minute or two on a CPU
    python -m src.main --method examples/own_module.py:Adapters --set width=8 --dataset-order toy --save ckpt/adapters

The module is saved beside the CLIP in each checkpoint and resumes with it; whoever scores a checkpoint names the class.
"""

import torch.nn.functional as F
from torch import nn

import clip_continual as cc

SAVE = "ckpt/own_module"
TASKS = ["toy-new-shapes", "toy-shapes", "toy-colours"]
SHORT = {"model": "toy", "iterations": 60, "batch_size": 64, "lr": 3e-3, "warmup_length": 10}


class Bottleneck(nn.Module):
    """(B, L, W) -> (B, L, W) through ``width`` values per token; a new one gives 0, so that CLIP starts as it was."""

    def __init__(self, outer, width):
        super().__init__()
        self.down, self.up = nn.Linear(outer, width), nn.Linear(width, outer)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x):
        return self.up(F.gelu(self.down(x)))


class Bottlenecks(nn.Module):
    """A Bottleneck for each block of the text tower; ``places`` tells where it is added."""

    def __init__(self, model, width):
        super().__init__()
        self.blocks = nn.ModuleList(Bottleneck(model.transformer.width, width) for _ in model.transformer.resblocks)

    def places(self, model):
        return [(block, "beside", part) for block, part in zip(model.transformer.resblocks, self.blocks, strict=True)]


class Adapters(cc.Finetune):
    """Fine-tunes bottlenecks beside a frozen CLIP; all tasks share them."""

    all_used = True  # every value has a gradient in every step

    def __init__(self, width=8):
        super().__init__()
        self.width = width

    def build(self, model):
        return Bottlenecks(model, self.width)

    def begin(self, state):
        state.model.requires_grad_(False)
        super().begin(state)


def main():
    run = cc.train(method=Adapters(width=8), dataset_order=TASKS, save=SAVE, **SHORT)
    again = cc.evaluate(run.checkpoint(), TASKS, method=Adapters)  # a checkpoint chooses no code: the class is given
    assert again.top1.round(4).tolist() == run.matrix().iloc[-1].tolist(), "scored with the same module, so the same"
    return run.matrix().round(1)


if __name__ == "__main__":
    print(main())
