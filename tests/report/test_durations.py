"""Durations and sizes as texts."""

import pytest

from src.report.durations import duration, size


@pytest.mark.parametrize(("seconds", "text"), [
    (None, "–"), (9.94, "9.9 s"), (59.99, "1 min 00 s"), (725, "12 min 05 s"), (26400.5, "7 h 20 min"),
    (3599.9, "1 h 00 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [
    (None, "–"), (0, "0 B"), (2 ** 20, "1.0 MiB"), (31 * 2 ** 30, "31.00 GiB")])
def test_sizes(count, text):
    assert size(count) == text
