"""The embedded benchmark's drawings as Tasks."""

from PIL import Image

from src.datasets import toy
from src.datasets.common import Split, Task
from src.templates.toy import TEMPLATES

REFERENCE_IMAGES, REFERENCE_SENTENCES = 1000, 1000


def open_toy(name, root):
    if name == toy.REFERENCE:
        images = toy.reference_images(REFERENCE_IMAGES)
        return Task(name, [], [], {"train": _split(images, [0] * len(images))},
                    sentences=toy.reference_sentences(REFERENCE_SENTENCES), in_memory=True)
    splits = {split: _split(*toy.load(name, split)) for split in toy.SPLITS}
    return Task(name, toy.classnames(name), TEMPLATES[name], splits, in_memory=True)


def _split(images, labels):
    return Split(lambda index: Image.fromarray(images[index]), labels)
