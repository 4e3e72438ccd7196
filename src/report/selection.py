"""Choose the setting of each row of a study from the numbers of its trials; as a table and as json. Reads no files."""

import statistics
from dataclasses import dataclass

from src.cli.flags import FLAGS
from src.cli.texts import nearest_or_all, shown
from src.errors import UserError
from src.report.measures import ACCURACY, LOWER_IS_BETTER, RETRIEVAL, TITLES
from src.report.seeds import SCORING
from src.report.sequence import sequence_metrics
from src.report.tables import markdown_table


@dataclass(frozen=True)
class Choice:
    """Hold the setting that a row takes.

    ``setting``: its label, None if trials are missing, with the reason in ``why``. ``values``: {setting:
    {trial: its number, None if it has none yet}}. ``means``: {setting: mean over its trials, or None}.
    ``tied``: the best settings; the first is taken. ``seconds``: what the trials' tasks took so far.
    """

    row: str
    setting: str | None
    why: str
    values: dict
    means: dict
    tied: tuple
    seconds: float


def choice_of(row, values, by, seconds=0.0, failed=()):
    """Return the Choice of a row by the number ``by``. ``failed``: names of the failed trials."""
    means = {setting: None if None in found.values() else statistics.fmean(found.values())
             for setting, found in values.items()}
    missing = [name for found in values.values() for name, value in found.items() if value is None]
    if missing:
        return Choice(row, None, _why(missing, failed, sum(map(len, values.values()))), values, means, (), seconds)
    best = (min if by in LOWER_IS_BETTER else max)(means.values())
    tied = tuple(setting for setting, mean in means.items() if mean == best)
    return Choice(row, tied[0], "", values, means, tied, seconds)


def _why(missing, failed, trials):
    broken = [name for name in missing if name in failed]
    if broken:
        others = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        return f"no choice, because trial {broken[0]}{others} failed: fix it, or remove its value from the grid"
    return f"waits for {len(missing)} of its {trials} trials"


def by_of(select, trials):
    """Return the number that decides: the one that the file names, or the one that tables rank by."""
    return select.by or _measure(trials[0]).best


def _measure(job):
    return RETRIEVAL if job.pairs else ACCURACY


def space_of(job):
    """Return the label space that decides: the first of the run, or "retrieval"."""
    return RETRIEVAL.space if job.pairs else job.numbers["label_space"][0]


def refuse_what_decides_nothing(select, trials):
    """Refuse trials without the deciding number, and trials of one row whose numbers do not compare."""
    for job in trials:
        by, numbers = by_of(select, trials), _measure(job).numbers_in(space_of(job))
        if by not in numbers:
            raise UserError(f"select: by: {by} is not a number of trial {job.name}; {nearest_or_all(by, numbers)}")
        tasks = len(job.tasks)
        if not job.pairs and sequence_metrics([[0.0] * tasks] * tasks).get(by, 0.0) is None:
            raise UserError(f"select: by: {by} of trial {job.name} is not defined: a sequence of one task has none; "
                            "give on: {orders: ...} of several")
    firsts = {}
    for job in trials:
        first = firsts.setdefault(job.cell.row, job)
        for key in SCORING:
            if job.numbers[key] != first.numbers[key]:
                name, here, there = FLAGS[key].name, shown(job.numbers[key]), shown(first.numbers[key])
                raise UserError(f"trial {job.name} of the study is scored with {name} {here}, trial {first.name} with "
                                f"{name} {there}; their numbers do not compare")


# -- as text -----------------------------------------------------------------------------------------------------------


def selection_markdown(select, choices, by, space, names):
    """Return the table of the Choices {row: Choice}, below what they were chosen by.

    ``space``: the label space. ``names``: {row: its name in tables}.
    """
    labels = [setting.label for setting in select.settings]
    rows = [[names.get(row, row), choice.setting or "-", *(choice.means[label] for label in labels),
             f"{_finished(choice)} of {_trials(choice)}", f"{choice.seconds / 3600:.3g}"]
            for row, choice in choices.items()]
    parts = [f"chosen on val images by {_by_text(by, space)}, the mean over {_over('order', select.orders)} and "
             f"{_over('seed', select.seeds)}",
             markdown_table(["row", "chosen", *labels, "trials", "hours"], rows),
             "\n".join(tie_notes(choices, by))]
    return "\n\n".join(filter(None, parts)) + "\n"


def tie_notes(choices, by):
    """Return a line for each row with several best settings."""
    return [f"note: {row}: {' and '.join(choice.tied)} tie at {by} {choice.means[choice.setting]:.6g}; the first in "
            "the file is taken" for row, choice in choices.items() if len(choice.tied) > 1]


def _by_text(by, space):
    better = "lower is better" if by in LOWER_IS_BETTER else "higher is better"
    return f"{TITLES[by]} ({'' if space == RETRIEVAL.space else f'classes of {space}, '}{better})"


def _over(what, labels):
    return f"{what}{'s' if len(labels) > 1 else ''} {', '.join(labels)}"


def _trials(choice):
    return sum(map(len, choice.values.values()))


def _finished(choice):
    return sum(value is not None for found in choice.values.values() for value in found.values())


def selection_json(select, choices, by, space):
    """Return the content of ``selection.json``."""
    texts = {setting.label: {FLAGS[key].name: False if text is None else text for key, text in setting.texts.items()}
             for setting in select.settings}
    seeds = [int(seed) for seed in select.seeds]
    return {"by": by, "label_space": space, "split": "val", "seeds": seeds, "orders": list(select.orders),
            "settings": texts, "rows": {row: {
                "chosen": choice.setting, "flags": texts.get(choice.setting), "why": choice.why, "means": choice.means,
                "tied": list(choice.tied), "trials": choice.values, "hours": round(choice.seconds / 3600, 4)}
                for row, choice in choices.items()}}
