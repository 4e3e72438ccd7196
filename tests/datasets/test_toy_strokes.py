"""Strokes: the digits and capitals, each within its square, and ink where a slow reading of the formula has it."""

import numpy as np

from src.datasets import toy_strokes


class Still:
    """A generator that moves nothing: noise is 0, and a uniform draw its middle."""

    def standard_normal(self, size):
        return np.zeros(size)

    def uniform(self, low, high, size):
        return np.full(size, (low + high) / 2)


def test_there_are_ten_digits_and_the_alphabet():
    assert len(toy_strokes.DIGITS) == 10 and "".join(toy_strokes.LETTERS) == "abcdefghijklmnopqrstuvwxyz"
    for ends in toy_strokes.SEGMENTS:
        assert ends.shape[1:] == (2, 2) and abs(ends).max() <= 1 and len(ends) >= 1


def test_ink_is_where_the_pen_was():
    """An L of radius 12 around the middle: x = -8 or 8, 0.975 times as wide as drawn, y = -12 or 12, and half as thick
    as 0.15 of the radius."""
    glyph = list(toy_strokes.GLYPHS).index("l")
    middle, radius = np.full((1, 2), 16.0), np.array([12.0])
    found = toy_strokes.draw_strokes(np.array([glyph]), middle, radius, np.zeros(1), Still(), 32)
    left, right, half = 16 - 8 * 0.975, 16 + 8 * 0.975, 0.15 * 12
    for row in range(32):
        for column in range(32):
            x, y = column + 0.5, row + 0.5
            upright = np.hypot(x - left, max(4 - y, 0, y - 28))
            lying = np.hypot(max(left - x, 0, x - right), y - 28)
            expected = min(1, max(0, half + 0.5 - min(upright, lying)))
            assert abs(found[0, row, column] - expected) < 1e-4


def test_pens_differ_from_picture_to_picture():
    rng = np.random.default_rng(0)
    found = toy_strokes.draw_strokes(np.full(5, 13), np.full((5, 2), 16.0), np.full(5, 12.0), np.zeros(5), rng, 32)
    assert len({image.tobytes() for image in found}) == 5 and found.min() == 0 and found.max() == 1
