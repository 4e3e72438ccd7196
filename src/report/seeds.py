"""Group runs that differ only in their seed into one row, named by what their folders share."""

import os
from pathlib import Path

from src.cli.flags import FLAGS
from src.cli.texts import shown
from src.report.conditions import conditions_of_run

WHICH = ("seed", "load", "train_dataset", "dataset_order", "eval_datasets")  # which run it is, not how it trained
IMAGES = ("eval_split", "max_evaluation_size", "wilds_split", "retrieval_split")  # which images are scored
SCORING = ("label_space", *IMAGES)  # without effect on training


def groups_of(runs):
    """Return [[runs that differ only in their seed among what can change a number]], in the given order.

    A repeated seed begins another group: a run and its copy are not two draws.
    """
    groups = {}
    for run in runs:
        same = _configuration(run)
        turn = next(turn for turn in range(len(runs))
                    if run.seed not in [other.seed for other in groups.get((same, turn), ())])
        groups.setdefault((same, turn), []).append(run)
    return list(groups.values())


def across_orders(groups):
    """Return [[groups that differ only in their order]] of {label of an order: groups of its runs}, in the
    given order.

    Among several groups that differ in nothing, the first of an order goes with the first of another.
    """
    found = {}
    for each in groups.values():
        seen = []
        for group in each:
            same = _apart_from_order(group[0])
            found.setdefault((same, seen.count(same)), []).append(group)
            seen.append(same)
    return list(found.values())


def _apart_from_order(run):
    """Return a text of everything that can change a number, apart from order and seed."""
    flags = [sorted((key, value) for key, value in flags.items() if key not in WHICH) for flags in _flags(run)]
    return repr((run.precision, sorted(flags, key=repr)))


def _configuration(run):
    """Return a text of everything that can change a number, apart from the seed: what was trained, as resolved,
    and the precision."""
    conditions = [conditions_of_run(run, space) for space in run.spaces]
    return repr((run.order, conditions, run.precision, [sorted(flags.items()) for flags in _flags(run)]))


def _flags(run):
    """Return [{flag key: value}] of the flags, apart from the seed, that can change a number.

    One for the run, or one for each single run that a matrix was rebuilt from; their file paths differ between
    seeds.
    """
    resolved = {key: flag["value"] for key, flag in run.flags.items()}
    scoring = {key: resolved[key] for key in SCORING if key in resolved}
    apart = {"seed", "load"} if run.trained_with else {"seed"}
    return [{key: value for key, value in flags.items()
             if key not in apart and (key not in FLAGS or FLAGS[key].numbers)}
            for flags in ([{**resolved, **trained, **scoring} for trained in run.trained_with] or [resolved])]


def differing_flags(groups):
    """Return, for each group, {flag: value as typed} of the flags in which the groups differ, and of custom hooks
    where there are any: no name of a method tells of these."""
    found = [_flags(group[0])[0] for group in groups]
    keys = [key for key, flag in FLAGS.items() if flag.numbers and key not in WHICH
            and _tells_apart(key, [flags.get(key) for flags in found])]
    return [{FLAGS[key].name: shown(flags.get(key)) for key in keys} for flags in found]


def _tells_apart(key, values):
    return any(values) if key == "hooks" else any(value != values[0] for value in values)


def names_of(groups):
    """Return names for [[folders]]: relative to the folder that all share, with * where those of one group
    differ.

    If that says too little, all folders of a group are named.
    """
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
