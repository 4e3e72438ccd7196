"""Continual learning of vision-language models: one loop, hooks that point down. The entry is ``src.main``."""

__version__ = "0.2.0"  # the only place: the wheel, ``--version`` and the records of a run have it from here
