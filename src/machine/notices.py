"""Warnings and errors as a person sees them: the first word in colour on a terminal, plain elsewhere.

Setting the variable NO_COLOR keeps them plain (no-color.org). Imports no torch.
"""

import contextlib
import os
import sys

COLOURS = {"error": "31", "warning": "33"}  # red, yellow
_receivers = []  # functions that get warnings instead of stderr; the last one is used


def warn(text):
    """Print ``text`` to stderr, marked as a warning, or pass it to the function of ``warnings_to``."""
    if _receivers:
        _receivers[-1](text)
    else:
        print(marked("warning", text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def warnings_to(receive):
    """Call ``receive(text)`` for each warning inside the context instead of printing it."""
    _receivers.append(receive)
    try:
        yield
    finally:
        _receivers.remove(receive)


def complain(text):
    """Print ``text`` to stderr, marked as an error."""
    print(marked("error", text), file=sys.stderr, flush=True)


def marked(kind, text):
    """Return ``text`` prefixed by "error:" or "warning:", for stderr."""
    return f"\x1b[1;{COLOURS[kind]}m{kind}:\x1b[0m {text}" if _has_colours() else f"{kind}: {text}"


def _has_colours():
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stderr is not None and sys.stderr.isatty()
