"""Runs side by side: their order, seeds as one row, the rows they are compared with, and the files."""

import csv
import io
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from cli_files import listing
from golden_numbers import ROWS, matrix_of, order_of
from report_files import MATRIX, ORDER, write_pairs_run, write_run
from test_tables import cells

from src.cli.protocols import PROTOCOLS
from src.errors import UserError
from src.report.compare import compare
from src.report.comparison import comparison_csv, comparison_latex, comparison_markdown
from src.report.published import published_rows
from src.report.rows import PUBLISHED, RUN
from src.report.runs import read_run
from src.report.sequence import sequence_metrics

pytest_plugins = ["cli_fixtures"]

PUBLISHED_RUNS = json.loads((Path(__file__).parents[1] / "data" / "published_mtil.json").read_text(encoding="utf-8"))
ZERO_SHOT_MTIL = {"Aircraft": 24.3, "Caltech101": 88.4, "CIFAR100": 68.2, "DTD": 44.6, "EuroSAT": 54.9, "Flowers": 71.0,
                  "Food": 88.5, "MNIST": 59.4, "OxfordPet": 89.0, "StanfordCars": 64.7, "SUN397": 65.2}


def tables_of(*folders):
    return compare([read_run(folder) for folder in folders])


def rows_of(*folders):
    """The rows of the first table, the only one of its label space that has a run."""
    first, *others = tables_of(*folders)
    assert not [row for table in others if table.space == first.space for row in table.rows if row.kind != PUBLISHED]
    return list(first.rows)


def shifted(number):
    return [[value + number for value in row] for row in MATRIX]


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


# -- seeds -------------------------------------------------------------------------------------------------------------


def test_runs_that_differ_only_in_their_seed_are_one_row(tmp_path):
    folders = [write_run(tmp_path / f"{method}-s{seed}", f"--method {method} --seed {seed}", matrix=shifted(change))
               for method, seed, change in (("finetune", 1, 0), ("finetune", 2, 3), ("lwf", 1, 1), ("finetune", 3, -2),
                                            ("lwf", 2, 2))]
    _, first, second = rows_of(*folders)
    assert (first.name, len(first.runs)) == ("lwf-s*", 2) and (second.name, len(second.runs)) == ("finetune-s*", 3)
    average = 560 / 9
    assert second.numbers["avg"] == pytest.approx(statistics.mean([average, average + 3, average - 2]))
    assert second.deviations["avg"] == pytest.approx(((1 / 3) ** 2 + (8 / 3) ** 2 + (7 / 3) ** 2) ** 0.5 / 2 ** 0.5)
    assert second.deviations["bwt"] == pytest.approx(0, abs=1e-12)
    assert first.flags == {"--method": "lwf"} and second.flags == {"--method": "finetune"}


@pytest.mark.parametrize(("words", "facts"), [
    ("--lr 1e-5", {}), ("--T 3", {}), ("--recipe finetune --iterations 2", {}), ("", {"precision": "bf16"}),
    ("", {"spaces": ("task", "all")})])
def test_what_can_change_a_number_keeps_runs_apart(tmp_path, words, facts):
    folders = [write_run(tmp_path / "one", "--seed 1"), write_run(tmp_path / "two", f"--seed 2 {words}", **facts)]
    assert [len(row.runs) for row in rows_of(*folders)[1:]] == [1, 1]


@pytest.mark.parametrize("words", ["--workers 0 --save elsewhere", "--quiet --log-interval 7 --device cpu", ""])
def test_what_changes_no_number_does_not(tmp_path, words):
    folders = [write_run(tmp_path / "one", "--seed 1"),
               write_run(tmp_path / "two", f"--seed 2 {words}", commit="another", hardware="another", seconds=3.0)]
    assert [len(row.runs) for row in rows_of(*folders)[1:]] == [2]


def test_a_run_and_its_copy_are_not_two_draws(tmp_path):
    folders = [write_run(tmp_path / name, f"--seed {seed}") for name, seed in (("one", 1), ("two", 2), ("copy", 1))]
    assert sorted(row.runs for row in rows_of(*folders)[1:]) == [
        (str(tmp_path / "copy"),), (str(tmp_path / "one"), str(tmp_path / "two"))]


