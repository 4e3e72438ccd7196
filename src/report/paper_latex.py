"""Write the tables of a paper as LaTeX, in the style of booktabs."""

import re
from itertools import groupby

from src.report.latex import PREAMBLE, definitions_caption, escaped, line_of
from src.report.measures import TITLES
from src.report.paper import BLOCKS, COMPACT, DIFFERENCES
from src.report.paper_markdown import mean_text, tested_text
from src.report.rows import RUN

MARKS = {1: r"\mathbf{{{}}}", 2: r"\underline{{{}}}", None: "{}"}
COLUMN, PAGE = 45, 75  # letters of \small text in one of two columns, and across an article's page
BETWEEN = 3  # letters of space between two columns of a table
LEGEND = "Best in bold, second underlined"


def paper_latex(tables):
    """Return [PaperTable] as floats, each with a label and a short and a long caption, which defines its numbers."""
    floats = [table_latex(table) for table in tables]
    packages = ["booktabs", *(["graphicx"] if any(r"\resizebox" in text for text in floats) else [])]
    return PREAMBLE.format(packages=",".join(packages)) + "\n".join(floats)


def table_latex(table):
    """Return one PaperTable as a float: across both columns of a page if one is too narrow, scaled if both are."""
    header, body, fields = LAYOUTS[table.kind](table)
    letters = _letters(table)
    star = "*" if letters > COLUMN else ""
    opening, closing = ([r"\resizebox{\textwidth}{!}{%"], ["}"]) if letters > PAGE else ([], [])
    return "\n".join([
        rf"\begin{{table{star}}}[t]", r"\centering", rf"\caption[{_short(table)}]{{{escaped(_caption(table))}}}",
        rf"\label{{tab:{table.label}}}", r"\medskip", r"\small", *opening,
        rf"\begin{{tabular}}{{{fields}}}", r"\toprule", *header, r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}", *closing, rf"\end{{table{star}}}"]) + "\n"


def _short(table):
    """Return the caption for the list of tables; braces keep a bracket in it from ending it."""
    return f"{{{escaped(table.title)}}}"


def _caption(table):
    """Return the caption as plain text."""
    return " ".join([f"{table.title}.", *([f"{LEGEND}, {table.ranking}."] if table.ranking else []), *table.notes,
                     f"Conditions: {table.conditions.text()}.", definitions_caption(table.space, table.numbers)])


def _letters(table):
    """Return roughly how many letters wide a table is."""
    titles = [table.first, *(column.dataset or TITLES.get(column.number, "mean") for column in table.columns),
              *table.facts]
    rows = [titles, *([line.name, *_texts(table, line), *(line.facts.get(title, "-") for title in table.facts)]
                      for line in table.lines)]
    return sum(BETWEEN + max(map(len, column)) for column in zip(*rows, strict=True))


def _texts(table, line):
    """Return the numbers of a Line without the commands around them."""
    return [re.sub(r"\\[a-z]+|[{}$]", "", text) for text in _numbers(table, line)]


def _wide(table):
    """Build a column for each number of each order, below the labels of the orders if there are several."""
    facts = table.facts
    header = [line_of([escaped(table.first), *(escaped(TITLES[column.number]) for column in table.columns),
                    *map(escaped, facts)])]
    if len(table.orders) > 1:
        header = [*_order_heads(table), *header]
    body = _parted(table.lines, lambda line: line_of([
        escaped(line.name), *_numbers(table, line), *(escaped(line.facts.get(title, "-")) for title in facts)]))
    return header, body, "l" + "r" * len(table.columns) + "l" * len(facts)


def _order_heads(table):
    """Return the row with the label of each order over its columns, and the rules below it."""
    spans, first = [], 2
    for order, columns in groupby(table.columns, lambda column: column.order):
        count = len(list(columns))
        spans.append((order, count, first))
        first += count
    cells = [rf"\multicolumn{{{count}}}{{c}}{{{escaped(f'order {order}')}}}" for order, count, _ in spans]
    rules = " ".join(rf"\cmidrule(lr){{{first}-{first + count - 1}}}" for _, count, first in spans)
    return [line_of(["", *cells, *([""] * len(table.facts))]), rules]


def _stacked(table):
    """Build three blocks, each below its name, with a column for each dataset and the mean."""
    datasets = [column.dataset or "mean" for column in table.columns]
    count, body = len(datasets) + 1, []
    for number in table.numbers:
        lines = [line for line in table.lines if line.block == number]
        body += [*([r"\midrule"] if body else []),
                 line_of([rf"\multicolumn{{{count}}}{{l}}{{\textit{{{escaped(TITLES[number])}}}}}"]),
                 *_parted(lines, lambda line: line_of([escaped(line.name), *_numbers(table, line)]), rule=None)]
    return [line_of([escaped(table.first), *map(escaped, datasets)])], body, "l" + "r" * len(datasets)


LAYOUTS = {COMPACT: _wide, BLOCKS: _stacked, DIFFERENCES: _wide}


def _parted(lines, text, rule=r"\midrule"):
    """Return the rows of Lines, with a rule between runs and rows that are not ranked with them."""
    parts = [[text(line) for line in each] for _, each in groupby(lines, lambda line: line.kind == RUN)]
    return [line for index, part in enumerate(parts) for line in ([rule] if index and rule else []) + part]


def _numbers(table, line):
    return [_number(column, value, table.kind == DIFFERENCES)
            for column, value in zip(table.columns, line.values, strict=True)]


def _number(column, value, signed):
    """Return a number in math mode, for its minus sign; for a single dataset only the mean."""
    if value.mean is None:
        return "-"
    deviation = "" if value.deviation is None or column.dataset else rf" \pm {value.deviation:.1f}"
    return f"${MARKS[value.rank].format(mean_text(value, signed))}{deviation}${escaped(tested_text(value))}"
