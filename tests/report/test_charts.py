"""Numbers as lines of SVG coordinates: scales, ticks, what is thinned, what is said."""

import math
import re

import pytest

from src.report import charts


def places(text):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML](\S+) ([\d.]+)", text)]


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0, 100, [0, 25, 50, 75, 100]), (24.3, 61, [20, 30, 40, 50, 60, 70]), (0.0, 0.0, [0, 1]), (3, 3, [3, 4])])
def test_ticks_are_round_and_enclose(low, high, expected):
    assert charts.nice_ticks(low, high) == expected


def test_many_ranges_have_few_ticks():
    for scale in (1e-6, 1.0, 1e4):
        for width in (0.1, 0.7, 1, 3, 9.9):
            found = charts.nice_ticks(scale, scale * (1 + width))
            assert 2 <= len(found) <= 6 and found[0] <= scale * (1 + 1e-6) and found[-1] >= scale * (1 + width - 1e-6)


def test_a_scale_of_scores_shows_no_noise_as_a_cliff():
    for values in ([100.0, 99.9], [0.0, 0.1], [50.0, 50.2], []):
        ticks = charts.score_ticks(values)
        assert ticks[-1] - ticks[0] >= 10 and ticks[0] >= 0 and ticks[-1] <= 100


def test_powers_of_ten():
    assert charts.log_ticks(0.002, 3.0) == pytest.approx([1e-3, 1e-2, 1e-1, 1, 10])
    found = charts.log_ticks(1e-9, 1.0)
    assert len(found) <= 5 and found[0] <= 1e-9 * 1.001 and found[-1] >= 1


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (62.5, "62.5"), (7.5e-6, "7.5e-6"), (3e-4, "3e-4"), (1e-3, "1e-3"), (250000.0, "2.5e5"), (0.05, "0.05")])
def test_a_ticks_label(value, text):
    assert charts.tick_text(value) == text


def test_a_path_is_parted_where_there_is_no_point():
    assert charts.path([(0, 1), (2, 3), None, (4, 5), None]) == "M0 1L2 3M4 5h0"
    assert charts.path([None, None]) == ""


def test_thinning_keeps_peaks_and_breaks():
    points = [(step, math.sin(step / 9)) for step in range(1000)]
    points[333], points[700] = (333, 50.0), (700, math.nan)
    kept = charts.thinned(points, 100)
    assert len(kept) <= 101 + 1 and points[333] in kept and points[700] in kept
    assert [step for step, _ in kept] == sorted(step for step, _ in kept)
    assert min(value for _, value in kept) == min(value for _, value in points)
    assert charts.thinned(points[:50], 100) == points[:50]


def test_a_curve_against_hand_arithmetic():
    chart = charts.score_chart("B", {"top-1": [20.0, 40.0, 90.0, 65.0]}, [2])
    # Ticks 20, 40, ..., 100 over 132 units of height; four columns over 238 units of width.
    assert [text for _, text in chart.y_ticks] == ["20", "40", "60", "80", "100"]
    [(_, line)] = chart.lines
    assert places(line) == [(44, 142), (123.3, 109), (202.7, 26.5), (282, 67.8)]
    assert chart.levels == [("first", 142)] and chart.cuts == [202.7]
    assert [style for style, *_ in chart.marks] == ["first", "first", "first trained", "first"]
    assert chart.text == "B: zero-shot 20.0 → trained 90.0 → last 65.0"
    assert chart.marks[1][3] == "top-1, after task 1: 40.0"
    assert [text for _, text in chart.x_ticks] == ["zs", "1", "2", "3"]


def test_a_curve_without_a_start():
    chart = charts.score_chart("B", {"top-1": [None, None, 50.0, 60.0]}, [2])
    assert chart.levels == [] and chart.lines[0][1].count("M") == 1 and len(chart.marks) == 2
    assert chart.text == "B: trained 50.0 → last 60.0"


def test_two_curves_differ_in_more_than_colour():
    chart = charts.score_chart("p", {"image to text": [30.0, 40.0], "text to image": [15.0, 20.0]}, [1])
    assert [text[0] for _, text in chart.notes] == ["●", "■"]
    assert [style for style, _ in chart.lines] == ["first", "second"]


def test_losses_lie_task_by_task():
    chart = charts.loss_chart("task", [[(10, 2.0), (20, 1.0)], [], [(10, 1.5), (20, 0.5)]])
    first, none, last = (places(line) for _, line in chart.lines)
    third = 250 / 3
    assert none == [] and first[0][0] == pytest.approx(38 + third / 2, abs=0.1) and first[1][0] == pytest.approx(
        38 + third, abs=0.1)
    assert last[1] == (288, 142)  # the lowest tick is 0.5
    assert chart.cuts == [pytest.approx(38 + third, abs=0.1), pytest.approx(38 + 2 * third, abs=0.1)]
    assert chart.text == "task: 0.5 at the end"


def test_a_term_that_diverged_is_told():
    chart = charts.loss_chart("task", [[(1, 1.0), (2, math.inf), (3, math.nan)]])
    assert ("fault", "2 logged values are not finite: the term diverged") in chart.notes
    assert all(math.isfinite(value) for _, line in chart.lines for point in places(line) for value in point)
    nothing = charts.loss_chart("task", [[(1, math.nan)]])
    assert nothing.lines == [("first", "")]


def test_a_term_that_falls_far_is_logarithmic():
    chart = charts.loss_chart("kl", [[(1, 1.0), (2, 0.1), (3, 0.001)]])
    heights = [y for _, y in places(chart.lines[0][1])]
    assert heights[1] - heights[0] == pytest.approx((heights[2] - heights[1]) / 2, abs=0.2)
    assert "logarithmic" in chart.text
    assert "logarithmic" not in charts.loss_chart("l2", [[(1, 1.0), (2, 0.0)]]).text


def test_the_loss_of_one_task_stands_over_its_steps():
    chart = charts.loss_chart("task", [[(50, 2.0), (100, 1.0)]])
    assert [text for _, text in chart.x_ticks] == ["0", "25", "50", "75", "100"]
    assert chart.x_ticks[-1][0] == charts.RIGHT and places(chart.lines[0][1])[0][0] == chart.x_ticks[2][0]
