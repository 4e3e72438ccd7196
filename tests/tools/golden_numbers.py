"""Published numbers per dataset, and the accuracy matrices that have them."""

import json
from pathlib import Path

CONTENT = json.loads((Path(__file__).parents[1] / "data" / "golden_numbers.json").read_text(encoding="utf-8"))
ROWS = CONTENT["rows"]
ROUNDED_BADLY = {("GIFT", "order I", "transfer"), ("MoE", "16-shot order I", "transfer")}


def order_of(row):
    """The tasks of a row of the fixture."""
    return tuple(CONTENT["orders"][row["order"]])


def matrix_of(row):
    """A matrix whose columns have the published Transfer, Avg and Last of their dataset, as far as the row has them.

    Column j has Transfer before task j and Last in the last row; what lies between is one value, so that the column's
    mean is Avg. The last column has nothing between: its mean follows, within 0.1 of the published one.
    """
    last, numbers = row["numbers"]["last"]["cells"], row["numbers"]
    size = len(last)
    early = [None, *numbers["transfer"]["cells"]] if "transfer" in numbers else [None, *last[1:]]
    early = [None] * size if row["space"] == "seen" else early
    return [[early[column] if before < column else last[column] if before == size - 1 else
             _between(numbers, column, size, early[column]) for column in range(size)] for before in range(size)]


def _between(numbers, column, size, early):
    last = numbers["last"]["cells"][column]
    if "avg" not in numbers:
        return last
    known = column * (early or 0.0) + last
    return (size * numbers["avg"]["cells"][column] - known) / (size - 1 - column)


def rounds_to(value, printed):
    """Whether a number, rounded half up to one decimal, is the printed one."""
    return -0.05 - 1e-9 <= value - printed < 0.05 - 1e-9
