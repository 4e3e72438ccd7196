"""Build a paper's tables as data: the compact one over orders, and per order Transfer, Avg and Last by dataset.

Their text is made by ``src.report.paper_markdown`` and ``src.report.paper_latex``.
"""

import re
from dataclasses import dataclass, field, replace

from src.report.comparison import apart, chosen, images_text, shown, unknown
from src.report.conditions import Conditions
from src.report.measures import TITLES, measure_of
from src.report.ranks import ranks
from src.report.rows import PUBLISHED, RUN, ZERO_SHOT

COMPACT, BLOCKS, DIFFERENCES = "compact", "blocks", "differences"  # the kinds of tables
FACTS = ("n", "trained values", "external data", "router", "task id")  # further columns of a compact table
MILLION, THOUSAND = 1e6, 1e3


@dataclass(frozen=True)
class Value:
    """Hold a number of a table: ``mean`` over ``n`` runs, with the sample ``deviation`` for several.

    ``rank``: 1 for the best of its column, 2 for the second, else None. A difference also has ``p`` of the test
    over seeds, or the ``interval`` (low, high) over test images.
    """

    mean: float | None = None
    deviation: float | None = None
    n: int | None = None
    rank: int | None = None
    p: float | None = None
    interval: tuple | None = None


@dataclass(frozen=True)
class Column:
    """Describe a column. ``order``: the label of its order. ``number``: its key, None if the ``block`` of a
    Line gives it. ``dataset``: None for a mean over all."""

    order: str
    number: str | None
    dataset: str | None = None


@dataclass(frozen=True)
class Line:
    """Hold a row: a Value for each Column, and ``facts`` {title: text}.

    ``block``: the number that the values belong to, None if the columns give it.
    """

    name: str
    kind: str
    values: tuple
    facts: dict = field(default_factory=dict)
    block: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """Hold a table of a paper.

    ``kind``: COMPACT, BLOCKS or DIFFERENCES. ``label``: for LaTeX, without "tab:". ``title``: its short
    caption. ``first``: the title of the column of names. ``notes``: sentences to print with it, in a paper too.
    ``numbers``: the keys of everything it shows. ``ranking``: the group in which the best is marked, empty if
    nothing is marked. ``remarks``: for the paper's author only, such as which file has more.
    """

    kind: str
    label: str
    title: str
    first: str
    conditions: Conditions
    columns: tuple
    lines: tuple
    notes: tuple
    numbers: tuple
    ranking: str = ""
    remarks: tuple = ()

    @property
    def space(self):
        return self.conditions.space

    @property
    def facts(self):
        """The titles of the further columns that say something about a row."""
        return [title for title in FACTS if any(line.facts.get(title) for line in self.lines)]

    @property
    def orders(self):
        return list(dict.fromkeys(column.order for column in self.columns))

    @property
    def header(self):
        """The titles of all columns, for a table whose columns are numbers; each with its order if there are
        several."""
        several = len(self.orders) > 1
        numbers = [TITLES[column.number] + (f", {column.order}" if several else "") for column in self.columns]
        return [self.first, *numbers, *self.facts]


def paper_tables(report):
    """Return [PaperTable] of a Report: the compact ones, then those by dataset for each order. [] for published
    rows alone."""
    compact = [_compact(report, head) for head in heads_with_runs(report)]
    blocks = [_blocks(report, order, table) for order, tables in report.orders.items() for table in tables]
    return labelled(report.name, [table for table in (*compact, *blocks) if table])


def labelled(name, tables):
    """Return the PaperTables with distinct labels that begin with a name; the second of one kind and order ends
    in 2."""
    seen, found = {}, []
    for table in tables:
        base = label_text(name, table.label)
        seen[base] = seen.get(base, 0) + 1
        found.append(replace(table, label=base if seen[base] == 1 else f"{base}_{seen[base]}"))
    return found


def label_text(*words):
    """Return a label without characters that are special in LaTeX."""
    return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", word).strip("-.") or "x" for word in words)


# -- the compact table -------------------------------------------------------------------------------------------------


