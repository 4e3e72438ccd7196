"""Make and check certificates: what a reproduction found beside the published numbers, cell by cell."""

from src.errors import UserError
from src.report.measures import ACCURACY, RETRIEVAL, is_number, measure_of
from src.report.tables import markdown_table

FORMAT = 1
DIGITS = 4  # decimals of accuracies in the files of a run
HEADER = ("run", "cell", "published", "here", "difference", "tolerance", "verdict")
CELL = {"run": str, "cell": str, "published": (int, float), "here": (int, float, type(None)),
        "difference": (int, float, type(None)), "tolerance": (int, float), "pass": bool}
PARTS = {"format": int, "name": str, "source": str, "date": str, "passed": bool, "cells": list, "runs": dict,
         "code": str}
RUN_PARTS = {"command": str, "flags": dict, "seconds": (int, float), "made_by": list, "weights": dict,
             "datasets": dict}


def refuse_unknown_cells(reproduction, jobs):
    """Refuse cells that a run's summary will not have."""
    for job in jobs:
        known = _cells_of(job)
        for cell in reproduction.expected:
            if cell.run == job.name and cell.name not in known:
                raise UserError(f"{reproduction.where}: runs: {job.name}: cells: {cell.name} is not a number of this "
                                f"run; its cells are {', '.join(known)}")


def _cells_of(job):
    """Return the numbers of a run, and its datasets if they have an accuracy."""
    if job.pairs:
        return RETRIEVAL.numbers_in(RETRIEVAL.space)
    return (*ACCURACY.numbers_in(job.numbers["label_space"][0]), *job.tasks)


def cells_of(reproduction, summaries):
    """Return [the cells of a certificate], given {label of a run: its summary}."""
    return [_cell(expected, value_of(summaries[expected.run], expected.name)) for expected in reproduction.expected]


def value_of(summary, name):
    """Return a number of a summary, or the accuracy on a dataset after the last task; None if undefined."""
    measure = measure_of(summary["label_space"])
    numbers = measure.numbers_of(summary)
    if name in numbers:
        return numbers[name]
    return summary["matrix"][-1][summary["datasets"].index(name)]


def _cell(expected, here):
    """Build a cell, rounded as the files of a run are, so that a difference equal to the tolerance is within it."""
    here = None if here is None else round(here, DIGITS)
    difference = None if here is None else round(here - expected.published, DIGITS)
    return {"run": expected.run, "cell": expected.name, "published": expected.published, "here": here,
            "difference": difference, "tolerance": expected.tolerance,
            "pass": _is_within(difference, expected.tolerance)}


def _is_within(difference, tolerance):
    return difference is not None and abs(difference) <= tolerance


def certificate_text(content):
    """Return the table of a certificate, and its verdict in a sentence."""
    rows = [[cell["run"], cell["cell"], _number(cell["published"]), _number(cell["here"]),
             _number(cell["difference"], "+"), f"{cell['tolerance']:g}", "pass" if cell["pass"] else "fail"]
            for cell in content["cells"]]
    passed, cells = sum(cell["pass"] for cell in content["cells"]), len(content["cells"])
    verdict = "reproduced" if content["passed"] else "not reproduced"
    return f"{markdown_table(HEADER, rows)}\n\n{content['name']}: {verdict}, {passed} of {cells} cells pass"


def _number(value, sign=""):
    return None if value is None else f"{value:{sign}.2f}"


# -- what a file may hold ----------------------------------------------------------------------------------------------


def faults_of(content, reproduction):
    """Return sentences on why the content of a file is not a certificate of a Reproduction; [] if it is."""
    if not isinstance(content, dict):
        return ["is not a mapping"]
    faults = [*_part_faults("the file", content, PARTS)]
    if faults:
        return faults
    if content["format"] != FORMAT:
        return [f"format {content['format']}; this version reads {FORMAT}"]
    if content["name"] != reproduction.name:
        faults.append(f"is of {content['name']}, not of {reproduction.name}")
    for label, run in content["runs"].items():
        faults += _part_faults(f"run {label}", run, RUN_PARTS)
    wrong = [fault for number, cell in enumerate(content["cells"], 1)
             for fault in _part_faults(f"cell {number}", cell, CELL)]
    return faults + (wrong or _cell_faults(content, reproduction))


def _part_faults(what, content, parts):
    if not isinstance(content, dict):
        return [f"{what} is not a mapping"]
    return [f"{what} has no {key}, or one of another type" for key, kind in parts.items()
            if key not in content or not isinstance(content[key], kind) or _is_not_a_number(content[key], kind)]


def _is_not_a_number(value, kind):
    """Return whether a number is expected but the value is true, false, NaN or infinite."""
    return isinstance(kind, tuple) and value is not None and not is_number(value)


def _cell_faults(content, reproduction):
    """Return how the cells differ from those computed from the published and the found numbers."""
    found = {(cell["run"], cell["cell"]): cell for cell in content["cells"]}
    expected = {(cell.run, cell.name): cell for cell in reproduction.expected}
    if list(found) != list(expected) or len(found) != len(content["cells"]):
        return ["its cells are not those of the reproduction, in their order"]
    faults = [f"{' '.join(key)}: {', '.join(sorted(wrong))} do not follow from what was found"
              for key, cell in expected.items()
              if (wrong := {part for part, value in _cell(cell, found[key]["here"]).items()
                            if found[key][part] != value})]
    if set(content["runs"]) != set(reproduction.runs):
        faults.append("its runs are not those of the reproduction")
    if content["passed"] != all(cell["pass"] for cell in content["cells"]):
        faults.append("passed does not follow from its cells")
    return faults
