"""Draw the charts of an order's Table: retention against learning, costs, curves over the tasks."""

from src.report.charts import score_ticks
from src.report.durations import duration
from src.report.measures import TITLES, measure_of
from src.report.over_seeds import curve, seconds_of, trained_values_of
from src.report.paper import count_text
from src.report.plots import Figure, Point, band_chart, cost_ticks, look_of, scatter, step_text, whole_ticks
from src.report.rows import RUN

MOST = {"mean_rsum": 600}  # maximum of numbers that are not percentages
COSTS = {  # {title: (the cost of a Row, its text, the axis title)}
    "Training time": (seconds_of, duration, "training seconds of a run, mean over seeds"),
    "Trained values": (trained_values_of, lambda count: count_text(round(count)),
                       "most values that a task trains, mean over seeds")}


def tradeoff_figure(table, looks):
    """Plot the two ``axes`` of the measure against each other; None if no row has both numbers."""
    across, up = axes = measure_of(table.space).axes
    rows = [row for row in table.rows if None not in (row.numbers.get(across), row.numbers.get(up))]
    if not rows:
        return None
    points = [Point(row.name, look_of(row, looks), row.numbers[across], row.numbers[up], row.deviations.get(across),
                    row.deviations.get(up), f"{row.name}: {_numbers_text(row, axes)}") for row in rows]
    bars = "; bars: sample deviation over seeds" if any(row.deviations for row in rows) else ""
    return Figure(
        f"{TITLES[across]} against {TITLES[up]}", _in_words(points),
        scatter(points, whole_ticks(_most(across)), whole_ticks(_most(up))),
        scatter(points, score_ticks(_ends(rows, across)), score_ticks(_ends(rows, up))),
        f"Up and to the right is better{bars}.", x_title=axes[across], y_title=axes[up])


def _numbers_text(row, keys):
    return ", ".join(f"{TITLES[key]} {row.numbers[key]:.1f}" for key in keys)


def _in_words(points):
    return "; ".join(point.text for point in points)


def _most(number):
    return MOST.get(number, 100)


def _ends(rows, number):
    """Return the ends of the bars of Rows."""
    return [row.numbers[number] + sign * row.deviations.get(number, 0.0) for row in rows for sign in (-1, 1)]


def costed_rows(table):
    """Return {title of a cost: [(Row of runs, its cost)]} of the rows that have it and the number that ranks."""
    number = measure_of(table.space).best
    rows = [row for row in table.rows if row.kind == RUN and row.numbers.get(number) is not None]
    found = {title: [(row, cost) for row in rows if (cost := cost_of(row)) is not None]
             for title, (cost_of, _, _) in COSTS.items()}
    return {title: costs for title, costs in found.items() if costs}


def cost_figures(table, looks):
    """Plot each known cost of the rows against the number that ranks."""
    number = measure_of(table.space).best
    return [_cost_figure(title, costs, number, looks) for title, costs in costed_rows(table).items()]


def _cost_figure(title, costs, number, looks):
    _, text_of, axis = COSTS[title]
    points = [Point(row.name, look_of(row, looks), cost, row.numbers[number], None, row.deviations.get(number),
                    f"{row.name}: {text_of(cost)}, {_numbers_text(row, [number])}") for row, cost in costs]
    ticks, logarithmic = cost_ticks([cost for _, cost in costs])
    plots = [scatter(points, ticks, ups, logarithmic) for ups in (
        whole_ticks(_most(number)), score_ticks(_ends([row for row, _ in costs], number)))]
    return Figure(f"{title} against {TITLES[number]}", _in_words(points), *plots, "Up and to the left is better.",
                  x_title=axis + (", logarithmic" if logarithmic else ""), y_title=TITLES[number])


def curve_groups(table, looks):
    """Return [{"title", "band", "figures"}], for each score drawn as curves, with a Figure per row of runs on
    one scale.

    ``band``: whether seeds differ anywhere.
    """
    rows = [row for row in table.rows if row.sequences]
    return [_curve_group(title, rows, [curve(row, score) for row in rows], looks)
            for score, title in measure_of(table.space).curves.items() if rows]


def _curve_group(title, rows, curves, looks):
    scales = whole_ticks(100), score_ticks(spread_ends(curves))
    figures = []
    for index, (row, own) in enumerate(zip(rows, curves, strict=True)):
        others = curves[:index] + curves[index + 1:]
        look = look_of(row, looks)
        figures.append(Figure(row.name, f"{row.name}: {_steps_text(own)}",
                              *(band_chart(own, others, look, ticks) for ticks in scales), _first_and_last(own, row),
                              look))
    return {"title": f"Mean {title} over the datasets", "figures": figures,
            "band": any(figure.whole.bands for figure in figures)}


def spread_ends(curves):
    return [value for spreads in curves for spread in spreads if spread for value in (spread.low, spread.high)]


def _steps_text(spreads):
    return "; ".join(step_text(number, spread) for number, spread in enumerate(spreads) if spread)


def _first_and_last(spreads, row):
    """Return "zero-shot 20.0 → last 76.7, 3 runs"."""
    known = [("zero-shot", spreads[0]), ("last", spreads[-1])]
    runs = f", {len(row.runs)} runs" if len(row.runs) > 1 else ""
    return " → ".join(f"{name} {spread.mean:.1f}" for name, spread in known if spread) + runs
