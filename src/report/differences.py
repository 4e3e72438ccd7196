"""Compute what each row gains over a study's baseline, seed by seed."""

from src.report.comparison import chosen
from src.report.measures import measure_of
from src.report.paired import DRAWS, SHARE, over_images, over_seeds
from src.report.paper import (
    DIFFERENCES,
    Column,
    Line,
    PaperTable,
    Value,
    compact_numbers,
    first_column,
    heads_with_runs,
    labelled,
    order_notes,
    rows_of,
    tables_of_head,
    title_of,
)
from src.report.rows import RUN

OVER_IMAGES = "last"  # the number whose predictions a run stores


def difference_tables(report):
    """Return [PaperTable] of what the runs of each compact table gain over a Report's baseline; [] without a
    baseline."""
    if report.baseline is None:
        return []
    found = [_table(report, head) for head in heads_with_runs(report)]
    return labelled(report.name, [table for table in found if table])


def missing_note(report, tables):
    """Return which runs are not compared with the baseline, given the PaperTables of its differences; []
    without one."""
    rows = {row.name for table in report.tables for row in table.rows if row.kind == RUN} - {report.baseline}
    left = sorted(rows - {line.name for table in tables for line in table.lines})
    if report.baseline is None or not left:
        return []
    return [f"Not compared with {report.baseline}, which shares no table with them: {', '.join(left)}."]


def _table(report, head):
    """Return the differences; None if the baseline is alone or in another table."""
    tables = tables_of_head(report, head)
    rows, numbers = rows_of(tables), compact_numbers(tables.values())
    baseline = rows.pop((RUN, report.baseline), None)
    rows = {name: by_order for (kind, name), by_order in rows.items() if kind == RUN}
    if not baseline or not rows or not numbers:
        return None
    columns = tuple(Column(order, number) for order in tables for number in numbers)
    lines = [Line(name, RUN, tuple(_value(by_order.get(column.order), baseline.get(column.order), column.number)
                                   for column in columns)) for name, by_order in rows.items()]
    return PaperTable(DIFFERENCES, DIFFERENCES, f"{title_of(numbers)} minus {report.baseline}",
                      first_column(tables.values()), head, columns, tuple(lines),
                      (*order_notes(tables), *_notes(report.baseline, lines)), numbers)


def _value(row, baseline, number):
    if row is None or baseline is None:
        return Value()
    space = row.conditions.space
    found = over_seeds(*(_by_seed(each, number, space) for each in (row, baseline)))
    if found is None:
        return Value()
    interval = _over_images(row, baseline, space) if found.n == 1 and number == OVER_IMAGES else None
    return Value(found.mean, found.deviation, found.n, p=found.p, interval=interval)


def _by_seed(row, number, space):
    numbers = {run.seed: measure_of(space).numbers_of(run.spaces[space])[number] for run in row.sequences}
    return {seed: value for seed, value in numbers.items() if seed is not None and value is not None}


def _over_images(row, baseline, space):
    """Compare over the images of the one seed that both have."""
    theirs = {run.seed: run for run in baseline.sequences}
    run = next(run for run in row.sequences if run.seed in theirs)
    return over_images(run, theirs[run.seed], space)


def _notes(baseline, lines):
    values = [value for line in lines for value in line.values if value.mean is not None]
    counts = sorted({value.n for value in values if value.deviation is not None})
    several = f"{' or '.join(map(str, counts))} common seeds"
    return chosen({
        f"Differences to {baseline} over {several}: mean ± sample standard deviation.": bool(counts),
        f"p: paired t-test over {several}, two-sided, not corrected for the number of comparisons.":
            any(value.p is not None for value in values),
        "No p where all seeds differ by the same.": any(value.p is None for value in values
                                                         if value.deviation is not None),
        f"Differences to {baseline} of one seed.": any(value.deviation is None for value in values),
        f"No difference where no seed is common with {baseline}.":
            any(value.mean is None for line in lines for value in line.values),
        f"In brackets: {SHARE} % of {DRAWS:,} draws of a paired bootstrap over the test images of one seed; other "
        "seeds may differ.": any(value.interval for value in values)})
