"""PIL image -> uint8 (3, R, R). Pillow alone, because importing torchvision costs seconds; tests hold the pixels equal.

Normalisation is left to the device (``src.device``): a quarter of the bytes travel, and it is one operation a batch.
"""

import math
import random

BICUBIC = 3  # Pillow's number for it, so that this module imports nothing


class EvalTransform:
    """Resize the short side to R (bicubic), cut the centre: torchvision's Resize and CenterCrop, pixel for pixel."""

    def __init__(self, resolution):
        self.resolution = resolution
        self.name = f"resize {resolution} bicubic, centre crop"

    def __call__(self, image, seed=None):
        size = self.resolution
        width, height = image.size
        short, long = min(width, height), max(width, height)
        if short != size:
            long = int(size * long / short)
            width, height = (size, long) if width <= height else (long, size)
            image = image.resize((width, height), BICUBIC)
        left, top = round((width - size) / 2), round((height - size) / 2)
        if (width, height) != (size, size):
            image = image.crop((left, top, left + size, top + size))
        return to_tensor(image)


class TrainTransform:
    """A random part of the image, 90 to 100 % of its area, sides 3:4 to 4:3, resized to R x R (bicubic). No flip."""

    def __init__(self, resolution, scale=(0.9, 1.0), ratio=(3 / 4, 4 / 3)):
        self.resolution, self.scale, self.ratio = resolution, scale, ratio

    def __call__(self, image, seed):
        box = random_box(*image.size, self.scale, self.ratio, random.Random(seed))
        return to_tensor(image.crop(box).resize((self.resolution, self.resolution), BICUBIC))


def random_box(width, height, scale, ratio, rng, tries=10):
    """(left, top, right, bottom) of a part with random area and side ratio, as in Inception's cropping
    (Szegedy et al., 2015); the largest central part within the ratios where ``tries`` draws do not fit."""
    for _ in range(tries):
        area = width * height * rng.uniform(*scale)
        sides = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_width, box_height = round(math.sqrt(area * sides)), round(math.sqrt(area / sides))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = rng.randint(0, width - box_width), rng.randint(0, height - box_height)
            return left, top, left + box_width, top + box_height
    box_width = min(width, round(height * ratio[1]))
    box_height = min(height, round(width / ratio[0]))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def to_tensor(image):
    """RGB PIL image -> uint8 (3, H, W)."""
    import numpy
    import torch
    return torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
