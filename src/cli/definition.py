"""Define a flag: its name, its default, its values, and the kinds of runs it acts in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from src.cli.kinds import TRAINING


@dataclass(frozen=True)
class Flag:
    """Describe one flag.

    ``runs``: the kinds of runs it acts in. ``numbers``: whether it can change a result. ``shown``: its default
    in the documentation, where that differs from ``default``. ``means``: other words for its choices. ``also``:
    tests whether a text outside ``choices`` is a value too. ``example``: the words after its name in an example
    where it acts. ``repeated``: it may be given several times, and ``joined`` makes one value of those that
    ``parse`` returns. ``bare``: the text that it means when given without one.
    """

    name: str
    help: str
    default: Any = None
    parse: Callable[[str], Any] = str
    choices: tuple = ()
    means: dict[str, str] = field(default_factory=dict)
    also: Callable[[str], bool] | None = None
    switch: bool = False
    repeated: bool = False
    joined: Callable[[Any], Any] = dict
    runs: tuple = TRAINING
    numbers: bool = True
    shown: str | None = None
    bare: str | None = None
    metavar: str | None = None
    example: str = ""

    @property
    def key(self):
        return self.name[2:].replace("-", "_")


def switch(name, text, **options):
    return Flag(name, text, default=False, switch=True, **options)
