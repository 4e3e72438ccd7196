"""Published rows: which stand beside a run, with which numbers and under which conditions."""

import json
from pathlib import Path

import pytest
from comparisons import rows_of, tables_of
from golden_numbers import ROWS, matrix_of, order_of
from report_files import MATRIX, write_run

from src.cli.protocols import PROTOCOLS
from src.report.comparison import comparison_latex, comparison_markdown
from src.report.published import published_rows
from src.report.rows import PUBLISHED, RUN

PUBLISHED_RUNS = json.loads((Path(__file__).parents[1] / "data" / "published_mtil.json").read_text(encoding="utf-8"))
ZERO_SHOT_MTIL = {"Aircraft": 24.3, "Caltech101": 88.4, "CIFAR100": 68.2, "DTD": 44.6, "EuroSAT": 54.9, "Flowers": 71.0,
                  "Food": 88.5, "MNIST": 59.4, "OxfordPet": 89.0, "StanfordCars": 64.7, "SUN397": 65.2}


@pytest.mark.parametrize(("name", "order"), [("mtil-1", "I"), ("mtil-2", "II")])
def test_published_rows_below_a_run_of_their_order(tmp_path, name, order):
    tasks = PROTOCOLS[name].order
    matrix = next(run["matrix"] for run in PUBLISHED_RUNS["runs"]
                  if (run["method"], run["order"]) == ("zscl", order))
    start, run, zero_shot, *rows = rows_of(write_run(
        tmp_path / "mine", order=tasks, matrix=matrix, zero_shot=[ZERO_SHOT_MTIL[task] for task in tasks]))
    assert (start.kind, run.kind, zero_shot.name) == ("zero-shot", RUN, "published zero-shot")
    assert all(row.kind == PUBLISHED and row.runs == () for row in (zero_shot, *rows))
    for key in ("transfer", "avg", "last"):
        assert zero_shot.numbers[key] == pytest.approx(start.numbers[key], abs=0.0501)
    assert sorted(row.numbers["avg"] for row in rows) == [row.numbers["avg"] for row in rows][::-1]
    expected = {f"published {found['method'].replace('_', '-')}": found for found in PUBLISHED_RUNS["runs"]
                if found["order"] == order}
    newer = {row.name for row in rows} - expected.keys()  # of papers that have no matrix of each cell
    assert newer == ({f"published {name}" for name in ("condu", "condu-lora", "inflora", "nusa-cl")}
                     if order == "I" else set())
    assert {row.name for row in rows} - newer == expected.keys()
    for row in [row for row in rows if row.name not in newer]:
        for key in ("transfer", "avg", "last"):
            assert row.numbers[key] == pytest.approx(expected[row.name][key], abs=0.0501)
        assert row.numbers["bwt"] is None


@pytest.mark.parametrize("found", PUBLISHED_RUNS["runs"], ids=lambda found: f"{found['method']}-{found['order']}")
def test_a_published_matrix_in_a_run_folder_gives_its_published_numbers(tmp_path, found):
    tasks = PUBLISHED_RUNS["orders"][found["order"]]
    run = next(row for row in rows_of(write_run(tmp_path / "mine", order=tasks, matrix=found["matrix"],
                                                zero_shot=None)) if row.kind == RUN)
    for key in ("transfer", "avg", "last"):
        assert run.numbers[key] == pytest.approx(found[key], abs=0.01), key


def test_no_published_rows_for_other_sequences_or_label_spaces(tmp_path):
    tasks = PROTOCOLS["mtil-1"].order
    square = [[50.0] * 11] * 11
    folders = [write_run(tmp_path / "mine", order=tasks, matrix=square, zero_shot=None, spaces=("task", "all")),
               write_run(tmp_path / "less", order=tasks[:3], matrix=MATRIX, zero_shot=None, spaces=("task", "all")),
               write_run(tmp_path / "other", order=tasks[::-1], matrix=square, zero_shot=None)]
    tables = tables_of(folders[0])
    assert [{row.kind for row in table.rows} for table in tables] == [{RUN, PUBLISHED}, *[{PUBLISHED}] * 5, {RUN}]
    assert [(table.conditions.family, table.conditions.router) for table in tables[1:6]] == [
        ("ZSCL", "sample"), ("CoOp, template a photo of a {c}.", "none"), ("ZSCL", "batch"),
        ("CoOp, template first", "batch"), ("ZSCL, template first", "none")]
    assert "not measured here" in comparison_markdown(tables) and "not measured here" in comparison_latex(tables)
    assert {row.kind for row in rows_of(folders[1])} == {row.kind for row in rows_of(folders[2])} == {RUN}
    assert {row.kind for row in rows_of(folders[0], folders[1])} == {RUN}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['method']}, {row['setting']}")
def test_published_cells_in_a_run_folder_give_the_published_means(tmp_path, row):
    folder = write_run(tmp_path / "mine", order=order_of(row), matrix=matrix_of(row), zero_shot=None,
                       spaces=(row["space"],))
    run = next(found for found in tables_of(folder)[0].rows if found.kind == RUN)
    for name, number in row["numbers"].items():
        assert run.numbers[name] == pytest.approx(number["mean"], abs=0.1), name


def test_published_rows_stand_with_runs_of_their_conditions_only(tmp_path):
    tasks = PROTOCOLS["mtil-1"].order
    square = [[50.0] * 11] * 11
    few = tables_of(write_run(tmp_path / "few", "--shots 5", order=tasks, matrix=square, zero_shot=None))
    assert [[row.name for row in table.rows[:2]] for table in few[:2]] == [
        ["few", "published zero-shot"], ["published zero-shot", "published condu"]]
    assert few[0].conditions.differences(few[1].conditions) == ["shots"]
    coop = tables_of(write_run(tmp_path / "coop", "--split-file coop", order=tasks, matrix=square, zero_shot=None))
    assert [row.name for row in coop[0].rows] == ["coop"]
    assert {row.kind for table in coop[1:] for row in table.rows} == {PUBLISHED}
    assert [table.conditions.family for table in coop[:2]] == ["CoOp, own split of CIFAR100 and MNIST", "ZSCL"]


@pytest.mark.parametrize("order", ["mtil-1", "mtil-2"])
def test_every_published_row_says_its_conditions(order):
    rows = published_rows(order)
    assert len(rows) >= 8 and not any(row.conditions.unknown() for row in rows)
    references = {row.name.removeprefix("published "): row.conditions.reference for row in rows}
    assert {name: text for name, text in references.items() if text} == {
        **dict.fromkeys(("zscl", "zscl-star"), "ImageNet + conceptual_captions"),
        "moe-adapters": "TinyImageNet + AlexNet's ImageNet weights"}
    assert {row.conditions.shots for row in rows} == {None, "all"} and rows[0].conditions.shots is None
