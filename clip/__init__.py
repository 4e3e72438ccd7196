"""CLIP by itself: ``clip.load``, ``clip.available_models``, ``clip.tokenize``. Importing this package is cheap."""

from clip.catalog import available_models

__all__ = ["available_models", "load", "tokenize"]


def load(name, device="cpu", cache=None, architecture=None):
    """Load (model, preprocess) of a published name, an architecture in ``clip/configs``, or a file of
    weights.

    ``architecture``: keys that the file does not state, e.g. ``{"activation": "gelu"}``; assumed ones cause
    a warning.

    See ``clip.loader.load``.
    """
    from clip.loader import load as load_model
    return load_model(name, device, cache, architecture)


def tokenize(texts, context_length=77):
    """Tokenise one text or a list of N -> (N, context_length) int64. See ``clip.tokenizer.tokenize``."""
    from clip.tokenizer import tokenize as tokenize_texts
    return tokenize_texts(texts, context_length)
