"""Outlines of the drawn mini tasks as polygons: name -> rings, arrays (K, 2) of x to the right and y downwards, all
within -1 to 1. A ring inside another one is a hole."""

import numpy as np

_TURN = 2 * np.pi


def _round(rx=1.0, ry=None, x=0.0, y=0.0, first=0.0, last=1.0, count=20):
    """Points of an ellipse, or of the part from ``first`` to ``last`` of a turn, clockwise from the right."""
    angle = _TURN * np.linspace(first, last, count, endpoint=last - first < 1)
    return np.stack([x + rx * np.cos(angle), y + (ry or rx) * np.sin(angle)], axis=1)


def _corners(count, inner=None, first=-0.25):
    """A regular polygon with a corner at the top, or a star with as many tips."""
    tips = _round(count=count, first=first, last=first + 1)
    if inner is None:
        return tips
    dents = inner * _round(count=count, first=first + 0.5 / count, last=first + 0.5 / count + 1)
    return np.stack([tips, dents], axis=1).reshape(-1, 2)


def _points(text):
    """``"-5,-9 5,9"`` in tenths."""
    return np.array([[float(number) / 10 for number in point.split(",")] for point in text.split()])


def _heart():
    t = _TURN * np.arange(24) / 24
    return np.stack([np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16],
                    axis=1)


def _spiral(turns=2.2, count=36, half=0.13):
    angle = _TURN * turns * np.linspace(0.08, 1, count)
    radius = 0.86 * angle / angle[-1]
    way = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([way * (radius + half)[:, None], (way * (radius - half)[:, None])[::-1]])


def _clover():
    angle = _TURN * np.arange(42) / 42
    radius = 0.58 + 0.38 * np.cos(3 * (angle + _TURN / 4))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


_OUTER = _round(0.95)
POLYGONS = {
    "circle": [_OUTER], "square": [_points("-8,-8 8,-8 8,8 -8,8")], "triangle": [_points("0,-9 9,7 -9,7")],
    "diamond": [_points("0,-10 7,0 0,10 -7,0")],
    "cross": [_points("-3,-9 3,-9 3,-3 9,-3 9,3 3,3 3,9 -3,9 -3,3 -9,3 -9,-3 -3,-3")],
    "star": [_corners(5, 0.42)], "ring": [_OUTER, _round(0.5)], "heart": [_heart()],
    "crescent": [np.concatenate([_round(0.95, first=0.12, last=0.88),
                                 _round(0.72, x=0.38, first=0.88, last=0.12, count=14)])],
    "arrow": [_points("-9,-2 1,-2 1,-7 10,0 1,7 1,2 -9,2")], "hourglass": [_points("-7,-9 7,-9 1,0 7,9 -7,9 -1,0")],
    "clover": [_clover()], "house": [_points("-6,9 -6,-1 -9,-1 0,-9 9,-1 6,-1 6,9")],
    "dome": [_round(0.95, 1.0, y=0.45, first=0.5, last=0.9999)],
    "pentagon": [_corners(5)], "hexagon": [_corners(6, first=0)],
    "frame": [_points("-9,-9 9,-9 9,9 -9,9"), _points("-6,-6 6,-6 6,6 -6,6")],
    "bar": [_points("-10,-3 10,-3 10,3 -10,3")],
    "drop": [np.concatenate([_round(0.62, y=0.35, first=-0.05, last=0.55), _points("0,-10")])],
    "egg": [_round(0.66, 0.95)], "spiral": [_spiral()], "lightning": [_points("1,-10 -6,2 -1,2 -3,10 6,-3 1,-3 5,-10")],
    "key": [_round(0.4, x=-0.55), _round(0.18, x=-0.55),
            _points("-2,-1.2 10,-1.2 10,5 7.5,5 7.5,1.2 5.5,1.2 5.5,4 3.5,4 3.5,1.2 -2,1.2")],
    "tree": [_points("0,-10 5,-3 3,-3 8,4 2,4 2,10 -2,10 -2,4 -8,4 -3,-3 -5,-3")],
    "fish": [np.concatenate([_round(0.65, 0.45, x=-0.25, first=0.06, last=0.94), _points("9,-6 9,6")])],
    "cup": [_points("-7,-7 4,-7 3,8 -6,8"), _points("5,-5 9,-4 9,2 4.3,4 4.5,2 7,0.5 7,-2.5 4.8,-3")],
    "boat": [_points("-9,4 9,4 5,9 -6,9"), _points("0,-9 7,2 0,2"), _points("-1,-6 -1,2 -6,2")],
    "mushroom": [np.concatenate([_round(0.92, 0.9, y=0.1, first=0.5, last=0.9999), _points("2.5,1 3,9 -3,9 -2.5,1")])],
}
