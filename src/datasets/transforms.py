"""An image -> uint8 (3, R, R). An image is a PIL image, or a uint8 (3, H, W) tensor as the fast JPEG reader gives.

Importing torchvision costs seconds, so its transforms are not used; tests hold the pixels equal to theirs (PIL:
exactly; tensors: within 1, 0.004 on average). Normalisation is left to the device: a quarter of the bytes travel.
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
        width, height = size_of(image)
        short, long = min(width, height), max(width, height)
        if short != size:
            long = int(size * long / short)
            width, height = (size, long) if width <= height else (long, size)
            image = resize(image, width, height)
        left, top = round((width - size) / 2), round((height - size) / 2)
        if (width, height) != (size, size):
            image = crop(image, (left, top, left + size, top + size))
        return to_tensor(image)


class TrainTransform:
    """A random part of the image, 90 to 100 % of its area, sides 3:4 to 4:3, resized to R x R (bicubic). No flip."""

    def __init__(self, resolution, scale=(0.9, 1.0), ratio=(3 / 4, 4 / 3)):
        self.resolution, self.scale, self.ratio = resolution, scale, ratio

    def __call__(self, image, seed):
        box = random_box(*size_of(image), self.scale, self.ratio, random.Random(seed))
        return to_tensor(resize(crop(image, box), self.resolution, self.resolution))


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


def is_tensor(image):
    return hasattr(image, "dim")


def size_of(image):
    """(width, height)"""
    return (image.shape[2], image.shape[1]) if is_tensor(image) else image.size


def crop(image, box):
    left, top, right, bottom = box
    return image[:, top:bottom, left:right] if is_tensor(image) else image.crop(box)


def resize(image, width, height):
    """Bicubic with anti-aliasing, as Pillow's."""
    if not is_tensor(image):
        return image.resize((width, height), BICUBIC)
    from torch.nn.functional import interpolate
    return interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]


def to_tensor(image):
    """RGB PIL image or uint8 (3, H, W) -> uint8 (3, H, W), contiguous."""
    if is_tensor(image):
        return image.contiguous()
    import numpy
    import torch
    return torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
