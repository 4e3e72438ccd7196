"""Draw the random orders of a study: ``random:5@7`` is five permutations of the base order's tasks, drawn by seed 7.

The draw is Fisher-Yates over ``random.Random(seed).random()``, whose numbers Python promises to keep across versions.
"""

import math
import random
import re

from src.cli.flags import FLAGS
from src.cli.protocols import PROTOCOLS
from src.cli.recipes import read_recipe
from src.cli.study_file import MOST_CELLS, RANDOM
from src.cli.texts import read_value, shown
from src.cli.training_checks import LENGTHS, STEPPING
from src.errors import UserError
from src.models import ADD_ONS, METHODS

FORM = re.compile(RANDOM + r"(\d{1,9})@(\d{1,18})")


def is_random(value):
    """Return whether a value in a file stands for random orders, well-formed or not."""
    return isinstance(value, str) and value.startswith(RANDOM)


def label_of_draw(text):
    """Return "random-7" for ``random:5@7``: the label stays when the number of orders changes."""
    return f"random-{text.rpartition('@')[2]}"


def random_orders(where, text, base):
    """Return five different orders for ``random:5@7``, of the tasks in ``base``, the text of --dataset-order.

    The first k of them are the orders of ``random:k@7``. Raises UserError, which begins with ``where``.
    """
    match = FORM.fullmatch(text)
    if not match:
        raise UserError(f"{where}: {text}: expected the number of orders and a seed, as in {RANDOM}5@7")
    if base is None:
        raise UserError(f"{where}: {text} permutes the tasks of a base order; name one, as in "
                        "base: {dataset-order: mtil-1}")
    tasks, number = _tasks(where, base), int(match[1])
    most = min(MOST_CELLS, math.factorial(min(len(tasks), 8)))  # 8! already exceeds the number of cells
    if not 1 <= number <= most:
        raise UserError(f"{where}: {text}: {len(tasks)} tasks allow 1 to {most} orders; give a number in that range")
    return first_permutations(tasks, number, int(match[2]))


def _tasks(where, base):
    try:
        tasks = read_value(FLAGS["dataset_order"], base)
    except UserError as error:
        raise UserError(f"{where}: base: {error}") from None
    return PROTOCOLS[base].order if base in PROTOCOLS else tasks


def first_permutations(tasks, number, seed):
    """Return the first ``number`` distinct permutations that ``seed`` draws, as tuples."""
    draw, found = random.Random(seed).random, {}
    while len(found) < number:
        order = list(tasks)
        for last in range(len(order) - 1, 0, -1):
            chosen = int(draw() * (last + 1))
            order[last], order[chosen] = order[chosen], order[last]
        found.setdefault(tuple(order))
    return list(found)


def values_of_protocol(base, texts):
    """Return {flag key: text} that the protocol ``base`` fills in for a cell with ``texts`` and its recipe.

    A permuted order is not a named one, so its command line has to spell these values out. {} for any other
    base.
    """
    if base not in PROTOCOLS:
        return {}
    recipe = read_recipe(texts["recipe"]).flags if "recipe" in texts else {}
    given = {word.replace("-", "_"): ",".join(words) for word, words in recipe.items()} | texts
    method = read_value(FLAGS["method"], given.get("method") or FLAGS["method"].default)
    return {key: shown(value) for key, value in PROTOCOLS[base].fill(method).items()
            if not (key in given or _is_replaced(key, given) or _is_idle(key, given, method))}


def _is_replaced(key, given):
    """Return whether a given flag takes the place of a protocol's flag; giving both would be refused."""
    length = key in LENGTHS and any(other in given for other in LENGTHS)
    return length or key == "warmup_length" and given.get("schedule") == "onecycle"


def _is_idle(key, given, method):
    """Return whether a flag belongs to another method, to steps that a closed form does not take, or to an
    inactive add-on.

    Spelling it out would be refused or draw a warning.
    """
    methods = {name for name, row in METHODS.items() if key in row.uses}
    if methods:
        return method not in methods
    if key in STEPPING and method in METHODS and METHODS[method].closed_form:
        return True
    add_ons = {name: row for name, row in ADD_ONS.items() if key in row.uses}
    switches = {switch for name, row in add_ons.items() for switch in row.switches or (name,)}
    return bool(switches) and not any(switch in given for switch in switches)
