"""Pixels equal torchvision's on Pillow images; crops follow its distribution and their seed alone."""

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, RandomResizedCrop, Resize

from src.datasets.transforms import (
    AugmentTransform,
    EvalTransform,
    MarginTransform,
    TrainTransform,
    random_box,
    to_tensor,
)

ROOT = Path(__file__).parents[2]
DRAWS = 4000
SIZES = [(32, 32), (33, 32), (32, 33), (31, 32), (32, 31), (31, 31), (33, 33), (47, 32), (32, 47), (7, 5), (5, 7),
         (1, 1), (1, 9), (9, 1), (64, 64), (65, 64), (63, 64), (100, 37), (37, 100), (101, 99), (257, 63), (63, 257),
         (45, 46), (46, 45), (200, 33), (33, 200), (331, 500), (500, 331), (48, 35), (35, 48)]


def noise(width, height, mode="RGB", seed=0):
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(values)


def torchvision_eval(resolution):
    return Compose([Resize(resolution, InterpolationMode.BICUBIC), CenterCrop(resolution)])


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_evaluation_pixels_equal_torchvisions(size):
    image = noise(*size)
    for resolution in (32, 33, 20):
        expected = np.asarray(torchvision_eval(resolution)(image))
        given = EvalTransform(resolution)(image)
        assert given.shape == (3, resolution, resolution) and given.dtype == torch.uint8
        assert np.array_equal(given.permute(1, 2, 0).numpy(), expected), resolution


def test_evaluation_pixels_equal_torchvisions_at_clips_resolution():
    for size in ((500, 375), (375, 500), (225, 224), (223, 224), (640, 427)):
        image = noise(*size)
        expected = np.asarray(torchvision_eval(224)(image))
        assert np.array_equal(EvalTransform(224)(image).permute(1, 2, 0).numpy(), expected), size


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_other_modes_become_three_channels_after_the_cut(mode):
    image = noise(40, 30, mode)
    expected = np.asarray(torchvision_eval(16)(image).convert("RGB"))
    assert np.array_equal(EvalTransform(16)(image).permute(1, 2, 0).numpy(), expected)
    assert TrainTransform(16)(image, 0).shape == (3, 16, 16)


def test_the_evaluation_transform_ignores_the_seed():
    image = noise(40, 30)
    assert torch.equal(EvalTransform(16)(image, 1), EvalTransform(16)(image, 2))


def test_a_picture_becomes_its_bytes():
    image = noise(3, 2)
    tensor = to_tensor(image)
    assert tensor.is_contiguous() and tensor.tolist() == np.asarray(image).transpose(2, 0, 1).tolist()


def our_boxes(width, height, scale, ratio, tries=10):
    """(left, top, width, height) of many draws."""
    boxes = [random_box(width, height, scale, ratio, random.Random(seed), tries) for seed in range(DRAWS)]
    return np.array([(left, top, right - left, bottom - top) for left, top, right, bottom in boxes])


def torchvision_boxes(width, height, scale, ratio):
    blank = Image.new("RGB", (width, height))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [RandomResizedCrop.get_params(blank, list(scale), list(ratio)) for _ in range(DRAWS)]
    return np.array([(left, top, box_width, box_height) for top, left, box_height, box_width in drawn])


def largest_gap(one, other):
    """Kolmogorov and Smirnov's statistic: the largest distance between two empirical distributions."""
    values = np.union1d(one, other)
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (one, other)]
    return np.abs(shares[0] - shares[1]).max()


@pytest.mark.slow
@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.2, 0.6), (0.08, 1.0)])
@pytest.mark.parametrize("size", [(200, 200), (300, 200), (200, 300), (320, 100)], ids=str)
def test_crops_follow_torchvisions_distribution(size, scale):
    ratio = (3 / 4, 4 / 3)
    ours, theirs = our_boxes(*size, scale, ratio), torchvision_boxes(*size, scale, ratio)
    measures = {"area": lambda box: box[:, 2] * box[:, 3], "sides": lambda box: np.log(box[:, 2] / box[:, 3]),
                "left": lambda box: box[:, 0], "top": lambda box: box[:, 1]}
    limit = 1.95 * math.sqrt(2 / DRAWS)  # passed by chance once in a thousand pairs of equal distributions
    for name, measure in measures.items():
        assert largest_gap(measure(ours), measure(theirs)) < limit, name


def test_crops_stay_inside_the_image_and_within_area_and_ratio():
    boxes = our_boxes(200, 160, (0.9, 1.0), (3 / 4, 4 / 3))
    left, top, width, height = boxes.T
    assert left.min() >= 0 and top.min() >= 0
    assert (left + width).max() <= 200 and (top + height).max() <= 160
    areas, sides = width * height / (200 * 160), width / height
    assert 0.89 < areas.min() < 0.91 and 0.98 < areas.max() <= 1.0
    assert sides.min() > 0.74 and sides.max() < 1.35


@pytest.mark.parametrize("size, box", [
    ((400, 100), (133, 0, 266, 100)),     # too wide: the whole height, 4:3 of it, in the centre
    ((90, 300), (0, 90, 90, 210)),        # too high: the whole width
    ((120, 100), (0, 0, 120, 100)),       # within the ratios: all of it
])
def test_where_no_draw_fits_the_largest_central_part_is_taken(size, box):
    assert random_box(*size, (0.9, 1.0), (3 / 4, 4 / 3), random.Random(0), tries=0) == box
    top, left, height, width = RandomResizedCrop.get_params(Image.new("RGB", size), [4.0, 4.0], [3 / 4, 4 / 3])
    assert (left, top, left + width, top + height) == box  # an area of four images never fits


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3)], ids=str)
def test_the_smallest_images_are_cut_as_well(size):
    for seed in range(50):
        assert TrainTransform(8)(noise(*size), seed).shape == (3, 8, 8)


