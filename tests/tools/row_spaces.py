"""Random rows, and how a test looks at the space that rows span."""

import torch


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def skewness(rows):
    """max |B B^T - I|, in float64."""
    rows = rows.double()
    return (rows @ rows.T - torch.eye(len(rows), dtype=torch.float64)).abs().max().item() if len(rows) else 0.0


def same_directions(basis, vectors, tolerance):
    """Row by row, up to a sign."""
    cosines = basis.double() @ vectors.T                                                 # (k, N) x (N, m) -> (k, m)
    torch.testing.assert_close(cosines.abs(), torch.eye(*cosines.shape, dtype=torch.float64), rtol=0, atol=tolerance)


def part_inside(vector, rows):
    """|part of the vector in the rows' span| / |vector|, in float64."""
    vector = vector.double().flatten()
    directions = torch.linalg.qr(rows.double().T)[0]
    return ((directions.T @ vector).norm() / vector.norm()).item()
