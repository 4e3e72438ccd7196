"""Compare finished runs: a row per run, or one row for runs that differ only in their seed."""

from dataclasses import astuple, dataclass, replace

from src.cli.flags import FLAGS
from src.cli.texts import shown
from src.errors import UserError
from src.report.conditions import Conditions, conditions_of_run
from src.report.measures import ACCURACY, RETRIEVAL, measure_of
from src.report.published import published_beside
from src.report.rows import RUN, ZERO_SHOT, Row, mean_and_deviation
from src.report.seeds import IMAGES, across_orders, differing_flags, groups_of, names_of


@dataclass(frozen=True)
class Table:
    """Hold rows that rank together: their ``conditions`` are the table's, except where a row has none.

    ``columns``: the numbers to show, empty for all of the measure; csv files have all.
    """

    conditions: Conditions
    rows: tuple
    columns: tuple = ()

    @property
    def space(self):
        """The label space, or "retrieval"."""
        return self.conditions.space

    @property
    def numbers(self):
        """The numbers to show."""
        known = measure_of(self.space).numbers_in(self.space)
        return tuple(key for key in self.columns or known if key in known)


def compare(runs):
    """Compare SequenceRuns of one order: [Table], for each label space that all have and each set of rows that
    rank together.

    Rows under different conditions go into different tables; a row without reference data is in each table that
    it fits. Class data: the best Avg first; image-text pairs: the best mean rsum. The zero-shot row comes first
    if all runs of a table share it. Published rows come last if all runs are of an order that has some, or in a
    separate table. Raises UserError if no table can hold the runs.
    """
    return compare_orders({"": runs})[""]


def compare_orders(orders):
    """Return {label of an order: [Table]}, each order compared by itself with ``compare``.

    A row has the same name in all orders, and a table the same conditions.
    """
    for runs in orders.values():
        _refuse_other_images(runs)
    spaces = {label: _common_spaces(runs) for label, runs in orders.items()}
    groups = {label: groups_of(runs) for label, runs in orders.items()}
    titles = _titles(groups)
    found = {label: [] for label in orders}
    for space in dict.fromkeys(space for each in spaces.values() for space in each):
        rows = {label: [*_run_rows(groups[label], titles, space), *_published_rows(runs, space)]
                for label, runs in orders.items() if space in spaces[label]}
        heads = heads_of([row for each in rows.values() for row in each])
        for label, each in rows.items():
            found[label] += _tables(each, heads)
    return found


def heads_of(rows):
    """Return the Conditions of the tables for Rows: the most specific ones, so that every row fits one."""
    heads, kinds = [], dict.fromkeys(row.conditions for row in rows)
    for conditions in sorted(kinds, key=lambda found: astuple(found).count(None)):
        if all(conditions.differences(head) for head in heads):
            heads.append(conditions)
    return heads


def _tables(rows, heads):
    """Return the tables of one order and label space, those with runs first."""
    found = [Table(head, tuple(row for row in rows if not row.conditions.differences(head))) for head in heads]
    found = sorted((table for table in found if table.rows), key=lambda table: min(map(rows.index, table.rows)))
    return [replace(table, rows=(*_zero_shot_rows(table), *table.rows)) for table in found]


def _refuse_other_images(runs):
    """Refuse runs scored on different images of the same data: ranking them would compare the images."""
    first = runs[0]
    for run in runs[1:]:
        for key in IMAGES:
            one, other = scored_on(first, key), scored_on(run, key)
            if one != other:
                name = FLAGS[key].name
                raise UserError(f"--report: {first.folder} is scored with {name} {shown(one)}, {run.folder} with "
                                f"{name} {shown(other)}; numbers on different images do not rank together: give runs "
                                "of one kind")


def scored_on(run, key):
    """Return the value of a flag that chooses the scored images; its default if the run predates the flag."""
    return run.flags[key]["value"] if key in run.flags else FLAGS[key].default


def _common_spaces(runs):
    if len({run.measure for run in runs}) > 1:
        pairs, classes = (next(run for run in runs if run.measure is kind) for kind in (RETRIEVAL, ACCURACY))
        raise UserError(f"--report: {pairs.folder} is of image-text pairs, {classes.folder} of classes; compare one "
                        "kind at a time")
    spaces = [space for space in runs[0].spaces if all(space in run.spaces for run in runs)]
    if not spaces:
        each = "; ".join(f"{run.folder}: {','.join(run.spaces)}" for run in runs)
        raise UserError(f"--report: the runs have no label space in common ({each}); score them in one, as by "
                        "--label-space task,all")
    return spaces


# -- rows --------------------------------------------------------------------------------------------------------------


def _titles(groups):
    """Return {folders of a group: (its name, the flags in which it differs)}, the same name in each order."""
    lines = across_orders(groups)
    names = names_of([[run.folder for group in line for run in group] for line in lines])
    flags = differing_flags([line[0] for line in lines])
    return {_folders(group): (name, differing) for line, name, differing in zip(lines, names, flags, strict=True)
            for group in line}


def _folders(group):
    return tuple(str(run.folder) for run in group)


def _run_rows(groups, titles, space):
    measure, rows = measure_of(space), []
    for group in groups:
        name, flags = titles[_folders(group)]
        means, deviations = mean_and_deviation([measure.numbers_of(run.spaces[space]) for run in group])
        cells, cell_deviations = mean_and_deviation([measure.cells_of(run.spaces[space]) for run in group])
        rows.append(Row(name, RUN, means, conditions_of_run(group[0], space), deviations, cells, cell_deviations,
                        _folders(group), tuple(group[0].order), flags, scored_on(group[0], "eval_split"),
                        sequences=tuple(group)))
    return sorted(rows, key=lambda row: -row.numbers[measure.best])


def _zero_shot_rows(table):
    """Return the score of the weights that all runs of a Table start from, as if training changed nothing; []
    without runs."""
    starts = [_start(run.spaces[table.space]) for row in table.rows for run in row.sequences]
    if not starts or starts[0] is None or any(start != starts[0] for start in starts):
        return []
    measure = measure_of(table.space)
    numbers = measure.start_numbers(starts[0])
    plain = replace(table.conditions, reference=None, shots=None, router="none")
    return [] if numbers is None else [Row(ZERO_SHOT, ZERO_SHOT, numbers, plain,
                                           cells=measure.start_cells(starts[0]))]


def _start(summary):
    """Return [(dataset, scores)] of the weights before training; None if unknown."""
    row = measure_of(summary["label_space"]).start(summary)
    return row and [(name, row[name]) for name in summary["datasets"]]


def _published_rows(runs, space):
    orders = {tuple(run.order) for run in runs}
    return published_beside(*orders, space) if len(orders) == 1 else []
