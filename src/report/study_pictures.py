"""Draw a Report of several runs as SVG pictures beside its page, with the same content: costs, curves, matrices."""

import math
from dataclasses import replace

from src.report import colours
from src.report.charts import score_ticks
from src.report.figures import GREY, LETTER, blues, ink_on, new_figure, panels, set_tasks, set_ticks, style, write_svg
from src.report.fonts import columns_of
from src.report.measures import TITLES, measure_of
from src.report.over_seeds import curve, mean_matrix
from src.report.plots import cost_ticks
from src.report.scores import SCORE_TITLES, row_title, scale_of
from src.report.study_figures import COSTS, costed_rows, spread_ends
from src.report.tradeoff import draw_tradeoff

CELL = 0.3  # width of a matrix cell in inches
MOST_WRITTEN = 12  # columns up to which the cells of a matrix show their number


def write_study_pictures(report, folder):
    """Write ``cost_<WHAT>.svg``, ``curves_<SCORE>.svg`` and ``matrices_<SCORE>.svg`` of a Report, for each
    order's first Table that has runs.

    With several orders each gets a folder, like its tables.
    """
    for order, tables in report.orders.items():
        table = next((table for table in tables if any(row.sequences for row in table.rows)), None)
        if table:
            with style(texts_of_report(report)):
                for name, figure in _drawn(table):
                    write_svg(figure, report.folder_of(order, folder) / f"{name}.svg")


def texts_of_report(report):
    """Return the user-given texts in the pictures of a Report."""
    rows = [row for table in report.tables for row in table.rows]
    datasets = [name for row in rows for run in row.sequences for name in run.summary["datasets"]]
    return [*(row.name for row in rows), *(task for row in rows for task in row.order), *datasets]


def _drawn(table):
    """Yield (name, figure) of each picture."""
    rows = [row for row in table.rows if row.sequences]
    for title, costs in costed_rows(table).items():
        yield f"cost_{title.lower().replace(' ', '_')}", draw_cost(title, costs, table)
    for score in measure_of(table.space).curves:
        yield f"curves_{score}", draw_curves(rows, score)
        yield f"matrices_{score}", draw_matrices(rows, score)


def draw_cost(title, costs, table):
    """Draw ``costs``, [(Row, its cost)], against the number that ranks."""
    number = measure_of(table.space).best
    rows = [replace(row, numbers=row.numbers | {title: cost},
                    deviations={key: found for key, found in row.deviations.items() if key == number})
            for row, cost in costs]
    _, logarithmic = cost_ticks([cost for _, cost in costs])
    return draw_tradeoff(rows, {title: f"{title}: {COSTS[title][2]}", number: TITLES[number]},
                         table.conditions.text(), "Up and to the left is better", logarithmic)


def draw_curves(rows, score):
    """Draw a chart per row on one scale: the mean over the datasets after each task, over seeds; others in grey."""
    curves = [curve(row, score) for row in rows]
    figure, charts = panels(f"Mean {SCORE_TITLES[score]} over the datasets after each task, percent (zs: zero-shot; "
                            "line: mean over seeds, band: lowest to highest)",
                            [row.name for row in rows])
    ticks = score_ticks(spread_ends(curves))
    for index, (axes, own) in enumerate(zip(charts, curves, strict=True)):
        for other in curves[:index] + curves[index + 1:]:
            axes.plot(range(len(other)), _values(other, "mean"), color="#c3cad1", linewidth=0.8)
        colour = colours.RUNS[index % len(colours.RUNS)]
        axes.fill_between(range(len(own)), _values(own, "low"), _values(own, "high"), color=colour, alpha=0.25,
                          linewidth=0)
        axes.plot(range(len(own)), _values(own, "mean"), color=colour, linewidth=1.6, marker="o", markersize=3)
        set_ticks(axes, ticks)
        set_tasks(axes, len(own))
    return figure


def _values(spreads, part):
    return [math.nan if spread is None else getattr(spread, part) for spread in spreads]


def draw_matrices(rows, score):
    """Draw a heat map per row, the mean over its seeds, all in the same colours."""
    matrices = [mean_matrix(row, score) for row in rows]
    low, high = scale_of(dict(enumerate(cells for matrix in matrices for cells in matrix.values())))
    across = min(3, len(rows))
    widest = max(len(cells) for matrix in matrices for cells in matrix.values())
    tallest = max(map(len, matrices))
    letters = max(columns_of(row_title(task)) for matrix in matrices for task in matrix)
    names = [row.sequences[0].spaces[row.conditions.space]["datasets"] for row in rows]
    left, top = LETTER * letters + 0.15, 0.35 + 0.6 * LETTER * max(columns_of(name) for each in names for name in each)
    wide, high_one = left + CELL * widest + 0.4, top + 0.26 * tallest + 0.3
    heading = f"{SCORE_TITLES[score]} of each dataset after each task, percent, mean over seeds"
    width, height = max(across * wide, LETTER * len(heading) + 0.3), 0.4 + math.ceil(len(rows) / across) * high_one
    figure = new_figure(width, height)
    figure.text(0.15 / width, 1 - 0.12 / height, heading, va="top", fontsize=10)
    for index, (row, matrix) in enumerate(zip(rows, matrices, strict=True)):
        x, y = index % across * wide, 0.4 + index // across * high_one
        axes = figure.add_axes(((x + left) / width, 1 - (y + top + 0.26 * len(matrix)) / height,
                                CELL * len(names[index]) / width, 0.26 * len(matrix) / height))
        figure.text((x + 0.1) / width, 1 - (y + 0.05) / height, row.name, va="top", fontweight="bold")
        _draw_matrix(axes, matrix, names[index], (low, high))
    return figure


def _draw_matrix(axes, matrix, columns, scale):
    axes.imshow([[math.nan if value is None else value for value in cells] for cells in matrix.values()],
                aspect="auto", cmap=blues(), vmin=scale[0], vmax=scale[1])
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="left", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(len(matrix)), [row_title(task) for task in matrix], fontsize=7)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    for number, cells in enumerate(matrix.values() if len(columns) <= MOST_WRITTEN else ()):
        for column, value in enumerate(cells):
            text, ink = ("–", GREY) if value is None else (f"{value:.0f}", ink_on(value, scale))
            axes.text(column, number, text, ha="center", va="center", fontsize=6.5, color=ink)
