"""Digests of weights see every bit and every place."""

import pytest
import torch

from src.models import fingerprints
from src.models.fingerprints import CHUNK_OF_CPU, digests, fingerprint


def test_fingerprints_see_places_signs_and_chunks():
    values = torch.randn(CHUNK_OF_CPU + 5, generator=torch.Generator().manual_seed(0))
    values[:4] = torch.tensor([1.0, 2.0, 0.0, 4.0])

    def with_values(*places, dtype=torch.float32):
        changed = values.to(dtype, copy=True)
        for place, value in places:
            changed[place] = value
        return fingerprint([("a", changed)])
    last = CHUNK_OF_CPU + 4
    found = [with_values(), with_values((0, 2.0), (1, 1.0)), with_values((2, -0.0)), with_values((last, 7.0)),
             with_values((3, values[CHUNK_OF_CPU + 3]), (CHUNK_OF_CPU + 3, 4.0)), with_values(dtype=torch.float64),
             with_values((0, 2.0), (1, 1.0), dtype=torch.float64), with_values(dtype=torch.bfloat16),
             fingerprint([("b", values)]), fingerprint([("a", values.view(1, -1))]),
             fingerprint([("a", values[:7]), ("b", values[7:])]), fingerprint([("a", values)], "more")]
    assert len(set(found)) == len(found)
    assert with_values() == fingerprint([("a", values.clone())])
    assert fingerprint([("a", values.view(3, -1).T)]) == fingerprint([("a", values.view(3, -1).T.contiguous())])


def test_a_sum_of_a_chunk_is_that_of_whole_numbers(monkeypatch):
    """By hand, in Python's numbers without end: bits of fp64 values count as two words, the lower one first."""
    monkeypatch.setattr(fingerprints, "_multipliers", lambda device: torch.tensor([3, -5, 2 ** 62 + 1]))
    sums = []
    monkeypatch.setattr(torch, "stack", lambda tensors: sums.extend(map(int, tensors)) or torch.zeros(1))
    fingerprint([("a", torch.tensor([1.0, -2.0], dtype=torch.float64)), ("b", torch.tensor(7))])
    one, minus_two = 0x3FF00000, 0xC0000000 - 2 ** 32
    assert sums == [3 * 0 - 5 * one, 3 * minus_two, 3 * 7 - 5 * 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64, torch.bool])
def test_digests_see_changes(dtype):
    """Of single values, of all sizes, and of rows that change places; equal tensors have equal digests."""
    values = (torch.arange(12) % 5).to(dtype).reshape(4, 3)
    changed = values.clone()
    changed[2, 1] = changed[2, 1] + 1 if dtype != torch.bool else ~changed[2, 1]
    first, same, other, rows = digests([values, values.clone(), changed, values.flip(0)])
    assert first == same and len({first, other, rows}) == 3
    assert digests([torch.zeros(0, 3, dtype=dtype), values[0, 0], values.T]) == digests(
        [torch.zeros(0, 3, dtype=dtype), values[0, 0], values.T.contiguous()])


def test_digests_of_a_scalar_and_of_many_rows():
    scale = torch.tensor(4.6052)
    many = torch.zeros(70_000, 1)
    moved = many.clone()
    moved[69_999] = 1e-3
    assert len({*digests([scale, torch.nextafter(scale, torch.tensor(9.0))])}) == 2
    assert len({*digests([many, moved])}) == 2
