"""Define the order in which the classes of class splits arrive, and where they are cut."""

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

from src.datasets.common import some
from src.datasets.seeds import order_of_epoch, seed_of
from src.errors import UserError
from src.machine.files import read_json, read_lines

ORDERS = ("seed", "zscl", "pilot")
PUBLISHED = Path(__file__).with_name("class_orders.json")  # from ZSCL and MoE-Adapters: {dataset: class numbers}
PILOT_SEED = 1993
NUMBER = re.compile(r"\d{1,9}", re.ASCII)


class ClassOrder(NamedTuple):
    """Hold a class order.

    ``numbers``: the classes in order of arrival. ``mark``: its name in stored lists of splits. ``lists``:
    {flag: digest} of the file that it was read from.
    """

    numbers: list
    mark: str
    lists: dict


def split_count(classes, parts):
    """Return the number of class splits: ``parts``, or those of (base classes, increment); 0 if the classes
    cannot be split so."""
    if not isinstance(parts, tuple):
        return parts if parts <= classes else 0
    base, step = parts
    return 1 + (classes - base) // step if 0 < base < classes and step and (classes - base) % step == 0 else 0


def class_bounds(classes, part, parts):
    """Return (first, one past the last) index of one split in the order of the classes."""
    if not isinstance(parts, tuple):
        return classes * (part - 1) // parts, classes * part // parts
    base, step = parts
    return (base + step * (part - 2) if part > 1 else 0), base + step * (part - 1)


def class_order(name, classes, order="seed", seed=42):
    """Return the order of a dataset's ``classes`` by --class-order.

    "seed" draws it, "zscl" is that of ZSCL and MoE-Adapters, "pilot" that of numpy's seed 1993; anything else
    is a file. Raises UserError for an order of other classes.
    """
    if order == "seed":
        return ClassOrder(order_of_epoch(classes, seed_of(seed, name, "class order"), 0), str(seed), {})
    if order == "pilot":
        import numpy
        return ClassOrder(numpy.random.RandomState(PILOT_SEED).permutation(classes).tolist(), order, {})
    if order == "zscl":
        published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
        if name not in published:
            raise UserError(f"--class-order zscl: has no order for {name}; there are {some(published)}")
        return ClassOrder(_checked(published[name], classes, order, name), order, {})
    numbers = _checked(_numbers(order, name), classes, order, name)
    digest = hashlib.sha256(repr(numbers).encode()).hexdigest()
    return ClassOrder(numbers, digest[:8], {"--class-order": digest})


def _checked(numbers, classes, order, name):
    what = f"--class-order {order}: {name} has {classes} classes, numbered from 0;"
    if strangers := [number for number in numbers if not 0 <= number < classes]:
        raise UserError(f"{what} the order names {strangers[0]}")
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise UserError(f"{what} the order names {twice} twice")
    if len(numbers) != classes:
        raise UserError(f"{what} the order has {len(numbers)}")
    return numbers


def _numbers(path, name):
    """Return the class numbers of a file: yaml with ``class_order``; json with a list, ``class_order`` or a
    list per dataset; or text with numbers separated by spaces, commas or lines."""
    kind = Path(path).suffix.lower()
    try:
        content = _read(path, kind)
    except (OSError, ValueError) as error:
        raise UserError(f"--class-order {path}: cannot be read ({error})") from None
    if isinstance(content, dict):
        key = next((key for key in ("class_order", name) if key in content), None)
        if key is None:
            raise UserError(f"--class-order {path}: has neither class_order nor {name}; it has {some(content)}")
        content = content[key]
    texts = [str(number) for number in content] if isinstance(content, list) else []
    if strangers := [text for text in texts if not NUMBER.fullmatch(text)]:
        raise UserError(f"--class-order {path}: {strangers[0]!r} is not a class number")
    if not texts:
        raise UserError(f"--class-order {path}: has no list of class numbers")
    return [int(text) for text in texts]


def _read(path, kind):
    if kind == ".json":
        return read_json(path)
    if kind in (".yaml", ".yml"):
        from clip.files.plain_yaml import read_yaml
        return read_yaml(path)
    return [text for line in read_lines(path) for text in re.split(r"[\s,]+", line.strip("[], \t")) if text]
