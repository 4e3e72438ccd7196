"""Plot several runs in one chart: rows as points of two numbers, curves with bands. SVG coordinates, in plain Python.

Each is drawn twice, over the whole scale and over the data; the page shows either.
"""

from dataclasses import dataclass, field

from src.report.charts import LOG_FROM, SMALL, Frame, Scale, log_ticks, nice_ticks, path, some, tick_text
from src.report.fonts import columns_of
from src.report.labels import place_labels
from src.report.rows import PUBLISHED, RUN

COLOURS = 8  # colours of runs; after that they repeat with another shape
LETTER = 6.0  # units per letter of a label, twice as many if it is wide
LINE = 13.0  # units per line of a label
SHAPES = {  # marks with radius 1 around 0, 0
    "circle": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0 -2 0z", "square": "M-.9 -.9h1.8v1.8h-1.8z",
    "triangle": "M0 -1.2L1.1 .8H-1.1z", "diamond": "M0 -1.3L1.2 0L0 1.3L-1.2 0z"}
OF_RUNS = ("circle", "square", "triangle", "diamond")
LARGE = Frame(620, 410, 56, 604, 12, 358)  # for a chart whose points have names


@dataclass(frozen=True)
class Look:
    """Hold how a row is drawn: the class of its colour, and a shape of SHAPES."""

    style: str
    shape: str

    @property
    def path(self):
        return SHAPES[self.shape]


