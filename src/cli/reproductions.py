"""Read reproductions: published results as runs with expected numbers, one YAML file each in ``reproductions/specs/``,
or a custom file. Knows no flag.

    stage: 0                                                      # optional, as are about and why
    about: Zero-shot CLIP on the datasets of MTIL.
    source: "arXiv:2303.06628"
    tolerance: 0.3                                                # percentage points, for cells without their own
    why: The papers print one decimal.                            # why this tolerance
    runs:
      zero-shot:                                                  # a label; it names a folder
        flags: {eval-only: true, dataset-order: mtil-1}
        cells: {Aircraft: 24.3, transfer: {published: 69.4, tolerance: 0.5}}

A cell is a number of the run's ``summary.json``, or a dataset: its accuracy after the last task.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from src.cli.yaml_file import LABEL, MOST_LETTERS, names_in, path_of, read_mapping, require_parts, value_texts
from src.errors import UserError

FOLDER = Path(__file__).parents[2] / "reproductions" / "specs"
PARTS = {"stage": str, "about": str, "source": str, "why": str, "tolerance": str, "runs": dict}
RUN_PARTS = {"flags": dict, "cells": dict}
CELL_PARTS = {"published": str, "tolerance": str}
KINDS = {str: "must be a text", dict: "must be a mapping"}


@dataclass(frozen=True)
class Expected:
    """Hold a published number in percent, with the run and the cell it belongs to. ``tolerance`` is in
    percentage points."""

    run: str
    name: str
    published: float
    tolerance: float


@dataclass(frozen=True)
class Reproduction:
    """Hold the content of a reproduction's file.

    ``runs``: {label: {flag without dashes: texts}}, one text unless the file has a list. ``expected``: the
    Expected of all runs. ``why``: the reason for the tolerance. ``stage``: None for a custom file without one.
    """

    name: str
    source: str
    runs: dict
    expected: tuple
    about: str = ""
    why: str = ""
    stage: int | None = None

    @property
    def where(self):
        """The name of the reproduction in messages."""
        return f"--reproduce {self.name}"


def reproduction_names():
    """Return the names of the reproductions that come with the framework."""
    return names_in(FOLDER)


def read_reproduction(name):
    """Return the Reproduction of that name, or of a custom YAML file. Raises UserError naming the file and the key."""
    where = f"--reproduce {name}"
    path = path_of(where, name, FOLDER)
    content = read_mapping(where, path, "source: and runs:")
    require_parts(where, content, PARTS, KINDS)
    for key in ("source", "runs"):
        if not content.get(key):
            raise UserError(f"{where}: has no {key}:")
    tolerance = _number(f"{where}: tolerance", content["tolerance"], low=0) if "tolerance" in content else None
    stage = _stage(where, content["stage"]) if "stage" in content else None
    runs, expected = {}, []
    for label, run in content["runs"].items():
        place = f"{where}: runs: {label}"
        _require_run(place, label, run)
        runs[label] = {word: value_texts(f"{place}: flags: {word}", value) for word, value in run["flags"].items()}
        expected += [_expected(f"{place}: cells: {cell}", label, cell, value, tolerance)
                     for cell, value in run["cells"].items()]
    _refuse_alike(f"{where}: runs", runs)
    return Reproduction(path.stem, content["source"], runs, tuple(expected), content.get("about", ""),
                        content.get("why", ""), stage)


def _require_run(where, label, run):
    if not LABEL.fullmatch(label):
        raise UserError(f"{where}: a label names a folder: at most {MOST_LETTERS} letters, digits and any of "
                        ". _ + = -")
    if not isinstance(run, dict):
        raise UserError(f"{where}: expected a mapping with flags: and cells:")
    require_parts(where, run, RUN_PARTS, KINDS)
    for key in RUN_PARTS:
        if not run.get(key):
            raise UserError(f"{where}: has no {key}:")


def _refuse_alike(where, labels):
    """Refuse labels that a case-insensitive file system would take for one folder."""
    seen = {}
    for label in labels:
        other = seen.setdefault(label.lower(), label)
        if other != label:
            raise UserError(f"{where}: {other} and {label} differ only in upper and lower case; give other labels")


def _expected(where, run, name, value, tolerance):
    """Return the Expected of a cell: its published number, or {published, tolerance}."""
    parts = value if isinstance(value, dict) else {"published": value}
    require_parts(where, parts, CELL_PARTS, KINDS)
    if "published" not in parts:
        raise UserError(f"{where}: has no published:")
    if "tolerance" in parts:
        tolerance = _number(f"{where}: tolerance", parts["tolerance"], low=0)
    if tolerance is None:
        raise UserError(f"{where}: has no tolerance:, and the file sets no default")
    return Expected(run, name, _number(where, parts["published"]), tolerance)


def _number(where, text, low=-math.inf):
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < low:
        raise UserError(f"{where}: {text}: expected a number{'' if low == -math.inf else f' of at least {low}'}")
    return number


def _stage(where, text):
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII):
        raise UserError(f"{where}: stage: {text}: expected a whole number")
    return int(text)
