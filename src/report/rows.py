"""Define the rows of tables: runs, the weights before training, the literature."""

import statistics
from dataclasses import dataclass, field

from src.report.conditions import Conditions

ZERO_SHOT, RUN, PUBLISHED = "zero-shot", "run", "published"  # the kinds of rows


@dataclass(frozen=True)
class Row:
    """Hold one row of a comparison.

    ``numbers``: {key: value in percent, the mean over the runs, or None}. ``deviations``: {key: sample standard
    deviation}, for several runs only. ``cells`` and ``cell_deviations``: the same for {(key, dataset): ...},
    empty for a published row. ``runs``: the folders behind it, empty for a reference. ``order``: the tasks.
    ``flags``: {flag: value as typed} where the rows differ, apart from the seed. ``split``: the split that was
    scored. ``source``: where a published row was read. ``sequences``: the SequenceRuns behind it.
    """

    name: str
    kind: str
    numbers: dict
    conditions: Conditions
    deviations: dict = field(default_factory=dict)
    cells: dict = field(default_factory=dict)
    cell_deviations: dict = field(default_factory=dict)
    runs: tuple = ()
    order: tuple = ()
    flags: dict = field(default_factory=dict)
    split: str = "test"
    source: str = ""
    sequences: tuple = field(default=(), compare=False, repr=False)


def mean_and_deviation(found):
    """Return ({key: mean, or None}, {key: sample standard deviation}, for several runs) of [{key: number or
    None}]."""
    columns = {key: [numbers[key] for numbers in found] for key in found[0]}
    known = {key: values for key, values in columns.items() if None not in values}
    return ({key: statistics.fmean(known[key]) if key in known else None for key in columns},
            {key: statistics.stdev(values) for key, values in known.items() if len(values) > 1})
