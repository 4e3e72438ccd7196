"""The charts of a table: which rows, on which scales, said in which words."""

import dataclasses

import pytest
from report_files import MATRIX, write_run

from src.report import study_figures as figures
from src.report.orders import report_of
from src.report.plots import looks_of
from src.report.runs import read_run


@pytest.fixture
def report(tmp_path):
    """finetune and lwf with two seeds, 0 to 3 points below MATRIX."""
    runs = [(method, seed) for method in ("finetune", "lwf") for seed in (1, 2)]
    return report_of("study", [read_run(write_run(
        tmp_path / f"{method}-{seed}", f"--method {method} --seed {seed}",
        matrix=[[value - number for value in row] for row in MATRIX])) for number, (method, seed) in enumerate(runs)])


def test_transfer_against_last(report):
    """Of MATRIX they are 37.5 and 76.7, of zero-shot 25 and 20."""
    [[table]] = report.orders.values()
    found = figures.tradeoff_figure(table, looks_of(report))
    assert found.text == ("zero-shot: Transfer 25.0, Last 20.0; finetune-*: Transfer 37.0, Last 76.2; "
                          "lwf-*: Transfer 35.0, Last 74.2")
    (_, low), *_, (_, high) = found.zoomed.x_ticks
    assert 20 <= float(low) <= 25 and 37.7 <= float(high) <= 45
    assert "sample deviation" in found.note and len(found.whole.lines) == 4


def test_rows_without_a_number_are_left_out(report):
    [[table]] = report.orders.values()
    start, one, other = table.rows
    table = dataclasses.replace(table, rows=(start, one, dataclasses.replace(
        other, numbers=other.numbers | {"transfer": None})))
    assert "lwf" not in figures.tradeoff_figure(table, looks_of(report)).text
    table = dataclasses.replace(table, rows=table.rows[2:])
    assert figures.tradeoff_figure(table, looks_of(report)) is None
    assert figures.cost_figures(table, looks_of(report))


def test_costs_are_of_runs_alone(report):
    [[table]] = report.orders.values()
    time, values = figures.cost_figures(table, looks_of(report))
    assert time.text == "finetune-*: 9.0 s, Avg 61.7; lwf-*: 9.0 s, Avg 59.7"
    assert values.text == "finetune-*: 300, Avg 61.7; lwf-*: 300, Avg 59.7"
    assert "logarithmic" not in values.x_title


def test_curves_have_one_scale_and_a_colour_each(report):
    [[table]] = report.orders.values()
    [group] = figures.curve_groups(table, looks_of(report))
    one, other = group["figures"]
    assert group["band"] and one.zoomed.y_ticks == other.zoomed.y_ticks != one.whole.y_ticks
    assert one.note == "zero-shot 20.0 → last 76.2, 2 runs" and one.look.style != other.look.style
    assert "after task 1: 56.2 (55.7 to 56.7)" in one.text
