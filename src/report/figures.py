"""Draw a finished sequence as PNG pictures. matplotlib is imported only when something is drawn."""

import contextlib
import csv
import io
import logging
import math
import warnings
from collections import Counter

from src.machine.files import atomic_file
from src.report import colours
from src.report.charts import loss_ticks, score_ticks, some, tick_text
from src.report.fonts import columns_of, families_for
from src.report.measures import measure_of
from src.report.runs import ZERO_SHOT
from src.report.scores import RATE, SCORE_TITLES, curves, loss_terms, row_title, scale_of, term_title, trains
from src.report.tables import cell_text

STYLE = {"font.size": 9, "text.parse_math": False, "axes.spines.top": False,
         "axes.spines.right": False, "axes.edgecolor": "#8a949e", "axes.titlesize": 10, "axes.titleweight": "bold",
         "axes.titlelocation": "left", "axes.labelcolor": "#3c464f", "xtick.color": "#3c464f", "ytick.color": "#3c464f",
         "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#dde2e6", "axes.axisbelow": True,
         "legend.frameon": False, "svg.hashsalt": "clip-continual"}
DPI = 150
PANEL = (3.1, 2.15)  # inches of one chart among many, with margins
HEAD = 0.55  # inches above charts, for a heading and a legend
LETTER = 0.078  # inches allowed per letter
MARKS = ("o", "s")  # for the lines of one chart
MOST_CLASSES, FEW_CLASSES = 100, 20  # in a confusion picture; in one that shows numbers
CONFUSION = "percent of a true class (row) by prediction (column)"
GREY, INK = "#55606b", "#171c21"


@contextlib.contextmanager
def style(texts=()):
    """Set up matplotlib independent of the user's settings, with fonts for ``texts``.

    A letter without any font on this system becomes a box without a warning: the page lists them.
    """
    import matplotlib
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        with fonts_for(texts):
            yield


@contextlib.contextmanager
def fonts_for(texts):
    """Make matplotlib use fonts for ``texts`` while entered."""
    import matplotlib
    log = logging.getLogger("matplotlib.font_manager")  # warns, for example, that a font has no bold face
    level = log.level
    with matplotlib.rc_context({"font.family": families_for(texts)}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)


def texts_of(run, confusions=()):
    """Return the user-given texts in the pictures of a SequenceRun, with the classes of ``confusions``, datasets."""
    classes = [name for dataset in confusions for name in _classes_of(run.folder, dataset)]
    return [run.name, *run.order, *run.summary["datasets"], *loss_terms(run), *classes]


def _classes_of(folder, name):
    """Return the classes of a dataset, from ``classes_<name>.csv``."""
    return [row["class"] for row in _rows_of(folder / f"classes_{name}.csv")]


def _rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def write_pictures(run, folder):
    """Write the pictures of a SequenceRun for its first label space.

    ``matrix_<score>.png`` for the scores of the curves, ``curves.png``, and ``losses.png`` if something was
    trained.
    """
    with style(texts_of(run)):
        for score in run.measure.curves:
            write_png(draw_matrix(run, score), folder / f"matrix_{score}.png")
        if not run.untrained:
            write_png(draw_curves(run), folder / "curves.png")
        if loss_terms(run):
            write_png(draw_losses(run), folder / "losses.png")


def write_confusions(run, folder):
    """Write ``confusion_<dataset>.png`` for each dataset with kept predictions and up to MOST_CLASSES classes.

    -> {dataset: the path of its picture}
    """
    found = {}
    for name in run.spaces[run.space]["datasets"]:
        counts, classnames = confusion_of(folder, name)
        if counts and len(classnames) <= MOST_CLASSES:
            found[name] = folder / f"confusion_{name}.png"
            with style([run.name, name, *classnames]):
                write_png(draw_confusion(f"{run.name}: {name} after the last task", counts, classnames), found[name])
    return found


def confusion_of(folder, name):
    """Return ({(label, prediction): images}, class names) from ``predictions_<name>.csv`` and
    ``classes_<name>.csv``.

    ({}, []) if they are missing, or if predictions include classes of other datasets.
    """
    files = [folder / f"{kind}_{name}.csv" for kind in ("predictions", "classes")]
    if not all(path.is_file() for path in files):
        return {}, []
    images, classes = map(_rows_of, files)
    if not images or "prediction_dataset" in images[0]:
        return {}, []
    pairs = Counter((int(row["label_number"]), int(row["prediction_number"])) for row in images)
    return pairs, [row["class"] for row in classes]


