"""Combine the runs behind a row: their matrix and curves over seeds, and the cost of a run."""

import statistics
from dataclasses import dataclass

from src.report.runs import ZERO_SHOT
from src.report.scores import mean_of


@dataclass(frozen=True)
class Spread:
    """Hold a number over several seeds: the lowest, the mean and the highest."""

    low: float
    mean: float
    high: float


def mean_matrix(row, score):
    """Return {task trained last: [mean over the runs of a Row, per dataset]}, None where a run has no score.

    It has the rows that all runs share; empty for a row without runs.
    """
    found = [run.rows(row.conditions.space, score) for run in row.sequences]
    tasks = [task for task in found[0] if all(task in rows for rows in found)] if found else []
    return {task: [_mean(cells) for cells in zip(*(rows[task] for rows in found), strict=True)] for task in tasks}


def curve(row, score):
    """Return [Spread of the mean over the datasets, or None, before training and after task 1, 2, ...] over the
    runs of a Row.

    The mean is over the datasets that have a score.
    """
    space = row.conditions.space
    found = [_steps(run.matrices[space][score], run.order) for run in row.sequences]
    return [None if None in values else Spread(min(values), statistics.fmean(values), max(values))
            for values in zip(*found, strict=True)]


def _steps(matrix, order):
    return [mean_of(matrix.get(task, ())) for task in (ZERO_SHOT, *order)]


def _mean(values):
    return None if None in values else statistics.fmean(values)


def seconds_of(row):
    """Return the time in which a run trains all its tasks, averaged over the runs of a Row; None if unknown."""
    return _mean_of_runs(row, lambda tasks: None if None in (found := [task.seconds for task in tasks]) else sum(found))


def trained_values_of(row):
    """Return the most values that a task trains, averaged over the runs of a Row; None if unknown."""
    return _mean_of_runs(row, lambda tasks: None if None in (found := [task.trainable_values for task in tasks])
                         else max(found))


def _mean_of_runs(row, number):
    """Average over runs; None if a run lacks such files, for example one that was only scored."""
    found = [number(run.tasks.values()) if len(run.tasks) == len(run.order) else None for run in row.sequences]
    return _mean(found) if found else None
