"""Ways to project off the bases of a ViT-B/16 on a GPU, compared."""

import contextlib

import torch
import torch.nn.functional as F

import src.models.bases as arithmetic
from benchmarks.one_gpu.setting import rows
from benchmarks.one_gpu.steps import ogd, sizes, start_of
from benchmarks.one_gpu.timing import timed
from src.models.gradients import tracked_parameters

ROWS = 10  # per tensor
BF16 = torch.bfloat16


def whole(values, bases):
    """Project with one product over all values of a tensor, as before they were cut into pieces."""
    rest = values[:, None]
    for _ in range(arithmetic.PASSES):
        rest.baddbmm_(torch.bmm(rest, bases.mT), bases, alpha=-1)


def products(values, bases):
    """Multiply and sum without a matrix product; copies the bases each time."""
    for _ in range(arithmetic.PASSES):
        parts = (bases * values[:, None]).sum(2, keepdim=True)                           # (n, k, 1)
        values -= (bases * parts).sum(1)


def half_sums_first(values, bases):
    """Use pieces for the sums, and one product per tensor for the subtraction."""
    n, k, count = bases.shape
    c = arithmetic.piece_count(count)
    pieces = bases.unflatten(2, (c, -1)).transpose(1, 2).reshape(n * c, k, -1)
    for _ in range(arithmetic.PASSES):
        sums = torch.bmm(values.view(n * c, 1, -1), pieces.mT)
        values[:, None].baddbmm_(sums.view(n, c, 1, k).sum(1), bases, alpha=-1)


def by_triton(values, bases):
    """Use three kernels and two sums."""
    from benchmarks.one_gpu import spread
    spread.project(values, bases)


@contextlib.contextmanager
def lengths(piece=arithmetic.PIECE, stack=arithmetic.STACK):
    """Set the minimum length of a piece and the bytes of a stack."""
    before = arithmetic.PIECE, arithmetic.STACK
    arithmetic.PIECE, arithmetic.STACK = piece, stack
    arithmetic.piece_count.cache_clear()
    try:
        yield
    finally:
        arithmetic.PIECE, arithmetic.STACK = before
        arithmetic.piece_count.cache_clear()


WAYS = {  # name: (function, dtype of the bases, minimum piece, bytes per stack, whether stacks are ordered (k, n, N))
    "whole products, as before": (whole, torch.float32, 2 ** 12, 2 ** 28, False),
    "pieces of 4096": (arithmetic.project_batched, torch.float32, 2 ** 12, 2 ** 28, True),
    "pieces of 1024": (arithmetic.project_batched, torch.float32, 2 ** 10, 2 ** 28, True),
    "pieces of 16384": (arithmetic.project_batched, torch.float32, 2 ** 14, 2 ** 28, True),
    "pieces of 65536": (arithmetic.project_batched, torch.float32, 2 ** 16, 2 ** 28, True),
    "pieces of 4096, stacks of 1 GiB": (arithmetic.project_batched, torch.float32, 2 ** 12, 2 ** 30, True),
    "sums in pieces, the rest whole": (half_sums_first, torch.float32, 2 ** 12, 2 ** 28, True),
    "no matrix product": (products, torch.float32, 2 ** 12, 2 ** 28, True),
    "Triton": (by_triton, torch.float32, 2 ** 12, 2 ** 28, True),
    "Triton, stacks of 1 GiB": (by_triton, torch.float32, 2 ** 12, 2 ** 30, True),
    "Triton, bases in bf16": (by_triton, BF16, 2 ** 12, 2 ** 28, True),
    "no matrix product, bases in bf16": (products, BF16, 2 ** 12, 2 ** 28, True),
}


def projections(setting, found):
    """Time each way on all bases, then both projections of a current step."""
    table = {name: lambda way=way: way_row(setting, *way) for name, way in WAYS.items()}
    table["a step's"] = lambda: both_in_a_step(setting)
    rows(setting, found, table, least=3.0)


def both_in_a_step(setting):
    """Return the figures of the part ``ogd``."""
    figures = {}
    ogd(setting, figures)
    return figures


def way_row(setting, way, kind, piece, stack, in_order):
    """Return the seconds of one projection off all bases, from stacked values, and how far the first is
    from float64."""
    if way is by_triton and not setting.cuda:
        return {"skipped": "needs CUDA"}
    with lengths(piece, stack):
        stacks = [drawn(setting, shape, kind, in_order) for shape in stack_shapes(setting)]

        def work():
            for values, bases in stacks:
                way(values, bases)
        with arithmetic.no_tf32():
            apart = difference(way, *stacks[0])
            figures = timed(setting, work, 10)
    return {"differs": apart, "stacks": len(stacks), "basis_bytes": sum(bases.nbytes for _, bases in stacks), **figures}


def stack_shapes(setting):
    """Return [(n, k, N)] of the stacks of every tracked tensor."""
    tracked = tracked_parameters(start_of(sizes(setting)["model"]))
    shapes = {name: (ROWS, value.numel()) for name, value in tracked.items()}
    return [(len(names), *shapes[names[0]]) for names in arithmetic.alike(shapes, torch.float32.itemsize)]


def drawn(setting, shape, kind, in_order):
    """Return values (n, N) and bases (n, k, N) of length 1, nearly orthogonal, stored as (k, n, N) if
    ``in_order``."""
    n, k, count = shape
    values = torch.randn(n, count, device=setting.device)
    if not in_order:
        return values, F.normalize(torch.randn(n, k, count, device=setting.device), dim=2).to(kind)
    return values, F.normalize(torch.randn(k, n, count, device=setting.device), dim=2).to(kind).transpose(0, 1)


def difference(way, values, bases):
    """Return the distance of a result from the same in float64, relative to the vector's length."""
    rest, exact = values.clone(), values.double()
    way(rest, bases)
    whole(exact, bases.double())
    return ((rest - exact).norm() / values.norm()).item()
