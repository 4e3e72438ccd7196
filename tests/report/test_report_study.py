"""Tables of a study: an order by itself, rows under the names of its file, the columns and published rows it names."""

import csv
import dataclasses
import re
import shutil
import statistics
from pathlib import Path

import pytest
from cli_files import listing
from report_files import MATRIX, write_run
from study_files import jobs_of
from test_tables import cells

from src.cli.protocols import PROTOCOLS
from src.cli.study import Cell, Study
from src.errors import UserError
from src.report.measures import DEFINITIONS
from src.report.orders import all_tables, report_markdown, write_report
from src.report.paper import DIFFERENCES
from src.report.rows import PUBLISHED, RUN
from src.report.sequence import sequence_metrics
from src.report.study import refuse_unknown_names, refuse_what_no_table_holds, tables_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def jobs(tmp_path):
    """Two methods, two orders, two seeds; each run's numbers are its own."""
    cells = [Cell(f"{method}_{order}_seed-{seed}", method, order,
                  {"method": method, "dataset_order": data, "seed": str(seed), "iterations": "1"})
             for method in ("finetune", "lwf") for order, data in (("I", "toy-colours"), ("II", "toy-sizes"))
             for seed in (1, 2)]
    found, _ = jobs_of(Study("s", tuple(cells)), str(tmp_path / "out"))
    for number, job in enumerate(found):
        texts = job.cell.texts
        write_run(job.folder, f"--method {texts['method']} --seed {texts['seed']}", matrix=shifted(number),
                  order=("A", "B", "C") if job.cell.order == "I" else ("C", "B", "A"))
    return found


def shifted(number):
    return [[value - number for value in row] for row in MATRIX]


def numbers(*runs):
    found = [sequence_metrics(shifted(number)) for number in runs]
    return {key: statistics.fmean(each[key] for each in found) for key in found[0]}