def test_matrices_of_single_runs_are_told_apart_by_how_those_were_trained(tmp_path):
    """Flags of the command that rebuilt the matrix say nothing of it, and its files lie elsewhere for each seed."""
    folders = [write_run(tmp_path / f"{method}{seed}", f"--seed {seed} --load {method}{seed}/A.pth",
                         trained_with=[{"method": method, "seed": seed, "load": f"{method}{seed}", "ls": ls}
                                       for ls in (0.0, 0.1)])
               for method, seed in (("lwf", 1), ("lwf", 2), ("ZSCL", 1))]
    rows = rows_of(*folders)[1:]
    assert sorted((row.name, len(row.runs), row.flags["--method"]) for row in rows) == [
        ("ZSCL1", 1, "ZSCL"), ("lwf*", 2, "lwf")]


@pytest.mark.parametrize(("places", "names"), [
    (["a/zscl", "b/zscl"], ["a/zscl", "b/zscl"]), (["a/b", "a/c"], ["b", "c"]), (["a"], ["a"]),
    (["a", "a/b"], ["a", "a/b"])])
def test_rows_are_named_by_their_folders(tmp_path, places, names):
    folders = [write_run(tmp_path / place, f"--iterations {number + 1}") for number, place in enumerate(places)]
    assert [row.name for row in rows_of(*folders)[1:]] == names


@pytest.mark.parametrize(("places", "names"), [
    (["s1/a", "s2/a", "s1/b", "s2/b"], ["s*/a", "s*/b"]), (["1", "11", "2", "12"], ["1*", "*2"]), (["a", "b"], ["a,b"]),
    (["m1", "m2", "m3", "m4"], ["m1,m2", "m3,m4"])])
def test_groups_are_named_by_what_their_folders_share(tmp_path, places, names):
    folders = [write_run(tmp_path / place, f"--iterations {1 + number // 2} --seed {number}")
               for number, place in enumerate(places)]
    assert [row.name for row in rows_of(*folders)[1:]] == names


# -- published rows ----------------------------------------------------------------------------------------------------


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
    assert newer == ({"published inflora", "published nusa-cl"} if order == "I" else set())
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
    assert [{row.kind for row in table.rows} for table in tables] == [{RUN, PUBLISHED}, {PUBLISHED}, {PUBLISHED}, {RUN}]
    assert [table.conditions.family for table in tables[1:3]] == ["CoOp, template a photo of a {c}.",
                                                                  "ZSCL, template first"]
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


# -- what does not rank together ---------------------------------------------------------------------------------------


def names_of(tables):
    return [[row.name for row in table.rows if row.kind == RUN] for table in tables]


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


def test_the_csv_has_the_conditions_of_each_row(tmp_path):
    folder = write_run(tmp_path / "one", "--method ZSCL --ref-dataset coco --shots 5")
    start, run = csv.DictReader(io.StringIO(comparison_csv(tables_of(folder))))
    keys = ("label_space", "family", "reference", "shots", "router", "task_id")
    assert [run[key] for key in keys] == ["task", "own", "coco", "5", "none", "given"]
    assert [start[key] for key in keys] == ["task", "own", "", "", "none", "given"]


def test_an_older_run_is_unknown_and_says_so(tmp_path):
    old, new = write_run(tmp_path / "old", "--seed 1", older=True), write_run(tmp_path / "new", "--seed 2")
    tables = tables_of(old, new)
    assert sorted(names_of(tables)) == [["new"], ["old"]], "seeds of unknown conditions are no draws of one row"
    text = comparison_markdown(tables)
    assert "old: data family, router unknown, which ranks with no known one." in text
    assert "run its command again" in text
    assert "new: " not in text and "the tables differ in data family, router." in text
    (both,) = tables_of(old, write_run(tmp_path / "older", "--method lwf", older=True))
    assert both.conditions.text().startswith("data family unknown")
    assert "older: data family, router unknown" in comparison_markdown([both])


def test_published_rows_stand_with_runs_of_their_conditions_only(tmp_path):
    tasks = PROTOCOLS["mtil-1"].order
    square = [[50.0] * 11] * 11
    few = tables_of(write_run(tmp_path / "few", "--shots 5", order=tasks, matrix=square, zero_shot=None))
    assert [[row.name for row in table.rows[:2]] for table in few[:2]] == [
        ["few", "published zero-shot"], ["published zero-shot", "published zscl"]]
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
    assert {name: text for name, text in references.items() if text} == dict.fromkeys(
        ("zscl", "zscl-star"), "ImageNet + conceptual_captions")
    assert {row.conditions.shots for row in rows} == {None, "all"} and rows[0].conditions.shots is None


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


# -- what is printed and written ---------------------------------------------------------------------------------------


