"""State the conditions of a planned run's numbers, and the published rows to compare them with."""

from src.cli.protocols import PROTOCOLS
from src.cli.recipes import recipe_names
from src.datasets import known_pairs
from src.report.conditions import LINEAR
from src.report.measures import RETRIEVAL, SUMMARY, TITLES
from src.report.published import published_rows
from src.report.rows import ZERO_SHOT
from src.run.sequence import flags_behind


def conditions_text(run, names, start):
    """Return the head of each table, and the published rows of the order: zero-shot CLIP's and the recipe's."""
    if len(run.command.weights.loaded) > 1:
        return "those of the checkpoints of --load, which the run reads"
    found = planned_conditions(run, names, start)
    order = run.training.trained if run.scoring.in_order else ()
    lines = [conditions.text() for conditions in found]
    return "\n".join([*lines, *published_lines(tuple(order), run.files.values()["recipe"], found)])


def planned_conditions(run, names, start):
    """Return [Conditions] of the label spaces, as the run will have them."""
    linear = run.scoring.linear_eval
    sequence = bool(names) and run.training.sequence
    spaces = [LINEAR] if linear else [*run.scoring.label_space, RETRIEVAL.space]
    scored = [linear] if linear else names if sequence else run.evaluated
    history, own = () if sequence else start.get("history") or (), [run.files.values()]
    if names and not sequence:
        trained_with = [*([{}] if history else []), *own]
    else:
        trained_with = own if names else [*flags_behind(start), *(own if linear else [])]
    by_space = {space: [name for name in scored if known_pairs(name) == (space == RETRIEVAL.space)]
                for space in spaces}
    return [run.conditions(those, trained_with, space, history) for space, those in by_space.items() if those]


def published_lines(order, recipe, found):
    """Return lines on what is published for ``order``; none for an unnamed order. ``found``: the run's Conditions."""
    rows = {name: published_rows(name) for name, protocol in PROTOCOLS.items() if order and protocol.order == order}
    if not rows:
        return []
    wanted = [ZERO_SHOT, *([recipe] if recipe in recipe_names() else [])]
    lines = []
    for sought in wanted:
        those = [(name, row, row_differences(row, found)) for name, each in rows.items() for row in each
                 if row.name == f"published {sought}"]
        if all(titles for _, _, titles in those):
            lines.append(f"no published row of {sought} under these conditions")
        lines += [row_text(name, row, titles) for name, row, titles in those]
    return lines


def row_differences(row, found):
    """Return titles of the conditions in which a published row differs from the run, so that it cannot rank
    with it."""
    same_space = [conditions for conditions in found if conditions.space == row.conditions.space]
    return row.conditions.differences((same_space or found)[0])


def row_text(order, row, titles):
    numbers = ", ".join(f"{TITLES[key]} {row.numbers[key]:g}" for key in SUMMARY if row.numbers[key] is not None)
    ranks = f"differs from this run in {', '.join(titles)}" if titles else "ranks with this run"
    return f"{row.name}, {order}: {numbers} ({row.source}); {ranks}"
