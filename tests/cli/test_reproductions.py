"""Files of reproductions: what they may hold, and that ours agree with what recipes and protocols say is published."""

import statistics

import pytest
import yaml

from src.cli.protocols import PROTOCOLS
from src.cli.recipes import read_recipe
from src.cli.reproductions import Expected, read_reproduction, reproduction_names
from src.errors import UserError

CONTENT = {"stage": 3, "about": "A.", "source": "arXiv:1", "tolerance": 0.5, "why": "W.", "runs": {
    "one": {"flags": {"dataset-order": ["a", "b"], "we": True}, "cells": {"avg": 50, "b": -2.5}},
    "two": {"flags": {"method": "lwf"}, "cells": {"last": {"published": 1, "tolerance": 0}}}}}


@pytest.fixture
def read(tmp_path):
    """read(part=value, ...): the reproduction of a file with CONTENT, other values instead of these; None leaves a
    part out."""
    def call(**parts):
        content = {key: value for key, value in (CONTENT | parts).items() if value is not None}
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return read_reproduction(str(path))
    return call


def with_cells(**cells):
    return {"one": {"flags": {"method": "lwf"}, "cells": cells}}


def test_a_file_says_runs_and_expected_numbers(read):
    found = read()
    assert (found.name, found.stage, found.about, found.source, found.why) == ("mine", 3, "A.", "arXiv:1", "W.")
    assert found.runs == {"one": {"dataset-order": ["a", "b"], "we": ["true"]}, "two": {"method": ["lwf"]}}
    assert found.expected == (Expected("one", "avg", 50.0, 0.5), Expected("one", "b", -2.5, 0.5),
                              Expected("two", "last", 1.0, 0.0))


def test_what_may_be_left_out(read):
    found = read(stage=None, about=None, why=None, tolerance=None,
                 runs=with_cells(avg={"published": 1, "tolerance": 2}))
    assert (found.stage, found.about, found.why, found.expected[0].tolerance) == (None, "", "", 2.0)


@pytest.mark.parametrize(("parts", "message"), [
    ({"source": None}, "has no source:"), ({"runs": None}, "has no runs:"), ({"runs": {}}, "has no runs:"),
    ({"sourec": "x"}, "unknown key sourec; did you mean source?"), ({"runs": "x"}, "runs must be a mapping"),
    ({"stage": "x"}, "stage: x: expected a whole number"), ({"stage": -1}, "stage: -1: expected a whole number"),
    ({"tolerance": -1}, "tolerance: -1: expected a number of at least 0"),
    ({"tolerance": "nan"}, "tolerance: nan: expected a number"),
    ({"tolerance": None}, "runs: one: cells: avg: has no tolerance:, and the file sets no default"),
    ({"runs": {"../x": {}}}, "a label names a folder"), ({"runs": {"one": "x"}}, "expected a mapping with flags:"),
    ({"runs": {"one": {"flags": {"lr": 1}}}}, "runs: one: has no cells:"),
    ({"runs": {"one": {"cells": {"avg": 1}}}}, "runs: one: has no flags:"),
    ({"runs": {"one": {"flags": {"lr": {"a": 1}}, "cells": {"avg": 1}}}}, "flags: lr: expected a value"),
    ({"runs": {"one": CONTENT["runs"]["one"], "One": CONTENT["runs"]["one"]}}, "differ only in upper and lower case"),
    ({"runs": with_cells(avg="x")}, "cells: avg: x: expected a number"),
    ({"runs": with_cells(avg={"tolerance": 1})}, "cells: avg: has no published:"),
    ({"runs": with_cells(avg={"published": 1, "within": 1})}, "cells: avg: unknown key within"),
    ({"runs": with_cells(avg=[1])}, "published must be a text")])
def test_a_faulty_file_is_one_message(read, parts, message):
    with pytest.raises(UserError) as caught:
        read(**parts)
    assert str(caught.value).startswith("--reproduce ") and "mine.yaml: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "message"), [
    ("mtil-1-zero", "did you mean mtil-1-zeroshot"), ("x", "there are mtil-1-finetune, mtil-1-nusa-cl"),
    ("nowhere.yaml", "no such file")])
def test_a_name_that_is_none(name, message):
    with pytest.raises(UserError, match=message):
        read_reproduction(name)


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "a: 1\na: 2\n"])
def test_what_is_no_mapping(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="--reproduce .*mine.yaml: "):
        read_reproduction(str(tmp_path / "mine.yaml"))


# -- ours --------------------------------------------------------------------------------------------------------------


def published(name):
    return {cell.name: cell.published for cell in read_reproduction(name).expected}


def test_ours_have_a_stage_a_reason_and_a_source():
    stages = {name: read_reproduction(name).stage for name in reproduction_names()}
    assert stages == {"mtil-1-zeroshot": 0, "mtil-1-nusa-cl": 1, "mtil-1-finetune": 2, "mtil-1-zscl": 2}
    assert all(read_reproduction(name).why and read_reproduction(name).about for name in stages)


def test_the_zero_shot_cells_are_the_eleven_and_their_mean_is_the_published_one():
    cells = published("mtil-1-zeroshot")
    assert tuple(cells) == PROTOCOLS["mtil-1"].order
    assert {cell.tolerance for cell in read_reproduction("mtil-1-zeroshot").expected} == {0.3}
    assert round(statistics.fmean(cells.values()), 1) == PROTOCOLS["mtil-1"].published_zero_shot["avg"]


@pytest.mark.parametrize("recipe", ["finetune", "zscl"])
def test_trained_cells_are_those_of_the_recipe(recipe):
    row = read_recipe(recipe).published["mtil-1"]
    assert published(f"mtil-1-{recipe}") == {key: float(row[key]) for key in ("transfer", "avg", "last")}


def test_the_released_row_is_close_to_the_paper():
    row = read_recipe("nusa-cl").published["mtil-1"]
    assert all(abs(value - float(row[key])) <= 0.12 for key, value in published("mtil-1-nusa-cl").items())
