"""Write the tables of a paper as markdown, and every number in them as csv."""

from src.report.comparison import definitions_markdown
from src.report.measures import TITLES
from src.report.paper import BLOCKS, COMPACT, DIFFERENCES
from src.report.tables import cell_text, markdown_table, rows_csv

MARKS = {1: "**{}**", 2: "_{}_", None: "{}"}
P_DIGITS = 3
CSV_HEADER = ("table", "label_space", "order", "number", "dataset", "row", "kind", "n", "mean", "std", "rank", "p",
              "low", "high", "trained_values", "external_data", "router", "task_id", "family", "shots")


def paper_markdown(tables):
    """Return [PaperTable], each below its title and conditions, with its notes; definitions of the numbers come
    last."""
    return "\n\n".join([*map(table_markdown, tables), definitions_markdown(tables)])


def table_markdown(table):
    """Return one PaperTable, with its title and notes."""
    notes = [*([f"**Best** and _second_ {table.ranking}."] if table.ranking else []), *table.notes, *table.remarks]
    return "\n\n".join([f"## {table.title}", table.conditions.text(), *LAYOUTS[table.kind](table), " ".join(notes)])


def _wide(table):
    """Return one table with a column for each number of each order."""
    rows = [[line.name, *(value_text(value, table.kind == DIFFERENCES) for value in line.values),
             *(line.facts.get(title) for title in table.facts)] for line in table.lines]
    return [markdown_table(table.header, rows)]


def _stacked(table):
    """Return a table for each number, with a column for each dataset."""
    datasets = [column.dataset or "mean" for column in table.columns]
    return [markdown_table([f"{TITLES[number]}, {table.first}", *datasets],
                           [[line.name, *map(_cell_text, table.columns, line.values)]
                            for line in table.lines if line.block == number]) for number in table.numbers]


LAYOUTS = {COMPACT: _wide, BLOCKS: _stacked, DIFFERENCES: _wide}


def _cell_text(column, value):
    """Return a cell; for a single dataset only the mean."""
    return _marked(value, cell_text(value.mean)) if column.dataset else value_text(value)


def value_text(value, signed=False):
    """Return "75.4 ± 0.3", marked if it has a rank; a difference with its sign and its test."""
    if value.mean is None:
        return "-"
    return f"{_marked(value, mean_text(value, signed))}{beside_text(value)}"


def mean_text(value, signed=False):
    """Return the mean of a Value that has one; a difference with its sign."""
    return f"{value.mean:+.1f}" if signed else cell_text(float(value.mean))


def beside_text(value):
    """Return " ± 0.3 (p 0.012)": the deviation of a Value and its test, where it has them."""
    deviation = "" if value.deviation is None else f" ± {value.deviation:.1f}"
    return f"{deviation}{tested_text(value)}"


def _marked(value, text):
    return MARKS[value.rank].format(text)


def tested_text(value):
    """Return " (p 0.012)", " [0.4, 1.2]", or nothing."""
    if value.interval:
        return " [{:.1f}, {:.1f}]".format(*value.interval)
    if value.p is None:
        return ""
    least = 10 ** -P_DIGITS
    return f" (p < {least:g})" if value.p < least else f" (p {value.p:.{P_DIGITS}f})"


def paper_csv(tables):
    """Return all digits: one line per number."""
    return rows_csv(CSV_HEADER, [
        [table.kind, table.conditions.space, column.order, line.block or column.number, column.dataset, line.name,
         line.kind, value.n, value.mean, value.deviation, value.rank, value.p, *(value.interval or (None, None)),
         *(line.facts.get(title) for title in ("trained values", "external data", "router", "task id")),
         table.conditions.family, table.conditions.shots]
        for table in tables for line in table.lines for column, value in zip(table.columns, line.values, strict=True)
        if value.mean is not None])
