"""Errors of ``clip`` that a user can act on."""


class LoadError(ValueError):
    """A file of weights that cannot be used; the message says why and what to do."""


def printable(text, most=200):
    """Make text from an untrusted file safe to print: one line, cut, without terminal control characters."""
    text = " ".join(text[:most + 1].split())
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= most else text[:most] + "..."
