"""Place names beside points, covering as little as possible."""

DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
DISTANCES = (13, 22, 36, 54, 76, 104)  # pixels from a point to its label; the nearest free one is used
ROOM = 8  # pixels kept free around a point


def place_labels(points, sizes, field, covered=()):
    """Place labels of sizes [(width, height)] at points [(x, y)]. -> [(x, y)] of the labels' lower left corners

    A label avoids points, other labels and the boxes of ``covered``, or overlaps as little as possible.
    ``field``: the box to stay in. A box is (left, bottom, right, top).
    """
    taken = [*((x - ROOM, y - ROOM, x + ROOM, y + ROOM) for x, y in points), *covered]
    places = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        boxes = [_box(x, y, width, height, distance, direction)
                 for distance in DISTANCES for direction in DIRECTIONS]
        best = min(boxes, key=lambda box: sum(_shared(box, other) for other in taken) + _outside(box, field))
        taken.append(best)
        places.append(best[:2])
    return places


def _box(x, y, width, height, distance, direction):
    """Return (left, bottom, right, top) of a label beside a point."""
    left = x + direction[0] * distance - width * (1 - direction[0]) / 2
    bottom = y + direction[1] * distance - height * (1 - direction[1]) / 2
    return left, bottom, left + width, bottom + height


def _shared(first, second):
    """Return the area that two boxes share."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    up = min(first[3], second[3]) - max(first[1], second[1])
    return max(across, 0.0) * max(up, 0.0)


def _outside(box, field):
    """Return the area of a box outside the field."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _shared(box, field)