def _compact(report, head):
    """Return the table of one head over all orders; None if none of its numbers is known."""
    tables = tables_of_head(report, head)
    numbers, rows = compact_numbers(tables.values()), rows_of(tables)
    if not numbers:
        return None
    columns = tuple(Column(order, number) for order in tables for number in numbers)
    lines = [Line(name, kind, tuple(value_of(by_order.get(column.order), column.number) for column in columns),
                  facts_of(by_order.values())) for (kind, name), by_order in rows.items()]
    lines = ranked(columns, lines)
    return PaperTable(COMPACT, COMPACT, f"{title_of(numbers)} of {report.name}", first_column(tables.values()), head,
                      columns, lines, (*order_notes(tables), *notes_of(report, tables, lines)), numbers,
                      ranking_of(lines), remarks_of(report, tables))


def heads_with_runs(report):
    """Return the Conditions of the tables that have a run."""
    return list(dict.fromkeys(table.conditions for table in report.tables if any(row.runs for row in table.rows)))


def tables_of_head(report, head):
    """Return {label of an order: the Table that has these Conditions}."""
    return {order: table for order, tables in report.orders.items() for table in tables if table.conditions == head}


def compact_numbers(tables):
    """Return the numbers that a study names, else those that papers print, without those that no row has."""
    tables = list(tables)
    named = shown(tables) if any(table.columns for table in tables) else _printed_in(tables[0].space)
    rows = [row for table in tables for row in table.rows]
    return tuple(key for key in named if any(row.numbers.get(key) is not None for row in rows))


def _printed_in(space):
    measure = measure_of(space)
    return (*measure.paper, *(key for key in ("incremental_avg",) if key in measure.numbers_in(space)))


def rows_of(tables):
    """Convert {label of an order: Table} to {(kind, name): {label: Row}}.

    Zero-shot comes first, then runs, then published rows, each as the first order has them.
    """
    found = {}
    for kind in (ZERO_SHOT, RUN, PUBLISHED):
        for order, table in tables.items():
            for row in table.rows:
                if row.kind == kind:
                    found.setdefault((kind, row.name), {})[order] = row
    return found


def value_of(row, number):
    """Return the Value of a Row, empty without one."""
    if row is None:
        return Value()
    return Value(row.numbers.get(number), row.deviations.get(number), len(row.runs) or None)


def facts_of(rows):
    """Return {title: text} of what a method needs, from its Rows of all orders, without unknown facts."""
    rows = list(rows)
    runs = dict.fromkeys(len(row.runs) for row in rows if row.runs)
    conditions = [row.conditions for row in rows]
    found = {"n": ", ".join(map(str, runs)), "trained values": trained_text(rows),
             "external data": _texts(found.reference for found in conditions),
             "router": _texts(found.router for found in conditions),
             "task id": _texts(found.task_id for found in conditions)}
    return {title: text for title, text in found.items() if text}


def _texts(found):
    return ", ".join(dict.fromkeys(text for text in found if text))


def trained_text(rows):
    """Return how many values a task trains: the least and the most over the tasks of all runs. Empty if unknown."""
    counts = [facts.trainable_values for row in rows for run in row.sequences for facts in run.tasks.values()]
    known = [count for count in counts if count is not None]
    return " to ".join(dict.fromkeys(map(count_text, (min(known), max(known))))) if known else ""


def count_text(count):
    """Format a number: "149.6 M", "12.3 k", "300"."""
    if count >= MILLION:
        return f"{count / MILLION:.1f} M"
    return f"{count / THOUSAND:.1f} k" if count >= THOUSAND else str(count)


# -- the table by dataset ----------------------------------------------------------------------------------------------


