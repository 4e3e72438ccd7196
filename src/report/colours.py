"""Define the colours of heat maps, on the page and in pictures: distinct for colour-blind readers and in grey."""

BLUES = ("#f4f8fc", "#cfe1f2", "#93c3df", "#4a98c9", "#1c6bb0", "#08366f")  # little to much, on a light page
NIGHT = ("#17212c", "#1d3a57", "#205c8c", "#2f86c0", "#7bb8e3", "#d3e8fa")  # the same on a dark one
ORANGE_BLUE = ("#a84a00", "#e58a2e", "#f8d3a5", "#f7f7f5", "#b5d4ec", "#4d97cc", "#0b4f8f")  # below, at, above a middle
ORANGE_BLUE_NIGHT = ("#ffb870", "#c8721f", "#6b3c10", "#20262c", "#16466e", "#2f86c0", "#a9d5fa")
LINES = {"first": "#1c6bb0", "second": "#1a8a66", "zero_shot": "#b8550b"}
RUNS = ("#1c6bb0", "#d9730d", "#1a8a66", "#a6428f", "#6b5ecf", "#8a6d1a", "#2f9fb5", "#b3261e")
RUNS_NIGHT = ("#6db3ee", "#f0a04b", "#5cc79e", "#e08bd0", "#a89bf0", "#d4b95c", "#7fd0dc", "#ff9a8f")
INK, GREY, TRACK, FIRST, OTHERS = "#1f2933", "#6b7785", "#edf0f3", "#2f6db5", "#9dbbdd"  # for the bars of one image
LEVELS = 20  # number of steps of a heat map on the page


def ramp(stops, share):
    """Return the colour at ``share``, 0 to 1, of the way through colours written as #rrggbb."""
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    start = min(int(place), len(stops) - 2)
    first, second = _channels(stops[start]), _channels(stops[start + 1])
    return "#" + "".join(f"{round(a + (place - start) * (b - a)):02x}" for a, b in zip(first, second, strict=True))


def ink(background):
    """Return black or white, whichever is easier to read on a colour; the contrast is at least 4.5."""
    return "#000000" if contrast("#000000", background) >= contrast("#ffffff", background) else "#ffffff"


def contrast(first, second):
    """Return the contrast of two colours, 1 to 21, as the Web Content Accessibility Guidelines define it."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    """Return the relative luminance, 0 to 1."""
    linear = [channel / 255 / 12.92 if channel <= 10 else ((channel / 255 + 0.055) / 1.055) ** 2.4
              for channel in _channels(colour)]
    return sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _channels(colour):
    return [int(colour[place:place + 2], 16) for place in (1, 3, 5)]


def level(value, low, high):
    """Return the step of a heat map, 0 to LEVELS, for a value on a scale from ``low`` to ``high``."""
    return round(LEVELS * min(max((value - low) / (high - low), 0.0), 1.0))


def run_rules(stops):
    """Return the CSS of the colours of runs: the classes run0, run1, ... set --run."""
    return "".join(f".run{number}{{--run:{colour}}}" for number, colour in enumerate(stops))


def heat_rules(value_stops, change_stops):
    """Return the CSS of the two heat maps, by value and by change.

    Classes v0, v1, ... and c0, c1, ... set a cell's colour and ink; --values and --changes are the whole ramps.
    """
    ramps = f":root{{--values:linear-gradient(90deg,{','.join(value_stops)});" \
            f"--changes:linear-gradient(90deg,{','.join(change_stops)})}}"
    return ramps + "".join(
        f".{name}{step}{{--{name}:{colour};--{name}i:{ink(colour)}}}"
        for name, stops in (("v", value_stops), ("c", change_stops))
        for step, colour in enumerate(ramp(stops, number / LEVELS) for number in range(LEVELS + 1)))
