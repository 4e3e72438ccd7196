"""The tables of a study: its cells compared, each order by itself, under the names that its file gives."""

import sys
from dataclasses import replace
from pathlib import Path

from src.cli.protocols import PROTOCOLS
from src.cli.recipes import recipe_names
from src.cli.study import nearest
from src.errors import UserError
from src.report.compare import PUBLISHED, RUN, ZERO_SHOT, compare, comparison_markdown, write_comparison
from src.report.measures import ACCURACY, RETRIEVAL
from src.report.runs import read_run

PREFIX = "published "  # of the names of published rows


def refuse_unknown_names(study, jobs):
    """Refuse what the report of a Study names and its tables will not have: rows, published rows, columns."""
    published = [ZERO_SHOT, *recipe_names()]
    known = {"names": [*dict.fromkeys(job.cell.row for job in jobs), ZERO_SHOT, *(PREFIX + name for name in published)],
             "published": published, "columns": (RETRIEVAL if jobs[0].pairs else ACCURACY).numbers}
    named = {"names": study.names, "published": study.published or (), "columns": study.columns}
    for key, names in named.items():
        for name in names:
            if name not in known[key]:
                raise UserError(f"report: {key}: {name} is none of this study; {nearest(name, known[key])}")
    orders = {job.tasks for job in jobs}
    if study.published and not any(protocol.order in orders for protocol in PROTOCOLS.values()):
        raise UserError("report: published: nothing is published of these orders; leave it out")


def tables_of(study, jobs):
    """{label of an order: [Table]} of finished Jobs, each order's runs compared with each other."""
    runs = {job.name: read_run(job.folder) for job in jobs}
    return {order: [_named(table, study, jobs) for table in compare(
        [runs[job.name] for job in jobs if job.cell.order == order])]
            for order in dict.fromkeys(job.cell.order for job in jobs)}


def _named(table, study, jobs):
    """The Table with the rows, names and columns of the study's report."""
    rows_of = {str(job.folder): job.cell.row for job in jobs}
    rows = [row for row in table.rows
            if row.kind != PUBLISHED or study.published is None or row.name.removeprefix(PREFIX) in study.published]
    names = [rows_of[row.runs[0]] if row.kind == RUN else row.name for row in rows]
    # Runs of one row that no mean may join, as those of two precisions, keep the names of their folders beside it.
    names = [study.names.get(name, name) + (f" ({row.name})" if names.count(name) > 1 else "")
             for name, row in zip(names, rows, strict=True)]
    return replace(table, columns=study.columns, rows=tuple(
        replace(row, name=name) for name, row in zip(names, rows, strict=True)))


def study_markdown(found):
    """The tables of ``tables_of``, each order's below its label where there are several."""
    return "\n".join(f"# order {order}\n\n{comparison_markdown(tables)}" if len(found) > 1 else
                     comparison_markdown(tables) for order, tables in found.items())


def write_study(found, folder):
    """Write the tables of ``tables_of`` under ``folder``, of several orders in a folder each. -> the folders."""
    from src.report.tradeoff import write_tradeoff  # draws
    places = {order: Path(folder) / f"order_{order}" if len(found) > 1 else Path(folder) for order in found}
    for order, tables in found.items():
        write_comparison(tables, places[order])
        for left_out in write_tradeoff(tables, places[order]):
            print(f"note: {left_out} lacks a number that tradeoff.png shows", file=sys.stderr)
    return list(places.values())
