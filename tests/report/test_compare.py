"""Runs side by side: their order, the rows they are compared with, and what stands apart."""

import csv
import io
import json
import statistics

import pytest
from comparisons import names_of, rows_of, shifted, tables_of
from report_files import ORDER, write_pairs_run, write_run
from test_tables import cells

from src.errors import UserError
from src.report.compare import compare, compare_orders
from src.report.comparison import comparison_csv, comparison_latex, comparison_markdown
from src.report.rows import RUN
from src.report.runs import read_run
from src.report.sequence import sequence_metrics

pytest_plugins = ["cli_fixtures"]


def test_the_best_average_comes_first_below_the_zero_shot_row(tmp_path):
    folders = [write_run(tmp_path / name, f"--method {method}", matrix=shifted(number))
               for name, method, number in (("low", "finetune", -3), ("high", "lwf", 2), ("middle", "ZSCL", 0))]
    start, *rows = rows_of(*folders)
    assert [row.name for row in rows] == ["high", "middle", "low"]
    assert [row.numbers for row in rows] == [sequence_metrics(shifted(number)) for number in (2, 0, -3)]
    assert [row.runs for row in rows] == [(str(tmp_path / row.name),) for row in rows]
    assert all(row.kind == RUN and row.deviations == {} and row.order == ORDER for row in rows)
    assert (start.name, start.kind, start.runs) == ("zero-shot", "zero-shot", ())
    assert start.numbers == pytest.approx({"transfer": (20 + 30) / 2, "avg": 20.0, "last": 20.0, "forgetting": 0.0,
                                           "bwt": 0.0})


@pytest.mark.parametrize("other", [{"zero_shot": (10.0, 20.0, 31.0)}, {"zero_shot": None},
                                   {"order": ("B", "A", "C"), "zero_shot": (20.0, 10.0, 30.0)}], ids=str)
def test_no_zero_shot_row_where_the_runs_share_none(tmp_path, other):
    folders = [write_run(tmp_path / "one"), write_run(tmp_path / "two", "--method lwf", **other)]
    assert [row.kind for row in rows_of(*folders)] == [RUN, RUN]
    assert rows_of(folders[0])[0].kind == "zero-shot"


def test_rows_with_custom_hooks_say_so_and_are_not_those_of_the_method(tmp_path):
    """Also where all rows have the same, so that none passes for the method."""
    words = {"plain-1": "", "hooked-1": "--hooks my.py:Pull", "hooked-2": "--hooks my.py:Pull --seed 2",
             "less": "--hooks my.py:Pull(strength=0.5)"}
    folders = {name: write_run(tmp_path / name, given) for name, given in words.items()}
    rows = {row.name: row for row in rows_of(*folders.values()) if row.kind == RUN}
    assert {name: row.flags for name, row in rows.items()} == {
        "plain-1": {"--hooks": ""}, "hooked-*": {"--hooks": "my.py:Pull"},
        "less": {"--hooks": "my.py:Pull(strength=0.5)"}}
    text = comparison_markdown(tables_of(*folders.values()))
    assert "- hooked-*: --hooks my.py:Pull\n" in text and "- plain-1: --hooks none" in text
    assert ": --hooks my.py:Pull\n" in comparison_markdown(tables_of(folders["hooked-1"], folders["hooked-2"]))
    assert "--hooks" not in comparison_markdown(tables_of(folders["plain-1"]))


def test_no_zero_shot_row_where_nothing_is_seen_yet(tmp_path):
    tables = tables_of(write_run(tmp_path / "one", zero_shot=(None,) * 3, spaces=("seen",),
                                 matrix=((80.0, None, None), (60.0, 90.0, None), (70.0, 65.0, 95.0))))
    (row,) = tables[0].rows
    assert tables[0].space == "seen" and row.numbers["transfer"] is None
    assert row.numbers["avg"] == pytest.approx(460 / 6)
    assert cells(comparison_markdown(tables))[1][2:4] == ["-", "76.7"]


def test_runs_of_different_sequences_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / "one"), write_run(tmp_path / "two", order=("B", "A", "C"))]
    assert "different sequences" in comparison_markdown(tables_of(*folders))
    assert "different sequences" not in comparison_markdown(tables_of(folders[0]))