def looks_of(report):
    """Return {name of a row of runs: Look} of a Report, the same in all its tables: colours vary first, then
    shapes."""
    names = dict.fromkeys(row.name for table in report.tables for row in table.rows if row.kind == RUN)
    return {name: Look(f"run{index % COLOURS}", OF_RUNS[index // COLOURS % len(OF_RUNS)])
            for index, name in enumerate(names)}


REFERENCES = {PUBLISHED: Look("reference", "diamond")}  # other kinds get a square


def look_of(row, looks):
    """Return the Look of a row of any kind; ``looks``: from ``looks_of``, for rows with runs."""
    return looks[row.name] if row.kind == RUN else REFERENCES.get(row.kind, Look("reference", "square"))


@dataclass
class Plot:
    """Hold a plot.

    ``lines``: [(style, SVG path)]. ``bands``: the same, filled. ``marks``: [(style, SVG path of its shape, x,
    y, text)]. ``labels``: [(style, x, y, text)]. ``levels``: [y] of dashed lines. ``x_ticks`` and ``y_ticks``:
    [(place, text)].
    """

    frame: Frame
    x_ticks: list
    y_ticks: list
    lines: list = field(default_factory=list)
    bands: list = field(default_factory=list)
    marks: list = field(default_factory=list)
    labels: list = field(default_factory=list)
    levels: list = field(default_factory=list)


@dataclass
class Figure:
    """Hold the same Plot over the whole scale (``whole``) and over the data (``zoomed``); ``text`` describes it
    in words."""

    title: str
    text: str
    whole: Plot
    zoomed: Plot
    note: str = ""
    look: Look | None = None
    x_title: str = ""
    y_title: str = ""


def whole_ticks(top):
    """Return ticks from 0 to ``top``, the highest possible number."""
    return nice_ticks(0, top)


def cost_ticks(values):
    """Return (ticks of non-negative numbers, whether the scale is logarithmic)."""
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low >= LOG_FROM
    return (log_ticks(low, high), True) if logarithmic else (nice_ticks(0, 1.04 * high or 1), False)


# -- rows as points ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Hold a row: its two numbers with the deviations over seeds, None without."""

    name: str
    look: Look
    x: float
    y: float
    x_deviation: float | None = None
    y_deviation: float | None = None
    text: str = ""


def scatter(points, x_ticks, y_ticks, logarithmic=False):
    """Return a Plot of [Point], with names placed where they cover as little as possible."""
    frame = LARGE
    across = Scale(x_ticks[0], x_ticks[-1], frame.left, frame.right, logarithmic)
    up = Scale(y_ticks[0], y_ticks[-1], frame.bottom, frame.top)
    plot = Plot(frame, [(across(tick), tick_text(tick)) for tick in x_ticks],
                [(up(tick), tick_text(tick)) for tick in y_ticks])
    boxes = []
    for point in points:
        for line in _bars(point, across, up, x_ticks, y_ticks):
            plot.lines.append((f"bar {point.look.style}", path(line)))
            boxes.append(_box_around(line, frame))
        plot.marks.append((point.look.style, point.look.path, across(point.x), up(point.y),
                           point.text or point.name))
    plot.labels = _labels(points, plot.marks, boxes, frame)
    return plot


def _bars(point, across, up, x_ticks, y_ticks):
    """Return the deviations as lines [(x, y), (x, y)], cut at the ends of the scale."""
    if point.x_deviation:
        ends = _span(point.x, point.x_deviation, x_ticks)
        yield [(across(end), up(point.y)) for end in ends]
    if point.y_deviation:
        ends = _span(point.y, point.y_deviation, y_ticks)
        yield [(across(point.x), up(end)) for end in ends]


def _span(value, deviation, ticks):
    return max(value - deviation, ticks[0]), min(value + deviation, ticks[-1])


def _box_around(line, frame):
    """Return (left, bottom, right, top) of a bar, with y upwards."""
    (x, y), (other_x, other_y) = line
    return (min(x, other_x) - 2, frame.height - max(y, other_y) - 2, max(x, other_x) + 2,
            frame.height - min(y, other_y) + 2)


def _labels(points, marks, covered, frame):
    """Return [(style, x, y, name)] at the left end of each name's line."""
    places = [(x, frame.height - y) for _, _, x, y, _ in marks]
    sizes = [(text_width(point.name), LINE) for point in points]
    field_of_labels = (frame.left, frame.height - frame.bottom, frame.width, frame.height)
    corners = place_labels(places, sizes, field_of_labels, covered)
    return [(point.look.style, round(x, 1), round(frame.height - y - 3.5, 1), point.name)
            for point, (x, y) in zip(points, corners, strict=True)]


def text_width(text):
    """Return roughly how wide a text is drawn."""
    return LETTER * columns_of(text)


# -- curves ------------------------------------------------------------------------------------------------------------


def band_chart(spreads, others, look, ticks):
    """Return a Plot of one row's [Spread or None], the others [[Spread or None]] thin behind it; a band where
    seeds differ."""
    frame, count = SMALL, len(spreads)
    across, up = Scale(0, max(count - 1, 1), frame.left + 6, frame.right - 6), Scale(ticks[0], ticks[-1], frame.bottom,
                                                                                    frame.top)
    plot = Plot(frame, [(across(number), str(number) if number else "zs") for number in some(count)],
                [(up(tick), tick_text(tick)) for tick in ticks])
    plot.lines = [("behind", _line(other, across, up)) for other in others]
    plot.bands = [(look.style, found)] if (found := _band(spreads, across, up)) else []
    plot.lines.append((look.style, _line(spreads, across, up)))
    if spreads[0]:
        plot.levels = [up(spreads[0].mean)]
    plot.marks = [(look.style, look.path, across(number), up(spread.mean), step_text(number, spread))
                  for number, spread in enumerate(spreads) if spread]
    return plot


def _line(spreads, across, up):
    return path([None if spread is None else (across(number), up(spread.mean))
                 for number, spread in enumerate(spreads)])


def _band(spreads, across, up):
    """Return an SVG path around the area between the lowest and the highest; empty if these are equal everywhere."""
    known = [(number, spread) for number, spread in enumerate(spreads) if spread]
    if all(spread.low == spread.high for _, spread in known):
        return ""
    ends = [(across(number), up(spread.high)) for number, spread in known]
    ends += [(across(number), up(spread.low)) for number, spread in reversed(known)]
    return path(ends) + "z"


def step_text(number, spread):
    """Return "after task 2: 71.3 (70.9 to 71.8)"."""
    band = "" if spread.low == spread.high else f" ({spread.low:.1f} to {spread.high:.1f})"
    return f"{f'after task {number}' if number else 'zero-shot'}: {spread.mean:.1f}{band}"
