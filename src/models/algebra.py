"""Linear algebra of methods: bases grown by an energy rule, ridge regression from sums, the density of a
Gaussian.

A basis is (d, m) with orthonormal columns; d is the input width of a weight (out, d). Energies are squared
singular values. A matrix F (d, N) is passed as its Gram matrix F F^T (d, d), which can be summed over
batches and processes: its eigenvalues are the squared singular values of F, its eigenvectors the left
singular vectors.
"""

import math

import torch
import torch.nn.functional as F

from src.machine.device import no_tf32

# Treat directions with singular values below this fraction of the largest as rounding errors.
ROUNDING = 1e-6


def leading(energies, share, reach=False):
    """Return the number of leading ``energies`` (k,), largest first, whose share of the sum stays below
    ``share``; with ``reach``, the least number whose share is at least ``share``.

    Of .5, .3 and .2 the first two stay below .85; three reach it.
    """
    parts = energies.cumsum(0) / energies.sum()
    below = int((parts < share).sum())
    return min(below + reach, len(energies))


def without(basis, matrix):
    """Return F - M M^T F: (d, m), (d, N) -> (d, N). Projects twice, so that the rest is orthogonal up to rounding."""
    for _ in range(2):
        matrix = matrix - basis @ (basis.mT @ matrix)
    return matrix


def directions(gram):
    """Decompose a Gram matrix (d, d) into energies (k,), largest first, and directions (d, k), leaving out
    rounding errors."""
    energies, vectors = torch.linalg.eigh(gram.double())
    energies, vectors = energies.flip(0), vectors.flip(1)
    live = energies > ROUNDING ** 2 * energies[:1]
    return energies[live], vectors[:, live]


def grow(basis, gram, share):
    """Extend a basis (d, m) by the Gram matrix (d, d) of F -> basis (d, m + n).

    Keeps the old columns and appends the fewest leading directions of the part of F outside them so that
    together they hold at least ``share`` of the energy |F|_F^2 (Saha et al., 2021, Gradient Projection
    Memory, arXiv:2103.09762). In float64.
    """
    basis, gram = basis.double(), gram.double()
    total = gram.trace()
    rest = without(basis, without(basis, gram).mT)                                       # P F F^T P
    energies, vectors = directions(rest)
    energies, vectors = (part[..., energies > ROUNDING ** 2 * total] for part in (energies, vectors))
    held = (total - rest.trace() + torch.cat([energies.new_zeros(1), energies.cumsum(0)])) / total  # of 0, 1, .. more
    count = int((held < share).sum())
    return torch.cat([basis, orthonormal(without(basis, vectors[:, :count]))], dim=1)


def shrink(basis, gram, share):
    """Cut a basis (d, m) of the allowed directions by the Gram matrix (d, d) of F -> basis (d, m - n).

    Removes the fewest leading directions of the part of F inside it so that less than 1 - ``share`` of
    |F|_F^2 stays inside (the dual update of Liang and Li, 2023, arXiv:2310.09739). In float64.
    """
    basis, gram = basis.double(), gram.double()
    inside = basis.mT @ gram @ basis                                                     # (m, m), in the basis
    energies, vectors = directions(inside)
    left = (inside.trace() - torch.cat([energies.new_zeros(1), energies.cumsum(0)])) / gram.trace()
    count = int((left >= 1 - share).sum())
    return basis @ complement(vectors[:, :count])


def complement(basis):
    """Return a basis (d, d - m) of the orthogonal complement of a basis (d, m)."""
    columns, _ = torch.linalg.qr(basis, mode="complete")
    return columns[:, basis.shape[1]:]


def orthonormal(columns):
    """Return a basis (d, m) of the span of independent columns (d, m)."""
    return torch.linalg.qr(columns)[0]


