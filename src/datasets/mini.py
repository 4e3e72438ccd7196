"""The smoke benchmark ``mini``: eleven small tasks and a reference set with sentences; nothing is downloaded.

Four tasks are not drawn by this project: handwritten digits, letters and pictograms of open fonts, pieces of
photographs and scans. Seven are drawn by ``mini_drawn``. The reference set is of the wide world, as the pre-training
of ``toy-vit`` was, by other code and from other seeds than any picture of a task. ``VERSION`` changes whenever a
picture, a label or a sentence does, because numbers of different versions must not be compared.
"""

import functools
from dataclasses import dataclass

import numpy as np

from src.datasets import toy_wide
from src.datasets.common import Split, Task
from src.datasets.mini_drawn import DRAWN
from src.datasets.mini_glyphs import draw_letters, draw_pictograms
from src.datasets.mini_names import CLASSES
from src.datasets.mini_paint import SIDE
from src.datasets.mini_surfaces import draw_surfaces
from src.datasets.toy import digit_images
from src.datasets.toy_sentences import captions
from src.templates.mini import TEMPLATES

VERSION = 1
SPLITS = ("train", "val", "test")
REFERENCE = "mini-reference"
REFERENCE_IMAGES, REFERENCE_SENTENCES = 2000, 500
_SEED = 1919


@dataclass(frozen=True)
class MiniTask:
    """Pictures of a class in train, val and test."""

    each: tuple

    def size(self, name, split):
        return self.each[SPLITS.index(split)] * len(CLASSES[name])


TASKS = {
    "mini-digits": MiniTask((50, 20, 100)),
    "mini-letters": MiniTask((60, 12, 40)),
    "mini-pictograms": MiniTask((75, 4, 12)),
    "mini-surfaces": MiniTask((40, 20, 80)),
    "mini-shapes": MiniTask((50, 10, 36)),
    "mini-colours": MiniTask((60, 20, 84)),
    "mini-things": MiniTask((60, 7, 25)),
    "mini-patterns": MiniTask((30, 28, 100)),
    "mini-counts": MiniTask((100, 45, 168)),
    "mini-places": MiniTask((60, 30, 112)),
    "mini-sizes": MiniTask((50, 70, 250)),
}


def open_mini(name, root):
    """A mini task, or the reference set with its sentences, as a Task; nothing is read from ``root``. Pictures are
    drawn when the first of a split is asked for."""
    if name == REFERENCE:
        drawn = functools.cache(lambda: reference_images(REFERENCE_IMAGES))
        return Task(name, [], [], {"train": _split(drawn, [0] * REFERENCE_IMAGES)},
                    sentences=reference_sentences(REFERENCE_SENTENCES), in_memory=True)
    splits = {split: _split(functools.partial(images, name, split), labels(name, split)) for split in SPLITS}
    return Task(name, list(CLASSES[name]), TEMPLATES[name], splits, in_memory=True)


def _split(drawn, found):
    """``drawn()`` gives all images."""
    from PIL import Image
    return Split(lambda index: Image.fromarray(drawn()[index]), found)


def labels(name, split):
    """N whole numbers, balanced, in a shuffled order that never changes."""
    _check(name, split)
    count = TASKS[name].size(name, split)
    return _generator(name, split, 0).permutation(np.arange(count) % len(CLASSES[name])).tolist()


@functools.lru_cache(maxsize=64)
def images(name, split):
    """(N, 32, 32, 3), uint8, in the order of ``labels``."""
    found, rng = np.array(labels(name, split)), _generator(name, split, 1)
    if name == "mini-digits":
        return _digits(found, split)
    if name == "mini-surfaces":
        return draw_surfaces(found, split, rng)
    draw = {"mini-letters": draw_letters, "mini-pictograms": draw_pictograms, **DRAWN}[name]
    return np.concatenate([draw(part, rng) for part in np.array_split(found, 1 + len(found) // 512)])


def reference_images(count):
    """(N, 32, 32, 3) uint8, pictures of the wide world."""
    rng = _generator(REFERENCE, "train", 0)
    return toy_wide.draw(toy_wide.sample(count, rng), rng)


def reference_sentences(count):
    """N different sentences about such pictures. The first ones of a longer list are those of a shorter one."""
    rng, sentences = _generator(REFERENCE, "train", 1), {}
    while len(sentences) < count:
        attributes = toy_wide.sample(1024, rng)
        mentioned = rng.random((1024, len(toy_wide.ATTRIBUTES))) < 0.5
        sentences.update(dict.fromkeys(captions(attributes, mentioned, rng)))
    return list(sentences)[:count]


def _check(name, split):
    if name not in TASKS:
        raise ValueError(f"no mini task {name!r}; there are {', '.join(TASKS)}")
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")


def _generator(name, split, purpose):
    """Seeds are (benchmark, version, task, split, purpose)."""
    return np.random.default_rng([_SEED, VERSION, [*TASKS, REFERENCE].index(name), SPLITS.index(split), purpose])


def _digits(found, split):
    """scikit-learn's digits, smoothly enlarged; each split takes as many of every digit, 1700 of the 1797 in all."""
    from PIL import Image
    large, digits = digit_images()
    order = _generator("mini-digits", "train", 2).permutation(len(digits))
    first = sum(TASKS["mini-digits"].each[:SPLITS.index(split)])
    rows = np.empty(len(found), dtype=np.int64)
    for digit in range(10):
        rows[found == digit] = order[digits[order] == digit][first:first + (found == digit).sum()]
    step = SIDE // 8
    return np.stack([np.asarray(Image.fromarray(image[::step, ::step]).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
                     for image in large[rows]])
