"""Sentences of the wide world: they name what they mention and nothing else."""

import numpy as np
import pytest

from src.datasets import toy_sentences, toy_wide

ORDER = list(toy_wide.ATTRIBUTES)


class First:
    """A generator that takes the first of all choices."""

    def integers(self, high, size):
        return np.zeros(size, dtype=int)


def sentence(kind, **said):
    attributes = {name: np.array([values.index(said[name]) if name in said else -1])
                  for name, values in toy_wide.ATTRIBUTES.items()}
    attributes["kind"] = np.array([list(toy_wide.KINDS).index(kind)])
    return toy_sentences.captions(attributes, np.ones((1, len(ORDER)), dtype=bool), First())[0]


@pytest.mark.parametrize(("kind", "said", "expected"), [
    ("object", {"shape": "star"}, "a star"), ("object", {"shape": "egg"}, "an egg"),
    ("object", {"colour": "red", "size": "tiny", "texture": "dotted"}, "a tiny dotted red shape"),
    ("object", {"shape": "heart", "position": "top left", "background": "navy"},
     "a heart at the top left on a navy background"),
    ("object", {"number": "one", "shape": "cross"}, "one cross"),
    ("several", {"number": "three", "shape": "cross", "colour": "blue"}, "three blue crosses"),
    ("several", {"number": "two"}, "two shapes"),
    ("sign", {"sign": "digit three"}, "the digit three"), ("sign", {"colour": "grey"}, "a grey sign"),
    ("sign", {"sign": "letter a", "colour": "red"}, "a red letter a"),
    ("surface", {"texture": "netted"}, "a netted pattern")])
def test_what_is_said(kind, said, expected):
    assert sentence(kind, **said) == expected


def test_what_is_not_mentioned_is_not_said():
    rng = np.random.default_rng(0)
    attributes = toy_wide.sample(200, rng)
    mentioned = np.tile(np.array(ORDER) == "colour", (200, 1))
    texts = toy_sentences.captions(attributes, mentioned, rng)
    for row, text in enumerate(texts):
        words = set(text.split())
        assert toy_wide.ATTRIBUTES["colour"][attributes["colour"][row]] in words
        assert not words & {*toy_wide.SHAPES, *toy_wide.SIZES, *toy_wide.TEXTURES, *toy_wide.NUMBERS, "background"}