def svd(matrix):
    """Return U (p, k), S (k,), V^T (k, q) of a matrix (p, q), k = min(p, q), in its dtype.

    torch's driver may fail on a finite matrix with ties; LAPACK's gesvd then decomposes it on the host, in
    float64.
    """
    try:
        return torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:
        if not matrix.isfinite().all():
            raise
        import scipy.linalg  # here, because it takes 0.3 s and is rarely needed
        parts = scipy.linalg.svd(matrix.double().cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
        return [torch.from_numpy(part).to(matrix) for part in parts]


def wide(tensor):
    """Return the tensor in float64, moved to the host if its device has no float64."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def ridge(gram, targets, strength):
    """Return (A + strength I)^-1 B in float64, where A = X^T X (d, d) and B = X^T Y (d, C) are sums over
    the rows of X -> (d, C) (Hoerl and Kennard, 1970). Needs memory for one float64 copy of A.

    Raises torch.linalg.LinAlgError if A + strength I is not positive definite, as happens by rounding with
    low-precision sums and a small strength.
    """
    return ridge_(wide(gram).clone() if gram.dtype == torch.float64 else wide(gram), targets, strength)


def ridge_(gram, targets, strength):
    """Compute ``ridge`` in place on a contiguous float64 A, which is overwritten: no second matrix of its
    size is allocated."""
    gram.diagonal().add_(strength)
    columns = gram.mT  # A is symmetric: the same numbers in the order of LAPACK, which then works in place
    factor = torch.linalg.cholesky(columns, out=columns)
    halfway = torch.linalg.solve_triangular(factor, wide(targets), upper=False)
    return torch.linalg.solve_triangular(factor.mT, halfway, upper=True)


class RidgeSums:
    """Ridge regression W (H, C) from inputs x (H) to the one-hot labels of all tasks, kept as sums.

    A = sum of x x^T (H, H), and per task B = sum of x y^T (H, C of the task). The order of images and tasks
    changes only rounding.
    """

    def __init__(self, strength):
        self.strength, self.gram, self.targets, self._solution = strength, None, {}, {}

    def add(self, task, world, like, rows):
        """Add the sums of a Task.

        ``rows`` iterates over (x (B, H), labels (B,)) of this process of the World, in the dtype and on the
        device of ``like`` (H,). A grows in place, so that a run holds it once.
        """
        size, classes = len(like), len(task.classnames)
        gram = like.new_zeros(size, size) if self.gram is None else self.gram.to(like)
        if not world.first:  # every process loaded the same sums; count them once
            gram.zero_()
        targets = like.new_zeros(size, classes)
        for x, labels in rows:
            with no_tf32():
                gram.addmm_(x.T, x)
                targets.addmm_(x.T, F.one_hot(labels.to(x.device), classes).to(x))
        self.gram, self._solution = world.sum(gram).cpu(), {}
        self.targets[task.name] = added(self.targets.get(task.name), world.sum(targets))

    def solution(self, device):
        """Return {task: W (H, C)} in float64, solved once for all tasks."""
        if not self._solution:
            targets = torch.cat(list(self.targets.values()), dim=1).to(device)
            weights = ridge(self.gram.to(device), targets, self.strength)
            sizes = [part.shape[1] for part in self.targets.values()]
            self._solution = dict(zip(self.targets, weights.split(sizes, dim=1), strict=True))
        return self._solution

    def carry(self):
        return {"gram": self.gram, "targets": self.targets}

    def load_carry(self, content):
        self.gram, self.targets, self._solution = content.get("gram"), dict(content.get("targets", {})), {}


def added(earlier, found):
    """Return a task's sum plus the ``earlier`` sum under the same name (None: there was none), on the host."""
    found = found.cpu()
    return found if earlier is None else earlier.to(found) + found


def log_density(rows, mean, factor):
    """Return log N(x; m, L L^T) of rows x: (B, D), (D), lower triangular L (D, D) -> (B)."""
    scaled = torch.linalg.solve_triangular(factor, (rows - mean).mT, upper=False)        # (D, B)
    constant = len(mean) * math.log(2 * math.pi) + 2 * factor.diagonal().log().sum()
    return -(scaled.square().sum(dim=0) + constant) / 2
