"""Surfaces: boxes lie in their scans, blocks of the three splits never overlap, and pieces come from them."""

import numpy as np
import pytest

from src.datasets import mini_surfaces
from src.datasets.mini_surfaces import BLOCK, BOXES, SHARES, blocks


def test_every_class_has_blocks_of_its_own_in_each_split():
    assert set(BOXES) == set(mini_surfaces.SURFACES)
    taken = {}
    for name, (scan, *boxes) in BOXES.items():
        height, width, _ = mini_surfaces._scan(scan).shape
        assert all(0 <= left < right <= width and 0 <= top < bottom <= height for left, top, right, bottom in boxes)
        for split in SHARES:
            found = blocks(name, split)
            assert len(found) >= 2, (name, split)
            for x, y in found:
                area = taken.setdefault(scan, np.zeros((height, width), dtype=int))[y:y + BLOCK, x:x + BLOCK]
                assert area.shape == (BLOCK, BLOCK)
                area += 1
    assert all(area.max() == 1 for area in taken.values())


def test_a_piece_comes_from_a_block_of_its_split(monkeypatch):
    """Scans that hold the block's number in the place of what is seen there."""
    scans = {}
    for name, (scan, *_) in BOXES.items():
        image = scans.setdefault(scan, np.zeros_like(mini_surfaces._scan(scan)))
        for split, grey in zip(SHARES, (40, 120, 200), strict=True):
            for x, y in blocks(name, split):
                image[y:y + BLOCK, x:x + BLOCK] = grey
    monkeypatch.setattr(mini_surfaces, "_scan", scans.get)
    for split, grey in zip(SHARES, (40, 120, 200), strict=True):
        images = mini_surfaces.draw_surfaces(np.arange(13), split, np.random.default_rng(0)).astype(float)
        assert images.mean(axis=(1, 2, 3)) == pytest.approx(0.875 * grey, rel=0.17)
        assert images.std(axis=(1, 2, 3)).max() < 8                 # no edge of another block
