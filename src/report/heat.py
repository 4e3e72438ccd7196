"""Turn the matrices of a run into tables of coloured cells."""

from dataclasses import dataclass

from src.report import colours
from src.report.measures import TITLES
from src.report.runs import ZERO_SHOT
from src.report.scores import SCORE_TITLES, mean_of, row_title, scale_of, trains
from src.report.sequence import dataset_numbers

LEAST_CHANGE = 5.0  # the colours of changes cover at least this many points


@dataclass(frozen=True)
class Cell:
    """Hold a cell: ``value`` and ``change`` are steps of the two heat maps, None without a score or a zero-shot
    score.

    ``own``: the row's task trained the column's dataset.
    """

    text: str
    title: str
    value: int | None
    change: int | None
    own: bool = False

    @property
    def classes(self):
        steps = [f"{kind}{step}" for kind, step in (("v", self.value), ("c", self.change)) if step is not None]
        return " ".join([*steps, *(["own"] if self.own else [])])


def cell_of(value, name, task, scale, zero=None, reach=LEAST_CHANGE):
    """Return the Cell of a score of the dataset ``name`` after a task, on the ``scale`` (low, high) of the
    matrix.

    ``zero``: its zero-shot score. ``reach``: the change that the outermost colours stand for.
    """
    if value is None:
        return Cell("–", f"{name} has no score {row_title(task)}", None, None)
    change = None if zero is None else value - zero
    words = f"{name} {row_title(task)}: {value:.2f}" + ("" if change is None or not task else
                                                       f", zero-shot {change:+.2f}")
    return Cell(f"{value:.1f}", words, colours.level(value, *scale),
                None if change is None else colours.level(change, -reach, reach), trains(task, name))


def heat_map(run, space, score):
    """Return one matrix of a run as a table of Cells, with means over its rows and, for accuracies, its columns."""
    rows, columns = run.rows(space, score), run.spaces[space]["datasets"]
    scale = scale_of(rows)
    start = rows.get(ZERO_SHOT, [None] * len(columns))
    reach = max([LEAST_CHANGE, *(abs(value - zero) for row in rows.values()
                                 for value, zero in zip(row, start, strict=True) if None not in (value, zero))])
    body = [{"number": number, "task": task,
             "cells": [cell_of(value, name, task, scale, zero, reach)
                       for value, zero, name in zip(row, start, columns, strict=True)],
             "mean": mean_of(row)} for number, (task, row) in enumerate(rows.items(), int(ZERO_SHOT not in rows))]
    return {"score": score, "title": SCORE_TITLES[score], "columns": columns, "rows": body, "low": scale[0],
            "high": scale[1], "reach": reach, "changes": ZERO_SHOT in rows and not run.untrained,
            "trained": not run.untrained,
            "foot": _column_numbers(run.spaces[space]) if score == "top1" and not (run.untrained or run.single) else []}


def _column_numbers(summary):
    """Return [(title, [a number per dataset], the sequence's number)]: the terms of Transfer, Avg and Forgetting."""
    found = dataset_numbers(summary["datasets"], summary["matrix"])
    return [*((TITLES[key], [found[key, name] for name in summary["datasets"]], summary[key])
              for key in ("transfer", "avg")),
            (TITLES["forgetting"], losses_of(summary), summary["forgetting"])]


def losses_of(summary):
    """Return [points lost since a dataset was best], None for the last dataset, which no task followed."""
    *columns, _ = zip(*summary["matrix"], strict=True)
    return [*(max(value for value in column if value is not None) - column[-1] for column in columns), None]
