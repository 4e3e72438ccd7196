"""Print and write everything of --report and of a study: the comparison of each order, and the tables of a paper."""

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from src.cli.protocols import ORDERS
from src.report.compare import compare_orders
from src.report.comparison import definitions_markdown, rows_markdown, write_comparison, write_texts
from src.report.differences import difference_tables, missing_note
from src.report.paper import COMPACT, paper_tables
from src.report.paper_latex import paper_latex
from src.report.paper_markdown import paper_csv, paper_markdown, table_markdown

ROMAN = {"1": "I", "2": "II"}  # numbers of MTIL's orders in papers


@dataclass(frozen=True)
class Report:
    """Hold what a study or --report shows.

    ``name``: the name of its tables. ``orders``: {label of an order: [Table]}, from ``compare_orders``.
    ``baseline``: the name of the row that others are compared with. ``several``: whether tables name their
    order, which they do even before the runs of a second order are finished.
    """

    name: str
    orders: dict
    baseline: str | None = None
    several: bool = False

    @property
    def tables(self):
        """Every Table, grouped by label space."""
        found = [table for tables in self.orders.values() for table in tables]
        spaces = list(dict.fromkeys(table.space for table in found))
        return sorted(found, key=lambda table: spaces.index(table.space))

    def folder_of(self, order, folder):
        """Return where the files of an order go under ``folder``: with several orders, each gets a folder."""
        return Path(folder) / f"order_{order}" if self.several else Path(folder)

    @cached_property
    def differences(self):
        """[PaperTable] of what its rows gain over the baseline. Computed once: intervals over images read whole
        files of predictions."""
        return difference_tables(self)


def report_of(name, runs):
    """Return the Report of SequenceRuns of any orders: those that papers number first, the others as given."""
    labels = _labels(dict.fromkeys(tuple(run.order) for run in runs))
    return Report(name, compare_orders({label: [run for run in runs if tuple(run.order) == order]
                                        for order, label in labels.items()}), several=len(labels) > 1)


def _labels(orders):
    """Return {tasks: label}: MTIL's orders get their number in papers, others are counted."""
    known = {ORDERS[number]: label for number, label in ROMAN.items() if ORDERS[number] in orders}
    others = [order for order in orders if order not in known]
    return known | {order: str(index) for index, order in enumerate(others, start=1)}


def all_tables(report):
    """Return [PaperTable] of a Report, its differences after the compact ones."""
    tables = paper_tables(report)
    compact = [table for table in tables if table.kind == COMPACT]
    return [*compact, *report.differences, *(table for table in tables if table not in compact)]


def report_markdown(report):
    """Return the text to print: the compact table if there are several orders, differences if there is a
    baseline, each order's comparison, and the definitions of the numbers."""
    compact = [table for table in paper_tables(report) if report.several and table.kind == COMPACT]
    parts = [*map(table_markdown, (*compact, *report.differences)), *missing_note(report, report.differences)]
    parts += [f"# order {order}\n\n{rows_markdown(tables)}" if report.several else rows_markdown(tables)
              for order, tables in report.orders.items()]
    return "\n\n".join([*parts, definitions_markdown(report.tables)])


def write_report(report, folder):
    """Write ``paper.md``, ``paper.tex``, ``paper.csv`` and the comparison under ``folder``; several orders get
    a folder each.

    Raises UserError if that fails.
    """
    from src.report.tradeoff import write_tradeoff  # imports the drawing library
    tables = all_tables(report)
    missing = missing_note(report, report.differences)
    write_texts({"paper.md": "\n\n".join([*missing, paper_markdown(tables)]), "paper.tex": paper_latex(tables),
                 "paper.csv": paper_csv(tables)}, folder)
    for order, found in report.orders.items():
        place = report.folder_of(order, folder)
        write_comparison(found, place)
        for left_out in write_tradeoff(found, place):
            print(f"note: {left_out} lacks a number that tradeoff.png shows", file=sys.stderr)
