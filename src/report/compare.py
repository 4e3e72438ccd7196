"""Finished runs side by side: a row a run, or a row for all that differ in nothing but their seed."""

import os
import statistics
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

from src.cli.flags import FLAGS
from src.cli.protocols import PROTOCOLS
from src.cli.recipes import read_recipe, recipe_names
from src.cli.texts import read_value, shown
from src.errors import UserError
from src.machine.files import WriteError, atomic_file
from src.report.conditions import (
    TASK_IDS,
    UNKNOWN,
    Conditions,
    conditions_of_run,
    joined,
    reference_of,
    shots_of,
)
from src.report.latex import HEAD, definitions_caption, latex_table
from src.report.measures import ACCURACY, RETRIEVAL, SUMMARY, TITLES, measure_of
from src.report.tables import definitions_text, markdown_table, rows_csv

WHICH = ("seed", "load", "train_dataset", "dataset_order", "eval_datasets")  # which run it is, not how it was trained
IMAGES = ("eval_split", "max_evaluation_size", "wilds_split", "retrieval_split")  # which images are scored
SCORING = ("label_space", *IMAGES)  # of no training
CONDITIONS = ("family", "reference", "shots", "router", "task_id")  # the columns beside the label space's
ZERO_SHOT, RUN, PUBLISHED = "zero-shot", "run", "published"  # the kinds of rows


@dataclass(frozen=True)
class Row:
    """One row of a comparison. ``numbers``: {key: value in percent, the mean over the runs, or None}; ``deviations``:
    {key: sample standard deviation}, of several runs only; ``runs``: the folders behind it, none of a reference;
    ``order``: the tasks; ``flags``: {flag: value as one would write it} where the rows differ, the seed apart;
    ``split``: which part of the data was scored; ``source``: where a published row was read."""

    name: str
    kind: str
    numbers: dict
    conditions: Conditions
    deviations: dict = field(default_factory=dict)
    runs: tuple = ()
    order: tuple = ()
    flags: dict = field(default_factory=dict)
    split: str = "test"
    source: str = ""


@dataclass(frozen=True)
class Table:
    """Rows that rank: their ``conditions`` are those of the table, but for what a row is without. ``columns``: the
    numbers that are shown, all of the measure where none is named; files in csv have all."""

    conditions: Conditions
    rows: tuple
    columns: tuple = ()

    @property
    def space(self):
        """The label space, or "retrieval"."""
        return self.conditions.space


def compare(runs):
    """SequenceRuns -> [Table], for each label space that all have, and in it for each set of rows that rank.

    Rows whose conditions differ stand in different tables; a row without reference data stands in each that it fits.
    Class data: the best Avg first; image-text pairs: the best mean rsum. The zero-shot row stands above where all runs
    of a table share it, published ones below where all runs are of an order that has some, or in a table of their own.
    Raises UserError where no table can hold the runs.
    """
    _refuse_other_images(runs)
    return [table for space in _common_spaces(runs) for table in _tables(runs, space)]


def _tables(runs, space):
    """The tables of one label space, those with runs first."""
    rows = [*_run_rows(runs, space), *_published_rows(runs, space)]
    heads, kinds = [], dict.fromkeys(row.conditions for row in rows)
    for conditions in sorted(kinds, key=lambda found: astuple(found).count(None)):  # those that say most are the heads
        if all(conditions.differences(head) for head in heads):
            heads.append(conditions)
    found = [Table(head, tuple(row for row in rows if not row.conditions.differences(head))) for head in heads]
    found.sort(key=lambda table: min(map(rows.index, table.rows)))
    return [Table(table.conditions, (*_zero_shot_rows(_runs_of(table, runs), table.conditions), *table.rows))
            for table in found]


