"""The best and the second of a column, against pandas' dense ranks of what is printed."""

import random

import pandas
import pytest

from src.report.ranks import ranks


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", ["avg", "forgetting", "bwt"])
def test_the_ranks_are_those_of_pandas(number, seed):
    draw = random.Random(f"{number} {seed}")
    values = [None if draw.random() < 0.2 else draw.uniform(-1, 1) for _ in range(12)]
    printed = pandas.Series([None if value is None else float(f"{value:.1f}") for value in values], dtype=float)
    peer = printed.rank(method="dense", ascending=number == "forgetting")
    assert ranks(values, number) == [int(place) if place <= 2 else None for place in peer]


@pytest.mark.parametrize(("values", "expected"), [
    ([75.44, 75.36, 70.0], [1, 1, 2]), ([1.0, 1.0, 1.0], [1, 1, 1]), ([1.0, None], [None, None]), ([], []),
    ([None, 2.0, 3.0], [None, 2, 1]), ([-0.01, 0.01, -5.0], [1, 1, 2])])
def test_what_is_printed_alike_shares_a_rank_and_one_value_has_none(values, expected):
    assert ranks(values, "avg") == expected
