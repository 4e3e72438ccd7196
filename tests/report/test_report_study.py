"""Tables of a study: an order by itself, rows under the names of its file, the columns and published rows it names."""

import csv
import re
import shutil
import statistics
from pathlib import Path

import pytest
from cli_files import listing
from report_files import MATRIX, write_run

from src.args import parse
from src.cli.protocols import PROTOCOLS
from src.cli.study import Cell, Study, jobs_of
from src.errors import UserError
from src.report.compare import PUBLISHED, RUN
from src.report.sequence import sequence_metrics
from src.report.study import refuse_unknown_names, study_markdown, tables_of, write_study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def jobs(tmp_path):
    """Two methods, two orders, two seeds; each run's numbers are its own."""
    cells = [Cell(f"{method}_{order}_seed-{seed}", method, order,
                  {"method": method, "dataset_order": data, "seed": str(seed), "iterations": "1"})
             for method in ("finetune", "lwf") for order, data in (("I", "toy-colours"), ("II", "toy-sizes"))
             for seed in (1, 2)]
    found, _ = jobs_of(Study("s", tuple(cells)), str(tmp_path / "out"), parse)
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
    assert list(found) == ["I", "II"]
    rows = {(order, row.name): row for order, [table] in found.items() for row in table.rows}
    assert list(rows) == [(order, name) for order in ("I", "II") for name in ("CLIP", "finetune", "LwF")]
    for (order, name), runs in {("I", "finetune"): (0, 1), ("II", "finetune"): (2, 3), ("I", "LwF"): (4, 5),
                                ("II", "LwF"): (6, 7)}.items():
        assert rows[order, name].numbers == pytest.approx(numbers(*runs))
        assert rows[order, name].deviations["avg"] == pytest.approx(0.5 ** 0.5) and len(rows[order, name].runs) == 2
    text = study_markdown(found)
    assert text.index("# order I\n") < text.index("# order II\n")
    assert text.count("| run, classes of task | n |") == 2
    header = next(line for line in text.splitlines() if line.startswith("| run,"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["run, classes of task", "n", "Last", "Avg"]


def test_files_of_several_orders_and_of_one(jobs, tmp_path):
    study = Study("s", (), columns=("avg",))
    write_study(tables_of(study, jobs), tmp_path / "both")
    files = {"compare.md", "compare.tex", "compare.csv", "tradeoff.png"}
    assert listing(tmp_path / "both") == {"order_I", "order_II"} | {
        f"order_{order}/{file}" for order in ("I", "II") for file in files}
    write_study(tables_of(study, [job for job in jobs if job.cell.order == "II"]), tmp_path / "one")
    assert listing(tmp_path / "one") == files
    with (tmp_path / "one" / "compare.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert float(rows["lwf"]["bwt"]) == pytest.approx(numbers(6, 7)["bwt"]), "csv has all numbers"


def test_runs_of_a_row_that_no_mean_joins_have_names_of_their_folders(jobs, tmp_path):
    shutil.rmtree(jobs[1].folder)
    write_run(jobs[1].folder, "--method finetune --seed 2", precision="bf16")
    [table] = tables_of(Study("s", ()), jobs[:2])["I"]
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
    [job], _ = jobs_of(Study("s", (cell,)), str(tmp_path), parse)
    write_run(job.folder, order=order, matrix=[[50.0] * 11] * 11, zero_shot=[40.0] * 11)
    found = tables_of(Study("s", (), published=published, names={"published zscl": "ZSCL, as printed"}), [job])
    rows = {row.name for table in found["mtil-1"] for row in table.rows if row.kind == PUBLISHED}
    assert rows == expected


@pytest.mark.parametrize(("options", "expected"), [
    ({"names": {"lfw": "x"}}, "report: names: lfw is none of this study; did you mean lwf?"),
    ({"published": ("zcsl",)}, "report: published: zcsl is none of this study; did you mean zscl"),
    ({"columns": ("transfr",)}, "report: columns: transfr is none of this study; did you mean transfer?"),
    ({"columns": ("rsum",)}, "report: columns: rsum is none of this study"),
    ({"published": ("zscl",)}, "nothing is published of these orders")])
def test_names_that_no_table_has(options, expected, jobs):
    with pytest.raises(UserError) as caught:
        refuse_unknown_names(Study("s", (), **options), jobs)
    assert expected in str(caught.value)


def test_names_that_the_tables_have(jobs):
    refuse_unknown_names(Study("s", (), names={"lwf": "a", "zero-shot": "b", "published zscl": "c"},
                               columns=("avg", "bwt")), jobs)
