"""Comparisons of run folders, as tests of tables look at them."""

from report_files import MATRIX

from src.report.compare import compare
from src.report.rows import PUBLISHED, RUN
from src.report.runs import read_run


def tables_of(*folders):
    return compare([read_run(folder) for folder in folders])


def rows_of(*folders):
    """The rows of the first table, the only one of its label space that has a run."""
    first, *others = tables_of(*folders)
    assert not [row for table in others if table.space == first.space for row in table.rows if row.kind != PUBLISHED]
    return list(first.rows)


def shifted(number):
    return [[value + number for value in row] for row in MATRIX]


def names_of(tables):
    return [[row.name for row in table.rows if row.kind == RUN] for table in tables]
