"""Random orders of a study, such as ``random:5@7``: five permutations of the base order's tasks, drawn by seed 7.

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
    """Whether a value of a file stands for random orders, well written or not."""
    return isinstance(value, str) and value.startswith(RANDOM)


def label_of_draw(text):
    """``random:5@7`` -> "random-7", which stays when the number changes."""
    return f"random-{text.rpartition('@')[2]}"


def random_orders(where, text, base):
    """``random:5@7`` -> five different orders of the tasks that ``base``, the text of --dataset-order, names.

    The first k of them are those of ``random:k@7``. Raises UserError, which begins with ``where``.
    """
    match = FORM.fullmatch(text)
    if not match:
        raise UserError(f"{where}: {text}: expected the number of orders and the seed that draws them, as in "
                        f"{RANDOM}5@7")
    if base is None:
        raise UserError(f"{where}: {text} permutes the tasks of a base order; name it, as in "
                        "base: {dataset-order: mtil-1}")
    tasks, number = _tasks(where, base), int(match[1])
    most = min(MOST_CELLS, math.factorial(min(len(tasks), 8)))  # the factorial of 8 is beyond the number of cells
    if not 1 <= number <= most:
        raise UserError(f"{where}: {text}: {len(tasks)} tasks have from 1 to {most} orders; give another number")
    return first_permutations(tasks, number, int(match[2]))


def _tasks(where, base):
    try:
        tasks = read_value(FLAGS["dataset_order"], base)
    except UserError as error:
        raise UserError(f"{where}: base: {error}") from None
    return PROTOCOLS[base].order if base in PROTOCOLS else tasks


def first_permutations(tasks, number, seed):
    """The first ``number`` different permutations that ``seed`` draws, as tuples."""
    draw, found = random.Random(seed).random, {}
    while len(found) < number:
        order = list(tasks)
        for last in range(len(order) - 1, 0, -1):
            chosen = int(draw() * (last + 1))
            order[last], order[chosen] = order[chosen], order[last]
        found.setdefault(tuple(order))
    return list(found)


def values_of_protocol(base, texts):
    """{flag key: text} of what the protocol ``base`` fills in for a cell with ``texts``, where neither these nor their
    recipe have it: a permuted order is no named one, so its command line has to say so itself. {} for another base."""
    if base not in PROTOCOLS:
        return {}
    recipe = read_recipe(texts["recipe"]).flags if "recipe" in texts else {}
    given = {word.replace("-", "_"): ",".join(words) for word, words in recipe.items()} | texts
    method = read_value(FLAGS["method"], given.get("method") or FLAGS["method"].default)
    return {key: shown(value) for key, value in PROTOCOLS[base].fill(method).items()
            if not (key in given or _is_replaced(key, given) or _is_idle(key, given, method))}


def _is_replaced(key, given):
    """Whether a given flag stands in the place of a protocol's, which would be refused beside it."""
    length = key in LENGTHS and any(other in given for other in LENGTHS)
    return length or key == "warmup_length" and given.get("schedule") == "onecycle"


def _is_idle(key, given, method):
    """Whether a flag belongs to another method, to steps that a closed form does not take, or to an add-on that is off:
    written out, it would be refused or warned of."""
    methods = {name for name, row in METHODS.items() if key in row.uses}
    if methods:
        return method not in methods
    if key in STEPPING and method in METHODS and METHODS[method].closed_form:
        return True
    add_ons = {name: row for name, row in ADD_ONS.items() if key in row.uses}
    switches = {switch for name, row in add_ons.items() for switch in row.switches or (name,)}
    return bool(switches) and not any(switch in given for switch in switches)