def _runs_of(table, runs):
    folders = {folder for row in table.rows for folder in row.runs}
    return [run for run in runs if str(run.folder) in folders]


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
    rows = []
    for name, group, differing in zip(names, groups, flags, strict=True):
        means, deviations = _mean_and_deviation([measure_of(space).numbers_of(run.spaces[space]) for run in group])
        rows.append(Row(name, RUN, means, conditions_of_run(group[0], space), deviations,
                        tuple(str(run.folder) for run in group), tuple(group[0].order), differing,
                        scored_on(group[0], "eval_split")))
    return sorted(rows, key=lambda row: -row.numbers[measure_of(space).best])


def _mean_and_deviation(found):
    """[{key: number or None}] of runs -> ({key: mean, or None}, {key: sample standard deviation}, of several runs)"""
    columns = {key: [numbers[key] for numbers in found] for key in found[0]}
    known = {key: values for key, values in columns.items() if None not in values}
    return ({key: statistics.fmean(known[key]) if key in known else None for key in columns},
            {key: statistics.stdev(values) for key, values in known.items() if len(values) > 1})


def _zero_shot_rows(runs, conditions):
    """What the weights score that all ``runs`` start from, as if nothing changed them. No row without runs."""
    starts = [_start(run.spaces[conditions.space]) for run in runs]
    if not starts or starts[0] is None or any(start != starts[0] for start in starts):
        return []
    numbers = measure_of(conditions.space).start_numbers(starts[0])
    plain = replace(conditions, reference=None, shots=None, router="none")
    return [] if numbers is None else [Row(ZERO_SHOT, ZERO_SHOT, numbers, plain)]


def _start(summary):
    """[(dataset, scores)] of the weights before training, None where they are not known."""
    row = measure_of(summary["label_space"]).start(summary)
    return row and [(name, row[name]) for name in summary["datasets"]]


def _published_rows(runs, space):
    """Rows of the literature: not measured here, and no part of the ranking."""
    orders = {tuple(run.order) for run in runs}
    rows = [row for name, protocol in PROTOCOLS.items() if orders == {protocol.order}
            for row in published_rows(name) if row.conditions.space == space]
    zero_shot = [row for row in rows if row.name == f"published {ZERO_SHOT}"]
    others = [row for row in rows if row not in zero_shot]
    return zero_shot + sorted(others, key=lambda row: -(row.numbers["avg"] or 0.0))


def published_rows(order):
    """The rows that are published of a named order: zero-shot CLIP's, and one of each recipe that has numbers."""
    protocol = PROTOCOLS[order]
    recipes = {name: read_recipe(name) for name in recipe_names()}
    found = [(name, recipe.published[order], recipe.flags) for name, recipe in recipes.items()
             if order in recipe.published]
    if protocol.published_zero_shot:
        found.insert(0, (ZERO_SHOT, protocol.published_zero_shot, {}))
    return [Row(f"published {name}", PUBLISHED,
                {key: float(numbers[key]) if key in numbers else None for key in SUMMARY},
                _published_conditions(protocol, numbers, flags), source=numbers.get("source", ""))
            for name, numbers, flags in found]


def _published_conditions(protocol, numbers, flags):
    """Family and router stand with the numbers; reference set, shots and label space follow from the flags of recipe
    and protocol. A row without flags is of nothing trained."""
    defaults = {key: flag.default for key, flag in FLAGS.items()}
    given = {name.replace("-", "_"): texts for name, texts in flags.items()}
    given = {key: read_value(FLAGS[key], texts if FLAGS[key].repeated else ",".join(texts))
             for key, texts in given.items()}
    values = defaults | protocol.fill((defaults | given)["method"]) | given
    space = values["label_space"][0]
    trained_with = [values] if flags else []
    return Conditions(numbers.get("family", UNKNOWN), joined(map(reference_of, trained_with)),
                      joined(map(shots_of, trained_with)), numbers.get("router", UNKNOWN), TASK_IDS[space], space)


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
    conditions = [conditions_of_run(run, space) for space in run.spaces]
    return repr((run.order, conditions, run.precision, [sorted(flags.items()) for flags in _flags(run)]))


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
    """[Table] -> the tables, each below its head, what the rows differ in, and what the numbers are."""
    parts = [f"{table.conditions.text()}\n\n{markdown_table(*_cells(table))}" for table in tables]
    parts += [*_notes(tables), "\n".join(_flag_lines(tables)), definitions_text(tables[0].space)]
    return "\n\n".join(filter(None, parts))


