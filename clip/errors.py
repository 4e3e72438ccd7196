"""What ``clip`` raises where a user can help."""


class LoadError(ValueError):
    """A file of weights that cannot be used; the message says why and what to do."""


def printable(text, most=200):
    """Words out of a file that nobody has vouched for: one line, cut, without what a terminal would obey."""
    text = " ".join(text[:most + 1].split())
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= most else text[:most] + "..."
