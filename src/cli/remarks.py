"""Collect the warnings and notes about a valid command line."""

from typing import NamedTuple


class Remarks(NamedTuple):
    """Hold the texts of warnings and notes about a command line without contradictions."""

    warnings: list
    notes: list


WARNING, NOTE = Remarks._fields
