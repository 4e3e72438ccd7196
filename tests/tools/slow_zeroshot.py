"""Three datasets of few classes, and zero-shot weights one prompt at a time."""


import slow_reference as slow
import torch

import clip
from src.datasets.transforms import EvalTransform

SEVEN = ("cat", "dog", "red bird", "old tree", "car", "small blue house", "green tree")
NAMES = {"one": ("cat", "dog", "red bird"), "two": ("car", "cat"), "three": ("old tree", "small blue house", "dog")}


def slow_weights(model, classnames, templates):
    return slow.zeroshot_weights(model, [
        clip.tokenize([template.replace("{c}", name) for template in templates], 14) for name in classnames])


def pixels(device, images):
    transform = EvalTransform(16)
    return device.images(torch.stack([transform(image) for image in images]))
