"""Collect rows of the literature, stored with recipes and orders; they are not measured here."""

from src.cli.flags import FLAGS
from src.cli.protocols import PROTOCOLS
from src.cli.recipes import read_recipe, recipe_names
from src.cli.texts import read_value
from src.report.conditions import TASK_IDS, UNKNOWN, Conditions, joined, reference_of, shots_of
from src.report.measures import SUMMARY
from src.report.rows import PUBLISHED, ZERO_SHOT, Row

PREFIX = "published "  # of these rows' names


def published_beside(order, space):
    """Return the published rows for the tasks ``order`` in a label space: zero-shot CLIP first, then the best Avg."""
    rows = [row for name, protocol in PROTOCOLS.items() if protocol.order == order
            for row in published_rows(name) if row.conditions.space == space]
    zero_shot = [row for row in rows if row.name == PREFIX + ZERO_SHOT]
    others = [row for row in rows if row not in zero_shot]
    return zero_shot + sorted(others, key=lambda row: -(row.numbers["avg"] or 0.0))


def published_rows(order):
    """Return the rows published for a named order: zero-shot CLIP's, and one for each recipe that has numbers."""
    protocol = PROTOCOLS[order]
    recipes = {name: read_recipe(name) for name in recipe_names()}
    found = [(name, recipe.published[order], recipe.flags) for name, recipe in recipes.items()
             if order in recipe.published]
    if protocol.published_zero_shot:
        found.insert(0, (ZERO_SHOT, protocol.published_zero_shot, {}))
    return [Row(PREFIX + name, PUBLISHED,
                {key: float(numbers[key]) if key in numbers else None for key in SUMMARY},
                _published_conditions(protocol, numbers, flags), source=numbers.get("source", ""))
            for name, numbers, flags in found]


def _published_conditions(protocol, numbers, flags):
    """Return the conditions of a published row.

    Family and router are stored with the numbers; reference set, shots and label space follow from the flags of
    recipe and protocol. A row without flags trained nothing.
    """
    defaults = {key: flag.default for key, flag in FLAGS.items()}
    given = {name.replace("-", "_"): texts for name, texts in flags.items()}
    given = {key: read_value(FLAGS[key], texts if FLAGS[key].repeated else ",".join(texts))
             for key, texts in given.items()}
    values = defaults | protocol.fill((defaults | given)["method"]) | given
    space = values["label_space"][0]
    trained_with = [values] if flags else []
    return Conditions(numbers.get("family", UNKNOWN), joined(map(reference_of, trained_with)),
                      joined(map(shots_of, trained_with)), numbers.get("router", UNKNOWN), TASK_IDS[space], space)