def draw_confusion(heading, counts, classnames):
    """Draw true classes as rows, predicted ones as columns, shares of a row as colours; with few classes also
    as percent."""
    size = len(classnames)
    support = [sum(count for (label, _), count in counts.items() if label == row) or math.nan for row in range(size)]
    shares = [[100 * counts.get((row, column), 0) / support[row] for column in range(size)] for row in range(size)]
    cell, letters = (0.42 if size <= FEW_CLASSES else 0.16), LETTER * 0.8 * min(28, max(map(columns_of, classnames)))
    inner, left = cell * size, letters + 0.3
    width = max(left + inner + 0.3, LETTER * max(columns_of(heading), len(CONFUSION)) + 0.3)
    height = inner + letters + 0.9
    figure = new_figure(width, height)
    axes = figure.add_axes((left / width, (letters + 0.3) / height, inner / width, inner / height))
    axes.imshow(shares, aspect="auto", cmap=blues(), vmin=0, vmax=100)
    names = [name if len(name) <= 28 else f"{name[:27]}…" for name in classnames]
    small = 8 if size <= FEW_CLASSES else 5.5
    axes.set_xticks(range(size), names, rotation=90, fontsize=small)
    axes.set_yticks(range(size), names, fontsize=small)
    axes.tick_params(length=0)
    axes.grid(False)
    for row, values in enumerate(shares if size <= FEW_CLASSES else ()):
        for column, value in enumerate(values):
            if value > 0:
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7,
                          color=ink_on(value, (0, 100)))
    figure.text(0.15 / width, 1 - 0.12 / height, heading, va="top", fontsize=10, fontweight="bold")
    figure.text(0.15 / width, 1 - 0.3 / height, CONFUSION, va="top", color=GREY)
    return figure


def write_png(figure, path):
    """Write a PNG file; the same figure always gives the same bytes."""
    held = io.BytesIO()
    figure.savefig(held, format="png", metadata={"Software": None})
    with atomic_file(path) as file:
        file.write(held.getvalue())


def write_picture(figure, path):
    """Write ``path`` with .png and with .svg; the same figure always gives the same bytes."""
    write_png(figure, path.with_suffix(".png"))
    write_svg(figure, path.with_suffix(".svg"))


def write_svg(figure, path):
    """Write an SVG file that needs no font; the same figure always gives the same bytes."""
    held = io.StringIO()
    figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None})
    with atomic_file(path, "w") as file:
        file.write(held.getvalue())


def new_figure(width, height):
    """Return a figure, in inches, that no window and no global list of figures holds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure((width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def panels(heading, titles, alone=0):
    """Return (figure, [Axes]) with one chart per title, at most four per row; the last ``alone`` get a separate
    row."""
    across = min(4, len(titles))
    first = math.ceil((len(titles) - alone) / across) * across  # where the separate row starts
    places = [*range(len(titles) - alone), *range(first, first + alone)]
    down = places[-1] // across + 1
    width, height = max(across * PANEL[0], LETTER * columns_of(heading)), HEAD + down * PANEL[1]
    figure = new_figure(width, height)
    figure.text(0.15 / width, 1 - 0.15 / height, heading, va="top", fontsize=10)
    charts = []
    for place, title in zip(places, titles, strict=True):
        left, top = place % across * PANEL[0], HEAD + place // across * PANEL[1]
        charts.append(figure.add_axes(((left + 0.62) / width, 1 - (top + PANEL[1] - 0.3) / height,
                                       (PANEL[0] - 0.77) / width, (PANEL[1] - 0.65) / height), title=title))
    return figure, charts


def blues():
    """Return the colours of heat maps for matplotlib."""
    from matplotlib.colors import LinearSegmentedColormap
    return LinearSegmentedColormap.from_list("blues", colours.BLUES)


def ink_on(value, scale):
    """Return the colour of a number on its cell of a heat map from ``scale[0]`` to ``scale[1]``."""
    return colours.ink(colours.ramp(colours.BLUES, (value - scale[0]) / (scale[1] - scale[0])))


def draw_matrix(run, score):
    """Draw the matrix as a heat map with its values; a frame marks what the row's task trained."""
    rows, columns = run.rows(run.space, score), run.summary["datasets"]
    low, high = scale_of(rows)
    labels = [row_title(task) for task in rows]
    left, top = LETTER * max(map(columns_of, labels)) + 0.1, 0.5 + 0.6 * LETTER * max(map(columns_of, columns))
    inner, high_inner = 0.66 * len(columns), 0.34 * len(rows)
    heading, below = f"{run.name}: {SCORE_TITLES[score]}, percent", _numbers_line(run.summary)
    width = left + max(inner + 0.2 + 0.8 * LETTER * columns_of(columns[-1]),
                       LETTER * max(columns_of(heading), len(below)))
    height = top + high_inner + 0.4
    figure = new_figure(width, height)
    axes = figure.add_axes((left / width, 0.4 / height, inner / width, high_inner / height))
    axes.imshow([[math.nan if value is None else value for value in row] for row in rows.values()], aspect="auto",
                cmap=blues(), vmin=low, vmax=high)
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), labels)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    for number, (task, row) in enumerate(rows.items()):
        for column, (name, value) in enumerate(zip(columns, row, strict=True)):
            _write_cell(axes, column, number, value, (low, high), trains(task, name))
    for place in range(1, len(columns)):
        axes.axvline(place - 0.5, color="white", linewidth=1)
    for place in range(1, len(rows)):
        axes.axhline(place - 0.5, color="white", linewidth=4 if place == 1 and ZERO_SHOT in rows else 1)
    figure.text(left / width, 1 - 0.12 / height, heading, va="top", fontsize=10, fontweight="bold")
    figure.text(left / width, 0.15 / height, below, color=GREY)
    return figure


