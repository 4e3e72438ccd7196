"""The tables of a paper against pandas on synthetic run folders, and published matrices to their printed digits."""

import io
import json
import random
from pathlib import Path

import pandas
import pytest
from golden_numbers import ROUNDED_BADLY, ROWS, matrix_of, order_of
from report_files import write_pairs_run, write_run
from test_tables import cells

from src.report.orders import report_of
from src.report.paper import BLOCKS, COMPACT, count_text, label_text, paper_tables
from src.report.paper_markdown import paper_csv, table_markdown
from src.report.rows import RUN
from src.report.runs import read_run

PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "published_mtil.json").read_text(encoding="utf-8"))
ORDERS = {"1": ("A", "B", "C", "D"), "2": ("C", "A", "D", "B")}
METHODS = ("finetune", "lwf", "ZSCL")


def draw(*words):
    """A matrix of accuracies of four digits, as files of matrices have."""
    drawn = random.Random(" ".join(map(str, words)))
    return [[round(drawn.uniform(20, 90), 4) for _ in range(4)] for _ in range(4)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs of three methods, two orders, three seeds; ZSCL has two seeds in order 2."""
    place = tmp_path_factory.mktemp("study")
    return [write_run(place / f"{method}_{label}_{seed}", f"--method {method} --seed {seed}", order=order,
                      matrix=draw(method, label, seed), zero_shot=[10.0, 20.0, 30.0, 40.0])
            for method in METHODS for label, order in ORDERS.items() for seed in (1, 2, 3)
            if (method, label, seed) != ("ZSCL", "2", 3)]


@pytest.fixture(scope="module")
def report(folders):
    return report_of("study", [read_run(folder) for folder in folders])


@pytest.fixture(scope="module")
def slow(folders):
    """The numbers of every run by its csv file alone: a frame of method, order, seed, number, dataset, value."""
    found = []
    for folder in folders:
        method, label, seed = folder.name.split("_")
        matrix = pandas.read_csv(folder / "matrix_top1.csv").iloc[1:].set_index("task").astype(float)
        for place, dataset in enumerate(matrix.columns):
            column = matrix[dataset]
            found += [(method, label, seed, "last", dataset, column.iloc[-1]),
                      (method, label, seed, "avg", dataset, column.mean())]
            if place:
                found.append((method, label, seed, "transfer", dataset, column.iloc[:place].mean()))
    return pandas.DataFrame(found, columns=["method", "order", "seed", "number", "dataset", "value"])


def written(tables, kind):
    frame = pandas.read_csv(io.StringIO(paper_csv(tables)), dtype={"order": str})
    frame["method"] = frame["row"].str.partition("_")[0]
    return frame[(frame["table"] == kind) & (frame["kind"] == RUN)]


def test_the_compact_table_is_that_of_pandas(report, slow):
    found = written(paper_tables(report), COMPACT)
    runs = slow.groupby(["order", "method", "number", "seed"])["value"].mean()  # over the datasets
    peer = runs.groupby(["order", "method", "number"]).agg(["mean", "std", "count"])
    assert len(found) == len(peer) == 18
    for _, row in found.iterrows():
        mean, deviation, count = peer.loc[row["order"], row["method"], row["number"]]
        assert (row["mean"], row["std"], row["n"]) == pytest.approx((mean, deviation, count), rel=1e-12)
        printed = peer.loc[row["order"], :, row["number"]]["mean"].round(1)
        place = printed.rank(method="dense", ascending=False)[row["method"]]
        assert (row["rank"] if row["rank"] == row["rank"] else 3) == place


def test_the_table_by_dataset_is_that_of_pandas(report, slow):
    found = written(paper_tables(report), BLOCKS)
    peer = slow.groupby(["order", "method", "number", "dataset"])["value"].agg(["mean", "std", "count"])
    by_dataset = found[found["dataset"].notna()]
    assert len(by_dataset) == len(peer) == 6 * (4 + 4 + 3) and len(found) == len(by_dataset) + 18
    for _, row in by_dataset.iterrows():
        expected = tuple(peer.loc[row["order"], row["method"], row["number"], row["dataset"]])
        assert (row["mean"], row["std"], row["n"]) == pytest.approx(expected, rel=1e-12)


def test_the_shape_of_both(report):
    compact, first, second = paper_tables(report)
    assert (compact.kind, first.kind, second.kind) == (COMPACT, BLOCKS, BLOCKS)
    assert [(column.order, column.number) for column in compact.columns] == [
        (order, number) for order in "12" for number in ("transfer", "avg", "last")]
    assert [column.dataset for column in first.columns] == [*ORDERS["1"], None]
    assert [column.dataset for column in second.columns] == [*ORDERS["2"], None]
    assert [(line.block, line.name) for line in first.lines[:5]] == [
        ("transfer", "zero-shot"), *(("transfer", line.name) for line in first.lines[1:4]), ("avg", "zero-shot")]
    assert [table.label for table in (compact, first, second)] == [
        "study_compact", "study_blocks-1", "study_blocks-2"]
    start = compact.lines[0]
    assert start.kind == "zero-shot" and [value.rank for value in start.values] == [None] * 6
    assert [value.mean for value in start.values] == pytest.approx([30, 25, 25] * 2)
    transfer, *_ = (line for line in first.lines if line.name == "zero-shot")
    assert [value.mean for value in transfer.values] == [None, 20.0, 30.0, 40.0, 30.0]


def test_what_a_method_needs(report):
    compact = paper_tables(report)[0]
    facts = {line.name.partition("_")[0]: line.facts for line in compact.lines}
    assert facts["lwf"] == {"n": "3", "trained values": "300", "router": "none", "task id": "given"}
    assert facts["ZSCL"]["n"] == "3, 2"
    assert compact.facts == ["n", "trained values", "router", "task id"]


@pytest.mark.parametrize(("count", "text"), [(300, "300"), (12_340, "12.3 k"), (149_620_737, "149.6 M"), (0, "0")])
def test_counts(count, text):
    assert count_text(count) == text


def test_labels_are_of_plain_letters_and_differ(tmp_path):
    assert label_text("my study_é", "blocks", "I/{2}") == "my-study_blocks_I-2"
    assert label_text("研究") == "x"
    runs = [read_run(write_run(tmp_path / name, words)) for name, words in (("a", ""), ("b", "--shots 5"))]
    assert [table.label for table in paper_tables(report_of("s", runs))] == [
        "s_compact", "s_compact_2", "s_blocks", "s_blocks_2"]


def test_rows_of_other_conditions_stand_apart_and_are_not_ranked_with_each_other(tmp_path):
    runs = [read_run(write_run(tmp_path / name, words)) for name, words in (("a", ""), ("b", "--shots 5"))]
    for table in paper_tables(report_of("s", runs)):
        assert "Not ranked together: the tables differ in shots." in table.notes
        assert not table.ranking and not [value for line in table.lines for value in line.values if value.rank]


def test_what_stands_outside_the_ranking_is_said(report):
    assert paper_tables(report)[0].ranking == (
        "among the runs of a column, equal digits sharing a rank; zero-shot rows are not ranked")


def test_class_incremental_tables_have_no_transfer(tmp_path):
    run = read_run(write_run(tmp_path / "one", zero_shot=(None,) * 3, spaces=("seen",),
                             matrix=((80.0, None, None), (60.0, 90.0, None), (70.0, 65.0, 95.0))))
    compact, blocks = paper_tables(report_of("cil", [run]))
    assert compact.numbers == ("avg", "last", "incremental_avg") and blocks.numbers == ("avg", "last")
    assert [value.mean for value in blocks.lines[0].values] == pytest.approx([70, 77.5, 95, 460 / 6])
    assert "mean over all cells" in " ".join(blocks.notes) and "in the order of training" in blocks.notes[0]


def test_image_text_pairs(tmp_path):
    """Recall of each set after the last task, and the mean over the sets."""
    run = read_run(write_pairs_run(tmp_path / "pairs", rsums=((300.0, 100.0), (1.0, 1.0), (400.0, 100.0))))
    compact, blocks = paper_tables(report_of("pairs", [run]))
    assert compact.numbers == blocks.numbers == ("i2t_r1", "t2i_r1", "mean_rsum")
    assert [[value.mean for value in line.values] for line in blocks.lines if line.kind == RUN] == [
        [40.0, 10.0, 25.0], [20.0, 5.0, 12.5], [400.0, 100.0, 250.0]]


# -- published ---------------------------------------------------------------------------------------------------------


def blocks_of(published, order, place):
    """The table by dataset of {name: matrix}, and the compact one."""
    runs = [read_run(write_run(place / name, f"--lr {index}e-6", order=order, matrix=matrix, zero_shot=None))
            for index, (name, matrix) in enumerate(published.items(), start=1)]
    tables = paper_tables(report_of("s", runs))
    return next(table for table in tables if table.kind == BLOCKS), tables[0]


def printed_block(table, number):
    """{row: {title of a column: its text without marks}} of a table by dataset."""
    rows = cells(table_markdown(table))
    first = next(index for index, row in enumerate(rows) if row[0].startswith(f"{number}, "))
    count = len([line for line in table.lines if line.block == table.numbers[0]])
    return {row[0]: dict(zip(rows[first][1:], (text.strip("*_") for text in row[1:]), strict=True))
            for row in rows[first + 1:first + 1 + count]}


@pytest.mark.parametrize("order", ["I", "II"])
def test_published_cells_come_out_as_they_are_printed(order, tmp_path):
    published = {f"{index}-{row['method']}": row for index, row in enumerate(ROWS)
                 if row["order"] == order and row["space"] == "task"}
    names = order_of(next(iter(published.values())))
    table, _ = blocks_of({name: matrix_of(row) for name, row in published.items()}, names, tmp_path)
    assert len(published) == {"I": 6, "II": 2}[order]
    shown = {"transfer": names[1:], "avg": names[:-1], "last": names}  # see matrix_of of the last dataset
    for number, title in (("transfer", "Transfer"), ("avg", "Avg"), ("last", "Last")):
        found = printed_block(table, title)
        for name, row in published.items():
            cells_of_row = row["numbers"].get(number, {"cells": []})["cells"]
            for dataset, value in zip(shown[number], cells_of_row, strict=False):
                assert found[name][dataset] == f"{value:.1f}", (name, number, dataset)
            if number in row["printed"] and (row["method"], row["setting"], number) not in ROUNDED_BADLY:
                assert abs(float(found[name]["mean"]) - row["printed"][number]) < 0.051, (name, number)
    assert {row[names[0]] for row in printed_block(table, "Transfer").values()} == {"-"}


@pytest.mark.parametrize("order", ["I", "II"])
def test_published_matrices_give_their_published_means(order, tmp_path):
    """They have three digits, and their means two."""
    published = {f"{number}-{run['method']}": run for number, run in enumerate(PUBLISHED["runs"], start=1)
                 if run["order"] == order}
    blocks, compact = blocks_of({name: run["matrix"] for name, run in published.items()},
                                PUBLISHED["orders"][order], tmp_path)
    means = {(line.name, line.block): line.values[-1].mean for line in blocks.lines}
    assert len(means) == 3 * 7
    for name, run in published.items():
        mine = next(line for line in compact.lines if line.name == name)
        for value, number in zip(mine.values, ("transfer", "avg", "last"), strict=True):
            assert value.mean == means[name, number] == pytest.approx(run[number], abs=0.0101), (name, number)
