"""Every table that a run, a comparison and a paper's report write, by a real LaTeX: it compiles, references are known,
the list of tables has the short captions, and no table of a paper is wider than its page."""

import json
from dataclasses import replace
from pathlib import Path

import compiler
import debian_packages
import pytest
from report_files import MATRIX, write_pairs_run, write_predictions, write_run

from src.report.comparison import comparison_latex
from src.report.orders import all_tables, report_of
from src.report.paper_latex import paper_latex
from src.report.runs import read_run

PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "published_mtil.json").read_text(encoding="utf-8"))
HOSTILE = ["a_b & 50% #1 {x} $y$ ~^\\ <i|j>", "[bracket] *star", "*", "two\n\nlines", "ä ± é ß", "\\input{x}", "--"]


@pytest.fixture(scope="session", autouse=True)
def latex():
    try:
        compiler.install()
    except debian_packages.Unavailable as error:
        pytest.skip(f"no LaTeX here: {error}")


def checked(tables, folder, options="twocolumn"):
    log, listed = compiler.compiled(tables, folder, options)
    assert "undefined" not in log and "multiply defined" not in log
    return log, listed


def renamed(report, names):
    orders = {label: [replace(table, rows=tuple(replace(row, name=names.get(row.name, row.name)) for row in table.rows))
                      for table in tables] for label, tables in report.orders.items()}
    return replace(report, orders=orders)


@pytest.fixture
def hostile(tmp_path):
    """Rows, datasets and a study whose names mean something to LaTeX; two orders, two seeds, differences."""
    runs = [read_run(write_run(tmp_path / f"{index}_{number}_{seed}", f"--lr {index + 1}e-5 --seed {seed}",
                               order=[f"{name}_&%" for name in order],
                               matrix=[[value - index * (1 + seed) for value in row] for row in MATRIX]))
            for index in range(len(HOSTILE)) for number, order in enumerate(("ABC", "CBA")) for seed in (0, 1)]
    names = {f"{index}_*": name for index, name in enumerate(HOSTILE)}
    return replace(renamed(report_of("s_1 & ]more[", runs), names), baseline=HOSTILE[0])


@pytest.mark.parametrize("options", ["", "twocolumn"])
def test_names_that_mean_something(hostile, options, tmp_path):
    tables = all_tables(hostile)
    log, listed = checked(paper_latex(tables), tmp_path / "tex", options)
    assert listed.count(r"\contentsline") == len(tables) == 4 and r"s\_1 \& ]more[" in listed
    assert "Overfull" not in log


def test_published_runs_in_both_orders_of_a_paper(tmp_path):
    """Eleven datasets, seven methods with deviations, published rows: the widest tables."""
    runs = []
    for index, run in enumerate(PUBLISHED["runs"]):
        order = PUBLISHED["orders"][run["order"]]
        runs += [read_run(write_run(
            tmp_path / f"{run['method']}_{run['order']}_{seed}", f"--lr {1 + index % 7}e-6 --seed {seed}", order=order,
            matrix=[[value + seed for value in row] for row in run["matrix"]],
            zero_shot=[PUBLISHED["zero_shot"][name] for name in order])) for seed in (0, 1)]
    report = report_of("mtil", runs)
    log, _ = checked(paper_latex(all_tables(report)), tmp_path / "tex")
    assert "Overfull" not in log
    checked(comparison_latex(report.orders["I"]), tmp_path / "comparison")


def test_one_run_of_each_kind(tmp_path):
    """Pairs, a class-incremental run, a single run with the interval of a bootstrap."""
    seen = write_run(tmp_path / "seen", zero_shot=(None,) * 3, spaces=("seen",),
                     matrix=((80.0, None, None), (60.0, 90.0, None), (70.0, 65.0, 95.0)))
    one, other = (write_run(tmp_path / method, f"--method {method}", order=("A", "B"), zero_shot=None,
                            matrix=((80.0, 10.0), last)) for method, last in (("lwf", (70.0, 60.0)),
                                                                              ("finetune", (50.0, 60.0))))
    for folder, right in ((one, 7), (other, 5)):
        write_predictions(folder, {"A": [number < right for number in range(10)],
                                   "B": [number < 6 for number in range(10)]})
    pairs = write_pairs_run(tmp_path / "pairs")
    for name, folders, baseline in (("s", [seen], None), ("p", [pairs], None), ("two", [one, other], "finetune")):
        report = replace(report_of(name, [read_run(folder) for folder in folders]), baseline=baseline)
        text = paper_latex(all_tables(report))
        assert ("$+10.0$ [0.0, " in text) == (baseline is not None)
        checked(text, tmp_path / f"{name}_tex")
    for folder in (seen, pairs, one):
        checked((folder / "summary.tex").read_text(encoding="utf-8"), tmp_path / f"{folder.name}_summary")


def test_a_table_that_is_broken_is_seen(tmp_path):
    good = ("% In the preamble: \\usepackage{booktabs}\n"
            "\\begin{table}\\begin{tabular}{l}a \\\\ \\end{tabular}\\end{table}")
    compiler.compiled(good, tmp_path / "good")
    with pytest.raises(AssertionError, match="Extra alignment tab"):
        compiler.compiled(good.replace("a ", "a & b "), tmp_path / "bad")
