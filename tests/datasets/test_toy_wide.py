"""The wide world: every kind has what the table says, pictures show it, and truth is the slow rule's."""

import numpy as np
from scipy import ndimage

from src.datasets import toy_wide, toy_world


def pictures(count=120, seed=0):
    rng = np.random.default_rng(seed)
    attributes = toy_wide.sample(count, rng)
    return attributes, toy_wide.draw(attributes, rng)


def test_a_picture_has_the_attributes_of_its_kind():
    attributes, images = pictures()
    assert images.shape == (120, 32, 32, 3) and images.dtype == np.uint8
    assert set(attributes["kind"]) == set(range(len(toy_wide.KINDS)))
    for row, kind in enumerate(attributes["kind"]):
        has, _ = list(toy_wide.KINDS.values())[kind]
        for name, values in toy_wide.ATTRIBUTES.items():
            assert (0 <= attributes[name][row] < len(values)) == (name in has)
        assert list(toy_wide.KINDS)[kind] != "object" or attributes["number"][row] == 0


def test_a_colour_is_far_from_its_ground():
    attributes, _ = pictures(400)
    for colour, ground in zip(attributes["colour"], attributes["background"], strict=True):
        if ground >= 0:
            first, second = [*toy_wide.COLOURS.values()][colour], [*toy_wide.BACKGROUNDS.values()][ground]
            assert sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) >= toy_wide.NEAREST ** 2


def test_the_same_seed_draws_the_same():
    _, images = pictures(40, seed=3)
    assert np.array_equal(images, pictures(40, seed=3)[1]) and not np.array_equal(images, pictures(40, seed=4)[1])


def test_as_many_shapes_are_drawn_as_are_named():
    """Circles of 3.4 to 4.6 pixels that hardly touch: the area of n is n times pi (0.95 r)^2."""
    numbers = np.arange(240) % 6
    covered = toy_wide._several(np.zeros(240, dtype=int), numbers, np.zeros(240), np.random.default_rng(0))
    one = np.pi * 0.95 ** 2 * (4.6 ** 3 - 3.4 ** 3) / 3 / (4.6 - 3.4)
    for number in range(6):
        assert abs(covered[numbers == number].sum(axis=(1, 2)).mean() / one - (number + 1)) < 0.25
    assert ndimage.label(covered[2] > 0.5)[1] == 3


def test_every_shape_has_an_outline_that_fills_a_part():
    count = len(toy_wide.SHAPES)
    covered = toy_wide._shapes(np.arange(count), np.full((count, 2), 16.0), np.full(count, 12.0), np.zeros(count))
    assert (covered.mean(axis=(1, 2)) > 0.05).all() and (covered.mean(axis=(1, 2)) < 0.5).all()
    assert set(toy_world.SHAPES) < set(toy_wide.SHAPES)
    # A regular polygon with k corners of radius r has the area k/2 r^2 sin(2 pi/k).
    for name, corners in (("pentagon", 5), ("hexagon", 6)):
        area = corners / 2 * (0.95 * 12) ** 2 * np.sin(2 * np.pi / corners)
        assert abs(covered[toy_wide.SHAPES.index(name)].sum() - area) < 0.02 * area


def test_a_sentence_is_true_of_what_agrees_in_all_it_mentions():
    attributes, _ = pictures(30)
    mentioned = np.random.default_rng(1).random((30, len(toy_wide.ATTRIBUTES))) < 0.3
    found = toy_wide.agreement(attributes, attributes, mentioned)
    for picture in range(30):
        for text in range(30):
            assert found[picture, text] == all(
                attributes[name][picture] == attributes[name][text]
                for column, name in enumerate(toy_wide.ATTRIBUTES) if mentioned[text, column])
