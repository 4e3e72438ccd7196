"""Draw several runs in one picture: what is retained against what is learnt."""

from pathlib import Path

from src.report import colours
from src.report.figures import GREY, new_figure, style, write_picture
from src.report.labels import DISTANCES, place_labels
from src.report.measures import measure_of
from src.report.rows import PUBLISHED, RUN

SIZE = (7.5, 5.2)  # inches


def write_tradeoff(tables, folder):
    """Draw ``tradeoff.png`` and ``tradeoff.svg`` of the first [Table] of a comparison, and ``tradeoff_2.png``
    and so on of the other tables in the same label space.

    Returns names of rows that are in none because they lack one of the two numbers; a table in which all do is
    not drawn.
    """
    keys, left_out = measure_of(tables[0].space).axes, []
    for number, table in enumerate((table for table in tables if table.space == tables[0].space), start=1):
        shown = [row for row in table.rows if None not in (row.numbers[key] for key in keys)]
        left_out += [row.name for row in table.rows if row not in shown]
        if shown:
            with style([row.name for row in shown]):
                write_picture(draw_tradeoff(shown, keys, table.conditions.text()),
                              Path(folder) / f"tradeoff{f'_{number}' if number > 1 else ''}.png")
    return list(dict.fromkeys(left_out))


def draw_tradeoff(rows, keys, head="", better="Up and to the right is better", logarithmic=False):
    """Draw rows as points.

    ``keys``: {number: the title of its axis}, first across, then up. ``head``: the line above all.
    ``logarithmic``: the scale across. Runs are filled points with the deviation over their seeds, references
    hollow ones.
    """
    figure = new_figure(*SIZE)
    axes = figure.add_axes((0.1, 0.12, 0.86, 0.8))
    figure.text(0.02, 0.985, head, va="top", fontsize=6.5, color=GREY)
    across, up = keys
    axes.set_xlabel(keys[across])
    axes.set_ylabel(keys[up])
    axes.grid(True, axis="both")
    axes.margins(0.14)
    if logarithmic:
        axes.set_xscale("log")
    runs = [row for row in rows if row.kind == RUN]
    for row in rows:
        own = row.kind == RUN
        colour = colours.RUNS[runs.index(row) % len(colours.RUNS)] if own else GREY
        axes.errorbar(row.numbers[across], row.numbers[up], row.deviations.get(up), row.deviations.get(across),
                      fmt="o" if own else "D" if row.kind == PUBLISHED else "s", color=colour,
                      markersize=6.5 if own else 9, markerfacecolor=colour if own else "white", elinewidth=1.1,
                      capsize=3, zorder=4 if own else 3)
    several = any(row.deviations for row in rows)
    axes.set_title(better + ("; bars: deviation over seeds" if several else ""),
                   fontweight="normal", color=GREY)
    _label(figure, axes, rows, across, up)
    return figure


def _label(figure, axes, rows, across, up):
    """Place names beside the points, where they cover no point, no bar and no other name."""
    axes.autoscale_view()  # pixel positions are final from here on
    texts = [axes.annotate(row.name, (0, 0), fontsize=8.5, color="#171c21" if row.kind == RUN else GREY,
                           annotation_clip=False) for row in rows]
    sizes = [(box.width, box.height) for box in (text.get_window_extent(figure.canvas.get_renderer())
                                                 for text in texts)]
    points = [tuple(axes.transData.transform((row.numbers[across], row.numbers[up]))) for row in rows]
    spans = [tuple(axes.transData.transform((row.numbers[across] + row.deviations.get(across, 0.0),
                                             row.numbers[up] + row.deviations.get(up, 0.0)))) for row in rows]
    bars = [bar for (x, y), (right, top) in zip(points, spans, strict=True) for bar in (
        (2 * x - right, y - 2, right, y + 2), (x - 2, 2 * y - top, x + 2, top))]
    field = axes.get_window_extent()
    places = place_labels(points, sizes, (field.x0, field.y0, field.x1, field.y1), bars)
    for row, text, point, place, size in zip(rows, texts, points, places, sizes, strict=True):
        text.xyann, text.xy = (place[0] - point[0], place[1] - point[1]), (row.numbers[across], row.numbers[up])
        text.anncoords = "offset pixels"
        nearest = [min(max(point[side], place[side]), place[side] + size[side]) for side in (0, 1)]
        if abs(nearest[0] - point[0]) + abs(nearest[1] - point[1]) > DISTANCES[1] + 1:
            ends = axes.transData.inverted().transform([point, nearest])
            axes.plot(ends[:, 0], ends[:, 1], color=GREY, linewidth=0.6, zorder=2, scalex=False, scaley=False)
