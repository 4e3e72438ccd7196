"""Finished runs side by side: a row a run, or a row for all that differ in nothing but their seed."""

import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from src.cli.flags import FLAGS
from src.cli.protocols import PROTOCOLS
from src.cli.recipes import read_recipe, recipe_names
from src.cli.texts import shown
from src.errors import UserError
from src.machine.files import WriteError, atomic_file
from src.report.latex import HEAD, definitions_caption, latex_table
from src.report.measures import ACCURACY, RETRIEVAL, SUMMARY, TITLES, measure_of
from src.report.tables import definitions_text, markdown_table, rows_csv

WHICH = ("seed", "load", "train_dataset", "dataset_order", "eval_datasets")  # which run it is, not how it was trained
IMAGES = ("eval_split", "max_evaluation_size", "wilds_split", "retrieval_split")  # which images are scored
SCORING = ("label_space", *IMAGES)  # of no training
ZERO_SHOT, RUN, PUBLISHED = "zero-shot", "run", "published"  # the kinds of rows


@dataclass(frozen=True)
class Row:
    """One row of a comparison. ``numbers``: {key: value in percent, the mean over the runs, or None}; ``deviations``:
    {key: sample standard deviation}, of several runs only; ``runs``: the folders behind it, none of a reference;
    ``order``: the tasks; ``flags``: {flag: value as one would write it} where the rows differ, the seed apart;
    ``split``: which part of the data was scored."""

    name: str
    kind: str
    numbers: dict
    deviations: dict = field(default_factory=dict)
    runs: tuple = ()
    order: tuple = ()
    flags: dict = field(default_factory=dict)
    split: str = "test"


def compare(runs):
    """SequenceRuns -> {label space or "retrieval": [Row]}, for each label space that all have.

    Class data: the best Avg first; image-text pairs: the best mean rsum. The zero-shot row stands above where all runs
    share it, published ones below where all are of an order that has some. Raises UserError where no table can hold the
    runs.
    """
    _refuse_other_images(runs)
    return {space: [*_zero_shot_rows(runs, space), *_run_rows(runs, space), *_published_rows(runs, space)]
            for space in _common_spaces(runs)}


def _refuse_other_images(runs):
    """Refuse runs that were scored on other images of the same data: to rank them would compare the images."""
    first = runs[0]
    for run in runs[1:]:
        for key in IMAGES:
            one, other = scored_on(first, key), scored_on(run, key)
            if one != other:
                name = FLAGS[key].name
                raise UserError(f"--report: {first.folder} is scored with {name} {shown(one)}, {run.folder} with "
                                f"{name} {shown(other)}; numbers of other images do not rank together: give runs of "
                                "one kind")


def scored_on(run, key):
    """The value of a flag that chooses the scored images, its default where the run is older than the flag."""
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


def _run_rows(runs, space):
    groups = _groups(runs)
    names, flags = _names([[run.folder for run in group] for group in groups]), _differences(groups)
    rows = [Row(name, RUN, *_mean_and_deviation([measure_of(space).numbers_of(run.spaces[space]) for run in group]),
                tuple(str(run.folder) for run in group), tuple(group[0].order), differing,
                scored_on(group[0], "eval_split"))
            for name, group, differing in zip(names, groups, flags, strict=True)]
    return sorted(rows, key=lambda row: -row.numbers[measure_of(space).best])


def _mean_and_deviation(found):
    """[{key: number or None}] of runs -> ({key: mean, or None}, {key: sample standard deviation}, of several runs)"""
    columns = {key: [numbers[key] for numbers in found] for key in found[0]}
    known = {key: values for key, values in columns.items() if None not in values}
    return ({key: statistics.fmean(known[key]) if key in known else None for key in columns},
            {key: statistics.stdev(values) for key, values in known.items() if len(values) > 1})


def _zero_shot_rows(runs, space):
    """What the weights score that all runs start from, as if nothing changed them."""
    first, *others = [_start(run.spaces[space]) for run in runs]
    if first is None or any(start != first for start in others):
        return []
    numbers = measure_of(space).start_numbers(first)
    return [] if numbers is None else [Row(ZERO_SHOT, ZERO_SHOT, numbers)]


def _start(summary):
    """[(dataset, scores)] of the weights before training, None where they are not known."""
    row = measure_of(summary["label_space"]).start(summary)
    return row and [(name, row[name]) for name in summary["datasets"]]


def _published_rows(runs, space):
    """Rows of the literature: not measured here, and no part of the ranking."""
    orders = {tuple(run.order) for run in runs}
    found = [name for name, protocol in PROTOCOLS.items() if orders == {protocol.order}]
    if space != "task" or not found:
        return []
    published = {name: read_recipe(name).published.get(found[0]) for name in recipe_names()}
    published = {ZERO_SHOT: PROTOCOLS[found[0]].published_zero_shot, **published}
    rows = [Row(f"published {name}", PUBLISHED, {key: float(numbers[key]) if key in numbers else None
                                                 for key in SUMMARY}) for name, numbers in published.items() if numbers]
    return rows[:1] + sorted(rows[1:], key=lambda row: -row.numbers["avg"])


# -- runs that differ only in their seed -------------------------------------------------------------------------------