def comparison_latex(tables):
    return HEAD + "\n".join(
        latex_table(*_cells(table), " ".join([f"{table.conditions.text()}.", *_notes([table]),
                                              definitions_caption(table.space)]))
        for table in tables)


def comparison_csv(tables):
    """All digits: a row a Row, its means, its deviations, how many runs and which, and its conditions."""
    keys = measure_of(tables[0].space).numbers
    header = ["label_space", "row", "kind", "n", *keys, *(f"{key}_std" for key in keys), "runs", *CONDITIONS]
    lines = [(table.space, row.name, row.kind, len(row.runs) or None, *(row.numbers[key] for key in keys),
              *(row.deviations.get(key) for key in keys), ",".join(row.runs),
              *(getattr(row.conditions, key) for key in CONDITIONS)) for table in tables for row in table.rows]
    return rows_csv(header, list(dict.fromkeys(lines)))  # a row may stand in several tables


def _cells(table):
    keys = table.columns or measure_of(table.space).numbers
    first = measure_of(table.space).first_column(table.space)
    first += "".join(f", {split} images" for split in sorted({row.split for row in table.rows} - {"test"}))
    return [first, "n", *(TITLES[key] for key in keys)], [
        [row.name, len(row.runs) or None, *(_cell(row, key) for key in keys)] for row in table.rows]


def _cell(row, key):
    value = row.numbers[key]
    return f"{value:.1f} ± {row.deviations[key]:.1f}" if key in row.deviations else value


def _notes(tables):
    rows = _first_rows(tables)
    notes = {
        "n runs that differ only in their seed: mean ± sample standard deviation.": any(row.deviations for row in rows),
        "Published rows are from the literature, not measured here.": any(row.kind == PUBLISHED for row in rows),
        "The runs are of different sequences: their numbers are not of the same tasks.":
            len({row.order for row in rows if row.kind == RUN}) > 1}
    return [note for note, holds in notes.items() if holds] + _apart(tables) + _unknown(rows)


def _first_rows(tables):
    """The rows of the first label space, each once."""
    rows = [row for table in tables if table.space == tables[0].space for row in table.rows]
    return [row for number, row in enumerate(rows) if row not in rows[:number]]


def _apart(tables):
    """Why there are several tables of one label space."""
    heads = [table.conditions for table in tables if table.space == tables[0].space]
    titles = {title: None for one in heads for other in heads for title in one.differences(other)}
    return [f"Not ranked together: the tables differ in {', '.join(titles)}."] if titles else []


def _unknown(rows):
    found = [(row.name, row.conditions.unknown()) for row in rows if row.kind != ZERO_SHOT]
    return [f"{name}: {', '.join(titles)} unknown, which ranks with no known one. A run of an earlier version: run its "
            "command again, which keeps finished tasks and stores them. A class that scores in its own way: let it say "
            "router = \"none\", \"sample\" or \"batch\"." for name, titles in found if titles]


def _flag_lines(tables):
    """What the runs differ in, a line a row of them."""
    return [f"- {row.name}: " + " ".join(f"{flag} {value or 'none'}" for flag, value in row.flags.items())
            for row in _first_rows(tables) if row.flags]


FILES = {"compare.md": comparison_markdown, "compare.tex": comparison_latex, "compare.csv": comparison_csv}


def write_comparison(tables, folder):
    """Write [Table] as ``compare.md``, ``compare.tex`` and ``compare.csv`` under ``folder``. Raises UserError where
    they cannot be written."""
    try:
        for name, text in FILES.items():
            with atomic_file(Path(folder) / name, "w") as file:
                file.write(text(tables))
    except WriteError as error:
        raise UserError(f"--save {folder}: cannot be written ({error.strerror}); give another") from None
