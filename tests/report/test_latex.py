"""Tables as LaTeX: every text set as it is, the shape of booktabs, the numbers of the summary."""

import re

import pandas
import pytest
from test_tables import SUMMARY

from src.report.latex import escaped, latex_table, summary_latex
from src.report.measures import DEFINITIONS, MATRIX, RETRIEVAL


@pytest.mark.parametrize("text", ["plain", "a_b", "50% & more", "#1 $x$", "{set}", "100~200^2", "C:\\data\\_1"])
def test_characters_that_mean_something_are_escaped_as_pandas_does(text):
    """pandas leaves spaces behind some of its commands, ours are ended by {}."""
    peer = pandas.DataFrame({"c": [text]}).style.format(escape="latex").hide(axis="index").to_latex()
    line = peer.splitlines()[2].removesuffix(r" \\")
    assert escaped(text) == re.sub(r"(\\text[a-z]+) ", r"\1{}", line)


def test_characters_that_plain_fonts_lack():
    assert escaped("i < j > 0 | 1 ± 2") == r"i $<$ j $>$ 0 $|$ 1 $\pm$ 2"


def test_a_table():
    assert latex_table(["a_b", "x", "y"], [["one", -1.25, None], ["*two", 3, "4 ± 1"], ["[3]", 1.0, 2.0]],
                       "50% of it").splitlines() == [
        r"\begin{table}", r"\centering", r"\caption{50\% of it}", r"\begin{tabular}{lrr}", r"\toprule",
        r"a\_b & x & y \\", r"\midrule", r"one & $-1.2$ & - \\", r"{}*two & 3 & 4 $\pm$ 1 \\",
        r"{}[3] & $1.0$ & $2.0$ \\", r"\bottomrule", r"\end{tabular}", r"\end{table}"]


def bodies(text):
    """[[row of cells]] of each tabular, the header first."""
    found = re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    tables = []
    for columns, body in found:
        rows = [line.removesuffix(r" \\").split(" & ") for line in body.splitlines() if line.endswith(r" \\")]
        assert {len(row) for row in rows} == {len(columns)}
        tables.append(rows)
    return tables


def test_a_summary():
    text = summary_latex({"task": SUMMARY, "a_b": {**SUMMARY, "label_space": "a_b"}})
    assert text.startswith("% ") and r"\usepackage{booktabs}" in text.splitlines()[0]
    matrix, numbers, other, _ = bodies(text)
    assert matrix == [["top-1, classes of task", "A", "B"], ["zero-shot", "$10.0$", "$30.0$"],
                      ["after A", "$50.0$", "$31.0$"], ["after B", "$45.0$", "$70.0$"]]
    assert numbers == [["Transfer", "Avg", "Last", "Forgetting", "BWT"],
                       ["$31.0$", "$49.0$", "$57.5$", "$5.0$", "$-5.0$"]]
    assert other[0][0] == r"top-1, classes of a\_b"
    assert all(text.count(escaped(definition)) == 2 for definition in (DEFINITIONS["bwt"], MATRIX))
    assert text.count("{") == text.count("}") and text.count(r"\begin{table}") == text.count(r"\end{table}") == 4


def test_a_summary_of_pairs():
    row = {"p_1": {"i2t_r1": 1.0, "t2i_r1": 2.0, "rsum": 3.0}}
    summary = {"trained": ["p_1"], "datasets": ["p_1"], "rows": [row, row], "label_space": RETRIEVAL.space}
    text = summary_latex({RETRIEVAL.space: summary})
    assert bodies(text) == [[["recall", r"p\_1 i2t R@1", r"p\_1 t2i R@1", r"p\_1 rsum", "mean rsum"],
                             *([name, "$1.0$", "$2.0$", "$3.0$", "$3.0$"] for name in ("zero-shot", r"after p\_1"))]]
    assert escaped(DEFINITIONS["mean_rsum"]) in text and "Transfer" not in text
