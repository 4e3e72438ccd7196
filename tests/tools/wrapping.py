"""Methods that wrap layers of CLIP, as a user's file has them: factors from singular value decompositions, some of
which are frozen. ``--method tests/tools/wrapping.py:Class``"""

import contextlib

import torch
from torch import nn

from src.models.finetune import Finetune
from src.models.modeling import in_eval_mode, tokens_of
from src.models.wrapped import Factors, Pair, sites, wrap


class FrozenInputs(Finetune):
    """A holds the leading directions of each layer's inputs over the whole task, frozen; B trains from zero. In the
    manner of InfLoRA (Liang and Li, 2024, arXiv:2404.00228)."""

    def __init__(self, ls=0.0, rank=3):
        super().__init__(ls)
        self.rank = rank

    def begin(self, state):
        factors, weights = {}, sites(state.model)
        for site, moment in moments_of_inputs(state, weights).items():
            directions = torch.linalg.svd(moment)[0][:, :self.rank]                        # (in, r)
            B = weights[site].new_zeros(len(weights[site]), self.rank)
            factors[site] = Pair(directions.T / 3 ** 0.5, nn.Parameter(B))
        wrap(state.model, factors)
        super().begin(state)


@torch.no_grad()
def moments_of_inputs(state, weights):
    """{site: (in, in)}: the sum of x x^T over every token x that enters it, of all training images of all processes, or
    of one prompt per class."""
    found, tokens = {}, tokens_of(state.model, state.task.prompts())
    for tower in ("visual.", "transformer."):
        names = [site for site in weights if site.startswith(tower)]
        with in_eval_mode(state.model), tapped(state.model, names) as sums:
            if tower == "transformer.":
                state.model.encode_text(tokens)
            for batch in state.once(state.task.split("train"), "inputs", 8) if tower == "visual." and names else ():
                state.model.encode_image(batch.images)
        for name in names:
            moment = sums.get(name, torch.zeros_like(weights[name].T @ weights[name]))
            found[name] = state.world.sum(moment) if tower == "visual." else moment
    return found


@contextlib.contextmanager
def tapped(model, names):
    """While entered, {site: sum of x x^T} grows by what enters the site's layer."""
    sums, handles = {}, []
    for name in names:
        layer = name[:-2] if name[-1] in "qkv" and name[-2] == "." else name.replace("attn.o", "attn.out_proj")

        def add(module, inputs, name=name):
            x = inputs[0].flatten(0, -2)                                                   # (tokens, in)
            sums[name] = sums.get(name, 0) + x.T @ x
        handles.append(model.get_submodule(layer).register_forward_pre_hook(add))
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


class Core(Factors):
    """left M right, of which M (k, k) trains; left (out, k) and right (k, in) are frozen."""

    def __init__(self, left, right, scale, dropout):
        super().__init__()
        self.register_buffer("B", left.clone())
        self.register_buffer("right", right.clone())
        self.core, self.scale = nn.Parameter(left.new_zeros(len(right), len(right))), scale
        self.dropout = nn.Dropout(dropout)

    @property
    def A(self):
        return self.core @ self.right                                                     # (k, k) x (k, in)

    def forward(self, x):
        return super().forward(self.dropout(x))


class NullCore(Finetune):
    """Trains a core between the singular vectors of the lowest singular values. In the manner of NuSA-CL
    (arXiv:2510.21175)."""

    def __init__(self, ls=0.0, rank=4, dropout=0.0):
        super().__init__(ls)
        self.rank, self.dropout = rank, dropout

    def begin(self, state):
        factors = {}
        for site, weight in sites(state.model).items():
            U, _, Vh = torch.linalg.svd(weight, full_matrices=False)
            factors[site] = Core(U[:, -self.rank:], Vh[-self.rank:], 0.5, self.dropout)
        wrap(state.model, factors)
        super().begin(state)


class Split(Finetune):
    """Takes the leading singular part B A out of each weight, W = rest + B A, and trains B alone: the CLIP's own
    weights change before the first step, what it computes does not."""

    def __init__(self, ls=0.0, rank=3):
        super().__init__(ls)
        self.rank = rank

    def begin(self, state):
        factors = {}
        for site, weight in sites(state.model).items():
            U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
            B, A = U[:, :self.rank] * S[:self.rank], Vh[:self.rank]
            weight -= B @ A
            factors[site] = Pair(A, nn.Parameter(B.contiguous()))
        wrap(state.model, factors)
        super().begin(state)
