"""Certificates: cells by hand arithmetic, and what a file must hold."""

import copy
from dataclasses import replace

import pytest

from src.cli.reproductions import Expected, Reproduction
from src.cli.study import Cell, Job
from src.errors import UserError
from src.report.certificate import cells_of, certificate_text, faults_of, refuse_unknown_cells

# Transfer: b before its training, 70. Avg: (90 + 70 + 80 + 60) / 4 = 75. Last: (80 + 60) / 2 = 70.
SUMMARY = {"label_space": "task", "datasets": ["a", "b"], "zero_shot": {"a": 50.0, "b": 40.0},
           "matrix": [[90.0, 70.0], [80.0, 60.0]], "transfer": 70.0, "avg": 75.0, "last": 70.0, "forgetting": 10.0,
           "bwt": -10.0}
EXPECTED = (Expected("r", "transfer", 69.7, 0.3), Expected("r", "avg", 75.4, 0.3), Expected("r", "b", 60.0, 0.0),
            Expected("r", "bwt", -9.5, 0.5))
MINE = Reproduction("mine", "nobody", {"r": {}}, EXPECTED)


def certificate():
    cells = cells_of(MINE, {"r": SUMMARY})
    run = {"command": "python", "flags": {}, "seconds": 1.5, "made_by": [], "weights": {}, "datasets": {}}
    return {"format": 1, "name": "mine", "source": "nobody", "date": "2026-01-01", "passed": False, "cells": cells,
            "runs": {"r": run}, "code": "c0de"}


def test_cells_by_hand():
    """70 - 69.7 is 0.29999999999999716 in floats; a difference equal to the tolerance is within it."""
    found = cells_of(MINE, {"r": SUMMARY})
    assert [(cell["here"], cell["difference"], cell["pass"]) for cell in found] == [
        (70.0, 0.3, True), (75.0, -0.4, False), (60.0, 0.0, True), (-10.0, -0.5, True)]
    assert [cell["cell"] for cell in found] == ["transfer", "avg", "b", "bwt"] and found[0]["run"] == "r"


@pytest.mark.parametrize(("here", "passes"), [(24.6, True), (24.60004, True), (24.6001, False), (24.0, True),
                                              (23.9999, False), (None, False)])
def test_the_edge_of_a_tolerance(here, passes):
    """24.6 - 24.3 is 0.3000000000000007 in floats; files have four decimals."""
    [cell] = cells_of(replace(MINE, expected=(Expected("r", "avg", 24.3, 0.3),)), {"r": SUMMARY | {"avg": here}})
    assert cell["pass"] == passes


def test_incremental_numbers_and_retrieval():
    one = replace(MINE, expected=(Expected("r", "incremental_avg", 50.0, 1.0),))
    assert cells_of(one, {"r": SUMMARY | {"label_space": "seen", "incremental_avg": 51.0}})[0]["pass"]
    pairs = {"label_space": "retrieval", "datasets": ["p", "q"], "trained": ["p"],
             "rows": [None, {name: {"rsum": rsum, "i2t_r1": 1.0, "t2i_r1": 2.0} for name, rsum in
                             (("p", 300.0), ("q", 400.0))}]}
    one = replace(MINE, expected=(Expected("r", "mean_rsum", 350.0, 0.0),))
    assert cells_of(one, {"r": pairs})[0]["pass"]


def job(numbers, pairs=False):
    return Job(cell=Cell("r", "r", "", {}), folder=None, words=(), tasks=("a", "b"), iterations=None, batch_size=1,
               numbers=numbers, pairs=pairs, device="cpu")


@pytest.mark.parametrize(("name", "space", "pairs"), [("avg", "task", False), ("b", "task", False),
                                                      ("incremental_avg", "seen", False), ("mean_rsum", "task", True)])
def test_cells_that_a_run_has(name, space, pairs):
    one = replace(MINE, expected=(Expected("r", name, 1.0, 1.0),))
    refuse_unknown_cells(one, [job({"label_space": (space,)}, pairs)])


@pytest.mark.parametrize(("name", "space", "pairs"), [("c", "task", False), ("incremental_avg", "task", False),
                                                      ("avg", "task", True), ("a", "task", True)])
def test_cells_that_it_has_not(name, space, pairs):
    one = replace(MINE, expected=(Expected("r", name, 1.0, 1.0),))
    with pytest.raises(UserError, match=f"cells: {name} is not a number of this run; its cells are "):
        refuse_unknown_cells(one, [job({"label_space": (space,)}, pairs)])


def test_the_table_and_the_verdict():
    text = certificate_text(certificate()).splitlines()
    assert [cell.strip() for cell in text[3].split("|")[1:-1]] == ["r", "avg", "75.40", "75.00", "-0.40", "0.3", "fail"]
    assert text[-1] == "mine: not reproduced, 3 of 4 cells pass"


def test_a_certificate_has_no_faults():
    assert faults_of(certificate(), MINE) == []


def edited(path, value):
    content = copy.deepcopy(certificate())
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


@pytest.mark.parametrize(("path", "value", "fault"), [
    (["cells", 1, "pass"], True, "r avg: pass do not follow"),
    (["cells", 1, "here"], 75.4, "r avg: difference, pass do not follow"),
    (["cells", 0, "published"], 70.0, "r transfer: published do not follow"),
    (["cells", 0, "tolerance"], 9.0, "r transfer: tolerance do not follow"),
    (["cells", 0, "here"], float("nan"), "cell 1 has no here"), (["cells", 0, "here"], True, "cell 1 has no here"),
    (["cells", 0], None, "its cells are not those"), (["cells", 0, "run"], "x", "its cells are not those"),
    (["passed"], True, "passed does not follow"), (["name"], "other", "is of other, not of mine"),
    (["format"], 2, "format 2; this version reads 1"), (["code"], None, "the file has no code"),
    (["runs", "r", "weights"], None, "run r has no weights"), (["runs", "x"], {}, "run x has no command"),
    (["runs", "r"], None, "its runs are not those"), (["cells", 0], "x", "cell 1 is not a mapping")])
def test_an_edited_one_has(path, value, fault):
    assert any(fault in text for text in faults_of(edited(path, value), MINE)), faults_of(edited(path, value), MINE)


def test_what_is_no_mapping():
    assert faults_of([], MINE) == ["is not a mapping"]
