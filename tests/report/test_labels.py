"""Names beside points, by brute force over all pairs of boxes."""

import itertools

import pytest

from src.report import labels

FIELD = (0, 0, 1000, 700)


def overlap(first, second):
    return min(first[2], second[2]) > max(first[0], second[0]) and min(first[3], second[3]) > max(first[1], second[1])


@pytest.mark.parametrize("points", [
    [(500, 350)] * 8, [(500 + 3 * number, 350 - 2 * number) for number in range(8)], [(5, 5), (995, 695), (995, 5)]])
def test_names_cover_no_point_and_no_other_name(points):
    sizes = [(120 + 9 * number, 16) for number in range(len(points))]
    bars = [(440, 340, 560, 360)]
    places = labels.place_labels(points, sizes, FIELD, bars)
    boxes = [(x, y, x + width, y + height) for (x, y), (width, height) in zip(places, sizes, strict=True)]
    assert not any(overlap(*pair) for pair in itertools.combinations(boxes, 2))
    marks = [(x - 8, y - 8, x + 8, y + 8) for x, y in points]
    assert not any(overlap(box, other) for box in boxes for other in (*marks, *bars))
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 1000 and box[3] <= 700 for box in boxes)


def test_a_name_stands_right_of_a_lonely_point():
    assert labels.place_labels([(500, 350)], [(100, 16)], FIELD) == [(500 + labels.DISTANCES[0], 342)]
