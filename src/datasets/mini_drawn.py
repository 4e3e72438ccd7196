"""The drawn tasks of ``mini``: polygons on blotchy grounds, 32 x 32 pixels. None of the wide world's code draws here.

    rng = np.random.default_rng(0)
    images = DRAWN["mini-shapes"](labels, rng)        # (N,) -> (N, 32, 32, 3) uint8

A polygon is filled by the even-odd rule, so holes are rings inside rings. Lengths are in pixels; x grows to the right
and y downwards.
"""

import numpy as np

from src.datasets.mini_names import CLASSES
from src.datasets.mini_paint import SIDE, any_colours, grounds, named_colours, photographed
from src.datasets.mini_polygons import POLYGONS

FINE = 3     # outlines are filled on a raster FINE times finer than the pixels
RADII = (3.6, 6.0, 9.0, 12.5)


def fill(points, turn, radius, centre, side=SIDE):
    """Share of each pixel inside, (N, side, side) float32; ``points``: an outline's rings, (K, 2) from -1 to 1 each."""
    starts = np.concatenate(points)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in points])
    count, fine = len(turn), side * FINE
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    (x0, y0), (x1, y1) = (((p[:, 0] * cos - p[:, 1] * sin) * radius[:, None] + centre[:, :1],
                           (p[:, 0] * sin + p[:, 1] * cos) * radius[:, None] + centre[:, 1:]) for p in (starts, ends))
    y = ((np.arange(fine) + 0.5) / FINE)[:, None, None]                                       # (rows, 1, 1)
    row, picture, edge = np.nonzero((y0 <= y) != (y1 <= y))
    share = (y[row, 0, 0] - y0[picture, edge]) / (y1 - y0)[picture, edge]
    x = x0[picture, edge] + share * (x1 - x0)[picture, edge]
    column = np.ceil(x * FINE - 0.5).clip(0, fine).astype(np.int64)
    crossed = np.bincount((picture * fine + row) * (fine + 1) + column, minlength=count * fine * (fine + 1))
    inside = crossed.reshape(count, fine, fine + 1)[:, :, :fine].cumsum(axis=2) % 2
    return inside.reshape(count, side, FINE, side, FINE).mean(axis=(2, 4), dtype=np.float32)


def fill_each(shapes, turn, radius, centre):
    """Like ``fill`` for N pictures, whose ``shapes`` are names."""
    covered = np.empty((len(shapes), SIDE, SIDE), dtype=np.float32)
    for shape in np.unique(shapes):
        rows = np.flatnonzero(shapes == shape)
        covered[rows] = fill(POLYGONS[shape], turn[rows], radius[rows], centre[rows])
    return covered


def scene(covered, colours, rng):
    """Shapes (N, 32, 32) in ``colours`` (N, 3) over their shadows on grounds of another colour."""
    ground = grounds(any_colours(len(colours), rng, apart_from=colours), rng)
    shadow = 0.5 * np.roll(covered, (1, 1), axis=(1, 2))[..., None]
    ground = ground * (1 - shadow)
    return photographed(ground + (colours[:, None, None] - ground) * covered[..., None], rng)


def _single(shapes, colours, rng, radius=None, cell=None):
    """One shape a picture."""
    count = len(shapes)
    radius = rng.uniform(7, 13, count) if radius is None else radius
    cell = np.zeros((count, 2)) if cell is None else cell
    centre = SIDE / 2 + cell + rng.uniform(-2, 2, (count, 2))
    return scene(fill_each(shapes, rng.uniform(-0.4, 0.4, count), radius, centre), colours, rng)


def _any_shapes(count, rng):
    return rng.choice(["circle", "square", "triangle", "diamond", "cross", "star", "heart", "hexagon"], count)


def draw_shapes(labels, rng):
    return _single(np.array(CLASSES["mini-shapes"])[labels], any_colours(len(labels), rng), rng)


def draw_colours(labels, rng):
    return _single(_any_shapes(len(labels), rng), named_colours(np.array(CLASSES["mini-colours"])[labels], rng), rng)


def draw_things(labels, rng):
    colours, shapes = np.array([name.split() for name in CLASSES["mini-things"]]).T
    return _single(shapes[labels], named_colours(colours[labels], rng), rng)


