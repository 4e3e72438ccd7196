"""The drawn mini tasks: polygons cover what the even-odd rule says, and a picture shows its label."""

import numpy as np
import pytest
from scipy import ndimage

from src.datasets import mini_drawn
from src.datasets.mini_names import CLASSES
from src.datasets.mini_polygons import POLYGONS


@pytest.fixture
def masks(monkeypatch):
    """masks(draw, labels): which pixels the shapes cover."""
    seen = []

    def scene(covered, colours, rng):
        seen.append(covered)
        return np.zeros((*covered.shape, 3), dtype=np.uint8)

    def run(draw, labels):
        draw(np.array(labels), np.random.default_rng(0))
        return seen.pop()

    monkeypatch.setattr(mini_drawn, "scene", scene)
    return run


def inside(rings, x, y):
    """The even-odd rule for one point: how many edges lie to its left."""
    crossed = 0
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x:
                crossed += 1
    return crossed % 2


@pytest.mark.parametrize("name", ["ring", "key", "boat", "heart"])
def test_polygons_are_filled_by_the_even_odd_rule(name):
    turn, radius, centre = 0.3, 3.0, np.array([4.5, 4.0])
    found = mini_drawn.fill(POLYGONS[name], np.array([turn]), np.array([radius]), centre[None], side=8)[0]
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    rings = [ring @ turned * radius + centre for ring in POLYGONS[name]]
    fine = (np.arange(8 * mini_drawn.FINE) + 0.5) / mini_drawn.FINE
    slow = np.array([[inside(rings, x, y) for x in fine] for y in fine])
    shares = slow.reshape(8, mini_drawn.FINE, 8, mini_drawn.FINE).mean(axis=(1, 3))
    assert np.abs(found - shares).max() < 1e-6


def test_counts_are_counted(masks, monkeypatch):
    """Circles of 2.8 to 4.2 pixels that do not touch: the area of n is n times pi (0.95 r)^2."""
    labels = np.arange(240) % 6
    monkeypatch.setattr(mini_drawn, "_any_shapes", lambda count, rng: np.repeat("circle", count))
    covered = masks(mini_drawn.draw_counts, labels)
    one = np.pi * 0.95 ** 2 * (4.2 ** 3 - 2.8 ** 3) / 3 / (4.2 - 2.8)
    for label in range(6):
        assert abs(covered[labels == label].sum(axis=(1, 2)).mean() / one - (label + 1)) < 0.3
    assert ndimage.label(covered[2] > 0.5)[1] == 3


def test_places_are_where_they_are_named(masks):
    labels = np.arange(90) % 9
    for label, mask in zip(labels, masks(mini_drawn.draw_places, labels), strict=True):
        y, x = ndimage.center_of_mass(mask)
        cell = [int(np.digitize(value, (12.2, 18.8))) for value in (x, y)]
        assert CLASSES["mini-places"][cell[1] * 3 + cell[0]] == CLASSES["mini-places"][label]


def test_sizes_are_apart(masks):
    labels = np.repeat(np.arange(4), 40)
    extent = np.sqrt(masks(mini_drawn.draw_sizes, labels).sum(axis=(1, 2))).reshape(4, 40).mean(axis=1)
    assert (np.diff(extent) > 2).all()


@pytest.mark.parametrize("name", mini_drawn.DRAWN)
def test_every_class_is_drawn_and_the_same_again(name):
    labels = np.arange(len(CLASSES[name]))
    first, again = (mini_drawn.DRAWN[name](labels, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == (len(labels), 32, 32, 3) and first.dtype == np.uint8 and np.array_equal(first, again)
    assert len({image.tobytes() for image in first}) == len(labels)


def test_stripes_run_as_they_are_called():
    labels = np.repeat([1, 2], 20)
    images = mini_drawn.draw_patterns(labels, np.random.default_rng(0)).astype(float).mean(axis=-1)
    for label, image in zip(labels, images, strict=True):
        down, across = (np.abs(np.diff(ndimage.uniform_filter(image, 3), axis=axis)).mean() for axis in (0, 1))
        assert (down > across) == (CLASSES["mini-patterns"][label] == "horizontally striped")
