"""The toy world: pictures show what their attributes say, and sentences say only what is true."""

import numpy as np
import pytest

from src.datasets import toy_world

COUNT = 240
QUIET = toy_world.Style(tint=0.0, noise=0.0, shift=0.0, stretch=0.0, turn=0.0)


def pictures(style=QUIET, seed=0, count=COUNT, **given):
    rng = np.random.default_rng(seed)
    attributes = toy_world.sample(count, rng, **given)
    return attributes, toy_world.draw(attributes, rng, style)


def covered(attributes, images):
    """Where a picture is not its background, (N, 32, 32) bool."""
    ground = np.asarray(QUIET.backgrounds)[attributes["background"]] * 255
    return abs(images - ground[:, None, None]).max(axis=-1) > 12


def test_a_batch_is_uint8_pictures():
    _, images = pictures(toy_world.STYLE)
    assert images.shape == (COUNT, 32, 32, 3) and images.dtype == np.uint8


def test_the_same_seed_draws_the_same_and_another_one_does_not():
    _, first = pictures(toy_world.STYLE, seed=3)
    _, again = pictures(toy_world.STYLE, seed=3)
    _, other = pictures(toy_world.STYLE, seed=4)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_plain_shapes_have_the_colour_that_is_named():
    attributes, images = pictures(texture=np.zeros(COUNT, dtype=int))
    inside = covered(attributes, images)
    for index in range(COUNT):
        median = np.median(images[index][inside[index]], axis=0) / 255
        distances = abs(np.asarray(QUIET.colours) - median).sum(axis=1)
        assert distances.argmin() == attributes["colour"][index]


def test_corners_have_the_background_that_is_named():
    attributes, images = pictures(size=np.zeros(COUNT, dtype=int), position=np.full(COUNT, 4))
    expected = np.asarray(QUIET.backgrounds)[attributes["background"]] * 255
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert abs(images[:, row, column] - expected).max() <= 1


def test_positions_are_where_they_are_named():
    circles = np.zeros(COUNT, dtype=int)
    attributes, images = pictures(shape=circles, texture=circles, size=circles)
    inside = covered(attributes, images)
    axis = np.arange(32) + 0.5
    for index, name in enumerate(toy_world.POSITIONS):
        chosen = inside[attributes["position"] == index]
        x = (chosen.sum(axis=1) * axis).sum(axis=1) / chosen.sum(axis=(1, 2)) - 16
        y = (chosen.sum(axis=2) * axis).sum(axis=1) / chosen.sum(axis=(1, 2)) - 16
        assert np.allclose(np.sign(x.round()), ("right" in name) - ("left" in name))
        assert np.allclose(np.sign(y.round()), ("bottom" in name) - ("top" in name))


@pytest.mark.parametrize("shape", range(len(toy_world.NAMES["shape"])))
def test_every_shape_grows_with_its_size(shape):
    centred = {"shape": np.full(3, shape), "size": np.arange(3), "position": np.full(3, 4),
               "texture": np.zeros(3, dtype=int), "colour": np.zeros(3, dtype=int),
               "background": np.ones(3, dtype=int)}
    images = toy_world.draw(centred, np.random.default_rng(0), QUIET)
    small, medium, large = covered(centred, images).sum(axis=(1, 2))
    assert 25 < small < 0.75 * medium < 0.75 ** 2 * large


def average_crops(attribute, values):
    """The mean picture of each value on a plain ground, all else equal: different values must look different."""
    same = np.zeros(values, dtype=int)
    given = {name: same for name in toy_world.ATTRIBUTES} | {"size": same + 2, "position": same + 4}
    given[attribute] = np.arange(values)
    rng = np.random.default_rng(0)
    return np.stack([toy_world.draw(given, rng, QUIET) for _ in range(8)]).astype(float)       # (8, V, 32, 32, 3)


def test_no_two_shapes_look_alike():
    values = len(toy_world.NAMES["shape"])
    means = average_crops("shape", values).mean(axis=0)
    for first in range(values):
        for second in range(first):
            assert (abs(means[first] - means[second]).max(axis=-1) > 100).mean() > 0.04


def test_stripes_run_as_they_are_named():
    images = average_crops("texture", len(toy_world.NAMES["texture"]))[:, :, 10:22, 10:22]
    def along(axis):
        return abs(np.diff(images, axis=axis)).mean(axis=(0, 2, 3, 4))
    down, right = along(2), along(3)
    plain, horizontal, vertical, diagonal, *others = range(6)
    assert down[plain] == right[plain] == 0
    assert right[horizontal] == 0 < down[horizontal]
    assert down[vertical] == 0 < right[vertical]
    assert all(down[index] > 10 and right[index] > 10 for index in (diagonal, *others))


def test_sentences_mention_exactly_what_they_say_they_mention():
    rng = np.random.default_rng(0)
    attributes = toy_world.sample(600, rng)
    texts, mentioned = toy_world.captions(attributes, rng)
    for index, text in enumerate(texts):
        for column, (name, values) in enumerate(toy_world.ATTRIBUTES.items()):
            value = values[attributes[name][index]]
            if mentioned[index, column]:
                assert f" {value} " in f" {text.replace(',', '')} "
            elif name != "position":          # "top" and "left" hide in "top left"
                assert not any(f" {other} " in f" {text} " for other in values)
    assert set(mentioned.sum(axis=1)) == {1, 2, 3, 4, 5, 6}
    assert len({text.split()[0] for text in texts}) >= 4 and len(set(texts)) > 500


def test_wanted_mentions_are_kept():
    rng = np.random.default_rng(0)
    attributes = toy_world.sample(50, rng)
    only_colour = np.tile([name == "colour" for name in toy_world.ATTRIBUTES], (50, 1))
    texts, _ = toy_world.captions(attributes, rng, only_colour)
    words = {word for text in texts for word in text.split()}
    assert not words & {*toy_world.SHAPES, *toy_world.SIZES, *toy_world.BACKGROUNDS, "at", "background"}


def test_agreement_is_every_mentioned_attribute():
    pictures_of = {name: np.array([0, 1, 0]) for name in toy_world.ATTRIBUTES} | {"shape": np.array([2, 2, 1])}
    told = {name: values[[0, 1]] for name, values in pictures_of.items()}
    shape_only = [name == "shape" for name in toy_world.ATTRIBUTES]
    all_of_them = [True] * len(toy_world.ATTRIBUTES)
    assert toy_world.agreement(pictures_of, told, np.array([shape_only, all_of_them])).tolist() == [
        [True, False], [True, True], [False, False]]


def test_sampling_is_uniform_over_what_the_world_knows():
    attributes = toy_world.sample(8000, np.random.default_rng(0))
    for name, values in toy_world.ATTRIBUTES.items():
        shares = np.bincount(attributes[name]) / 8000
        assert len(shares) == len(values) and abs(shares * len(values) - 1).max() < 0.15