def _blocks(report, order, table):
    """Return the table of one order and head; None if no row has numbers by dataset."""
    measure, rows = measure_of(table.space), [row for row in table.rows if row.cells]
    datasets = dict.fromkeys(dataset for row in rows for _, dataset in row.cells)
    columns = (*(Column(order, None, dataset) for dataset in datasets), Column(order, None))
    lines, numbers = [], []
    for number in measure.paper:
        block = [Line(row.name, row.kind, tuple(_cell(row, number, column.dataset) for column in columns),
                      block=number) for row in rows]
        if any(value.mean is not None for line in block for value in line.values):
            numbers.append(number)
            lines += ranked(columns, block)
    if not numbers:
        return None
    in_order = all(row.order == tuple(datasets) for row in rows if row.runs)
    notes = {"Datasets are in the order of training.": in_order,
             "The last column is the mean over all cells, in which a task that came early counts more often.":
                 table.space == "seen"}
    remarks = {"Deviations of single datasets are in paper.csv.": any(row.deviations for row in rows),
               "Published rows have no numbers by dataset here.": len(rows) < len(table.rows)}
    tables = {order: table}
    return PaperTable(
        BLOCKS, label_text(BLOCKS, order) if report.several else BLOCKS,
        f"{title_of(numbers)} by dataset, {f'order {order} of ' if report.several else ''}{report.name}",
        first_column([table]), table.conditions, columns, tuple(lines),
        (*chosen(notes), *(() if in_order else order_notes(tables)), *notes_of(report, tables, lines)), tuple(numbers),
        ranking_of(lines), (*chosen(remarks), *remarks_of(report, tables)))


def _cell(row, number, dataset):
    if dataset is None:
        return value_of(row, number)
    return Value(row.cells.get((number, dataset)), row.cell_deviations.get((number, dataset)), len(row.runs) or None)


# -- common to all tables ----------------------------------------------------------------------------------------------


def ranked(columns, lines):
    """Return the Lines with the rank of each run in each column. Zero-shot and published rows are not ranked."""
    values = [list(line.values) for line in lines]
    runs = [index for index, line in enumerate(lines) if line.kind == RUN]
    for place, column in enumerate(columns):
        found = ranks([values[index][place].mean for index in runs], column.number or lines[0].block)
        for index, rank in zip(runs, found, strict=True):
            values[index][place] = replace(values[index][place], rank=rank)
    return tuple(replace(line, values=tuple(each)) for line, each in zip(lines, values, strict=True))


def title_of(numbers):
    """Return "Transfer, Avg and Last"."""
    titles = [TITLES[number] for number in numbers]
    return " and ".join(filter(None, (", ".join(titles[:-1]), titles[-1])))


def first_column(tables):
    """Return the title of the column of names."""
    return "method" + images_text([row for table in tables for row in table.rows])


def notes_of(report, tables, lines):
    """Return notes for the reader of ``lines`` over {label of an order: Table}."""
    space = next(iter(tables.values())).space
    counts = sorted({value.n for line in lines for value in line.values if value.deviation is not None})
    over = " or ".join(map(str, counts))
    return [*chosen({
        f"Mean ± sample standard deviation over {over} runs that differ only in their seed.": bool(counts),
        "Published rows are from the literature, not measured here.": any(line.kind == PUBLISHED for line in lines)}),
        *apart([head for head in heads_with_runs(report) if head.space == space])]


def remarks_of(report, tables):
    """Return what is found elsewhere, and what is unknown about the rows."""
    heads, space = heads_with_runs(report), next(iter(tables.values())).space
    elsewhere = any(table.space == space and table.conditions not in heads for table in report.tables)
    rows = [row for table in tables.values() for row in table.rows]
    return (*chosen({"Published rows under other conditions are in the comparison, compare.md.": elsewhere}),
            *dict.fromkeys(note for row in rows for note in unknown([row])))


def ranking_of(lines):
    """Return the group in which the best is marked, and what is outside it."""
    if not any(value.rank for line in lines for value in line.values):
        return ""
    outside = " and ".join(kind for kind in (ZERO_SHOT, PUBLISHED) if any(line.kind == kind for line in lines))
    rest = f"; {outside} rows are not ranked" if outside else ""
    return f"among the runs of a column, equal digits sharing a rank{rest}"


def order_notes(tables):
    """Return the tasks of each order, from its runs."""
    several = len(tables) > 1
    return [f"Order {order}: {', '.join(tasks)}." if several else f"Tasks: {', '.join(tasks)}."
            for order, table in tables.items() for tasks in dict.fromkeys(row.order for row in table.rows if row.order)]
