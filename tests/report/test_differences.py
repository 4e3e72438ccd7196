"""Differences to a baseline: seed by seed, by order, with the method that is stated; who is not compared is named."""

from dataclasses import replace

import pytest
from report_files import MATRIX, write_predictions, write_run
from test_tables import cells

from src.report.differences import difference_tables, missing_note
from src.report.orders import report_markdown, report_of
from src.report.paired import paired_t
from src.report.paper_markdown import table_markdown
from src.report.runs import read_run

SHIFTS = {"finetune": {1: 0, 2: 0, 3: 0}, "lwf": {1: 1, 2: 3}, "ewc": {4: 5}}  # {method: {seed: what is added}}


def written(place, shifts, order=("A", "B", "C"), words=""):
    return [read_run(write_run(place / f"{method}_{order[0]}_{seed}", f"--method {method} --seed {seed} {words}",
                               order=order, matrix=[[value - 10 + shift for value in row] for row in MATRIX]))
            for method, found in shifts.items() for seed, shift in found.items()]


def compared(runs, baseline):
    return replace(report_of("s", runs), baseline=baseline)


@pytest.fixture
def report(tmp_path):
    return compared([*written(tmp_path, SHIFTS), *written(tmp_path, {"finetune": {1: 0}, "lwf": {1: 2}},
                                                          ("C", "B", "A"))], "finetune_*")


def test_none_without_a_baseline(report):
    plain = replace(report, baseline=None)
    assert difference_tables(plain) == [] == missing_note(plain, [])


def test_over_common_seeds(report):
    [table] = difference_tables(report)
    lines = {line.name: line for line in table.lines}
    assert sorted(lines) == ["ewc_A_4", "lwf_*"]
    first, second = lines["lwf_*"].values[:3], lines["lwf_*"].values[3:]
    for value in first:
        assert (value.mean, value.n, value.deviation) == pytest.approx((2.0, 2, 2 ** 0.5))
        assert value.p == pytest.approx(paired_t([1.0, 3.0]))
    assert [(value.mean, value.n, value.deviation) for value in second] == [(pytest.approx(2.0), 1, None)] * 3
    assert {value.mean for value in lines["ewc_A_4"].values} == {None}


def test_what_is_stated(report):
    [table] = difference_tables(report)
    text = table_markdown(table)
    titles = [f"{title}, {order}" for order in "12" for title in ("Transfer", "Avg", "Last")]
    assert cells(text)[0] == ["method", *titles]
    assert "Differences to finetune_* over 2 common seeds: mean ± sample standard deviation." in text
    assert "p: paired t-test over 2 common seeds, two-sided, not corrected" in text
    assert "Differences to finetune_* of one seed." in text and "No difference where no seed is common" in text
    assert "bootstrap" not in text
    assert text in report_markdown(report)


def test_last_over_the_images_of_one_seed(tmp_path):
    runs = []
    for method, right in (("finetune", 5), ("lwf", 8)):
        folder = write_run(tmp_path / method, f"--method {method} --seed 1", order=("A", "B"), zero_shot=None,
                           matrix=((80.0, 10.0), (10.0 * right, 60.0)))
        write_predictions(folder, {"A": [number < right for number in range(10)],
                                   "B": [number < 6 for number in range(10)]})
        runs.append(read_run(folder))
    [table] = difference_tables(compared(runs, "finetune"))
    transfer, average, last = table.lines[0].values
    assert transfer.interval is None is average.interval and last.mean == pytest.approx(15)
    assert last.interval[0] < 15 < last.interval[1] and last.interval == pytest.approx((0, 30), abs=5.1)
    assert "95 % of 10,000 draws of a paired bootstrap over the test images of one seed" in table_markdown(table)


def test_runs_in_other_tables_are_named(tmp_path):
    report = compared([*written(tmp_path, {"finetune": {1: 0}, "ewc": {1: 0}}),
                       *written(tmp_path, {"lwf": {1: 1}}, words="--shots 5")], "finetune_A_1")
    tables = difference_tables(report)
    assert [line.name for table in tables for line in table.lines] == ["ewc_A_1"]
    assert missing_note(report, tables) == [
        "Not compared with finetune_A_1, which shares no table with them: lwf_A_1."]
    assert missing_note(report, tables)[0] in report_markdown(report)
    alone = compared(written(tmp_path / "2", {"finetune": {1: 0}, "lwf": {1: 0}}), "gone")
    assert difference_tables(alone) == [] and "finetune_A_1, lwf_A_1" in missing_note(alone, [])[0]
