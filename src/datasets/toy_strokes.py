"""Digits and capital letters as strokes of a pen, drawn as a child would: what the weights of ``toy-vit`` saw of
writing. No font and no handwriting is used.

A glyph is strokes, a stroke is points, and a point two digits: x from 0 (left) to 4, y from 0 (top) to 6.
"""

import numpy as np

GLYPHS = {
    "zero": "20 11 02 04 15 26 35 44 42 31 20", "one": "12 20 26", "two": "01 10 30 41 42 06 46",
    "three": "01 10 30 41 32 23,23 34 45 36 16 05", "four": "30 04 44,32 36", "five": "40 10 02 32 43 45 36 06",
    "six": "30 11 03 05 16 36 45 44 33 13 04", "seven": "00 40 16",
    "eight": "20 01 02 23 44 45 36 16 05 04 23 42 31 20", "nine": "42 33 13 02 01 10 30 41 42 45 36",
    "a": "06 20 46,14 34", "b": "06 00 30 41 42 33 03,33 44 45 36 06", "c": "41 30 10 01 05 16 36 45",
    "d": "06 00 20 42 44 26 06", "e": "40 00 06 46,03 33", "f": "40 00 06,03 33",
    "g": "41 30 10 01 05 16 36 45 43 23", "h": "00 06,40 46,03 43", "i": "20 26,10 30,16 36", "j": "40 45 36 16 05",
    "k": "00 06,40 03 46", "l": "00 06 46", "m": "06 00 23 40 46", "n": "06 00 46 40",
    "o": "10 01 05 16 36 45 41 30 10", "p": "06 00 30 41 42 33 03", "q": "10 01 05 16 36 45 41 30 10,24 46",
    "r": "06 00 30 41 42 33 03,23 46", "s": "41 30 10 01 02 13 33 44 45 36 16 05", "t": "00 40,20 26",
    "u": "00 05 16 36 45 40", "v": "00 26 40", "w": "00 16 22 36 40", "x": "00 46,40 06", "y": "00 23 40,23 26",
    "z": "00 40 06 46"}
DIGITS, LETTERS = tuple(GLYPHS)[:10], tuple(GLYPHS)[10:]


def _segments(name):
    """Ends of a glyph's straight pieces around its middle, (S, 2, 2): x and y from -1 to 1, y downwards."""
    pieces = []
    for stroke in GLYPHS[name].split(","):
        points = [((int(x) - 2) / 3, (int(y) - 3) / 3) for x, y in stroke.split()]
        pieces += zip(points, points[1:], strict=False)
    return np.array(pieces)


SEGMENTS = [_segments(name) for name in GLYPHS]


def draw_strokes(glyphs, centre, radius, turn, rng, side):
    """Share of each pixel that ink covers, (N, side, side) float32.

    ``glyphs``: (N,) indices into GLYPHS; ``centre`` (N, 2), ``radius`` (N,) in pixels and ``turn`` (N,) in radians.
    Width, slant and thickness are drawn, and every point of the pen's way is a little off.
    """
    covered = np.empty((len(glyphs), side, side), dtype=np.float32)
    grid = np.arange(side, dtype=np.float32) + 0.5
    for glyph in np.unique(glyphs):
        rows = np.flatnonzero(glyphs == glyph)
        count, ends = len(rows), SEGMENTS[glyph]
        points, place = np.unique(ends.reshape(-1, 2), axis=0, return_inverse=True)
        points = points + 0.08 * rng.standard_normal((count, *points.shape))                  # (n, K, 2)
        points[..., 0] *= rng.uniform(0.75, 1.2, (count, 1))
        points[..., 0] += rng.uniform(-0.25, 0.25, (count, 1)) * points[..., 1]
        cos, sin = np.cos(turn[rows])[:, None], np.sin(turn[rows])[:, None]
        x = points[..., 0] * cos - points[..., 1] * sin
        y = points[..., 0] * sin + points[..., 1] * cos
        moved = np.stack([x, y], axis=2) * radius[rows, None, None] + centre[rows, None]
        moved = moved[:, place.reshape(-1)].reshape(count, -1, 2, 2).astype(np.float32)       # (n, S, ends, xy)
        distance = np.full((count, side, side), np.inf, dtype=np.float32)
        for piece in range(moved.shape[1]):
            start, way = moved[:, piece, 0], moved[:, piece, 1] - moved[:, piece, 0]
            from_x, from_y = grid - start[:, :1], grid - start[:, 1:]
            along = from_x[:, None] * way[:, :1, None] + from_y[..., None] * way[:, 1:, None]
            along = (along / np.maximum((way ** 2).sum(axis=1), 1e-6)[:, None, None]).clip(0, 1)
            off = ((from_x[:, None] - along * way[:, :1, None]) ** 2
                   + (from_y[..., None] - along * way[:, 1:, None]) ** 2)
            np.minimum(distance, off, out=distance)
        half = (radius[rows] * rng.uniform(0.08, 0.22, count)).clip(0.6)[:, None, None].astype(np.float32)
        covered[rows] = (half + 0.5 - np.sqrt(distance)).clip(0, 1)
    return covered
