"""Colours, grounds and grain."""

import colorsys

import numpy as np
import pytest

from src.datasets import mini_paint
from src.datasets.mini_names import CLASSES


def test_hue_saturation_and_value_are_those_of_pythons_own():
    hsv = np.random.default_rng(0).random((50, 3))
    for given, found in zip(hsv, mini_paint.rgb(hsv), strict=True):
        assert found == pytest.approx(colorsys.hsv_to_rgb(*given), abs=1e-12)


def test_named_colours_are_near_their_names():
    names = np.repeat(CLASSES["mini-colours"], 30)
    found = mini_paint.named_colours(names, np.random.default_rng(0))
    assert found.min() >= 0 and found.max() <= 1
    middle = {name: mini_paint.rgb(np.array(mini_paint.HSV[name][0])) for name in set(names)}
    nearest = [min(middle, key=lambda name: np.abs(middle[name] - colour).sum()) for colour in found]
    assert np.mean(np.array(nearest) == names) > 0.9


def test_free_colours_keep_their_distance():
    ground = np.random.default_rng(0).random((300, 3))
    found = mini_paint.any_colours(300, np.random.default_rng(1), apart_from=ground)
    assert np.linalg.norm(found - ground, axis=1).min() >= mini_paint.NEAREST


def test_a_ground_is_its_colour_in_blotches():
    colour = np.array([[0.2, 0.5, 0.8]])
    found = mini_paint.grounds(colour, np.random.default_rng(0))[0]
    assert found.shape == (32, 32, 3)
    light = found - colour[0]
    assert np.allclose(light[..., 0], light[..., 2], atol=1e-6) and 0.01 < light[..., 0].std() < 0.2
    assert abs(np.diff(light[..., 0], axis=0)).max() < 0.2       # blotches, no grain


def test_a_photograph_keeps_its_brightness():
    images = np.full((40, 32, 32, 3), 0.5, dtype=np.float32)
    found = mini_paint.photographed(images, np.random.default_rng(0))
    assert found.dtype == np.uint8 and abs(found.mean() - 127.5) < 3
