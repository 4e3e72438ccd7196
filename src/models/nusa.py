"""NuSA-CL (Jo and Kim, 2025, arXiv:2510.21175): a task moves each weight only in the directions that the
weight itself uses least."""

from math import sqrt

import torch
from torch import nn

from src.errors import UserError
from src.models.algebra import leading, svd
from src.models.finetune import Finetune
from src.models.wrapped import DroppedFactors, attention_sites, note_few, towers_in_words, wrap

ALPHA = 2.0  # scale = ALPHA / sqrt(rank)
TRAINED = {"m": "M", "m,vn": "MV", "m,un,vn": "MUV"}


class Core(DroppedFactors):
    """``scale`` U M V of a weight (out, in): U (out, r) and V (r, in) are given, M (r, r) starts at zero.
    Those named in ``trained`` are parameters. Dropout acts on the branch's input, in training only."""

    def __init__(self, U, V, scale, dropout, trained):
        super().__init__(dropout)
        for name, value in {"U": U, "V": V, "M": V.new_zeros(len(V), len(V))}.items():
            if name in trained:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.scale = scale

    @property
    def A(self):
        return self.M @ self.V                                                  # (r, r) x (r, in) -> (r, in)

    @property
    def B(self):
        return self.U


class NuSA(Finetune):
    """W + s U_n M V_n at q, k, v and o of every block, s = 2 / sqrt(``nusa_rank``). M trains; U_n and V_n
    are the singular vectors of W's smallest values. Merged at the end of a task; nothing is carried.

    ``nusa_energy``: share of the squared singular values held by the leading directions, which the task
    leaves alone. ``nusa_rank``: the maximum number of other directions that it moves in. ``nusa_dropout``:
    on the branch's input. ``nusa_train``: "m", or "m,vn" and "m,un,vn", which also train the singular
    vectors.
    """

    all_used = True

    def __init__(self, ls=0.0, nusa_rank=128, nusa_energy=0.95, nusa_dropout=0.25, nusa_train="m"):
        super().__init__(ls)
        self.rank, self.energy = nusa_rank, nusa_energy
        self.dropout, self.trained = nusa_dropout, TRAINED[nusa_train]

    def begin(self, state):
        weights = attention_sites(state.model, "nusa-cl")
        factors, left = {}, {}
        for site, weight in weights.items():
            U, V, left[site] = least_used(weight, self.energy, self.rank)
            U, V = state.world.of_first(U), state.world.of_first(V)
            factors[site] = Core(U, V, ALPHA / sqrt(self.rank), self.dropout, self.trained)
        print(f"nusa-cl adapts q, k, v and o of {towers_in_words(weights)}")
        self._require_room(left, weights)
        wrap(state.model, factors)
        super().begin(state)

    def _require_room(self, left, weights):
        """Print a note if a weight has fewer directions ``left`` {site: number} than the rank. Raise
        UserError if none has any."""
        share = f"{100 * self.energy:g} %"
        if not any(left.values()):
            raise UserError(f"--nusa-energy {self.energy:g}: in every weight, all directions are needed to reach "
                            f"{share}, so none is left to train; give a smaller share")
        note_few(left, {site: min(weight.shape) for site, weight in weights.items()}, self.rank,
                 f"weights have fewer than {self.rank} directions (--nusa-rank) beside those that reach {share} of the "
                 "energy (--nusa-energy)")


@torch.no_grad()
def least_used(weight, energy, rank):
    """Return (U (out, r), V (r, in), ``number``) of a weight (out, in).

    ``number`` counts the singular directions beside the fewest leading ones that reach the share
    ``energy``; U and V hold the last k of them, at most ``rank``. r = min(rank, out, in): beyond k, columns
    of U and rows of V are zero, so that only a corner (k, k) of M acts and has a gradient.
    """
    left, values, right = svd(weight)
    number = len(values) - leading(values.double().square(), energy, reach=True)
    size, first = min(rank, len(values)), len(values) - min(rank, number)
    U, V = weight.new_zeros(len(weight), size), weight.new_zeros(size, weight.shape[1])
    U[:, :len(values) - first] = left[:, first:]
    V[:len(values) - first] = right[first:]
    return U, V, number
