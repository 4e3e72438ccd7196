"""clip-continual from Python: ``import clip_continual as cc``. The names are those of ``src.api``.

In a checkout, this package only provides the name under which the wheel is installed, so that a script, a
notebook and the code blocks of docs/python.md work in both. The wheel uses this file as its own package's
(setup.py), with ``src`` and ``clip`` inside the package. Importing it is cheap: torch is loaded when first
needed.
"""

from src import __version__, api  # noqa: F401

__all__ = api.__all__


def __getattr__(name):
    return getattr(api, name)


def __dir__():
    return __all__
