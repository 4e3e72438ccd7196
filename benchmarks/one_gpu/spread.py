"""Projection off orthonormal rows as Triton kernels; two passes read each value of the bases three times."""

import torch
import triton
import triton.language as tl

BLOCK = 4096  # values per program
WARPS = 8


@triton.jit
def _part(bases, at, inside, rest, sums, count, k, step):
    """Store the product of a block of a vector with the same block of each row."""
    for row in range(k):
        values = tl.load(bases + row * step + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(sums + row, tl.sum(values * rest))


@triton.jit
def _sums(vectors, bases, sums, count, k, next_tensor, next_row, BLOCK: tl.constexpr):
    tensor, block = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    rest = tl.load(vectors + tensor * count + at, mask=inside, other=0.0)
    mine = sums + (tensor * tl.num_programs(0) + block) * k
    _part(bases + tensor * next_tensor, at, inside, rest, mine, count, k, next_row)


@triton.jit
def _take(vectors, bases, parts, sums, count, k, next_tensor, next_row, AGAIN: tl.constexpr, BLOCK: tl.constexpr):
    tensor, block = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    rest = tl.load(vectors + tensor * count + at, mask=inside, other=0.0)
    own = bases + tensor * next_tensor
    for row in range(k):
        values = tl.load(own + row * next_row + at, mask=inside, other=0.0).to(tl.float32)
        rest -= tl.load(parts + tensor * k + row) * values
    tl.store(vectors + tensor * count + at, rest, mask=inside)
    if AGAIN:
        mine = sums + (tensor * tl.num_programs(0) + block) * k
        _part(own, at, inside, rest, mine, count, k, next_row)


def project(values, rows):
    """Project (n, N) fp32 values in place, in two passes, off (n, k, N) rows of any dtype with contiguous values."""
    n, k, count = rows.shape
    grid = triton.cdiv(count, BLOCK), n
    sums = torch.empty(n, grid[0], k, device=values.device, dtype=torch.float32)
    shape = count, k, rows.stride(0), rows.stride(1)
    options = {"BLOCK": BLOCK, "num_warps": WARPS}
    _sums[grid](values, rows, sums, *shape, **options)
    _take[grid](values, rows, sums.sum(1), sums, *shape, AGAIN=True, **options)
    _take[grid](values, rows, sums.sum(1), sums, *shape, AGAIN=False, **options)