def test_a_training_crop_is_torchvisions_resize_of_its_box():
    image, transform = noise(60, 50), TrainTransform(24)
    for seed in range(10):
        box = random_box(60, 50, (0.9, 1.0), (3 / 4, 4 / 3), random.Random(seed))
        expected = Resize((24, 24), InterpolationMode.BICUBIC)(image.crop(box))
        assert torch.equal(transform(image, seed), to_tensor(expected))


def test_training_crops_are_never_mirrored():
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (60, 1, 3)))
    for seed in range(50):
        row = TrainTransform(16)(ramp, seed)[0, 8].int()
        assert (row.diff() > 0).all()


def test_the_same_seed_gives_the_same_crop_and_another_one_another():
    image, transform = noise(60, 50), TrainTransform(24)
    crops = [transform(image, seed) for seed in (1, 1, 2)]
    assert torch.equal(crops[0], crops[1]) and not torch.equal(crops[0], crops[2])


def test_crops_leave_the_global_generators_alone():
    before = random.getstate(), torch.get_rng_state()
    TrainTransform(16)(noise(30, 30), 5)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_crops_are_the_same_in_another_process():
    code = ("import random\nfrom src.datasets.transforms import random_box\n"
            "print([random_box(60, 50, (0.9, 1.0), (0.75, 4 / 3), random.Random(seed)) for seed in range(5)])")
    printed = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                              cwd=ROOT,
                              env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")]
    here = [random_box(60, 50, (0.9, 1.0), (0.75, 4 / 3), random.Random(seed)) for seed in range(5)]
    assert printed == [f"{here}\n"] * 2


# -- linear evaluation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resolution", "short"), [(224, 256), (32, 37), (16, 18), (288, 329), (336, 384)])
def test_the_margin_is_that_of_256_to_224(resolution, short):
    for size in ((500, 375), (375, 500), (short, short), (short, 600), (40, 30)):
        image = noise(*size)
        expected = Compose([Resize(short, InterpolationMode.BICUBIC), CenterCrop(resolution)])(image)
        given = MarginTransform(resolution)(image)
        assert given.shape == (3, resolution, resolution)
        assert np.array_equal(given.permute(1, 2, 0).numpy(), np.asarray(expected)), size


def test_another_margin_has_another_name():
    assert EvalTransform(32).name == EvalTransform(32, 32).name == "resize 32 bicubic, centre crop"
    assert MarginTransform(32).name == "resize 37 bicubic, centre crop 32"


def augmentation(seed, width=60, height=50):
    """(box, mirrored): what AugmentTransform does, draw by draw."""
    rng = random.Random(seed)
    return random_box(width, height, (0.08, 1.0), (3 / 4, 4 / 3), rng), rng.random() < 0.5


def test_augmentation_is_torchvisions_resize_of_its_box_mirrored_or_not():
    image, transform, sides = noise(60, 50), AugmentTransform(24), set()
    for seed in range(20):
        box, mirrored = augmentation(seed)
        expected = to_tensor(Resize((24, 24), InterpolationMode.BICUBIC)(image.crop(box)))
        given = transform(image, seed)
        assert torch.equal(given, expected.flip(2) if mirrored else expected) and given.is_contiguous()
        sides.add(mirrored)
    assert sides == {True, False}


def test_augmentation_covers_8_to_100_percent_of_the_area():
    left, top, width, height = our_boxes(200, 160, (0.08, 1.0), (3 / 4, 4 / 3)).T
    areas, sides = width * height / (200 * 160), width / height
    assert 0.075 < areas.min() < 0.09 and 0.95 < areas.max() <= 1.0
    assert 0.73 < sides.min() < 0.78 and 1.3 < sides.max() < 1.37
    assert (AugmentTransform(16).scale, AugmentTransform(16).ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))


def test_augmentation_mirrors_every_second_image_whatever_the_crop():
    ramp = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (60, 1, 3)))
    transform, mirrored, areas = AugmentTransform(8), [], []
    for seed in range(DRAWS):
        row = transform(ramp, seed)[0, 4].int()
        mirrored.append(bool(row[-1] < row[0]))
        left, top, right, bottom = augmentation(seed, 60, 60)[0]
        areas.append((right - left) * (bottom - top))
    limit = 3.3 * 0.5 / math.sqrt(DRAWS)  # a fair coin exceeds it once in a thousand
    assert abs(np.mean(mirrored) - 0.5) < limit
    assert abs(np.corrcoef(mirrored, areas)[0, 1]) < 3.3 / math.sqrt(DRAWS)


def test_augmentation_depends_on_the_seed_alone():
    image, transform = noise(60, 50), AugmentTransform(24)
    before = random.getstate(), torch.get_rng_state()
    crops = [transform(image, seed) for seed in (1, 1, 2)]
    assert torch.equal(crops[0], crops[1]) and not torch.equal(crops[0], crops[2])
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


def test_tensors_are_augmented_like_pictures():
    """Contrast that leaves room for the overshoot at edges: where an enlarged part is clipped, the two differ more."""
    image = noise(60, 50).point(lambda value: 64 + value // 2)
    for seed in range(10):
        one, other = AugmentTransform(24)(image, seed).int(), AugmentTransform(24)(to_tensor(image), seed).int()
        assert (one - other).abs().max() <= 1
        one, other = MarginTransform(24)(image).int(), MarginTransform(24)(to_tensor(image)).int()
        assert (one - other).abs().max() <= 1
