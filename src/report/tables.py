"""Scores and summaries as tables: markdown that reads well in a terminal, csv."""

import csv
import io

SUMMARY = ("transfer", "avg", "last", "forgetting", "bwt")
RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "i2t_medr", "t2i_medr", "rsum")
TITLES = {"transfer": "Transfer", "avg": "Avg", "last": "Last", "forgetting": "Forgetting", "bwt": "BWT"}


def markdown_table(header, rows):
    """A table that reads well in a terminal and renders in markdown."""
    cells = [[_cell(value) for value in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(
        text.ljust(width) if column == 0 else text.rjust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))) + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 1) + ("-", ":")[column > 0] for column, width in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(value):
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


def matrix_table(summary):
    """The accuracy matrix: one row a trained task, the zero-shot row first."""
    order = summary["datasets"]
    rows = [["zero-shot", *(summary["zero_shot"][name] for name in order)]]
    rows += [[f"after {name}", *row] for name, row in zip(order, summary["matrix"], strict=True)]
    return markdown_table([f"top-1, classes of {summary['label_space']}", *order], rows)


def numbers_table(summary):
    """Transfer, Avg, Last, forgetting, BWT in one row."""
    return markdown_table([TITLES[key] for key in SUMMARY], [[summary[key] for key in SUMMARY]])


def summary_text(summary):
    if summary["label_space"] == "retrieval":
        return f"{recall_table(summary)}\n"
    return f"{matrix_table(summary)}\n\n{numbers_table(summary)}\n"


def recall_table(summary):
    """Recall on each set of pairs before training and after each task or phase, and the mean of rsum over the sets."""
    sets, scores = summary["datasets"], {"i2t_r1": "i2t R@1", "t2i_r1": "t2i R@1", "rsum": "rsum"}
    rows = [[task, *(row[name][score] for name in sets for score in scores),
             sum(row[name]["rsum"] for name in sets) / len(sets)]
            for task, row in zip(["zero-shot", *(f"after {name}" for name in summary["trained"])], summary["rows"],
                                 strict=True)]
    header = ["recall", *(f"{name} {title}" for name in sets for title in scores.values()), "mean rsum"]
    return markdown_table(header, rows)


def matrix_csv(trained, columns, rows, score):
    """The matrix as csv text: first column the task trained last (empty: zero-shot), then one column a dataset."""
    return rows_csv(["task", *columns], [[task, *(row[name] and f"{getattr(row[name], score):.4f}" for name in columns)]
                                         for task, row in zip(["", *trained], rows, strict=True)])


def rows_csv(header, rows):
    file = io.StringIO()
    csv.writer(file).writerows([header, *rows])
    return file.getvalue()
