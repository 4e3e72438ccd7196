"""Format durations and sizes for people."""


def duration(seconds):
    """Format seconds: 42.3 s, 12 min 05 s, 7 h 20 min."""
    if seconds is None:
        return "–"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def size(count):
    """Format a number of bytes."""
    if count is None:
        return "–"
    for unit, form in ((2 ** 30, "{:.2f} GiB"), (2 ** 20, "{:.1f} MiB")):
        if count >= unit:
            return form.format(count / unit)
    return f"{count} B"
