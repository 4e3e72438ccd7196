"""Learned keys and values that every query of every transformer block also attends to (prefix tuning; Li and Liang,
2021, arXiv:2101.00190), in both towers. CLIP itself stays frozen.

    python -m src.main --method examples/methods/prefixes.py:Prefixes --dataset-order toy --save ckpt/prefixes
"""

import torch
import torch.nn.functional as F
from torch import nn

from src.models.finetune import Finetune


class Prefix(nn.Module):
    """P keys and values for each of H heads. (B, H, L, d) -> (B, H, L, d): what they change in the heads' mix."""

    def __init__(self, heads, length, size, causal):
        super().__init__()
        self.causal = causal  # as the text tower is: a token sees itself, what stands before it, and the prefix
        self.keys = nn.Parameter(size ** -0.5 * torch.randn(heads, length, size))
        self.values = nn.Parameter(0.02 * torch.randn(heads, length, size))

    def forward(self, query, key, value):
        own = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool)                # (L, L)
        own = own.tril() if self.causal else own
        sees = F.pad(own, (self.keys.shape[1], 0), value=True)                              # (L, P + L)
        keys = torch.cat([self.keys.to(key.dtype).expand(len(key), -1, -1, -1), key], dim=2)
        values = torch.cat([self.values.to(value.dtype).expand(len(value), -1, -1, -1), value], dim=2)
        with_prefix = F.scaled_dot_product_attention(query, keys, values, attn_mask=sees)
        return with_prefix - F.scaled_dot_product_attention(query, key, value, attn_mask=own)


class PrefixOfEach(nn.Module):
    """A Prefix for each transformer block of both towers; of a ResNet's image tower there is none."""

    def __init__(self, model, length):
        super().__init__()
        self.prefixes = nn.ModuleList(
            Prefix(attention.heads, length, block.ln_1.normalized_shape[0] // attention.heads, causal)
            for block, attention, causal in blocks_of(model))

    def places(self, model):
        return [(attention, "beside", prefix)
                for (_, attention, _), prefix in zip(blocks_of(model), self.prefixes, strict=True)]


def blocks_of(model):
    """[(block, its attention, whether that is causal)]"""
    image_tower = getattr(model.visual, "transformer", None)
    found = [*((block, False) for block in (image_tower.resblocks if image_tower else ())),
             *((block, True) for block in model.transformer.resblocks)]
    return [(block, getattr(block.attn, "base_layer", block.attn), causal) for block, causal in found]  # of an adapter


class Prefixes(Finetune):
    """Fine-tunes prefixes of ``length`` keys and values beside a frozen CLIP; all tasks share them."""

    all_used = True
    router = "none"

    def __init__(self, ls=0.0, length=4):
        super().__init__(ls)
        self.length = length

    def build(self, model):
        return PrefixOfEach(model, self.length)

    def begin(self, state):
        state.model.requires_grad_(False)
        super().begin(state)