def draw_places(labels, rng):
    count = len(labels)
    cell = np.stack([labels % 3, labels // 3], axis=1) - 1
    return _single(_any_shapes(count, rng), any_colours(count, rng), rng, radius=rng.uniform(3.5, 6, count),
                   cell=cell * rng.uniform(6, 9, (count, 1)))


def draw_sizes(labels, rng):
    count = len(labels)
    radius = np.array(RADII)[labels] * rng.uniform(0.82, 1.18, count)
    cell = rng.uniform(-1, 1, (count, 2)) * (15 - radius).clip(0)[:, None]
    return _single(_any_shapes(count, rng), any_colours(count, rng), rng, radius=radius, cell=cell)


def draw_counts(labels, rng):
    """Shapes of one kind anywhere, but apart."""
    count = len(labels)
    shapes, covered = _any_shapes(count, rng), np.zeros((count, SIDE, SIDE), dtype=np.float32)
    radius, places = rng.uniform(2.8, 4.2, count), np.full((count, 6, 2), 1e3)
    for index in range(6):
        waiting = np.flatnonzero(labels >= index)
        rows = waiting
        while len(waiting):
            places[waiting, index] = rng.uniform(4, SIDE - 4, (len(waiting), 2))
            apart = np.linalg.norm(places[waiting, :index] - places[waiting, index:index + 1], axis=2)
            waiting = waiting[(apart < 2.1 * radius[waiting, None]).any(axis=1)]
        covered[rows] += fill_each(shapes[rows], rng.uniform(-3, 3, len(rows)), radius[rows], places[rows, index])
    return scene(covered.clip(0, 1), any_colours(count, rng), rng)


def draw_patterns(labels, rng):
    """Waves of two free colours that fill the picture, turned a little."""
    count = len(labels)
    turn, period = rng.uniform(-0.25, 0.25, (count, 1, 1)), rng.uniform(5, 10, (count, 1, 1))
    x, y = np.arange(SIDE) - rng.uniform(0, SIDE, (2, count, 1, 1))                           # (n, 1, 32) each
    y = y.transpose(0, 2, 1)
    u = (x * np.cos(turn) + y * np.sin(turn)) / period
    v = (y * np.cos(turn) - x * np.sin(turn)) / period
    share = np.empty((count, SIDE, SIDE))
    for label in np.unique(labels):
        rows = labels == label
        share[rows] = _WAVES[CLASSES["mini-patterns"][label]](u[rows], v[rows], rng.choice([-1, 1], (rows.sum(), 1, 1)))
    colours = any_colours(count, rng)
    ground = grounds(any_colours(count, rng, apart_from=colours), rng)
    soft = (0.5 + 3 * share[..., None]).clip(0, 1)
    return photographed((ground + (colours[:, None, None] - ground) * soft).astype(np.float32), rng)


def _wave(t):
    """From 0.5 in the middle of each first half of a period to -0.5."""
    return 0.5 * np.sin(2 * np.pi * t)


# Where the second colour is: positive; (n, 32, 32) u to the right and v downwards in periods, and a direction.
_WAVES = {
    "plain": lambda u, v, way: np.full(u.shape, -1.0),
    "horizontally striped": lambda u, v, way: _wave(v),
    "vertically striped": lambda u, v, way: _wave(u),
    "diagonally striped": lambda u, v, way: _wave((u + way * v) / 1.4),
    "dotted": lambda u, v, way: 0.32 - np.hypot(u % 1 - 0.5, (v + 0.5 * np.floor(u)) % 1 - 0.5),
    "checkered": lambda u, v, way: 2 * _wave(u / 1.4) * _wave(v / 1.4),
    "ringed": lambda u, v, way: _wave(np.hypot(u - u[:, 16:17, 16:17], v - v[:, 16:17, 16:17])),
    "zigzag": lambda u, v, way: _wave(v + abs((u / 1.3) % 1 - 0.5)),
    "netted": lambda u, v, way: 0.14 - np.minimum(abs(u % 1 - 0.5), abs(v % 1 - 0.5)),
    "bricked": lambda u, v, way: 0.12 - np.minimum(
        abs(1.5 * v % 1 - 0.5), abs((u / 1.3 + 0.5 * np.floor(1.5 * v - 0.5)) % 1 - 0.5)),
}

DRAWN = {"mini-shapes": draw_shapes, "mini-colours": draw_colours, "mini-things": draw_things,
         "mini-patterns": draw_patterns, "mini-counts": draw_counts, "mini-places": draw_places,
         "mini-sizes": draw_sizes}
