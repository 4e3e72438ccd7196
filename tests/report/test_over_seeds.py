"""Means over the runs of a row, by hand."""

import json

import pytest
from report_files import MATRIX, ORDER, ZERO_SHOT, write_pairs_run, write_run

from src.report.compare import compare
from src.report.over_seeds import Spread, curve, mean_matrix, seconds_of, trained_values_of
from src.report.rows import RUN
from src.report.runs import read_run


@pytest.fixture
def row_of(tmp_path):
    """row_of(matrix of each seed, ...) -> the one row of runs"""
    def make(*matrices, **options):
        runs = [read_run(write_run(tmp_path / str(seed), f"--seed {seed}", matrix=matrix, **options))
                for seed, matrix in enumerate(matrices, start=1)]
        [table] = compare(runs)
        return next(row for row in table.rows if row.kind == RUN)
    return make


def lower(by):
    return [[value - by for value in row] for row in MATRIX]


def test_a_matrix_is_the_mean_of_those_of_the_seeds(row_of):
    found = mean_matrix(row_of(MATRIX, lower(1), lower(5)), "top1")
    assert found == {"": list(ZERO_SHOT), **{task: [pytest.approx(value - 2) for value in row]
                                             for task, row in zip(ORDER, MATRIX, strict=True)}}


def test_a_cell_that_one_run_lacks_has_no_mean(row_of):
    seen = [[80.0, None, None], [60.0, 90.0, None], [70.0, 65.0, 95.0]]
    row = row_of(seen, seen, zero_shot=(None,) * 3, spaces=("seen",))
    assert mean_matrix(row, "top1")["A"] == [80.0, None, None]
    assert [spread and spread.mean for spread in curve(row, "top1")] == [None, 80.0, 75.0, pytest.approx(230 / 3)]


def test_curves_are_means_over_datasets_with_the_least_and_the_most(row_of):
    """Rows of MATRIX: 170 / 3, 160 / 3, 230 / 3."""
    row = row_of(MATRIX, lower(6))
    start, *steps = curve(row, "top1")
    assert start == Spread(20.0, 20.0, 20.0)
    for step, total in zip(steps, (170, 160, 230), strict=True):
        assert (step.low, step.mean, step.high) == pytest.approx((total / 3 - 6, total / 3 - 3, total / 3))
    assert sum(step.mean for step in steps) / 3 == pytest.approx(row.numbers["avg"])
    assert steps[-1].mean == pytest.approx(row.numbers["last"])


def test_a_run_without_a_start_has_none_at_zero(row_of):
    assert curve(row_of(MATRIX, zero_shot=None), "top1")[0] is None


def test_pairs_have_a_curve_a_direction(tmp_path):
    [table] = compare([read_run(write_pairs_run(tmp_path / "pairs"))])
    row = next(row for row in table.rows if row.kind == RUN)
    assert [spread.mean for spread in curve(row, "t2i_r1")] == [10.0, 15.0, 16.25]


def test_costs(row_of, tmp_path):
    """The tasks of each run take 2, 3 and 4 seconds, and train 300 values."""
    row = row_of(MATRIX, MATRIX)
    assert (seconds_of(row), trained_values_of(row)) == (9.0, 300.0)
    path = tmp_path / "2" / "run_B.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 13.0, "trainable_values": 500}))
    [table] = compare([read_run(tmp_path / str(seed)) for seed in (1, 2)])
    row = next(row for row in table.rows if row.kind == RUN)
    assert (seconds_of(row), trained_values_of(row)) == (14.0, 400.0)
    path.unlink()
    [table] = compare([read_run(tmp_path / str(seed)) for seed in (1, 2)])
    row = next(row for row in table.rows if row.kind == RUN)
    assert seconds_of(row) is None and trained_values_of(row) is None
