"""Turn numbers into small charts, as SVG coordinates that the page's template draws; all in plain Python."""

import math
from dataclasses import dataclass, field

LEAST_SPAN = 10  # smallest span of a score chart, in percent points, so that noise does not look like a cliff
SIGNS = {"first": "●", "second": "■"}  # marks of the points of two lines in one chart
LOG_FROM = 100  # a loss that falls by this factor gets a logarithmic scale
MOST_POINTS = 400  # in a chart of losses


@dataclass(frozen=True)
class Frame:
    """Hold the size of a chart and the field in it for lines, in units of its viewBox."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


SMALL = Frame(300, 164, 38, 288, 10, 142)  # for one of many charts
LEFT, RIGHT, TOP, BOTTOM = SMALL.left, SMALL.right, SMALL.top, SMALL.bottom


@dataclass
class Chart:
    """Hold a chart.

    ``lines``: [(style, SVG path)]. ``marks``: [(style, x, y, text)]. ``levels``: horizontal dashed lines
    [(style, y)]. ``cuts``: vertical lines [x]. ``y_ticks`` and ``x_ticks``: [(place, text)]. ``notes``:
    [(style, text)].
    """

    title: str
    text: str
    notes: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    marks: list = field(default_factory=list)
    levels: list = field(default_factory=list)
    cuts: list = field(default_factory=list)
    y_ticks: list = field(default_factory=list)
    x_ticks: list = field(default_factory=list)


class Scale:
    """Map numbers from ``low`` to ``high`` to positions from ``start`` to ``end``."""

    def __init__(self, low, high, start, end, logarithmic=False):
        self.read = math.log10 if logarithmic else float
        self.low, self.high, self.start, self.end = self.read(low), self.read(high), start, end

    def __call__(self, value):
        share = (self.read(value) - self.low) / ((self.high - self.low) or 1)
        return round(self.start + share * (self.end - self.start), 1)


def nice_ticks(low, high, most=5):
    """Return round numbers from below ``low`` to above ``high``, at most ``most`` + 1 of them."""
    rough = (high - low) / (most - 1) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def path(points):
    """Return an SVG path through [(x, y) or None]: None breaks the line; an isolated point becomes a dot."""
    words = []
    for before, point, after in zip([None, *points], points, [*points[1:], None], strict=False):
        if point is not None:
            words.append(f"{'M' if before is None else 'L'}{point[0]:g} {point[1]:g}")
            words += ["h0"] if before is None and after is None else []
    return "".join(words)


def thinned(points, most):
    """Return [(x, y)] reduced to the lowest and highest of each stretch if there are more than ``most``, so
    that peaks stay."""
    if len(points) <= most:
        return points
    length, kept = math.ceil(2 * len(points) / most), []
    for start in range(0, len(points), length):
        stretch = points[start:start + length]
        broken = [point for point in stretch if not math.isfinite(point[1])]  # where the line breaks
        kept += sorted({min(stretch, key=_height), max(stretch, key=_height), *broken})
    return kept


def _height(point):
    return point[1] if math.isfinite(point[1]) else 0.0


def score_chart(title, series, trained):
    """Chart the scores of one dataset after each task.

    series: {name: [score or None before training, after task 1, ...]}; the first is the main line; its first
    score is None without a zero-shot row. trained: the numbers of the tasks that trained this dataset.
    """
    known = [value for values in series.values() for value in values if value is not None]
    ticks = score_ticks(known)
    count = max(len(values) for values in series.values())
    across, up = Scale(0, max(count - 1, 1), LEFT + 6, RIGHT - 6), Scale(ticks[0], ticks[-1], BOTTOM, TOP)
    chart = Chart(title, "", y_ticks=[(up(tick), tick_text(tick)) for tick in ticks],
                  x_ticks=[(across(number), str(number) if number else "zs") for number in some(count)])
    chart.cuts = [across(number) for number in trained]
    for style, (name, values) in zip(("first", "second"), series.items(), strict=False):
        points = [None if value is None else (across(number), up(value)) for number, value in enumerate(values)]
        chart.lines.append((style, path(points)))
        if values[0] is not None:
            chart.levels.append((style, up(values[0])))
        chart.marks += [(f"{style} trained" if number in trained else style, *point,
                         f"{name}, {'zero-shot' if not number else f'after task {number}'}: {values[number]:.1f}")
                        for number, point in enumerate(points) if point]
        chart.notes.append((style, _in_words(f"{SIGNS[style]} {name}:" if len(series) > 1 else "", values, trained)))
    chart.text = f"{title}: " + "; ".join(text for _, text in chart.notes)
    return chart


def score_ticks(values):
    """Return the ticks of a scale for scores in percent that covers at least LEAST_SPAN."""
    low, high = min(values, default=0.0), max(values, default=100.0)
    high = min(high + max(0.0, LEAST_SPAN - (high - low)) / 2, 100.0)
    low = max(min(low, high - LEAST_SPAN), 0.0)
    return nice_ticks(low, max(high, low + LEAST_SPAN))


def _in_words(name, values, trained):
    steps = [("zero-shot", values[0]), *(("trained", values[number]) for number in trained[-1:]), ("last", values[-1])]
    return " ".join(filter(None, (name, " → ".join(f"{what} {value:.1f}" for what, value in steps
                                                   if value is not None))))


def some(count, most=12):
    """Return indices below ``count`` that leave room for their labels."""
    step = math.ceil(count / most)
    return range(0, count, step)


def loss_chart(term, tasks):
    """Chart one term of the loss over the steps of all tasks, each task with the same width.

    A single task gets its steps as ticks below. tasks: [[(iteration, value)] of each task], empty for a task
    without the term.
    """
    lost = sum(not math.isfinite(value) for points in tasks for _, value in points)
    ticks, logarithmic = loss_ticks(tasks)
    up, width = Scale(ticks[0], ticks[-1], BOTTOM, TOP, logarithmic), (RIGHT - LEFT) / len(tasks)
    chart = Chart(term, "", y_ticks=[(up(tick), tick_text(tick)) for tick in ticks])
    chart.x_ticks = _steps_below(tasks[0]) if len(tasks) == 1 else [
        (round(LEFT + (number + 0.5) * width, 1), str(number + 1)) for number in some(len(tasks))]
    chart.cuts = [round(LEFT + number * width, 1) for number in range(1, len(tasks))]
    for number, points in enumerate(tasks):
        across = Scale(0, max((step for step, _ in points), default=1), LEFT + number * width,
                       LEFT + (number + 1) * width)
        chart.lines.append(("first", path([(across(step), up(value)) if math.isfinite(value) else None
                                           for step, value in thinned(points, max(MOST_POINTS // len(tasks), 20))])))
    ends = [points[-1][1] for points in tasks if points]
    chart.notes = [("first", f"{_number(ends[-1])} at the end" + (", logarithmic" if logarithmic else ""))]
    if lost:
        chart.notes.append(("fault", f"{lost} logged values are not finite: the term diverged"))
    chart.text = f"{term}: " + "; ".join(text for _, text in chart.notes)
    return chart


def _steps_below(points):
    """Return ticks for the steps of one task."""
    last = max((step for step, _ in points), default=1)
    across = Scale(0, last, LEFT, RIGHT)
    return [(across(step), tick_text(step)) for step in nice_ticks(0, last) if step <= last]


def loss_ticks(tasks):
    """Return (ticks, whether the scale is logarithmic) for the values of [[(iteration, value)]]."""
    values = [value for points in tasks for _, value in points if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    logarithmic = low > 0 and high / low >= LOG_FROM
    return (log_ticks if logarithmic else nice_ticks)(low, high), logarithmic


def log_ticks(low, high):
    """Return powers of ten around two positive numbers, at most five."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = math.ceil((last - first) / 4)
    return [10.0 ** power for power in range(first, last + step, step)]


def tick_text(value):
    """Return a tick's label, such as 62.5 or 7.5e-6."""
    if value and not 1e-2 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.10g}"


def _number(value):
    return f"{value:.4g}"