def _groups(runs):
    """[[runs that differ in their seed and in nothing else that can change a number]], as they were given. A seed that
    came before begins another group: a run and its copy are not two draws."""
    groups = {}
    for run in runs:
        same = _configuration(run)
        turn = next(turn for turn in range(len(runs))
                    if run.seed not in [other.seed for other in groups.get((same, turn), ())])
        groups.setdefault((same, turn), []).append(run)
    return list(groups.values())


def _configuration(run):
    """Text of all but the seed that can change a number: what was trained, as resolved, and in which precision."""
    return repr((run.order, list(run.spaces), run.precision, [sorted(flags.items()) for flags in _flags(run)]))


def _flags(run):
    """[{flag key: value} of those but the seed that can change a number]: of the run, or of each single run that a
    matrix was rebuilt from, whose files are in other places for each seed."""
    resolved = {key: flag["value"] for key, flag in run.flags.items()}
    scoring = {key: resolved[key] for key in SCORING if key in resolved}
    apart = {"seed", "load"} if run.trained_with else {"seed"}
    return [{key: value for key, value in flags.items()
             if key not in apart and (key not in FLAGS or FLAGS[key].numbers)}
            for flags in ([{**resolved, **trained, **scoring} for trained in run.trained_with] or [resolved])]


def _differences(groups):
    """For each group {flag: value as one would write it}, of the flags in which the groups differ."""
    found = [_flags(group[0])[0] for group in groups]
    keys = [key for key, flag in FLAGS.items() if flag.numbers and key not in WHICH
            and any(flags.get(key) != found[0].get(key) for flags in found)]
    return [{FLAGS[key].name: shown(flags.get(key)) for key in keys} for flags in found]


def _names(groups):
    """[[folders]] -> names for them: below the folder that all share, with * where those of one group differ, or all of
    a group's where that tells too little."""
    places = [[Path(folder).resolve() for folder in group] for group in groups]
    every = [place for group in places for place in group]
    shared = os.path.commonpath([place.parent for place in every])
    named = [[place.relative_to(shared).as_posix() for place in group] for group in places]
    patterns = [_pattern(group) for group in named]
    return [pattern if patterns.count(pattern) == 1 and pattern != "*" else ",".join(group)
            for pattern, group in zip(patterns, named, strict=True)]


def _pattern(names):
    if len(names) == 1:
        return names[0]
    start = os.path.commonprefix(names)
    end = os.path.commonprefix([name[len(start):][::-1] for name in names])[::-1]
    return f"{start}*{end}"


# -- as text -----------------------------------------------------------------------------------------------------------


def comparison_markdown(tables):
    """{space: [Row]} -> the tables, what the rows differ in, and what the numbers are."""
    space = next(iter(tables))
    parts = [markdown_table(*_cells(space, rows)) for space, rows in tables.items()]
    parts += [*_notes(tables), "\n".join(_flag_lines(tables)), definitions_text(space)]
    return "\n\n".join(filter(None, parts))


def comparison_latex(tables):
    return HEAD + "\n".join(
        latex_table(*_cells(space, rows), " ".join([*_notes({space: rows}), definitions_caption(space)]))
        for space, rows in tables.items())


def comparison_csv(tables):
    """All digits: a row a Row, its means, its deviations, how many runs and which."""
    keys = measure_of(next(iter(tables))).numbers
    header = ["label_space", "row", "kind", "n", *keys, *(f"{key}_std" for key in keys), "runs"]
    return rows_csv(header, [
        [space, row.name, row.kind, len(row.runs) or None, *(row.numbers[key] for key in keys),
         *(row.deviations.get(key) for key in keys), ",".join(row.runs)]
        for space, rows in tables.items() for row in rows])


def _cells(space, rows):
    keys, first = measure_of(space).numbers, measure_of(space).first_column(space)
    first += "".join(f", {split} images" for split in sorted({row.split for row in rows} - {"test"}))
    return [first, "n", *(TITLES[key] for key in keys)], [
        [row.name, len(row.runs) or None, *(_cell(row, key) for key in keys)] for row in rows]


def _cell(row, key):
    value = row.numbers[key]
    return f"{value:.1f} ± {row.deviations[key]:.1f}" if key in row.deviations else value


def _notes(tables):
    rows = next(iter(tables.values()))
    notes = {
        "n runs that differ only in their seed: mean ± sample standard deviation.": any(row.deviations for row in rows),
        "Published rows are from the literature, not measured here.": any(row.kind == PUBLISHED for row in rows),
        "The runs are of different sequences: their numbers are not of the same tasks.":
            len({row.order for row in rows if row.kind == RUN}) > 1}
    return [note for note, holds in notes.items() if holds]


def _flag_lines(tables):
    """What the runs differ in, a line a row of them."""
    return [f"- {row.name}: " + " ".join(f"{flag} {value or 'none'}" for flag, value in row.flags.items())
            for row in next(iter(tables.values())) if row.flags]


FILES = {"compare.md": comparison_markdown, "compare.tex": comparison_latex, "compare.csv": comparison_csv}


def write_comparison(tables, folder):
    """``compare.md``, ``compare.tex`` and ``compare.csv`` under ``folder``; UserError where they cannot be written."""
    try:
        for name, text in FILES.items():
            with atomic_file(Path(folder) / name, "w") as file:
                file.write(text(tables))
    except WriteError as error:
        raise UserError(f"--save {folder}: cannot be written ({error.strerror}); give another") from None
