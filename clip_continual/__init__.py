"""clip-continual from Python: ``import clip_continual as cc``. The names are those of ``src.api``.

In a checkout this package is the only way to the name under which the wheel is installed, so that a script, a notebook
and the code blocks of docs/python.md are the same in both. The wheel takes this file for its own (setup.py), with
``src`` and ``clip`` beside it as parts of the package. Importing it is cheap: torch is loaded by what needs it.
"""

from src import __version__, api  # noqa: F401

__all__ = api.__all__


def __getattr__(name):
    return getattr(api, name)


def __dir__():
    return __all__
