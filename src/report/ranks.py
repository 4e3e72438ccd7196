"""Find the best and the second number of a column."""

from src.report.measures import LOWER_IS_BETTER
from src.report.tables import cell_text


def ranks(values, number):
    """Rank the comparable [value or None] of rows: [1 for the best, 2 for the second, else None].

    ``number``: such as "avg". Values that print alike share a rank. A single value has none.
    """
    printed = [None if value is None else float(cell_text(float(value))) for value in values]
    known = sorted({value for value in printed if value is not None}, reverse=number not in LOWER_IS_BETTER)
    if len([value for value in printed if value is not None]) < 2:
        return [None] * len(values)
    places = {value: place for place, value in enumerate(known[:2], start=1)}
    return [places.get(value) for value in printed]
