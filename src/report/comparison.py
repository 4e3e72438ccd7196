"""Write a comparison as text: every number of every row, in markdown, LaTeX and csv."""

from pathlib import Path

from src.errors import UserError
from src.machine.files import WriteError, atomic_file
from src.report.latex import HEAD, definitions_caption, latex_table
from src.report.measures import TITLES, measure_of
from src.report.rows import PUBLISHED, RUN, ZERO_SHOT
from src.report.tables import definitions_text, markdown_table, rows_csv

CONDITIONS = ("family", "reference", "shots", "router", "task_id")  # the columns beside the label space's


def comparison_markdown(tables):
    """Return the tables of [Table], each below its head, what the rows differ in, and the definitions of the
    numbers."""
    return f"{rows_markdown(tables)}\n\n{definitions_markdown(tables)}"


def rows_markdown(tables):
    """Return the same without the definitions."""
    parts = [f"{table.conditions.text()}\n\n{markdown_table(*_cells(table))}" for table in tables]
    return "\n\n".join(filter(None, [*parts, *notes_on(tables), "\n".join(_flag_lines(tables))]))


def comparison_latex(tables):
    """Return the same as LaTeX, a float for each Table."""
    return HEAD + "\n".join(
        latex_table(*_cells(table), " ".join([f"{table.conditions.text()}.", *notes_on([table]),
                                              definitions_caption(table.space, table.numbers)]))
        for table in tables)


def comparison_csv(tables):
    """Return all digits: a line for each Row, with means, deviations, the number and folders of runs, and
    conditions."""
    keys = list(dict.fromkeys(key for table in tables for key in measure_of(table.space).numbers_in(table.space)))
    header = ["label_space", "row", "kind", "n", *keys, *(f"{key}_std" for key in keys), "runs", *CONDITIONS]
    lines = [(table.space, row.name, row.kind, len(row.runs) or None, *(row.numbers.get(key) for key in keys),
              *(row.deviations.get(key) for key in keys), ",".join(row.runs),
              *(getattr(row.conditions, key) for key in CONDITIONS)) for table in tables for row in table.rows]
    return rows_csv(header, list(dict.fromkeys(lines)))  # a row may be in several tables


def definitions_markdown(tables):
    """Return definitions of the numbers that any of the tables shows, which have a ``space`` and ``numbers``."""
    return "\n".join(definitions_text(each[0].space, shown(each)) for each in by_measure(tables).values())


def by_measure(tables):
    """Return {measure: its tables}."""
    found = {}
    for table in tables:
        found.setdefault(measure_of(table.space), []).append(table)
    return found


def shown(tables):
    """Return the numbers that any of several Tables of one measure shows."""
    return tuple(dict.fromkeys(key for table in tables for key in table.numbers))


def _cells(table):
    first = measure_of(table.space).first_column(table.space) + images_text(table.rows)
    return [first, "n", *(TITLES[key] for key in table.numbers)], [
        [row.name, len(row.runs) or None, *(_cell(row, key) for key in table.numbers)] for row in table.rows]


def images_text(rows):
    """Return which images were scored, if not those of test."""
    return "".join(f", {split} images" for split in sorted({row.split for row in rows} - {"test"}))


def _cell(row, key):
    value = row.numbers.get(key)
    return f"{value:.1f} ± {row.deviations[key]:.1f}" if key in row.deviations else value


def notes_on(tables):
    """Return notes on the rows of several Tables: how they were made, why tables are separate, what is unknown."""
    rows = _first_rows(tables)
    return [*chosen({
        "n runs that differ only in their seed: mean ± sample standard deviation.": any(row.deviations for row in rows),
        "Published rows are from the literature, not measured here.": any(row.kind == PUBLISHED for row in rows),
        "The runs are of different sequences: their numbers are not of the same tasks.":
            len({row.order for row in rows if row.kind == RUN}) > 1}),
        *apart([table.conditions for table in tables if table.space == tables[0].space]), *unknown(rows)]


def chosen(sentences):
    """Return the sentences of {sentence: whether it holds} that hold."""
    return [sentence for sentence, holds in sentences.items() if holds]


def _first_rows(tables):
    """Return the rows of the first label space, each once."""
    rows = [row for table in tables if table.space == tables[0].space for row in table.rows]
    return [row for number, row in enumerate(rows) if row not in rows[:number]]


def apart(heads):
    """Return why there are several tables of one label space, given the Conditions of each."""
    titles = {title: None for one in heads for other in heads for title in one.differences(other)}
    return [f"Not ranked together: the tables differ in {', '.join(titles)}."] if titles else []


def unknown(rows):
    """Return sentences on the conditions that a row's files do not state."""
    found = [(row.name, row.conditions.unknown()) for row in rows if row.kind != ZERO_SHOT]
    return [f"{name}: {', '.join(titles)} unknown, which ranks with no known value. For a run of an earlier version, "
            "rerun its command, which keeps finished tasks and stores them. A class that defines its own scores should "
            "set router = \"none\", \"sample\" or \"batch\"." for name, titles in found if titles]


def _flag_lines(tables):
    """Return what the runs differ in, a line per row."""
    return [f"- {row.name}: {flags_text(row)}" for row in _first_rows(tables) if row.flags]


def flags_text(row):
    """Return the flags in which a Row differs from others, as typed."""
    return " ".join(f"{flag} {value or 'none'}" for flag, value in row.flags.items())


FILES = {"compare.md": comparison_markdown, "compare.tex": comparison_latex, "compare.csv": comparison_csv}


def write_comparison(tables, folder):
    """Write [Table] as ``compare.md``, ``compare.tex`` and ``compare.csv`` under ``folder``. Raises UserError
    if that fails."""
    write_texts({name: text(tables) for name, text in FILES.items()}, folder)


def write_texts(texts, folder):
    """Write {name: text} under ``folder``, that of --save. Raises UserError if that fails."""
    try:
        for name, text in texts.items():
            with atomic_file(Path(folder) / name, "w") as file:
                file.write(text)
    except WriteError as error:
        raise UserError(f"--save {folder}: cannot be written ({error.strerror}); give another") from None
