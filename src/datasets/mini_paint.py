"""Colours, grounds and grain of the mini pictures."""

import numpy as np

SIDE = 32              # pixels
# Hue in turns, saturation and value: the middle, and how far a picture may be off.
HSV = {"red": ((.99, .80, .75), (.015, .15, .15)), "orange": ((.075, .85, .92), (.015, .12, .08)),
       "yellow": ((.15, .75, .90), (.018, .2, .1)), "green": ((.36, .65, .55), (.06, .2, .15)),
       "cyan": ((.51, .60, .85), (.02, .2, .12)), "blue": ((.63, .75, .80), (.03, .15, .18)),
       "purple": ((.77, .65, .60), (.025, .2, .15)), "pink": ((.92, .40, .95), (.03, .12, .05)),
       "brown": ((.07, .65, .42), (.02, .15, .10)), "white": ((.1, .02, .96), (.1, .02, .04)),
       "black": ((.5, .1, .07), (.5, .1, .06)), "grey": ((.5, .03, .52), (.5, .03, .12))}
NEAREST = 0.4          # between a colour and its ground


def rgb(hsv):
    """(..., 3) -> (..., 3), all from 0 to 1."""
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    turns = (np.array([5, 3, 1]) + hue[..., None] * 6) % 6
    return value[..., None] * (1 - saturation[..., None] * np.minimum(turns, 4 - turns).clip(0, 1))


def named_colours(names, rng):
    """(N,) names -> (N, 3)."""
    middle, off = (np.array([HSV[name][part] for name in names]) for part in (0, 1))
    return rgb((middle + off * rng.uniform(-1, 1, middle.shape)) % [1, 2, 2])


def any_colours(count, rng, apart_from=None):
    """(N, 3), anywhere in the cube of colours but near those of ``apart_from``, (N, 3)."""
    colours = rng.random((count, 3))
    if apart_from is not None:
        while (near := np.linalg.norm(colours - apart_from, axis=1) < NEAREST).any():
            colours[near] = rng.random((near.sum(), 3))
    return colours


def grounds(colours, rng):
    """(N, 3) -> (N, 32, 32, 3): each colour in blotches, brighter and darker."""
    coarse = rng.normal(0, 0.07, (len(colours), 6, 6))
    steps = np.linspace(0, 4.999, SIDE)
    whole, part = steps.astype(int), steps % 1
    rows = coarse[:, whole] * (1 - part)[:, None] + coarse[:, whole + 1] * part[:, None]
    light = rows[:, :, whole] * (1 - part) + rows[:, :, whole + 1] * part
    return (colours[:, None, None] + light[..., None]).astype(np.float32)


def photographed(images, rng):
    """A little blur, grain in grey, and tint; (N, 32, 32, 3) in 0..1 -> uint8."""
    count = len(images)
    blur = rng.uniform(0, 0.25, (count, 1, 1, 1)).astype(np.float32)
    for axis in (1, 2):
        images = images + blur * (np.roll(images, 1, axis) + np.roll(images, -1, axis) - 2 * images)
    grain = rng.uniform(0, 0.08, (count, 1, 1, 1)) * rng.standard_normal((count, SIDE, SIDE, 1), dtype=np.float32)
    tinted = (images + grain) * rng.uniform(0.9, 1.1, (count, 1, 1, 3))
    return (tinted.clip(0, 1) * 255).round().astype(np.uint8)
