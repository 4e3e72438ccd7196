"""Build the tables of a study: its cells compared per order, under the names that its file gives."""

from dataclasses import replace

from src.cli.flags import FLAGS
from src.cli.protocols import PROTOCOLS
from src.cli.recipes import recipe_names
from src.cli.texts import nearest_or_all, shown
from src.errors import UserError
from src.report.compare import compare_orders
from src.report.measures import RETRIEVAL, measure_of
from src.report.orders import Report
from src.report.published import PREFIX, published_rows
from src.report.rows import PUBLISHED, RUN, ZERO_SHOT
from src.report.runs import read_run
from src.report.seeds import IMAGES


def refuse_what_no_table_holds(jobs):
    """Refuse Jobs whose finished runs could not be compared: those of one order on other images, or without a
    common label space."""
    for group in _by_order(jobs).values():
        first = group[0]
        for job in group[1:]:
            for key in IMAGES:
                if job.numbers[key] != first.numbers[key]:
                    raise UserError(f"cell {job.name} of the study is scored with {_written(job, key)}, cell "
                                    f"{first.name} with {_written(first, key)}; numbers on different images do not "
                                    "rank together: make a study of each kind")
            if job.pairs != first.pairs:
                raise UserError(f"cells {first.name} and {job.name} of the study: one is of image-text pairs, one of "
                                "classes; make a study of each kind")
        if not _spaces(group):
            each = "; ".join(f"{job.name}: {','.join(job.numbers['label_space'])}" for job in group)
            raise UserError(f"the cells of the study have no label space in common ({each}); score them in one, as by "
                            "--label-space task,all")


def _written(job, key):
    return f"{FLAGS[key].name} {shown(job.numbers[key])}"


def _by_order(jobs):
    """Return {label of an order: its Jobs}."""
    labels = dict.fromkeys(job.cell.order for job in jobs)
    return {label: [job for job in jobs if job.cell.order == label] for label in labels}


def _spaces(group):
    """Return the label spaces that all Jobs of an order have, like ``SequenceRun.spaces``."""
    if group[0].pairs:
        return [RETRIEVAL.space]
    return [space for space in group[0].numbers["label_space"]
            if all(space in job.numbers["label_space"] for job in group)]


def refuse_unknown_names(study, jobs):
    """Refuse names in a Study's report that its tables will not have: rows, published rows, columns."""
    groups = _by_order(jobs)
    published = [ZERO_SHOT, *recipe_names()]
    rows = [*dict.fromkeys(job.cell.row for job in jobs), ZERO_SHOT, *(PREFIX + name for name in published)]
    _refuse_others("names", study.names, rows)
    _refuse_shared_name(study.names, rows)
    _refuse_others("published", study.published or (), published)
    if study.baseline is not None:
        _refuse_others("baseline", [study.baseline], list(dict.fromkeys(job.cell.row for job in jobs)))
    _refuse_others("columns", study.columns, {key: None for group in groups.values() for key in _columns(group)})
    _refuse_unpublished(study.published or (), groups.values())
    for label, group in groups.items():
        for name in study.columns:
            if name not in _columns(group):
                raise UserError(f"report: columns: {name} is not a number of order {label}; its numbers are "
                                f"{', '.join(_columns(group))}: make a study of "
                                "each kind")
        for space in _spaces(group):
            known = measure_of(space).numbers_in(space)
            if study.columns and not {*study.columns} & {*known}:
                raise UserError(f"report: columns: none of them is a number of the label space {space}; add one of "
                                f"{', '.join(known)}")


def _refuse_shared_name(names, rows):
    """Refuse names that would make two rows of a table indistinguishable."""
    seen = {}
    for row in rows:
        other = seen.setdefault(names.get(row, row), row)
        if other != row:
            raise UserError(f"report: names: {other} and {row} would both be called {names.get(row, row)}; give one of "
                            "them another name")


def _refuse_others(key, names, known):
    for name in names:
        if name not in known:
            raise UserError(f"report: {key}: {name} is not in this study; {nearest_or_all(name, known)}")


def _columns(group):
    """Return the numbers of any label space of an order."""
    return tuple(dict.fromkeys(key for space in _spaces(group) for key in measure_of(space).numbers_in(space)))


def _refuse_unpublished(names, groups):
    """Refuse published rows that no order of the study has, in the label spaces of its cells."""
    if not names:
        return
    found = dict.fromkeys(row.name.removeprefix(PREFIX) for group in groups for order, protocol in PROTOCOLS.items()
                          if {job.tasks for job in group} == {protocol.order} for row in published_rows(order)
                          if row.conditions.space in _spaces(group))
    for name in names:
        if not found:
            raise UserError("report: published: nothing is published for these orders; leave it out")
        if name not in found:
            raise UserError(f"report: published: {name} has no numbers for these orders in their label space; there "
                            f"are {', '.join(found)}")


def tables_of(study, jobs):
    """Return the Report of finished Jobs, each order's runs compared with each other."""
    runs = {order: [read_run(job.folder, "--save") for job in group] for order, group in _by_order(jobs).items()}
    baseline = study.baseline and study.names.get(study.baseline, study.baseline)
    named = {order: [_named(table, study, jobs) for table in tables] for order, tables in compare_orders(runs).items()}
    return Report(study.name, {order: [table for table in tables if table.rows] for order, tables in named.items()},
                  baseline, several=len({*runs, *(cell.order for cell in study.cells)}) > 1)


def _named(table, study, jobs):
    """Return the Table with the rows, names and columns of the study's report."""
    rows_of = {str(job.folder): job.cell.row for job in jobs}
    rows = [row for row in table.rows
            if row.kind != PUBLISHED or study.published is None or row.name.removeprefix(PREFIX) in study.published]
    names = [rows_of[row.runs[0]] if row.kind == RUN else row.name for row in rows]
    # Runs of one row that must not be averaged, such as runs in two precisions, keep their folders' names beside it.
    names = [study.names.get(name, name) + (f" ({row.name})" if names.count(name) > 1 else "")
             for name, row in zip(names, rows, strict=True)]
    return replace(table, columns=study.columns, rows=tuple(
        replace(row, name=name) for name, row in zip(names, rows, strict=True)))
