"""What checks say about a command line that contradicts nothing."""

from typing import NamedTuple


class Remarks(NamedTuple):
    """What is said about a command line that contradicts nothing: texts of warnings and of notes."""

    warnings: list
    notes: list


WARNING, NOTE = Remarks._fields