def test_each_order_has_a_table_with_the_names_of_the_study(jobs):
    study = Study("s", (), names={"lwf": "LwF", "zero-shot": "CLIP"}, columns=("last", "avg"))
    found = tables_of(study, jobs)
    assert list(found.orders) == ["I", "II"]
    rows = {(order, row.name): row for order, [table] in found.orders.items() for row in table.rows}
    assert list(rows) == [(order, name) for order in ("I", "II") for name in ("CLIP", "finetune", "LwF")]
    for (order, name), runs in {("I", "finetune"): (0, 1), ("II", "finetune"): (2, 3), ("I", "LwF"): (4, 5),
                                ("II", "LwF"): (6, 7)}.items():
        assert rows[order, name].numbers == pytest.approx(numbers(*runs))
        assert rows[order, name].deviations["avg"] == pytest.approx(0.5 ** 0.5) and len(rows[order, name].runs) == 2
    text = report_markdown(found)
    assert text.index("# order I\n") < text.index("# order II\n")
    assert text.count("| run, classes of task | n |") == 2
    header = next(line for line in text.splitlines() if line.startswith("| run,"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["run, classes of task", "n", "Last", "Avg"]


def test_files_of_several_orders_and_of_one(jobs, tmp_path):
    study = Study("s", (), columns=("avg",))
    write_report(tables_of(study, jobs), tmp_path / "both")
    files = {"compare.md", "compare.tex", "compare.csv", "tradeoff.png", "tradeoff.svg"}
    paper = {"paper.md", "paper.tex", "paper.csv"}
    assert listing(tmp_path / "both") == {"order_I", "order_II"} | paper | {
        f"order_{order}/{file}" for order in ("I", "II") for file in files}
    write_report(tables_of(study, [job for job in jobs if job.cell.order == "II"]), tmp_path / "one")
    assert listing(tmp_path / "one") == files | paper
    with (tmp_path / "one" / "compare.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert float(rows["lwf"]["bwt"]) == pytest.approx(numbers(6, 7)["bwt"]), "csv has all numbers"


def test_runs_of_a_row_that_no_mean_joins_have_names_of_their_folders(jobs, tmp_path):
    shutil.rmtree(jobs[1].folder)
    write_run(jobs[1].folder, "--method finetune --seed 2", precision="bf16")
    [table] = tables_of(Study("s", ()), jobs[:2]).orders["I"]
    assert sorted(row.name for row in table.rows if row.kind == RUN) == [
        "finetune (finetune_I_seed-1)", "finetune (finetune_I_seed-2)"]


def published_of_order_one():
    """The rows of MTIL's order I, by the text of the recipes."""
    recipes = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "recipes").glob("*.yaml")}
    return {f"published {name}" for name, text in recipes.items() if re.search(r"^  mtil-1(-\w+)?: ", text, re.M)}


NAMED = {"published zero-shot", "ZSCL, as printed"}


@pytest.mark.parametrize(("published", "expected"), [
    (None, NAMED | published_of_order_one() - {"published zscl"}), ((), set()), (("zscl", "zero-shot"), NAMED)])
def test_published_rows_that_are_named(published, expected, tmp_path):
    order = PROTOCOLS["mtil-1"].order
    cell = Cell("a", "a", "mtil-1", {"dataset_order": "mtil-1"})
    [job], _ = jobs_of(Study("s", (cell,)), str(tmp_path))
    write_run(job.folder, order=order, matrix=[[50.0] * 11] * 11, zero_shot=[40.0] * 11)
    found = tables_of(Study("s", (), published=published, names={"published zscl": "ZSCL, as printed"}), [job])
    rows = {row.name for table in found.orders["mtil-1"] for row in table.rows if row.kind == PUBLISHED}
    assert rows == expected


@pytest.mark.parametrize(("options", "expected"), [
    ({"names": {"lfw": "x"}}, "report: names: lfw is not in this study; did you mean lwf?"),
    ({"names": {"lwf": "x", "finetune": "x"}}, "report: names: finetune and lwf would both be called x"),
    ({"names": {"lwf": "zero-shot"}}, "report: names: lwf and zero-shot would both be called zero-shot"),
    ({"published": ("zcsl",)}, "report: published: zcsl is not in this study; did you mean zscl"),
    ({"columns": ("transfr",)}, "report: columns: transfr is not in this study; did you mean transfer?"),
    ({"columns": ("rsum",)}, "report: columns: rsum is not in this study"),
    ({"columns": ("incremental_avg",)}, "report: columns: incremental_avg is not in this study"),
    ({"baseline": "finetun"}, "report: baseline: finetun is not in this study; did you mean finetune?"),
    ({"baseline": "zero-shot"}, "report: baseline: zero-shot is not in this study; there are finetune, lwf"),
    ({"published": ("zscl",)}, "nothing is published for these orders")])
def test_names_that_no_table_has(options, expected, jobs):
    with pytest.raises(UserError) as caught:
        refuse_unknown_names(Study("s", (), **options), jobs)
    assert expected in str(caught.value)


@pytest.fixture
def planned(tmp_path):
    """planned({name: {flag key: text}}) -> a Job for each, which nothing has run; the order's label is its text."""
    def plan(**cells):
        cells = [Cell(name, name, texts["dataset_order"], {"iterations": "1"} | texts) for name, texts in cells.items()]
        return jobs_of(Study("s", tuple(cells)), str(tmp_path / "out"))[0]
    return plan


@pytest.mark.parametrize(("one", "other", "expected"), [
    ({"eval_split": "val"}, {}, "cell b of the study is scored with --eval-split test, cell a with --eval-split val"),
    ({"max_evaluation_size": "9"}, {"max_evaluation_size": "8"}, "cell b of the study is scored with --max-eval"),
    ({"wilds_split": "ood"}, {"wilds_split": "id"}, "is scored with --wilds-split id"),
    ({"retrieval_split": "1k"}, {}, "is scored with --retrieval-split auto"),
    ({"label_space": "task"}, {"label_space": "all"}, "have no label space in common (a: task; b: all)")])
def test_cells_that_no_table_can_hold(one, other, expected, planned):
    """They are refused before the first one trains, and by the table of finished runs too."""
    with pytest.raises(UserError) as caught:
        refuse_what_no_table_holds(planned(a={"dataset_order": "toy"} | one, b={"dataset_order": "toy"} | other))
    assert expected in str(caught.value)


def test_classes_and_pairs_under_one_label(planned):
    with pytest.raises(UserError, match="cells a and b of the study: one is of image-text pairs, one of classes"):
        refuse_what_no_table_holds(alike(planned(a={"dataset_order": "toy"}, b={"dataset_order": "toy-pairs"})))


def test_published_rows_of_two_orders_under_one_label(planned):
    """A table shows them where all its runs are of one order."""
    jobs = alike(planned(a={"dataset_order": "mtil-1"}, b={"dataset_order": "mtil-2"}))
    with pytest.raises(UserError, match="nothing is published for these orders"):
        refuse_unknown_names(Study("s", (), published=("zscl",)), jobs)


def alike(jobs):
    """The Jobs under one label of an order, as by an axis of orders and a variant that replaces the order."""
    return [dataclasses.replace(job, cell=dataclasses.replace(job.cell, order="mine")) for job in jobs]


def test_cells_of_several_orders_need_not_rank(planned):
    refuse_what_no_table_holds(planned(a={"dataset_order": "toy", "eval_split": "val"}, b={"dataset_order": "mtil-1"},
                                       c={"dataset_order": "toy-pairs", "label_space": "all"}))
    refuse_what_no_table_holds(planned(a={"dataset_order": "toy-pairs", "label_space": "all"},
                                       b={"dataset_order": "toy-pairs"}))


def test_columns_that_not_every_order_has(planned):
    both = planned(a={"dataset_order": "toy"}, b={"dataset_order": "toy-pairs"})
    for column, order in (("transfer", "toy-pairs"), ("mean_rsum", "toy")):
        with pytest.raises(UserError) as caught:
            refuse_unknown_names(Study("s", (), columns=(column,)), both)
        assert f"report: columns: {column} is not a number of order {order}; " in str(caught.value)


def test_columns_of_one_of_several_label_spaces(planned):
    """Average incremental accuracy is a number of the space seen: the table of the other space needs a column too."""
    found = planned(a={"dataset_order": "CIFAR100/10", "label_space": "seen,task"})
    refuse_unknown_names(Study("s", (), columns=("incremental_avg", "avg")), found)
    with pytest.raises(UserError, match="none of them is a number of the label space task; add one of transfer, avg"):
        refuse_unknown_names(Study("s", (), columns=("incremental_avg",)), found)


def test_average_incremental_accuracy_as_a_column(tmp_path):
    cell = Cell("a", "a", "toy", {"dataset_order": "toy", "label_space": "seen", "iterations": "1"})
    [job], _ = jobs_of(Study("s", (cell,)), str(tmp_path))
    write_run(job.folder, zero_shot=(None,) * 3, spaces=("seen",),
              matrix=((80.0, None, None), (60.0, 90.0, None), (70.0, 65.0, 95.0)))
    study = Study("s", (), columns=("incremental_avg",))
    refuse_unknown_names(study, [job])
    text = report_markdown(tables_of(study, [job]))
    assert cells(text)[0] == ["run, classes of seen", "n", "Inc. avg"]
    assert cells(text)[1][2] == f"{(80 + 75 + 230 / 3) / 3:.1f}"
    assert DEFINITIONS["incremental_avg"] in text and DEFINITIONS["avg"] not in text


def test_differences_to_the_baseline_under_the_names_of_the_study(jobs):
    """Seeds 1 and 2 of lwf are 4 below those of finetune, in both orders: no test can say more of that."""
    study = Study("s", (), names={"lwf": "LwF", "finetune": "FT"}, columns=("avg",), baseline="finetune")
    found = tables_of(study, jobs)
    assert found.baseline == "FT"
    [table] = [table for table in all_tables(found) if table.kind == DIFFERENCES]
    [line] = table.lines
    assert line.name == "LwF" and [(value.mean, value.n, value.p) for value in line.values] == [
        (pytest.approx(-4), 2, None)] * 2
    assert "minus FT" in report_markdown(found) and "No p where all seeds differ by the same." in report_markdown(found)


def test_names_of_the_study_in_the_tables_of_a_paper(jobs):
    found = tables_of(Study("s", (), names={"lwf": "LwF", "zero-shot": "CLIP"}, columns=("last", "bwt")), jobs)
    compact = all_tables(found)[0]
    assert [line.name for line in compact.lines] == ["CLIP", "finetune", "LwF"]
    assert compact.numbers == ("last", "bwt") and compact.orders == ["I", "II"]


def test_one_finished_order_of_two_is_named(jobs, tmp_path):
    """Else its files would lie where those of the whole study do not, and stay there."""
    study = Study("s", tuple(job.cell for job in jobs), columns=("avg",))
    found = tables_of(study, [job for job in jobs if job.cell.order == "II"])
    assert report_markdown(found).count("# order II") == 1
    assert all_tables(found)[1].label == "s_blocks-II" and "order II of s" in all_tables(found)[1].title
    write_report(found, tmp_path / "out")
    assert {"order_II/compare.md", "paper.md"} <= listing(tmp_path / "out") and not (
        tmp_path / "out" / "compare.md").exists()


def test_no_table_is_left_of_published_rows_that_are_not_shown(tmp_path):
    order = PROTOCOLS["mtil-1"].order
    [job], _ = jobs_of(Study("s", (Cell("a", "a", "mtil-1", {"dataset_order": "mtil-1"}),)), str(tmp_path))
    write_run(job.folder, order=order, matrix=[[50.0] * 11] * 11, zero_shot=None)
    [table] = tables_of(Study("s", (), published=()), [job]).orders["mtil-1"]
    assert [row.name for row in table.rows] == ["a"]


@pytest.mark.parametrize(("order", "name", "expected"), [
    ("toy", "zscl", "nothing is published for these orders"),
    ("mtil-2", "keeplora", "report: published: keeplora has no numbers for these orders in their label space; there "
                           "are zero-shot, ")])
def test_published_rows_of_other_orders(order, name, expected, planned):
    with pytest.raises(UserError) as caught:
        refuse_unknown_names(Study("s", (), published=(name,)), planned(a={"dataset_order": order}))
    assert expected in str(caught.value)


def test_published_rows_of_one_of_several_orders(planned):
    jobs = planned(a={"dataset_order": "mtil-1"}, b={"dataset_order": "mtil-2"}, c={"dataset_order": "toy"})
    refuse_unknown_names(Study("s", (), published=("zero-shot", "zscl", "keeplora")), jobs)


def test_published_rows_of_another_label_space(planned):
    """Those of mtil-1 are of the classes of each task."""
    with pytest.raises(UserError, match="nothing is published for these orders"):
        refuse_unknown_names(Study("s", (), published=("zscl",)), planned(
            a={"dataset_order": "mtil-1", "label_space": "all"}))


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{")])
def test_a_damaged_cell_is_named_with_the_flag_that_was_given(damage, jobs):
    damage(jobs[0].folder / "matrix_top1.csv")
    with pytest.raises(UserError, match=f"^--save {jobs[0].folder}: "):
        tables_of(Study("s", ()), jobs)


def test_names_that_the_tables_have(jobs):
    refuse_unknown_names(Study("s", (), names={"lwf": "a", "zero-shot": "b", "published zscl": "c"},
                               columns=("avg", "bwt")), jobs)
