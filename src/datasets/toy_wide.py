"""The wide world: what the weights of ``toy-vit`` were pre-trained on. 32 x 32 pixels, in four kinds of pictures.

An object (one textured shape at a place), a sign (a digit or a letter in strokes), several shapes of a kind, or a
surface (a pattern that fills the picture). A picture is eight whole numbers, one for each attribute (the index into
``ATTRIBUTES[name]``), -1 where its kind has none, and what the random generator adds. The tasks of ``mini`` are drawn
by other code, see ``mini_drawn``.

    attributes = sample(8, rng)                       # {"shape": (8,), "colour": (8,), ...}
    images = draw(attributes, rng)                    # (8, 32, 32, 3) uint8

Its sentences are ``toy_sentences``.
"""

import numpy as np

from src.datasets import toy_world
from src.datasets.toy_strokes import DIGITS, LETTERS, draw_strokes
from src.datasets.toy_world import SIDE

SHAPES = (*toy_world.SHAPES, *toy_world.NEW_SHAPES, "pentagon", "hexagon", "frame", "bar", "drop", "egg")
OUTLINES = toy_world.OUTLINES | {
    "pentagon": lambda u, v: _regular(u, v, 5), "hexagon": lambda u, v: _regular(u, v, 6),
    "frame": lambda u, v: abs(np.maximum(abs(u), abs(v)) - 0.72) < 0.2,
    "bar": lambda u, v: (abs(u) < 0.95) & (abs(v) < 0.3),
    "drop": lambda u, v: ((u * u + (v + 0.3) ** 2) < 0.4) | ((v > -0.3) & (abs(u) < 0.5 * (0.95 - v))),
    "egg": lambda u, v: (u / 0.62) ** 2 + (v / 0.95) ** 2 < 1}
COLOURS = {"red": (.88, .10, .12), "orange": (1.0, .55, .05), "yellow": (.95, .88, .15), "green": (.12, .62, .18),
           "cyan": (.15, .82, .88), "blue": (.15, .28, .92), "purple": (.55, .15, .75), "pink": (1.0, .55, .75),
           "brown": (.48, .28, .10), "white": (.95, .95, .95), "black": (.05, .05, .05), "grey": (.50, .50, .50)}
BACKGROUNDS = {"black": (.03, .03, .03), "white": (.97, .97, .97), "grey": (.50, .50, .50), "navy": (.05, .05, .32),
               "beige": (.88, .82, .68), "maroon": (.38, .05, .10), "teal": (.05, .42, .42)}
TEXTURES = (*toy_world.TEXTURES, "ringed", "zigzag", "netted", "bricked")
SIZES = {"tiny": 4.0, "small": 6.5, "large": 9.5, "huge": 13.0}
NUMBERS = ("one", "two", "three", "four", "five", "six")
SIGNS = (*(f"digit {name}" for name in DIGITS), *(f"letter {name}" for name in LETTERS))
ATTRIBUTES = {"shape": SHAPES, "sign": SIGNS, "colour": tuple(COLOURS), "texture": TEXTURES,
              "position": toy_world.POSITIONS, "size": tuple(SIZES), "background": tuple(BACKGROUNDS),
              "number": NUMBERS}
# What a picture of each kind has, and how often the kind occurs.
KINDS = {"object": (("shape", "colour", "texture", "position", "size", "background", "number"), 0.5),
         "sign": (("sign", "colour", "background"), 0.2),
         "several": (("shape", "colour", "background", "number"), 0.15),
         "surface": (("colour", "texture"), 0.15)}
HAS = np.array([[name in has for name in ATTRIBUTES] for has, _ in KINDS.values()])
NEAREST = 0.35       # between a colour and its ground, of sqrt(3)
CELLS = np.stack(np.meshgrid([-9.5, 0.0, 9.5], [-9.5, 0.0, 9.5]), axis=-1).reshape(-1, 2)


def sample(count, rng):
    """Attributes of ``count`` pictures, name -> (N,) indices, and their kinds under ``kind``."""
    kinds = rng.choice(len(KINDS), size=count, p=[share for _, share in KINDS.values()])
    found = {name: np.where(HAS[kinds, column], rng.integers(len(values), size=count), -1)
             for column, (name, values) in enumerate(ATTRIBUTES.items())}
    found["number"][kinds == 0] = 0
    colours, grounds = (np.array([*table.values()]) for table in (COLOURS, BACKGROUNDS))
    near = np.linalg.norm(colours[:, None] - grounds, axis=-1) < NEAREST                      # (colours, grounds)
    while (again := near[found["colour"], found["background"]] & (found["background"] >= 0)).any():
        found["background"][again] = rng.integers(len(grounds), size=again.sum())
    return found | {"kind": kinds}


