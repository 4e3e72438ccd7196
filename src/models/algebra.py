"""Linear algebra that several methods share: bases grown by an energy rule.

A basis is (d, m), orthonormal columns; d is the input width of a weight (out, d). Energies are squared singular values.
A matrix F (d, N) comes as its Gram matrix F F^T (d, d), which sums over batches and processes; its eigenvalues are the
squared singular values of F, its eigenvectors the left singular vectors.
"""

import torch

# Directions with singular values below this fraction of the largest are rounding errors.
ROUNDING = 1e-6


def leading(energies, share, reach=False):
    """Number of leading ``energies`` (k,), largest first, whose part of the sum stays below ``share``; with ``reach``
    the least number whose part is at least ``share``.

    Of .5, .3 and .2 the first two stay below .85, and three reach it.
    """
    parts = energies.cumsum(0) / energies.sum()
    below = int((parts < share).sum())
    return min(below + reach, len(energies))


def without(basis, matrix):
    """F - M M^T F: (d, m), (d, N) -> (d, N). Twice, so that what is left is orthogonal to rounding."""
    for _ in range(2):
        matrix = matrix - basis @ (basis.mT @ matrix)
    return matrix


def directions(gram):
    """Gram matrix (d, d) -> energies (k,), largest first, and their directions (d, k), those that are rounding errors
    left out."""
    energies, vectors = torch.linalg.eigh(gram.double())
    energies, vectors = energies.flip(0), vectors.flip(1)
    live = energies > ROUNDING ** 2 * energies[:1]
    return energies[live], vectors[:, live]


def grow(basis, gram, share):
    """Basis (d, m), Gram matrix (d, d) of F -> basis (d, m + n): behind the old columns the fewest leading directions
    of what F has outside of them, so that together they hold at least ``share`` of its energy |F|_F^2 (Saha et al.,
    2021, Gradient Projection Memory, arXiv:2103.09762). In float64."""
    basis, gram = basis.double(), gram.double()
    total = gram.trace()
    rest = without(basis, without(basis, gram).mT)                                       # P F F^T P
    energies, vectors = directions(rest)
    energies, vectors = (part[..., energies > ROUNDING ** 2 * total] for part in (energies, vectors))
    held = (total - rest.trace() + torch.cat([energies.new_zeros(1), energies.cumsum(0)])) / total  # of 0, 1, .. more
    count = int((held < share).sum())
    return torch.cat([basis, orthonormal(without(basis, vectors[:, :count]))], dim=1)


def shrink(basis, gram, share):
    """Basis (d, m) of what is still allowed, Gram matrix (d, d) of F -> basis (d, m - n): without the fewest leading
    directions of the part of F inside it, so that less than 1 - ``share`` of |F|_F^2 is left there (the dual update
    of Liang and Li, 2023, arXiv:2310.09739). In float64."""
    basis, gram = basis.double(), gram.double()
    inside = basis.mT @ gram @ basis                                                     # (m, m), in the basis
    energies, vectors = directions(inside)
    left = (inside.trace() - torch.cat([energies.new_zeros(1), energies.cumsum(0)])) / gram.trace()
    count = int((left >= 1 - share).sum())
    return basis @ complement(vectors[:, :count])


def complement(basis):
    """Basis (d, m) -> basis (d, d - m) of all that is orthogonal to it."""
    columns, _ = torch.linalg.qr(basis, mode="complete")
    return columns[:, basis.shape[1]:]


def orthonormal(columns):
    """Independent columns (d, m) -> basis (d, m) of their span."""
    return torch.linalg.qr(columns)[0]


def svd(matrix):
    """U (p, k), S (k,), V^T (k, q) of a matrix (p, q), k = min(p, q), in float64 where the given type fails: with ties
    a driver may give up on a finite matrix."""
    try:
        return torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:
        return [part.to(matrix) for part in torch.linalg.svd(matrix.double().cpu(), full_matrices=False)]
