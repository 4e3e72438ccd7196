"""Other decompositions, as right as the first, and what is the same in all of them."""

from unittest import mock

import torch


def projector(basis):
    """Return the projector on the span of a basis (d, m)."""
    return basis @ basis.mT


def flipped(matrix, svd=torch.linalg.svd, **options):
    """Decompose as ``torch.linalg.svd``, but every second pair of vectors has the other sign."""
    U, S, Vh = svd(matrix, **options)
    signs = torch.ones_like(S)
    signs[::2] = -1
    return U * signs, S, Vh * signs[:, None]


def flipped_beside_the_first(case):
    """Return the case {World: numbers} where all processes but the first decompose as ``flipped`` does."""
    def call(world):
        with mock.patch.object(torch.linalg, "svd", torch.linalg.svd if world.first else flipped):
            return case(world)
    return call