def draw(attributes, rng):
    """Attributes, name -> (N,) -> pictures (N, 32, 32, 3), uint8."""
    kinds = attributes["kind"]
    count = len(kinds)
    colour, ground = (_tinted(table, attributes[name], rng)
                      for table, name in ((COLOURS, "colour"), (BACKGROUNDS, "background")))
    step, jitter = rng.uniform(5.0, 7.0, (count, 1)), rng.uniform(-1.5, 1.5, (count, 2))
    cells = np.stack([attributes["position"] % 3, attributes["position"] // 3], axis=1) - 1
    centre = SIDE / 2 + jitter + np.where(attributes["position"][:, None] >= 0, step * cells, 0)
    radius = np.array([*SIZES.values()])[attributes["size"]] * rng.uniform(0.9, 1.1, count)
    turn = rng.uniform(-0.3, 0.3, count)
    covered = np.ones((count, SIDE, SIDE), dtype=np.float32)
    pattern = np.zeros_like(covered)
    of = [np.flatnonzero(kinds == kind) for kind in range(len(KINDS))]
    covered[of[0]] = _shapes(attributes["shape"][of[0]], centre[of[0]], radius[of[0]], turn[of[0]])
    covered[of[1]] = draw_strokes(attributes["sign"][of[1]], centre[of[1]], rng.uniform(8.0, 14.5, len(of[1])),
                                  turn[of[1]], rng, SIDE)
    covered[of[2]] = _several(attributes["shape"][of[2]], attributes["number"][of[2]], turn[of[2]], rng)
    textured = np.flatnonzero(attributes["texture"] >= 0)
    pattern[textured] = _patterns(attributes["texture"][textured], centre[textured], radius[textured], rng)
    bright = np.where((kinds == 3)[:, None], colour, ground).mean(axis=1, keepdims=True) < 0.45
    second = np.where(bright, 0.3 * colour + 0.7, 0.3 * colour)
    painted = _mix(colour[:, None, None], second[:, None, None], pattern)
    image = _mix(ground[:, None, None], painted, covered)
    return _photographed(image, rng)


def _photographed(image, rng):
    """Light that falls from a side, contrast and noise, each of another strength in every picture."""
    count, across = len(image), np.linspace(-1, 1, SIDE, dtype=np.float32)
    slope = rng.uniform(-0.12, 0.12, (2, count, 1, 1)).astype(np.float32)
    light = 1 + slope[0] * across + slope[1] * across[:, None]
    contrast = rng.uniform(0.75, 1.05, (count, 1, 1, 1)).astype(np.float32)
    noise = rng.uniform(0, 0.07, (count, 1, 1, 1)).astype(np.float32)
    image = (0.5 + (image - 0.5) * contrast) * light[..., None]
    image += noise * rng.standard_normal(image.shape, dtype=np.float32)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def _mix(first, second, weight):
    return first + (second - first) * weight[..., None]


def _tinted(table, indices, rng):
    """(N,) -> (N, 3) colours, each a little off its name's."""
    colours = np.array([*table.values()])[indices]
    return (colours + 0.05 * rng.standard_normal(colours.shape)).clip(0, 1).astype(np.float32)


def _regular(u, v, corners):
    """A regular polygon that stands on a side."""
    angle = np.arctan2(u, v) % (2 * np.pi / corners) - np.pi / corners
    return np.hypot(u, v) * np.cos(angle) < 0.95 * np.cos(np.pi / corners)


def _shapes(shapes, centre, radius, turn, fine=2):
    """Share of each pixel that the shape covers, (N, 32, 32) float32."""
    covered = np.empty((len(shapes), SIDE, SIDE), dtype=np.float32)
    grid = ((np.arange(SIDE * fine) + 0.5) / fine).astype(np.float32)
    for shape in np.unique(shapes):
        rows = np.flatnonzero(shapes == shape)
        scale = radius[rows, None].astype(np.float32)
        x = (grid - centre[rows, :1].astype(np.float32)) / scale
        y = (centre[rows, 1:].astype(np.float32) - grid) / scale                              # upwards
        cos, sin = (f(turn[rows]).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        u, v = x[:, None] * cos + y[..., None] * sin, y[..., None] * cos - x[:, None] * sin
        mask = OUTLINES[SHAPES[shape]](u, v)
        covered[rows] = mask.reshape(-1, SIDE, fine, SIDE, fine).mean(axis=(2, 4), dtype=np.float32)
    return covered


def _several(shapes, numbers, turn, rng):
    """Shapes of a kind in as many of nine cells as ``numbers``, which count from one, say."""
    cells = CELLS[rng.random((len(shapes), len(CELLS))).argsort(axis=1)]                      # (n, 9, 2)
    radius = rng.uniform(3.4, 4.6, len(shapes))
    covered = np.zeros((len(shapes), SIDE, SIDE), dtype=np.float32)
    for index in range(len(NUMBERS)):
        rows = np.flatnonzero(numbers >= index)
        centre = SIDE / 2 + cells[rows, index] + rng.uniform(-0.8, 0.8, (len(rows), 2))
        covered[rows] += _shapes(shapes[rows], centre, radius[rows], turn[rows])
    return covered.clip(0, 1)


def _patterns(textures, centre, radius, rng):
    """How much of the second colour a pixel has, (N, 32, 32) float32."""
    pattern = np.empty((len(textures), SIDE, SIDE), dtype=np.float32)
    period, phase = rng.uniform(4.0, 7.0, len(textures)), rng.integers(10, size=(len(textures), 2))
    slant, grid = rng.choice([-1, 1], size=len(textures)), np.arange(SIDE)
    for texture in np.unique(textures):
        rows = np.flatnonzero(textures == texture)
        place = toy_world.Place(
            x=(grid + phase[rows, :1])[:, None], y=(grid + phase[rows, 1:])[..., None],
            from_x=(grid + 0.5 - centre[rows, :1])[:, None], from_y=(grid + 0.5 - centre[rows, 1:])[..., None],
            radius=radius[rows, None, None], slant=slant[rows, None, None], period=period[rows, None, None])
        pattern[rows] = toy_world.PATTERNS[TEXTURES[texture]](place, rng)
    return pattern


def agreement(attributes, told, mentioned):
    """Which sentence is true of which picture, (N, M) bool; ``told`` is what M sentences were made for."""
    wrong = np.zeros((len(attributes["kind"]), len(mentioned)), dtype=bool)
    for column, name in enumerate(ATTRIBUTES):
        wrong |= (attributes[name][:, None] != told[name]) & mentioned[:, column]
    return ~wrong
