"""Transform an image to uint8 (3, R, R). An image is a PIL image, or a uint8 (3, H, W) tensor of the fast JPEG reader.

Importing torchvision costs seconds, so its transforms are not used; the pixels are tested against theirs (PIL: equal;
tensors: within 1, 0.004 on average, except for enlarged edges of full contrast). Normalisation is left to the device:
a quarter of the bytes travel.
"""

import math
import random

BICUBIC = 3  # Pillow's number for it, so that this module imports nothing
LONGEST = 100  # times the short side; of longer strips only the middle is enlarged, to bound memory


class EvalTransform:
    """Resize the short side to R (bicubic) and crop the centre: torchvision's Resize and CenterCrop, pixel for
    pixel.

    ``short``: pixels of the short side before the crop, at least R.
    """

    def __init__(self, resolution, short=None):
        self.resolution, self.short = resolution, short or resolution
        self.name = f"resize {self.short} bicubic, centre crop"
        if self.short != resolution:
            self.name += f" {resolution}"

    def __call__(self, image, seed=None):
        size, image = self.resolution, middle(image)
        width, height = size_of(image)
        short, long = min(width, height), max(width, height)
        if short != self.short:
            long = int(self.short * long / short)
            width, height = (self.short, long) if width <= height else (long, self.short)
            image = resize(image, width, height)
        left, top = round((width - size) / 2), round((height - size) / 2)
        if (width, height) != (size, size):
            image = crop(image, (left, top, left + size, top + size))
        return to_tensor(image)


class TrainTransform:
    """Crop a random part of the image, 90 to 100 % of its area, sides 3:4 to 4:3, and resize it to R x R
    (bicubic).

    It is mirrored with probability ``flip``, 0 by default.
    """

    def __init__(self, resolution, scale=(0.9, 1.0), ratio=(3 / 4, 4 / 3), flip=0.0):
        self.resolution, self.scale, self.ratio, self.flip = resolution, scale, ratio, flip

    def __call__(self, image, seed):
        rng = random.Random(seed)
        box = random_box(*size_of(image), self.scale, self.ratio, rng)
        pixels = to_tensor(resize(crop(image, box), self.resolution, self.resolution))  # (3, R, R)
        return pixels.flip(-1) if rng.random() < self.flip else pixels


class MarginTransform(EvalTransform):
    """Transform for linear evaluation: resize the short side to 256 and crop the central 224 x 224, scaled for
    another R (the short side is R * 256 / 224, rounded). Bicubic, as CLIP was trained."""

    def __init__(self, resolution):
        super().__init__(resolution, round(resolution * 256 / 224))


class AugmentTransform(TrainTransform):
    """Augment for linear evaluation: torchvision's RandomResizedCrop with its defaults, 8 to 100 % of the area
    and sides 3:4 to 4:3, but bicubic; mirrored half of the time."""

    def __init__(self, resolution):
        super().__init__(resolution, scale=(0.08, 1.0), flip=0.5)


def random_box(width, height, scale, ratio, rng, tries=10):
    """Return (left, top, right, bottom) of a part with random area and side ratio, Inception's cropping
    (Szegedy et al., 2015).

    If ``tries`` draws do not fit: the largest central part within the ratios.
    """
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


def middle(image):
    """Return the image; of a strip beyond 1:LONGEST, its middle part of 1:LONGEST."""
    width, height = size_of(image)
    most = LONGEST * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return crop(image, (left, top, min(width, left + most), min(height, top + most)))


def is_tensor(image):
    return hasattr(image, "dim")


def size_of(image):
    """Return (width, height)."""
    return (image.shape[2], image.shape[1]) if is_tensor(image) else image.size


def crop(image, box):
    left, top, right, bottom = box
    return image[:, top:bottom, left:right] if is_tensor(image) else image.crop(box)


def resize(image, width, height):
    """Resize bicubically with anti-aliasing, like Pillow."""
    if not is_tensor(image):
        return image.resize((width, height), BICUBIC)
    from torch.nn.functional import interpolate
    return interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]


def to_tensor(image):
    """Convert an RGB PIL image or uint8 (3, H, W) to uint8 (3, H, W), contiguous."""
    if is_tensor(image):
        return image.contiguous()
    import numpy
    import torch
    return torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
