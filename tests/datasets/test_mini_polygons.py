"""Polygons: one for each shape that a task names, within its square, with the areas of school geometry."""

import numpy as np
import pytest

from src.datasets.mini_names import CLASSES
from src.datasets.mini_polygons import POLYGONS


def area(ring):
    x, y = ring.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_every_shape_has_an_outline_within_its_square():
    assert set(POLYGONS) == set(CLASSES["mini-shapes"])
    for name, rings in POLYGONS.items():
        assert all(ring.ndim == 2 and ring.shape[1] == 2 and len(ring) >= 3 for ring in rings), name
        assert max(abs(ring).max() for ring in rings) <= 1.15, name


@pytest.mark.parametrize(("name", "expected"), [
    ("square", 1.6 ** 2), ("triangle", 1.8 * 1.6 / 2), ("diamond", 1.4), ("bar", 2 * 0.6),
    ("cross", 2 * 1.8 * 0.6 - 0.36), ("hexagon", 1.5 * 3 ** 0.5), ("circle", 10 * np.sin(np.pi / 10) * 0.95 ** 2)])
def test_areas(name, expected):
    assert area(POLYGONS[name][0]) == pytest.approx(expected)


def test_holes_lie_inside():
    for name in ("ring", "frame", "key"):
        outer, inner = POLYGONS[name][:2]
        assert (inner.min(axis=0) > outer.min(axis=0)).all() and (inner.max(axis=0) < outer.max(axis=0)).all()