def test_each_label_space_that_all_runs_have(tmp_path):
    one = write_run(tmp_path / "one", spaces=("task", "all", "seen"))
    two = write_run(tmp_path / "two", "--method lwf", spaces=("all", "task"))
    assert [table.space for table in tables_of(one, two)] == ["task", "all"]
    assert "classes of task" in comparison_markdown(tables_of(one, two))
    three = write_run(tmp_path / "three", spaces=("seen",))
    with pytest.raises(UserError, match=f"no label space in common .*{two}: all,task; {three}: seen.*--label-space"):
        compare([read_run(two), read_run(three)])


# -- what does not rank together ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second", "title"), [
    ("", "--split-file coop", "data family"), ("", "--shots 5", "shots"), ("--shots 16", "--shots 5", "shots"),
    ("--method ZSCL --ref-dataset coco", "--method ZSCL --ref-dataset ImageNet", "reference set")], ids=str)
def test_runs_of_other_conditions_stand_apart(cli, tmp_path, first, second, title):
    """The better one is in the second table: nothing ranks across."""
    folders = [write_run(tmp_path / "one", first), write_run(tmp_path / "two", second, matrix=shifted(1))]
    tables = tables_of(*folders)
    assert sorted(names_of(tables)) == [["one"], ["two"]]
    assert tables[0].conditions.differences(tables[1].conditions) == [title]
    assert [table.rows[0].kind for table in tables] == ["zero-shot"] * 2
    text = comparison_markdown(tables)
    assert f"Not ranked together: the tables differ in {title}." in text
    for table in tables:
        assert f"\n\n{table.conditions.text()}\n\n| run, classes" in f"\n\n{text}"
        assert f"{table.conditions.text()}." in comparison_latex(tables)
    done = cli("--report", ",".join(map(str, folders)))
    assert (done.status, done.err, done.out) == (0, "", text)


def test_a_router_of_batches_ranks_with_no_other(tmp_path):
    (tmp_path / "my.py").write_text("from src.models.hooks import Hooks\nclass Batch(Hooks):\n    router = 'batch'\n",
                                    encoding="utf-8")
    folders = [write_run(tmp_path / "plain"), write_run(tmp_path / "batch", f"--method {tmp_path / 'my.py'}:Batch")]
    tables = tables_of(*folders)
    assert sorted(names_of(tables)) == [["batch"], ["plain"]]
    assert "the tables differ in router." in comparison_markdown(tables)


def test_a_row_without_reference_data_ranks_in_each_table(tmp_path):
    folders = [write_run(tmp_path / "plain", matrix=shifted(-1)),
               *(write_run(tmp_path / name, f"--method ZSCL --ref-dataset {name}") for name in ("coco", "ImageNet"))]
    assert names_of(tables_of(*folders)) == [["coco", "plain"], ["ImageNet", "plain"]]
    assert names_of(tables_of(*folders[:2])) == [["coco", "plain"]]
    rows = [row["row"] for row in csv.DictReader(io.StringIO(comparison_csv(tables_of(*folders))))]
    assert rows == ["zero-shot", "coco", "plain", "ImageNet"]


def test_an_older_run_is_unknown_and_says_so(tmp_path):
    old, new = write_run(tmp_path / "old", "--seed 1", older=True), write_run(tmp_path / "new", "--seed 2")
    tables = tables_of(old, new)
    assert sorted(names_of(tables)) == [["new"], ["old"]], "seeds of unknown conditions are no draws of one row"
    text = comparison_markdown(tables)
    assert "old: data family, router unknown, which ranks with no known value." in text
    assert "rerun its command" in text
    assert "new: " not in text and "the tables differ in data family, router." in text
    (both,) = tables_of(old, write_run(tmp_path / "older", "--method lwf", older=True))
    assert both.conditions.text().startswith("data family unknown")
    assert "older: data family, router unknown" in comparison_markdown([both])


# -- image-text pairs --------------------------------------------------------------------------------------------------


