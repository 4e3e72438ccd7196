"""What --report and a study print and write: orders by their labels, the compact table of several, the files."""

import csv

import pytest
from cli_files import listing
from report_files import write_run
from test_tables import cells

from src.cli.protocols import ORDERS
from src.errors import UserError
from src.report.measures import DEFINITIONS
from src.report.orders import all_tables, report_markdown, report_of, write_report
from src.report.paper import BLOCKS, COMPACT
from src.report.paper_latex import paper_latex
from src.report.paper_markdown import paper_csv, paper_markdown
from src.report.runs import read_run

pytest_plugins = ["cli_fixtures"]
COMPARISON, PAPER = {"compare.md", "compare.tex", "compare.csv", "tradeoff.png"}, {"paper.md", "paper.tex", "paper.csv"}


@pytest.fixture
def folders(tmp_path):
    return [write_run(tmp_path / "runs" / f"{method}{number}", f"--method {method}", order=order)
            for method in ("lwf", "finetune") for number, order in enumerate(("ABC", "CBA"))]


def test_orders_of_papers_have_their_numbers_and_come_first(tmp_path):
    matrix = [[50.0] * 11] * 11
    runs = [read_run(write_run(tmp_path / "a")),
            *(read_run(write_run(tmp_path / number, order=ORDERS[number], matrix=matrix, zero_shot=None))
              for number in ("2", "1"))]
    assert list(report_of("s", runs).orders) == ["I", "II", "1"]
    assert list(report_of("s", runs[:1]).orders) == ["1"]


def test_several_orders_are_printed_side_by_side_and_each_by_itself(cli, folders):
    done = cli("--report", ",".join(map(str, folders)))
    assert done.status == 0 and done.err == ""
    headers = [row for row in cells(done.out) if row[0] in ("method", "run, classes of task")]
    assert [len(row) for row in headers] == [1 + 6 + 4, 2 + 5, 2 + 5] and headers[0][1] == "Transfer, 1"
    assert done.out.index("# order 1\n") < done.out.index("# order 2\n")
    assert done.out.count(DEFINITIONS["bwt"]) == 1 and done.out.endswith("\n") and not done.out.endswith("\n\n")


def test_one_order_is_printed_as_a_comparison(folders):
    report = report_of("s", [read_run(folder) for folder in folders[::2]])
    assert [row[0] for row in cells(report_markdown(report))][0] == "run, classes of task"
    assert [table.kind for table in all_tables(report)] == [COMPACT, BLOCKS]


def test_files(cli, folders, tmp_path):
    done = cli("--report", ",".join(map(str, folders[::2])), "--save", tmp_path / "one")
    assert done.status == 0 and listing(tmp_path / "one") == PAPER | COMPARISON | {"tradeoff.svg", "study.html"}
    assert r"\label{tab:one_compact}" in (tmp_path / "one" / "paper.tex").read_text(encoding="utf-8")
    with (tmp_path / "one" / "paper.csv").open(encoding="utf-8", newline="") as file:
        assert {row["order"] for row in csv.DictReader(file)} == {"1"}


def test_the_same_runs_give_the_same_bytes(folders):
    first, second = (all_tables(report_of("s", [read_run(folder) for folder in folders])) for _ in range(2))
    for text in (paper_markdown, paper_latex, paper_csv):
        assert text(first) == text(second)


def test_a_paper_names_no_file(tmp_path):
    """What says where more is found stands in markdown alone."""
    matrix = [[50.0] * 11] * 11
    tables = all_tables(report_of("s", [read_run(write_run(tmp_path / f"a{seed}", f"--seed {seed}", order=ORDERS["1"],
                                                           matrix=matrix, zero_shot=None)) for seed in (1, 2)]))
    for remark in ("are in the comparison, compare.md", "are in paper.csv", "no numbers by dataset here"):
        assert remark in paper_markdown(tables) and remark not in paper_latex(tables)
    assert "not measured here" in paper_latex(tables)


def test_orders_in_other_label_spaces(tmp_path):
    """Each space has its own tables; numbers of one are not asked of the other."""
    runs = [read_run(write_run(tmp_path / "a")),
            read_run(write_run(tmp_path / "b", order=("C", "B", "A"), spaces=("seen",), zero_shot=(None,) * 3,
                               matrix=((80.0, None, None), (60.0, 90.0, None), (70.0, 65.0, 95.0))))]
    report = report_of("s", runs)
    compact = [table for table in all_tables(report) if table.kind == COMPACT]
    assert [(table.space, table.orders) for table in compact] == [("task", ["1"]), ("seen", ["2"])]
    assert "Inc. avg" in report_markdown(report) and DEFINITIONS["incremental_avg"] in report_markdown(report)


def test_a_folder_that_cannot_be_written(folders, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="--save .*file: cannot be written"):
        write_report(report_of("s", [read_run(folders[0])]), tmp_path / "file")