def test_printed_and_nothing_written_without_a_folder(cli, tmp_path, monkeypatch):
    folders = [write_run(tmp_path / "one"), write_run(tmp_path / "two", "--method lwf", matrix=shifted(1))]
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    done = cli("--report", ",".join(map(str, folders)))
    assert (done.status, done.err, done.warnings, listing(tmp_path)) == (0, "", [], before)
    header, start, first, second = cells(done.out)
    assert header == ["run, classes of task", "n", "Transfer", "Avg", "Last", "Forgetting", "BWT"]
    assert (start[0], first[:4], second[0]) == ("zero-shot", ["two", "1", "38.5", "63.2"], "one")
    assert "- one: --method finetune" in done.out and "Chaudhry" in done.out


def test_files_under_a_given_folder(cli, tmp_path):
    folders = [write_run(tmp_path / f"a_{seed}", f"--seed {seed}", matrix=shifted(seed)) for seed in (0, 1)]
    done = cli("--report", ",".join(map(str, folders)), "--save", tmp_path / "out" / "here")
    assert done.status == 0 and listing(tmp_path / "out" / "here") >= {"compare.md", "compare.tex", "compare.csv"}
    assert (tmp_path / "out" / "here" / "compare.md").read_text(encoding="utf-8") == done.out
    start, run = csv.DictReader(io.StringIO((tmp_path / "out" / "here" / "compare.csv").read_text(encoding="utf-8")))
    assert (run["row"], run["n"], run["runs"]) == ("a_*", "2", ",".join(map(str, folders)))
    assert float(run["avg"]) == pytest.approx(560 / 9 + 0.5) and float(run["avg_std"]) == pytest.approx(0.5 ** 0.5)
    assert (start["kind"], start["n"], start["avg_std"]) == ("zero-shot", "", "")
    text = (tmp_path / "out" / "here" / "compare.tex").read_text(encoding="utf-8")
    assert r"a\_* & 2 &" in text and r"62.7 $\pm$ 0.7" in text and r"\toprule" in text and "Chaudhry" in text


def test_a_folder_that_cannot_be_written(cli, tmp_path):
    folder = write_run(tmp_path / "one")
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in ("file", "file/below"):
        done = cli("--report", folder, "--save", tmp_path / place)
        assert done.status == 2 and f"--save {tmp_path / place}" in done.err and len(done.err.splitlines()) == 1


def test_a_report_waits_for_no_torch(tmp_path):
    write_run(tmp_path / "one")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from src.main import main\nassert main(sys.argv[1:]) == 0\n"
         "print([name for name in ('torch', 'numpy', 'pandas', 'matplotlib') if name in sys.modules])",
         "--report", str(tmp_path / "one")], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60,
        check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


# -- seeds, against pandas ---------------------------------------------------------------------------------------------


def drawn(method, seed):
    """Draw a matrix of accuracies."""
    draw = random.Random(f"{method} {seed}")
    return [[draw.uniform(20, 90) for _ in ORDER] for _ in ORDER]


@pytest.fixture
def six(tmp_path):
    """Write the folders of two methods, three seeds each."""
    return [write_run(tmp_path / f"{method}-{seed}", f"--method {method} --seed {seed}", matrix=drawn(method, seed))
            for method in ("finetune", "lwf") for seed in (0, 1, 2)]


def test_mean_and_deviation_over_seeds_are_those_of_pandas(cli, six):
    done = cli("--report", ",".join(map(str, six)))
    assert done.status == 0 and done.err == ""
    table = pandas.DataFrame([{"method": folder.name.partition("-")[0],
                               **json.loads((folder / "summary.json").read_text(encoding="utf-8"))} for folder in six])
    numbers = ["transfer", "avg", "last", "forgetting", "bwt"]
    mean, deviation = (getattr(table.groupby("method")[numbers], name)() for name in ("mean", "std"))
    assert (deviation > 1).all(axis=None), "the seeds must differ in every number"
    rows = {row[0].partition("-")[0]: row[1:] for row in cells(done.out)[2:]}
    assert rows == {method: ["3", *(f"{mean[name][method]:.1f} ± {deviation[name][method]:.1f}" for name in numbers)]
                    for method in ("finetune", "lwf")}
    found = pandas.read_csv(io.StringIO(comparison_csv(compare([read_run(folder) for folder in six])))).set_index("row")
    for method in ("finetune", "lwf"):
        for name in numbers:
            assert found[name][f"{method}-*"] == pytest.approx(mean[name][method], rel=1e-12, abs=1e-12)
            assert found[f"{name}_std"][f"{method}-*"] == pytest.approx(deviation[name][method], rel=1e-9, abs=1e-9)
    assert found["n"]["lwf-*"] == 3 and cells(done.out)[1][0] == "zero-shot"


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
