"""Reproductions: published results as runs with expected numbers, one YAML file each in ``reproductions/specs/``, or a
custom file. Knows no flag.

    stage: 0                                                      # may be left out, as about and why may
    about: Zero-shot CLIP on the datasets of MTIL.
    source: "arXiv:2303.06628"
    tolerance: 0.3                                                # percentage points, of cells without a separate one
    why: The papers print one decimal.                            # why this tolerance
    runs:
      zero-shot:                                                  # a label, which names a folder
        flags: {eval-only: true, dataset-order: mtil-1}
        cells: {Aircraft: 24.3, transfer: {published: 69.4, tolerance: 0.5}}

A cell is a number of the run's ``summary.json``, or a dataset: its accuracy after the last task.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from src.cli.texts import nearest, nearest_or_all, plain_texts
from src.errors import UserError

FOLDER = Path(__file__).parents[2] / "reproductions" / "specs"
SUFFIXES = (".yaml", ".yml")
PARTS = {"stage": str, "about": str, "source": str, "why": str, "tolerance": str, "runs": dict}
RUN_PARTS = {"flags": dict, "cells": dict}
CELL_PARTS = {"published": str, "tolerance": str}
KINDS = {str: "a text", dict: "a mapping"}
LABEL = re.compile(r"[A-Za-z0-9][\w.+=-]{0,59}", re.ASCII)  # part of a folder's name


@dataclass(frozen=True)
class Expected:
    """A published number, in percent: of the run ``run``, the cell ``name``. ``tolerance`` in percentage points."""

    run: str
    name: str
    published: float
    tolerance: float


@dataclass(frozen=True)
class Reproduction:
    """``runs``: {label: {flag without its dashes: texts}}, one text unless the file has a list; ``expected``: the
    Expected of all runs; ``why``: why the tolerance is what it is; ``stage``: None of a custom file without one."""

    name: str
    source: str
    runs: dict
    expected: tuple
    about: str = ""
    why: str = ""
    stage: int | None = None

    @property
    def where(self):
        """How messages call it."""
        return f"--reproduce {self.name}"


def reproduction_names():
    """Names of the reproductions that come with the framework."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_reproduction(name):
    """Return the Reproduction of that name, or of a custom YAML file. Raises UserError naming the file and the key."""
    where, path = f"--reproduce {name}", _path(name)
    content = _read(where, path)
    _require_parts(where, content, PARTS)
    for key in ("source", "runs"):
        if not content.get(key):
            raise UserError(f"{where}: has no {key}:")
    tolerance = _number(f"{where}: tolerance", content["tolerance"], low=0) if "tolerance" in content else None
    stage = _stage(where, content["stage"]) if "stage" in content else None
    runs, expected = {}, []
    for label, run in content["runs"].items():
        place = f"{where}: runs: {label}"
        _require_run(place, label, run)
        runs[label] = {word: _texts(f"{place}: flags: {word}", value) for word, value in run["flags"].items()}
        expected += [_expected(f"{place}: cells: {cell}", label, cell, value, tolerance)
                     for cell, value in run["cells"].items()]
    _refuse_alike(f"{where}: runs", runs)
    return Reproduction(path.stem, content["source"], runs, tuple(expected), content.get("about", ""),
                        content.get("why", ""), stage)


def _path(name):
    """A name of ours, or a path: what ends as a YAML file does."""
    if name.endswith(SUFFIXES):
        return Path(name)
    names = reproduction_names()
    if name not in names:
        hint = nearest(name, names)
        raise UserError(f"--reproduce {name}: {hint}{' ' if hint else ''}there are {', '.join(names)}, or give a "
                        "custom FILE.yaml")
    return FOLDER / f"{name}.yaml"


def _read(where, path):
    if not os.path.isfile(path):
        raise UserError(f"{where}: no such file")
    from clip.files.plain_yaml import read_yaml  # a command line without a file reads no YAML
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected a mapping with source: and runs:")
    return content


def _require_parts(where, content, parts):
    for key, value in content.items():
        if key not in parts:
            raise UserError(f"{where}: unknown key {key}; {nearest_or_all(key, parts)}")
        if not isinstance(value, parts[key]):
            raise UserError(f"{where}: {key} must be {KINDS[parts[key]]}")


def _require_run(where, label, run):
    if not LABEL.fullmatch(label):
        raise UserError(f"{where}: a label names a folder: at most 60 letters, digits and any of . _ + = -")
    if not isinstance(run, dict):
        raise UserError(f"{where}: expected a mapping with flags: and cells:")
    _require_parts(where, run, RUN_PARTS)
    for key in RUN_PARTS:
        if not run.get(key):
            raise UserError(f"{where}: has no {key}:")


def _refuse_alike(where, labels):
    """Refuse labels that some file systems take for one folder."""
    seen = {}
    for label in labels:
        other = seen.setdefault(label.lower(), label)
        if other != label:
            raise UserError(f"{where}: {other} and {label} differ in capitals only; give other labels")


def _expected(where, run, name, value, tolerance):
    """The Expected of a cell: its published number, or {published, tolerance}."""
    parts = value if isinstance(value, dict) else {"published": value}
    _require_parts(where, parts, CELL_PARTS)
    if "published" not in parts:
        raise UserError(f"{where}: has no published:")
    if "tolerance" in parts:
        tolerance = _number(f"{where}: tolerance", parts["tolerance"], low=0)
    if tolerance is None:
        raise UserError(f"{where}: has no tolerance:, and neither has the file")
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


def _texts(where, value):
    texts = plain_texts(value)
    if texts is None:
        raise UserError(f"{where}: expected a value, as on the command line, or a list of values")
    return texts
