"""Draw the embedded benchmark ``toy``: eight small tasks, a reference set and reference sentences; no download.

The first three tasks are new to the shipped weights (real handwritten digits, unseen shapes, unseen textures); the
others test what they were pre-trained on. Everything is drawn from fixed seeds; ``VERSION`` changes whenever a
picture, a label or a sentence does, because numbers of different versions must not be compared.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np

from src.datasets import toy_world
from src.datasets.common import Split, Task
from src.datasets.installed import installed_file
from src.templates.toy import TEMPLATES

VERSION = 1
SPLITS = ("train", "val", "test")
# The style of a reference set, and the purpose of the seeds of its pictures and sentences.
REFERENCES = {"toy-reference": (toy_world.STYLE, "reference images", "reference sentences"),
              "toy-other-reference": (toy_world.OTHER_STYLE, "other images", "other sentences")}
# Images with captions in separate domains: the style, and the first of the shapes and textures that occur.
PAIRS = {"toy-pairs-new": (toy_world.STYLE, len(toy_world.SHAPES), len(toy_world.TEXTURES)),
         "toy-pairs-dull": (toy_world.OTHER_STYLE, 0, 0),
         "toy-pairs-night": (toy_world.NIGHT_STYLE, 0, 0)}
PAIR_SIZES = {"train": 1500, "val": 200, "test": 300}
PARAPHRASES = 3
REFERENCE_IMAGES, REFERENCE_SENTENCES = 2000, 500
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class ToyTask:
    """Describe a task. A drawn task asks for one attribute, and its classes are the names from ``first`` on;
    digits have none."""

    classes: tuple
    attribute: str | None = None
    first: int = 0
    known: bool = False                 # whether the shipped weights were pre-trained on these classes
    sizes: tuple = (720, 216, 504)      # pictures for train, val and test; the classes are balanced


def _known(attribute):
    return ToyTask(toy_world.ATTRIBUTES[attribute], attribute, known=True)


TASKS = {
    "toy-digits": ToyTask(DIGITS, sizes=(1000, 200, 500)),
    "toy-new-shapes": ToyTask(toy_world.NEW_SHAPES, "shape", first=len(toy_world.SHAPES)),
    "toy-new-textures": ToyTask(toy_world.NEW_TEXTURES, "texture", first=len(toy_world.TEXTURES)),
    "toy-shapes": _known("shape"),
    "toy-textures": _known("texture"),
    "toy-sizes": _known("size"),
    "toy-positions": _known("position"),
    "toy-colours": _known("colour"),
    "toy-backgrounds": _known("background"),
}
ORDER = [name for name in TASKS if name != "toy-backgrounds"]  # almost perfect before training: a probe, not a task

# Seeds are (benchmark, purpose, split); pre-training draws from others (scripts/pretrain_toy.py).
_SEED = 2024
_PURPOSES = {name: index for index, name in enumerate([
    *TASKS, "reference images", "reference sentences", "other images", "other sentences", *PAIRS])}


def open_toy(name, root):
    """Return a toy task, or the reference set with its sentences, as a Task; nothing is read from ``root``.

    Pictures are drawn when the first of a split is requested.
    """
    if name in REFERENCES:
        drawn = functools.cache(lambda: reference_images(REFERENCE_IMAGES, name))
        return Task(name, [], [], {"train": _split(drawn, [0] * REFERENCE_IMAGES, f"{name} of version {VERSION}")},
                    sentences=reference_sentences(REFERENCE_SENTENCES, name), in_memory=True)
    if name in PAIRS:
        splits = {split: _pair_split(*load_pairs(name, split)) for split in SPLITS}
        return Task(name, [], [], splits, in_memory=True, pairs=True,
                    sentences=[text for texts in splits["train"].captions for text in texts])
    splits = {split: _split(functools.cache(functools.partial(_images, name, split)), labels(name, split))
              for split in SPLITS}
    return Task(name, classnames(name), TEMPLATES[name], splits, in_memory=True)


def _split(drawn, labels, content=None):
    """Return a Split; ``drawn()`` gives all images; ``content`` tells them from others."""
    from PIL import Image
    return Split(lambda index: Image.fromarray(drawn()[index]), labels, content=content and (lambda: content))


def _images(name, split):
    return load(name, split)[0]


def _pair_split(images, captions):
    return replace(_split(lambda: images, [0] * len(images)), captions=captions)


@functools.lru_cache(maxsize=16)
def load_pairs(name, split):
    """Return a domain's images (N, 32, 32, 3), uint8, and captions, N tuples of paraphrases that state all six
    attributes."""
    style, shape, texture = PAIRS[name]
    rng, count = _generator(name, SPLITS.index(split)), PAIR_SIZES[split]
    last = {"shape": len(toy_world.NAMES["shape"]) if shape else len(toy_world.SHAPES),
            "texture": len(toy_world.NAMES["texture"]) if texture else len(toy_world.TEXTURES)}
    attributes = toy_world.sample(count, rng, shape=rng.integers(shape, last["shape"], count),
                                  texture=rng.integers(texture, last["texture"], count))
    images = toy_world.draw(attributes, rng, style)
    told = np.ones((count, len(toy_world.ATTRIBUTES)), dtype=bool)
    texts = [toy_world.captions(attributes, rng, told)[0] for _ in range(PARAPHRASES)]
    return images, list(zip(*texts, strict=True))


def classnames(name):
    """Return the classes of a task, in the order of its labels."""
    return list(_task(name).classes)


@functools.lru_cache(maxsize=32)
def load(name, split):
    """Return a task's images (N, 32, 32, 3), uint8, and labels, N whole numbers, in a fixed shuffled order."""
    task = _task(name)
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if task.attribute is None:
        return _digits(task, split)
    rng = _generator(name, SPLITS.index(split))
    found = _permuted(task, split, rng)
    attributes = toy_world.sample(len(found), rng, **{task.attribute: found + task.first})
    return toy_world.draw(attributes, rng), found.tolist()


