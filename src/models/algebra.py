"""Linear algebra of methods: bases grown by an energy rule, ridge regression by sums, the density of a Gaussian.

A basis is (d, m), orthonormal columns; d is the input width of a weight (out, d). Energies are squared singular values.
A matrix F (d, N) comes as its Gram matrix F F^T (d, d), which sums over batches and processes; its eigenvalues are the
squared singular values of F, its eigenvectors the left singular vectors.
"""

import math

import torch
import torch.nn.functional as F

from src.machine.device import no_tf32

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
    """U (p, k), S (k,), V^T (k, q) of a matrix (p, q), k = min(p, q), in its type. With ties torch's driver may give up
    on a finite matrix; then LAPACK's gesvd decomposes it on the host, in float64."""
    try:
        return torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:
        if not matrix.isfinite().all():
            raise
        import scipy.linalg  # takes 0.3 s, and is hardly ever needed
        parts = scipy.linalg.svd(matrix.double().cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
        return [torch.from_numpy(part).to(matrix) for part in parts]


def wide(tensor):
    """The tensor in float64, on the host where its device has no such type."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def ridge(gram, targets, strength):
    """(A + strength I)^-1 B in float64: A = X^T X (d, d) and B = X^T Y (d, C), sums over the rows of X, -> (d, C)
    (Hoerl and Kennard, 1970). Beside them it takes one float64 copy of A.

    Raises torch.linalg.LinAlgError where A + strength I is not positive definite: by rounding, as sums of low precision
    are with a small strength.
    """
    return ridge_(wide(gram).clone() if gram.dtype == torch.float64 else wide(gram), targets, strength)


def ridge_(gram, targets, strength):
    """As ``ridge``, of a contiguous float64 A that it uses up: nothing of its size is taken beside it."""
    gram.diagonal().add_(strength)
    columns = gram.mT  # A is symmetric: the same numbers in the order of LAPACK, which then works in place
    factor = torch.linalg.cholesky(columns, out=columns)
    halfway = torch.linalg.solve_triangular(factor, wide(targets), upper=False)
    return torch.linalg.solve_triangular(factor.mT, halfway, upper=True)


class RidgeSums:
    """Ridge regression W (H, C) of the one-hot labels of all tasks on inputs x (H), by sums: A of x x^T (H, H), and for
    each task B of x y^T (H, C of the task). The order of images, and of tasks, changes nothing but rounding."""

    def __init__(self, strength):
        self.strength, self.gram, self.targets, self._solution = strength, None, {}, {}

    def add(self, task, world, like, rows):
        """Add the sums of a Task: ``rows`` iterates over (x (B, H), labels (B,)) of this process of the World, in the
        type and on the device of ``like`` (H,). A grows in place, so that a run holds it once."""
        size, classes = len(like), len(task.classnames)
        gram = like.new_zeros(size, size) if self.gram is None else self.gram.to(like)
        if not world.first:  # all processes have loaded the same sums, which count once
            gram.zero_()
        targets = like.new_zeros(size, classes)
        for x, labels in rows:
            with no_tf32():
                gram.addmm_(x.T, x)
                targets.addmm_(x.T, F.one_hot(labels.to(x.device), classes).to(x))
        self.gram, self._solution = world.sum(gram).cpu(), {}
        self.targets[task.name] = added(self.targets.get(task.name), world.sum(targets))

    def solution(self, device):
        """{task: W (H, C)} in float64, solved once for all tasks."""
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
    """The sum of a task, on the host, and of what an ``earlier`` one of its name left, None without."""
    found = found.cpu()
    return found if earlier is None else earlier.to(found) + found


def log_density(rows, mean, factor):
    """log N(x; m, L L^T) of rows x: (B, D), (D), lower triangular L (D, D) -> (B)."""
    scaled = torch.linalg.solve_triangular(factor, (rows - mean).mT, upper=False)        # (D, B)
    constant = len(mean) * math.log(2 * math.pi) + 2 * factor.diagonal().log().sum()
    return -(scaled.square().sum(dim=0) + constant) / 2
