"""Tables of a paper as markdown and csv: marks, deviations, tests, every digit."""

import csv
import io

import pytest
from report_files import MATRIX, write_run
from test_tables import cells

from src.report.measures import DEFINITIONS
from src.report.orders import report_of
from src.report.paper import Value, paper_tables
from src.report.paper_markdown import CSV_HEADER, paper_csv, paper_markdown, table_markdown, value_text
from src.report.runs import read_run


@pytest.mark.parametrize(("value", "text"), [
    (Value(75.44), "75.4"), (Value(75.44, rank=1), "**75.4**"), (Value(75.44, 0.26, 3, rank=2), "_75.4_ ± 0.3"),
    (Value(), "-"), (Value(-1.25, n=1), "-1.2"), (Value(0, n=1), "0.0")])
def test_a_number(value, text):
    assert value_text(value) == text


@pytest.mark.parametrize(("value", "text"), [
    (Value(1.25, 0.5, 3, p=0.0124), "+1.2 ± 0.5 (p 0.012)"), (Value(-1.0, 0.0, 2, p=0.0004), "-1.0 ± 0.0 (p < 0.001)"),
    (Value(2.0, n=1, interval=(-0.44, 3.06)), "+2.0 [-0.4, 3.1]"), (Value(2.0, 0.0, 2), "+2.0 ± 0.0"), (Value(), "-")])
def test_a_difference(value, text):
    assert value_text(value, signed=True) == text


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Those of two methods, two orders and two seeds: a number of seed 1 is 1 above that of seed 0."""
    place = tmp_path_factory.mktemp("runs")
    runs = [read_run(write_run(
        place / f"{method}_{number}_{seed}", f"--method {method} --seed {seed}", order=order,
        matrix=[[value + shift + seed for value in row] for row in MATRIX]))
        for method, shift in (("lwf", 0), ("finetune", -5)) for number, order in (("1", "ABC"), ("2", "CBA"))
        for seed in (0, 1)]
    return paper_tables(report_of("study", runs))


def test_the_compact_table(tables):
    text = table_markdown(tables[0])
    header, start, first, second = cells(text)
    assert header == ["method", *(f"{title}, {order}" for order in "12" for title in ("Transfer", "Avg", "Last")), "n",
                      "trained values", "router", "task id"]
    assert start == ["zero-shot", "25.0", "20.0", "20.0", "25.0", "20.0", "20.0", "-", "-", "none", "given"]
    assert first[:4] == ["lwf_*", "**38.0** ± 0.7", "**62.7** ± 0.7", "**77.2** ± 0.7"]
    assert second[:4] == ["finetune_*", "_33.0_ ± 0.7", "_57.7_ ± 0.7", "_72.2_ ± 0.7"]
    assert text.startswith("## Transfer, Avg and Last of study\n\ndata family own; ")
    assert "Order 1: A, B, C. Order 2: C, B, A. Mean ± sample standard deviation over 2 runs that differ" in text
    assert "**Best** and _second_ among the runs of a column" in text


def test_the_table_by_dataset(tables):
    """A deviation stands with the mean alone; Transfer has no number of the first dataset."""
    rows = cells(table_markdown(tables[1]))
    assert [row[0] for row in rows] == [
        text for number in ("Transfer", "Avg", "Last") for text in (f"{number}, method", "zero-shot", "lwf_*",
                                                                    "finetune_*")]
    assert rows[0][1:] == ["A", "B", "C", "mean"]
    assert rows[2][1:] == ["-", "**50.5**", "**25.5**", "**38.0** ± 0.7"]
    assert rows[10][1:] == ["**70.5**", "**65.5**", "**95.5**", "**77.2** ± 0.7"]


def test_only_numbers_that_are_shown_are_defined(tables):
    text = paper_markdown(tables)
    assert text.count(DEFINITIONS["last"]) == 1 and DEFINITIONS["bwt"] not in text and text.count("A[i][j] is") == 1


def test_a_line_a_number_with_all_digits(tables):
    rows = list(csv.DictReader(io.StringIO(paper_csv(tables))))
    assert tuple(rows[0]) == CSV_HEADER and {row["table"] for row in rows} == {"compact", "blocks"}
    [row] = [row for row in rows if (row["table"], row["row"], row["order"], row["number"]) == (
        "compact", "lwf_*", "1", "avg")]
    assert float(row["mean"]) == pytest.approx(560 / 9 + 0.5) and float(row["std"]) == pytest.approx(0.5 ** 0.5)
    assert (row["rank"], row["n"], row["dataset"], row["trained_values"], row["shots"]) == ("1", "2", "", "300", "all")
    cell = next(row for row in rows if (row["row"], row["order"], row["number"], row["dataset"]) == (
        "lwf_*", "1", "transfer", "C"))
    assert (cell["table"], float(cell["mean"]), float(cell["std"])) == ("blocks", 25.5, pytest.approx(0.5 ** 0.5))
    assert not [row for row in rows if (row["number"], row["order"], row["dataset"]) == ("transfer", "1", "A")]