def labels(name, split):
    """Return the labels of ``load``, without drawing pictures."""
    task = _task(name)
    if task.attribute is None:
        return load(name, split)[1]
    return _permuted(task, split, _generator(name, SPLITS.index(split))).tolist()


def _permuted(task, split, rng):
    return rng.permutation(np.arange(task.sizes[SPLITS.index(split)]) % len(task.classes))


def reference_images(count, name="toy-reference"):
    """Return (N, 32, 32, 3) uint8, pictures of the world as in pre-training, or in another style; none of them
    from a task."""
    style, purpose, _ = REFERENCES[name]
    rng = _generator(purpose)
    return toy_world.draw(toy_world.sample(count, rng), rng, style)


def reference_sentences(count, name="toy-reference"):
    """Return N different sentences about such pictures. A longer list begins with the shorter one."""
    rng = _generator(REFERENCES[name][2])
    sentences = {}
    while len(sentences) < count:
        texts, _ = toy_world.captions(toy_world.sample(1024, rng), rng)
        sentences.update(dict.fromkeys(texts))
    return list(sentences)[:count]


def _task(name):
    if name not in TASKS:
        raise ValueError(f"no toy task {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name]


def _generator(purpose, split=0):
    return np.random.default_rng([_SEED, VERSION, _PURPOSES[purpose], split])


def _digits(task, split):
    """Return a split's digits. Each split has equally many of every digit, so 1700 of the 1797 images are used."""
    images, digits = digit_images()
    order = _generator("toy-digits").permutation(len(digits))
    starts = np.cumsum([0, *task.sizes]) // len(task.classes)
    chosen = slice(*starts[SPLITS.index(split):][:2])
    rows = np.concatenate([order[digits[order] == digit][chosen] for digit in range(len(task.classes))])
    rows = _generator("toy-digits", 1 + SPLITS.index(split)).permutation(rows)
    return images[rows], digits[rows].tolist()


@functools.cache
def digit_images():
    """Return scikit-learn's digits, 8 x 8 with 17 greys, as (1797, 32, 32, 3) uint8 and (1797,) digits.

    The file is read from the installed package without importing it, which would take seconds.
    """
    table = np.loadtxt(installed_file("toy-digits", "scikit-learn", "data", "digits.csv.gz"), delimiter=",",
                       dtype=np.int64)
    greys = (table[:, :64] * 255 // 16).astype(np.uint8).reshape(-1, 8, 8)
    scale = toy_world.SIDE // 8
    large = greys.repeat(scale, axis=1).repeat(scale, axis=2)
    return np.repeat(large[..., None], 3, axis=3), table[:, 64]
