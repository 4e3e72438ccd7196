"""CLIP by itself: ``clip.load``, ``clip.available_models``, ``clip.tokenize``. Importing this package is cheap."""

from clip.catalog import available_models

__all__ = ["available_models", "load", "tokenize"]


def load(name, device="cpu", cache=None, architecture=None):
    """(model, preprocess) of a published name, an architecture in ``clip/configs`` or a file of weights.

    ``architecture``: keys that such a file does not state, as ``{"activation": "gelu"}``; assumed ones are a warning.

    See ``clip.loader.load``.
    """
    from clip.loader import load as load_model
    return load_model(name, device, cache, architecture)


def tokenize(texts, context_length=77):
    """One text or a list of N -> (N, context_length) int64. See ``clip.tokenizer.tokenize``."""
    from clip.tokenizer import tokenize as tokenize_texts
    return tokenize_texts(texts, context_length)
