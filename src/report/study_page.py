"""Write study.html of a Report of several runs, a self-contained file that needs no network."""

from dataclasses import dataclass

from src.report.comparison import by_measure, flags_text, notes_on, shown, write_texts
from src.report.differences import missing_note
from src.report.fonts import unreadable
from src.report.heat import cell_of
from src.report.measures import TITLES, defined, measure_of
from src.report.over_seeds import mean_matrix
from src.report.page import SPACE_TITLES, environment, style
from src.report.paper import COMPACT, FACTS, Column, Line, facts_of, paper_tables, ranked, value_of
from src.report.paper_markdown import beside_text, mean_text
from src.report.plots import Look, look_of, looks_of
from src.report.rows import RUN
from src.report.runs import ZERO_SHOT
from src.report.scores import SCORE_TITLES, mean_of, scale_of
from src.report.study_figures import cost_figures, curve_groups, tradeoff_figure
from src.report.study_pictures import texts_of_report, write_study_pictures

FILE = "study.html"


def write_study_page(report, folder, missing=()):
    """Write ``study.html`` of a Report under ``folder``, and its pictures with ``write_study_pictures``.

    ``missing``: [(name, state, text)] of a study's cells that are not in it. Raises UserError if the page
    cannot be written.
    """
    write_texts({FILE: study_page(report, missing)}, folder)
    write_study_pictures(report, folder)
    if letters := unreadable(texts_of_report(report)):
        write_texts({FILE: study_page(report, missing, letters)}, folder)


def study_page(report, missing=(), letters=""):
    """Return the HTML of a Report. Every text from files is escaped; the same runs give the same bytes.

    ``letters``: those that its pictures lack.
    """
    looks = looks_of(report)
    compact = [table for table in paper_tables(report) if report.several and table.kind == COMPACT]
    return environment().get_template("study.html").render(
        style=style(), title=report.name, facts=_facts(report), missing=list(missing), letters=letters,
        overview=[_paper_table(table) for table in (*compact, *report.differences)],
        notes=missing_note(report, report.differences), several=report.several,
        orders=[_order(label, tables, looks) for label, tables in report.orders.items() if tables],
        preamble=_preamble(report), definitions=_definitions(report))


def _facts(report):
    """Return [(name, value)] of the line below the title."""
    rows = [row for table in report.tables for row in table.rows if row.kind == RUN]
    runs = {str(run.folder): run for row in rows for run in row.sequences}.values()
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    found = [("runs", len(runs)), ("methods", len({row.name for row in rows})), ("orders", len(report.orders)),
             ("seeds", ", ".join(map(str, seeds)))]
    return [(name, value) for name, value in found if value]


def _preamble(report):
    return [text for measure in by_measure(report.tables) for text in measure.preamble]


def _definitions(report):
    """Return [(title, definition)] of the numbers that any table shows, each once."""
    found = [pair for tables in by_measure(report.tables).values() for pair in defined(tables[0].space, shown(tables))]
    return list(dict(found).items())


# -- tables ------------------------------------------------------------------------------------------------------------


def _order(label, tables, looks):
    """Return what the page shows of one order."""
    tasks = dict.fromkeys(row.order for table in tables for row in table.rows if row.order)
    flags = {row.name: flags_text(row) for table in tables for row in table.rows if row.flags}
    return {"label": label, "tasks": list(tasks), "notes": notes_on(tables), "flags": list(flags.items()),
            "tables": [_table(table, looks) for table in tables]}


def _table(table, looks):
    """Return what the page shows of one Table: the ranking, the charts and the matrices of its rows."""
    return {"title": SPACE_TITLES.get(table.space, table.space), "head": table.conditions.text(),
            "ranking": _ranking(table, looks), "tradeoff": tradeoff_figure(table, looks),
            "costs": cost_figures(table, looks), "curves": curve_groups(table, looks), "heats": _heats(table, looks)}


def _ranking(table, looks):
    """Return the rows of a Table with the numbers that it shows."""
    columns = [Column("", number) for number in table.numbers]
    lines = ranked(columns, [Line(row.name, row.kind, tuple(value_of(row, number) for number in table.numbers),
                                  facts_of([row])) for row in table.rows])
    facts = [title for title in FACTS if any(line.facts.get(title) for line in lines)]
    return {"caption": _caption(lines), "header": ["method", *(TITLES[number] for number in table.numbers), *facts],
            "rows": [_row(line, facts, look=look_of(row, looks), source=row.source)
                     for line, row in zip(lines, table.rows, strict=True)]}


def _caption(lines):
    marked = any(value.rank for line in lines for value in line.values)
    return "Among the runs, the best is bold and the second underlined." if marked else ""


def _paper_table(table):
    """Return a PaperTable whose numbers are columns."""
    return {"title": table.title, "head": table.conditions.text(), "header": table.header,
            "caption": " ".join([_caption(table.lines), *table.notes]).strip(),
            "rows": [_row(line, table.facts, signed=table.kind != COMPACT) for line in table.lines]}


def _row(line, facts, look=None, source="", signed=False):
    return {"name": line.name, "kind": line.kind, "look": look, "source": source,
            "values": [_value(value, signed) for value in line.values],
            "facts": [line.facts.get(title, "") for title in facts]}


def _value(value, signed):
    """Return the texts of a Value, as the tables in other files have them."""
    if value.mean is None:
        return {"mean": "–", "beside": "", "rank": None}
    return {"mean": mean_text(value, signed), "beside": beside_text(value), "rank": value.rank}


# -- matrices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heat:
    """Hold the matrix of a row, the mean over its ``runs``. ``rows``: [(number, task, [Cell], mean)]."""

    name: str
    look: Look
    runs: int
    columns: list
    rows: list


def _heats(table, looks):
    """Return [{"title", "low", "high", "heats"}], for each score drawn as curves, with a Heat per row of runs
    in common colours."""
    rows = [row for row in table.rows if row.sequences]
    return [_heat_group(SCORE_TITLES[score], rows, [mean_matrix(row, score) for row in rows], looks)
            for score in measure_of(table.space).curves if rows]


def _heat_group(title, rows, matrices, looks):
    scale = scale_of(dict(enumerate(cells for matrix in matrices for cells in matrix.values())))
    heats = [_heat(row, matrix, scale, looks) for row, matrix in zip(rows, matrices, strict=True)]
    return {"title": title, "low": scale[0], "high": scale[1], "heats": heats}


def _heat(row, matrix, scale, looks):
    columns = row.sequences[0].spaces[row.conditions.space]["datasets"]
    rows = [(number, task, [cell_of(value, name, task, scale) for value, name in zip(cells, columns, strict=True)],
             mean_of(cells)) for number, (task, cells) in enumerate(matrix.items(), int(ZERO_SHOT not in matrix))]
    return Heat(row.name, look_of(row, looks), len(row.sequences), columns, rows)
