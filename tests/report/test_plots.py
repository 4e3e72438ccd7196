"""Points and curves as SVG coordinates."""

import pytest

from src.report import plots
from src.report.over_seeds import Spread
from src.report.plots import LARGE, SMALL, Look, Point

LOOK = Look("run0", "circle")


def test_a_point_stands_where_its_numbers_are():
    points = [Point("one", LOOK, 50.0, 100.0), Point("two", LOOK, 0.0, 0.0)]
    plot = plots.scatter(points, [0, 50, 100], [0, 100])
    middle = (LARGE.left + LARGE.right) / 2
    assert [mark[2:4] for mark in plot.marks] == [(middle, LARGE.top), (LARGE.left, LARGE.bottom)]
    assert plot.x_ticks == [(LARGE.left, "0"), (middle, "50"), (LARGE.right, "100")] and plot.lines == []
    assert [label[3] for label in plot.labels] == ["one", "two"]


def test_deviations_are_bars_that_end_with_the_scale():
    plot = plots.scatter([Point("one", LOOK, 50.0, 99.0, 25.0, 2.0)], [0, 100], [0, 100])
    (_, across), (_, up) = plot.lines
    quarter = (LARGE.right - LARGE.left) / 4
    assert across.startswith(f"M{LARGE.left + quarter:g} ") and f"L{LARGE.right - quarter:g} " in across
    assert up.endswith(f" {LARGE.top:g}")


def test_a_name_covers_no_bar():
    """The place right of a point is the first choice, where the bar of this one is."""
    free, = plots.scatter([Point("one", LOOK, 50.0, 50.0)], [0, 100], [0, 100]).labels
    barred, = plots.scatter([Point("one", LOOK, 50.0, 50.0, 20.0, None)], [0, 100], [0, 100]).labels
    middle = (LARGE.top + LARGE.bottom) / 2
    assert abs(free[2] - middle) < plots.LINE / 2 <= abs(barred[2] - middle)


def test_powers_of_ten_have_equal_distances():
    plot = plots.scatter([Point("one", LOOK, 1e6, 0.0)], [1e4, 1e6, 1e8], [0, 100], logarithmic=True)
    assert plot.marks[0][2] == (LARGE.left + LARGE.right) / 2


@pytest.mark.parametrize(("values", "logarithmic"), [([300, 5000], False), ([300, 30000], True), ([0, 30000], False),
                                                     ([0, 0], False)])
def test_a_cost_that_grows_a_hundredfold_is_logarithmic(values, logarithmic):
    ticks, found = plots.cost_ticks(values)
    assert found == logarithmic and ticks[0] <= min(values) and ticks[-1] >= max(values) and len(ticks) > 1


def test_wide_letters_take_twice_the_room():
    assert plots.text_width("流れ") == plots.text_width("abcd") == 4 * plots.LETTER


def test_a_band_is_between_the_least_and_the_most():
    spreads = [None, Spread(0.0, 50.0, 100.0), Spread(50.0, 50.0, 50.0)]
    plot = plots.band_chart(spreads, [[None, Spread(1.0, 1.0, 1.0), None]], LOOK, [0, 50, 100])
    [(style, band)] = plot.bands
    middle, end = (SMALL.left + SMALL.right) / 2, SMALL.right - 6
    half = (SMALL.top + SMALL.bottom) / 2
    assert style == "run0"
    assert band == f"M{middle:g} {SMALL.top}L{end} {half:g}L{end} {half:g}L{middle:g} {SMALL.bottom}z"
    assert [style for style, _ in plot.lines] == ["behind", "run0"] and plot.levels == []
    assert [mark[4] for mark in plot.marks] == ["after task 1: 50.0 (0.0 to 100.0)", "after task 2: 50.0"]


def test_equal_seeds_have_no_band_and_zero_shot_a_level():
    spreads = [Spread(20.0, 20.0, 20.0), Spread(50.0, 50.0, 50.0)]
    plot = plots.band_chart(spreads, [], LOOK, [0, 100])
    assert plot.bands == [] and len(plot.levels) == 1 and plot.x_ticks[0][1] == "zs"