def test_image_text_pairs_by_their_mean_rsum(tmp_path):
    low = write_pairs_run(tmp_path / "low", rsums=((300.0, 100.0), (1.0, 1.0), (400.0, 100.0)))
    high = write_pairs_run(tmp_path / "high", "--seed 1", rsums=((300.0, 100.0), (1.0, 1.0), (500.0, 150.0)))
    other = write_pairs_run(tmp_path / "other", "--method modx", rsums=((300.0, 100.0), (1.0, 1.0), (420.0, 140.0)))
    start, first, second = rows_of(low, high, other)
    assert start.numbers == {"mean_rsum": 200.0, "i2t_r1": 20.0, "t2i_r1": 10.0}
    assert (first.name, first.runs) == ("low,high", (str(low), str(high)))
    assert first.numbers["mean_rsum"] == pytest.approx((250 + 325) / 2) and second.numbers["mean_rsum"] == 280.0
    assert first.deviations["mean_rsum"] == pytest.approx(statistics.stdev([250, 325]))
    assert cells(comparison_markdown(tables_of(low, high, other)))[0] == [
        "run", "n", "mean rsum", "i2t R@1", "t2i R@1"]


def test_one_kind_at_a_time(tmp_path):
    pairs, classes = write_pairs_run(tmp_path / "pairs"), write_run(tmp_path / "classes")
    with pytest.raises(UserError, match=f"{pairs} is of image-text pairs, {classes} of classes"):
        compare([read_run(classes), read_run(pairs)])


# -- other images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["--eval-split val", "--max-evaluation-size 100", "--wilds-split ood"])
def test_runs_on_other_images_do_not_rank_together(tmp_path, words):
    folders = [write_run(tmp_path / "one"), write_run(tmp_path / "two", words)]
    with pytest.raises(UserError, match=f"one is scored with {words.split()[0]} .*two with {words}") as caught:
        rows_of(*folders)
    assert len(str(caught.value).splitlines()) == 1
    (same,) = tables_of(folders[1], write_run(tmp_path / "three", f"{words} --method lwf"))
    assert len(same.rows) == 3
    first = cells(comparison_markdown([same]))[0][0]
    assert (first == "run, classes of task, val images") == (words == "--eval-split val")


def test_a_run_that_is_older_than_a_flag_has_its_default(tmp_path):
    old = write_run(tmp_path / "old")
    content = json.loads((old / "run.json").read_text(encoding="utf-8"))
    del content["flags"]["eval_split"]
    (old / "run.json").write_text(json.dumps(content), encoding="utf-8")
    assert len(rows_of(old, write_run(tmp_path / "new", "--method lwf"))) == 3
    with pytest.raises(UserError, match="--eval-split test, .*--eval-split val"):
        rows_of(old, write_run(tmp_path / "val", "--eval-split val"))


# -- several orders ----------------------------------------------------------------------------------------------------


def test_each_order_by_itself_with_the_same_names(tmp_path):
    """A row is called alike in each order, and a run and its copy are two rows in each."""
    orders = {"1": ("A", "B", "C"), "2": ("C", "B", "A")}
    runs = {label: [read_run(write_run(tmp_path / f"{method}{seed}-{label}", f"--method {method} --seed {seed}",
                                       order=order, matrix=shifted(change)))
                    for method, seed, change in (("lwf", 1, 0), ("lwf", 2, 2), ("finetune", 1, -5))]
            for label, order in orders.items()}
    found = compare_orders(runs)
    assert names_of(found["1"]) == names_of(found["2"]) == [["lwf*", "finetune1-*"]]
    assert {row.order for table in found["2"] for row in table.rows if row.kind == RUN} == {("C", "B", "A")}
    assert found["1"][0].conditions == found["2"][0].conditions


def test_a_head_is_that_of_all_orders(tmp_path):
    """A reference set that only one order's run has does not make the table of the other order another one."""
    runs = {"1": [read_run(write_run(tmp_path / "a", "--method ZSCL --ref-dataset coco")),
                  read_run(write_run(tmp_path / "b"))],
            "2": [read_run(write_run(tmp_path / "c", order=("C", "B", "A")))]}
    found = compare_orders(runs)
    assert [table.conditions.reference for tables in found.values() for table in tables] == ["coco", "coco"]
    assert [table.conditions.reference for table in compare(runs["2"])] == [None]