def _write_cell(axes, column, row, value, scale, own):
    from matplotlib.patches import Rectangle
    if value is None:
        axes.text(column, row, "–", ha="center", va="center", color=GREY)
        return
    axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8.5, color=ink_on(value, scale),
              fontweight="bold" if own else "normal")
    if own:
        axes.add_patch(Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, edgecolor=INK, linewidth=1.6,
                                 zorder=5))


def _numbers_line(summary):
    numbers = measure_of(summary["label_space"]).line(summary)
    return "    ".join(f"{title} {cell_text(value)}" for title, value in numbers)


def draw_curves(run):
    """Draw one chart per dataset: its score before any training, dashed, and after each task."""
    found = curves(run, run.space)
    score = run.measure.curve_title
    figure, charts = panels(f"{run.name}: {score} after each task, percent (zs: zero-shot, filled: trained here)",
                            list(found))
    for axes, (series, trained) in zip(charts, found.values(), strict=True):
        for mark, line, (title, values) in zip(MARKS, ("first", "second"), series.items(), strict=False):
            _draw_curve(axes, title, values, trained, mark, colours.LINES[line], len(series) > 1)
        ticks = score_ticks([value for values in series.values() for value in values if value is not None])
        set_ticks(axes, ticks)
        set_tasks(axes, len(run.order) + 1)
        for number in trained:
            axes.axvline(number, color=GREY, linewidth=0.8, linestyle=":")
    figure.legend(*charts[0].get_legend_handles_labels(), loc="upper left", ncols=4, fontsize=8, borderaxespad=0,
                  bbox_to_anchor=(0.1 / figure.get_figwidth(), 1 - 0.34 / figure.get_figheight()))
    return figure


def set_ticks(axes, ticks):
    axes.set_yticks(ticks, map(tick_text, ticks))
    axes.set_ylim(ticks[0], ticks[-1])


def set_tasks(axes, count):
    """Put zero-shot and the tasks by number on the x axis, ``count`` ticks at most."""
    shown = some(count)
    axes.set_xticks(shown, [str(number) if number else "zs" for number in shown])


def _draw_curve(axes, title, values, trained, mark, colour, several):
    """Draw a curve; None leaves a gap, and the zero-shot score is a dashed level."""
    known = [(number, value) for number, value in enumerate(values) if value is not None]
    axes.plot(range(len(values)), [math.nan if value is None else value for value in values], color=colour,
              linewidth=1.6, label=title)
    for own, face in ((False, "white"), (True, colour)):
        points = [(number, value) for number, value in known if (number in trained) == own]
        axes.plot(*zip(*points, strict=True) if points else ([], []), mark, markersize=4, color=colour,
                  markerfacecolor=face, clip_on=False, zorder=4)
    if values[0] is not None:
        axes.axhline(values[0], color=colour if several else colours.LINES["zero_shot"], linewidth=1.3, linestyle="--",
                     label=f"zero-shot, {title}" if several else "zero-shot")


def draw_losses(run):
    """Draw one chart per term of the loss, over the steps of all tasks, each task with the same width."""
    terms = loss_terms(run)
    figure, charts = panels(f"{run.name}: each term of the loss over the steps of tasks 1 to {len(run.order)}",
                            list(map(term_title, terms)), alone=int(RATE in terms))
    for axes, tasks in zip(charts, terms.values(), strict=True):
        for number, points in enumerate(tasks):
            length = max((step for step, _ in points), default=1)
            axes.plot([number + step / length for step, _ in points], [value for _, value in points],
                      color=colours.LINES["first"], linewidth=0.9, marker="." if len(points) == 1 else None)
            if number:
                axes.axvline(number, color=GREY, linewidth=0.8, linestyle=":")
        ticks, logarithmic = loss_ticks(tasks)
        if logarithmic:
            axes.set_yscale("log")
            axes.minorticks_off()
        set_ticks(axes, ticks)
        shown = some(len(tasks))
        axes.set_xticks([number + 0.5 for number in shown], [str(number + 1) for number in shown])
        axes.set_xlim(0, len(tasks))
        axes.tick_params(axis="x", length=0)
    return figure
