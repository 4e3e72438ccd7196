"""Scores and summaries as tables: markdown that reads well in a terminal, csv."""

import csv
import io

from src.report.sequence import RETRIEVAL

SUMMARY = ("transfer", "avg", "last", "forgetting", "bwt")
RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "i2t_medr", "t2i_medr", "rsum")
TITLES = {"transfer": "Transfer", "avg": "Avg", "last": "Last", "forgetting": "Forgetting", "bwt": "BWT",
          "mean_rsum": "mean rsum", "i2t_r1": "i2t R@1", "t2i_r1": "t2i R@1", "rsum": "rsum",
          "forgetting_r1": "Forgetting", "recall": "R@k"}
MATRICES = {False: ("top1", "top5"), True: ("i2t_r1", "t2i_r1", "rsum")}  # of classes, and of image-text pairs
# Definitions of a sequence's numbers, wherever they are shown; src.report.sequence computes them.
DEFINITIONS = {
    "transfer": "mean over j > 1 of the mean over i < j of A[i][j] (Zheng et al., 2023)",
    "avg": "mean of all A[i][j]",
    "last": "mean over j of A[n][j], the row after the last task",
    "forgetting": "mean over j < n of (max over i of A[i][j]) - A[n][j]; lower is better (Chaudhry et al., 2018)",
    "bwt": "mean over j < n of A[n][j] - A[j][j] (Lopez-Paz and Ranzato, 2017)",
    "recall": "share, in percent, of images with one of their captions among the k nearest, or of captions with their "
              "image among them",
    "rsum": "sum of R@1, R@5 and R@10 from image to text (i2t) and from text to image (t2i), in percent",
    "mean_rsum": "mean of rsum over the sets of image-text pairs",
    "forgetting_r1": "of each set, the best i2t R@1 after any task minus that after the last",
}
MATRIX = ("A[i][j] is top-1 accuracy in percent on task j after training task i, of n tasks counted from 1, of the "
          "weights that are saved; the zero-shot row is no part of any number.")


def markdown_table(header, rows):
    """A table that reads well in a terminal and renders in markdown."""
    cells = [[cell_text(value) for value in row] for row in (header, *rows)]
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


def scores_table(rows):
    """{dataset: {label space: Scores}} as a table; RetrievalScores in one of their own."""
    rows = [(name, space, scores) for name, spaces in rows.items() for space, scores in spaces.items()]
    accuracy = [[name, space, scores.top1, scores.top5, scores.k, scores.n] for name, space, scores in rows
                if space != "retrieval"]
    recall = [[name, *(getattr(scores, key) for key in RECALLS), scores.images, scores.captions]
              for name, space, scores in rows if space == "retrieval"]
    tables = []
    if accuracy:
        tables.append(markdown_table(["dataset", "classes of", "top-1", "top-5", "k", "images"], accuracy))
    if recall:
        tables.append(markdown_table(["retrieval", *RECALLS, "images", "captions"], recall))
    return "\n\n".join(tables)


def matrix_cells(summary):
    """(header, rows) of the accuracy matrix: one row a trained task, the zero-shot row first where there is one."""
    order, start = summary["datasets"], summary["zero_shot"]
    rows = [] if start is None else [["zero-shot", *(start[name] for name in order)]]
    trained = order[:len(summary["matrix"])]  # none after zero_shot_only
    rows += [[f"after {name}", *row] for name, row in zip(trained, summary["matrix"], strict=True)]
    return [f"top-1, classes of {summary['label_space']}", *order], rows


def zero_shot_only(summary):
    """The summary of a sequence of which nothing was trained, without its rows after each task: all equal the first."""
    if summary["label_space"] == RETRIEVAL:
        return summary | {"trained": [], "rows": summary["rows"][:1]}
    return summary | {"matrix": []}


def numbers_cells(summary):
    """(header, rows) of Transfer, Avg, Last, forgetting, BWT: one row."""
    return [TITLES[key] for key in SUMMARY], [[summary[key] for key in SUMMARY]]


def recall_cells(summary):
    """(header, rows) of recall on each set of pairs before training, where that is known, and after each task or phase,
    and the mean of rsum over the sets."""
    sets, shown = summary["datasets"], MATRICES[True]
    rows = [[task, *(row[name][score] for name in sets for score in shown),
             sum(row[name]["rsum"] for name in sets) / len(sets)]
            for task, row in zip(["zero-shot", *(f"after {name}" for name in summary["trained"])], summary["rows"],
                                 strict=True) if row is not None]
    return ["recall", *(f"{name} {TITLES[score]}" for name in sets for score in shown), TITLES["mean_rsum"]], rows


def summary_cells(summary):
    """[(header, rows)] of the tables that show a summary."""
    if summary["label_space"] == RETRIEVAL:
        return [recall_cells(summary)]
    return [matrix_cells(summary), numbers_cells(summary)]


def numbers_text(summary):
    """Without the rows of the tasks one by one: those of image-text pairs have no other."""
    return markdown_table(*summary_cells(summary)[-1])


def summary_text(summary):
    return "\n\n".join(markdown_table(*cells) for cells in summary_cells(summary)) + "\n"


def defined(space):
    """[(title, definition)] of the numbers that are shown of a label space, or of "retrieval"."""
    keys = ("recall", "rsum", "mean_rsum", "forgetting_r1") if space == RETRIEVAL else SUMMARY
    return [(TITLES[key], DEFINITIONS[key]) for key in keys]


def definitions_text(space):
    """What the numbers are, as a markdown list."""
    numbers = [f"- {title}: {text}" for title, text in defined(space)]
    return "\n".join(numbers if space == RETRIEVAL else [MATRIX, "", *numbers]) + "\n"


def summary_markdown(summaries):
    """Text of ``summary.md``: {label space or "retrieval": summary} -> its tables, and what the numbers are."""
    return "\n".join([*map(summary_text, summaries.values()), definitions_text(next(iter(summaries)))])


def matrix_csv(trained, columns, rows, score):
    """The matrix as csv text: first column the task trained last (empty: zero-shot), then one column a dataset."""
    return rows_csv(["task", *columns], [[task, *(row[name] and f"{getattr(row[name], score):.4f}" for name in columns)]
                                         for task, row in zip(["", *trained], rows, strict=True) if row is not None])


def rows_csv(header, rows):
    file = io.StringIO()
    csv.writer(file).writerows([header, *rows])
    return file.getvalue()
