"""Tables of a paper as LaTeX: the shape that a compiler needs, without one; tests/latex has one."""

import re
from dataclasses import replace

import pytest
from latex_text import tables_of_text
from report_files import MATRIX, write_run

from src.report.latex import escaped
from src.report.measures import DEFINITIONS
from src.report.orders import all_tables, report_of
from src.report.paper import paper_tables
from src.report.paper_latex import paper_latex, table_latex
from src.report.runs import read_run

NAMES = ["a_b & 50% #1 {x} $y$ ~^\\ <i|j>", "[bracket] *star", "*", "two\n\nlines", "ä ± é"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Five methods with names that mean something to LaTeX, two orders, two seeds, differences to the first."""
    place, rows = tmp_path_factory.mktemp("runs"), []
    for number, order in enumerate(("ABC", "CBA")):
        rows += [read_run(write_run(place / f"{index}_{number}_{seed}", f"--lr {index + 1}e-5 --seed {seed}",
                                    order=[f"{name}_{name}" for name in order],
                                    matrix=[[value - index * (1 + seed) for value in row] for row in MATRIX]))
                 for index in range(len(NAMES)) for seed in (0, 1)]
    found = report_of("a & b_1", rows)
    names = {f"{index}_*": name for index, name in enumerate(NAMES)}
    orders = {label: [replace(table, rows=tuple(replace(row, name=names.get(row.name, row.name)) for row in table.rows))
                      for table in tables] for label, tables in found.orders.items()}
    return replace(found, orders=orders, baseline=NAMES[0])


def test_the_structure(report):
    tables = all_tables(report)
    text = paper_latex(tables)
    found = tables_of_text(text)
    assert len(found) == len(tables) == 4
    labels = re.findall(r"\\label\{(tab:[A-Za-z0-9._:-]+)\}", text)
    assert labels == ["tab:a-b-1_compact", "tab:a-b-1_differences", "tab:a-b-1_blocks-1", "tab:a-b-1_blocks-2"]
    for (columns, rows), table in zip(found, tables, strict=True):
        assert {len(row) for row in rows} == {len(columns)}, table.label
    assert len(found[0][0]) == 1 + 6 + 4 and len(found[2][0]) == 1 + 3 + 1
    assert re.findall(r"\\usepackage\{(.*)\}", text) == ["booktabs,graphicx"]


def test_the_compact_table(report):
    text = table_latex(all_tables(report)[0])
    assert r"\multicolumn{3}{c}{order 1} & \multicolumn{3}{c}{order 2}" in text
    assert r"\cmidrule(lr){2-4} \cmidrule(lr){5-7}" in text
    _, rows = tables_of_text(text)[0]
    assert rows[1][:4] == ["method", "Transfer", "Avg", "Last"]
    first = next(row for row in rows if row[0] == escaped(NAMES[0]))
    assert first[1:4] == [r"$\mathbf{37.5} \pm 0.0$", r"$\mathbf{62.2} \pm 0.0$", r"$\mathbf{76.7} \pm 0.0$"]
    second = next(row for row in rows if row[0].startswith("{}[bracket]"))
    assert second[1] == r"$\underline{36.0} \pm 0.7$"
    assert r"\caption[{Transfer, Avg and Last of a \& b\_1}]{Transfer, Avg and Last of a \& b\_1. Best in bold" in text
    assert escaped(DEFINITIONS["avg"]) in text and escaped(DEFINITIONS["bwt"]) not in text


def test_the_table_by_dataset(report):
    text = table_latex(all_tables(report)[2])
    assert [text.count(rf"\textit{{{title}}}") for title in ("Transfer", "Avg", "Last")] == [1, 1, 1]
    _, rows = tables_of_text(text)[0]
    assert rows[0] == ["method", r"A\_A", r"B\_B", r"C\_C", "mean"]
    first = next(row for row in rows if row[0] == escaped(NAMES[0]))
    assert first[1:] == ["-", r"$\mathbf{50.0}$", r"$\mathbf{25.0}$", r"$\mathbf{37.5} \pm 0.0$"]


def test_differences_have_a_sign(report):
    _, rows = tables_of_text(table_latex(all_tables(report)[1]))[0]
    assert rows[2][1].startswith(r"$-1.5 \pm 0.7$ (p 0.20")


def test_only_a_wide_table_is_scaled(report):
    compact, _, blocks, _ = (table_latex(table) for table in all_tables(report))
    assert r"\begin{table*}[t]" in compact and r"\resizebox{\textwidth}{!}{%" in compact
    assert r"\begin{table*}[t]" in blocks and r"\resizebox" not in blocks and r"\small" in blocks


def test_a_narrow_table_fits_into_a_column(tmp_path):
    blocks = paper_tables(report_of("s", [read_run(write_run(tmp_path / "lwf"))]))[1]
    assert r"\begin{table}[t]" in table_latex(blocks) and r"\resizebox" not in table_latex(blocks)
    assert "graphicx" not in paper_latex([blocks])


def test_nothing_in_a_text_ends_a_caption():
    assert escaped("one\n\ntwo\x07") == "one  two "
