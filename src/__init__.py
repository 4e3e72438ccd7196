"""Continual learning of vision-language models: one loop, hooks that point down. The entry is ``src.main``."""
