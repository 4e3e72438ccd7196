"""Write scores and summaries as tables: markdown that reads well in a terminal, csv."""

import csv
import io

from src.report.conditions import head_of
from src.report.measures import ACCURACY, RETRIEVAL, defined, measure_of


def markdown_table(header, rows):
    """Return a table that reads well in a terminal and renders in markdown."""
    cells = [[cell_text(value).replace("|", r"\|").replace("\n", " ") for value in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(
        text.ljust(width) if column == 0 else text.rjust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))) + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 1) + ("-", ":")[column > 0] for column, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def cell_text(value):
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def scores_table(rows, head=None):
    """Return {dataset: {label space: Scores}} as a table per measure, below the text of ``head(datasets, label
    spaces)``."""
    found = {}
    for dataset, spaces in rows.items():
        for space, scores in spaces.items():
            found.setdefault(measure_of(space), []).append((dataset, space, scores))
    parts = []
    for measure in (ACCURACY, RETRIEVAL):
        scored = found.get(measure, [])
        if scored and head:
            parts.append(head(*(list(dict.fromkeys(row[column] for row in scored)) for column in (0, 1))))
        if scored:
            parts.append(markdown_table(measure.header, [measure.row(*row) for row in scored]))
    return "\n\n".join(parts)


def summary_cells(summary):
    """Return [(header, rows)] of the tables that show a summary."""
    return measure_of(summary["label_space"]).tables(summary)


def numbers_text(summary):
    """Return a summary without the rows of single tasks: all it has for image-text pairs."""
    return f"{head_of(summary)}\n\n{markdown_table(*summary_cells(summary)[-1])}"


def summary_text(summary):
    return "\n\n".join([head_of(summary), *(markdown_table(*cells) for cells in summary_cells(summary))]) + "\n"


def definitions_text(space, numbers=None):
    """Return the definitions of ``numbers``, or of all of a summary, as a markdown list."""
    numbers = [f"- {title}: {text}" for title, text in defined(space, numbers)]
    preamble = [line for text in measure_of(space).preamble for line in (text, "")]
    return "\n".join([*preamble, *numbers]) + "\n"


def summary_markdown(summaries):
    """Return the text of ``summary.md``: the tables of {label space or "retrieval": summary}, and the
    definitions of the numbers."""
    return "\n".join([*map(summary_text, summaries.values()), definitions_text(next(iter(summaries)))])


def matrix_csv(trained, columns, rows, score):
    """Return the matrix as csv: first column the task trained last (empty: zero-shot), then one column per
    dataset."""
    return rows_csv(["task", *columns], [[task, *(row[name] and f"{getattr(row[name], score):.4f}" for name in columns)]
                                         for task, row in zip(["", *trained], rows, strict=True) if row is not None])


def rows_csv(header, rows):
    file = io.StringIO()
    csv.writer(file).writerows([header, *rows])
    return file.getvalue()
