"""Parse texts of the command line into values. A parser knows no flag; it raises ValueError with what it expects."""

import ast

LARGEST = 2 ** 63 - 1  # the integers of torch and numpy

DTYPES = {"float32": "fp32", "float": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float64": "fp64",
          "double": "fp64"}  # torch's names


def whole(low=0, high=LARGEST):
    return _number(int, "a whole number", low, high)


def real(low=0.0, high=None, above=None):
    return _number(float, "a number", low, high, above)


def _number(kind, words, low, high, above=None):
    bounds = [f"above {above}"] if above is not None else [f"at least {low}"]
    bounds += [f"at most {high}"] if high not in (None, LARGEST) else []
    expected = f"{words}, {' and '.join(bounds)}"

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"expected {expected}") from None
        if kind is int and value > LARGEST:
            raise ValueError(f"expected a whole number of at most {LARGEST}")
        inside = (value > above if above is not None else value >= low) and (high is None or value <= high)
        if not inside or value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"expected {expected}")
        return value
    return parse


def names(text):
    """Parse ``A,B`` to ("A", "B")."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise ValueError("expected names joined by commas, as in DTD,CIFAR100")
    if repeated := {name for name in found if found.count(name) > 1}:
        raise ValueError(f"names {', '.join(sorted(repeated))} twice")
    return found


def rates(text):
    """Parse ``1e-5`` or ``1e-5,Aircraft=5e-5`` to {None: 1e-5, "Aircraft": 5e-5}; None stands for every other
    dataset."""
    return _by_dataset(text, real(above=0), "a rate above 0", "the rate", "1e-5,Aircraft=5e-5")


def epochs(text):
    """Parse ``10`` to 10, and ``10,SUN397=5`` to {None: 10, "SUN397": 5}, where None stands for every other
    dataset."""
    parse = whole(1)
    if "," not in text and "=" not in text:
        return parse(text)  # not a mapping: earlier versions store a number in the configuration
    return _by_dataset(text, parse, "a whole number, at least 1", "the number", "10,SUN397=5")


def _by_dataset(text, parse, expected, what, example):
    parsed = {}
    for part in text.split(","):
        name, equals, value = part.strip().rpartition("=")
        key = name if equals else None
        try:
            own = parse(value)
        except ValueError:
            raise ValueError(f"expected {expected}, or a mapping such as {example}") from None
        if key in parsed or key == "":
            raise ValueError(f"names {key or f'{what} of all other datasets'} twice or not at all")
        parsed[key] = own
    if None not in parsed:
        raise ValueError(f"lacks {what} of all other datasets, as in {example}")
    return parsed


def keyword(text):
    """Parse ``strength=0.5`` to ("strength", 0.5); a value that is not a Python literal stays text."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ValueError("expected key=value, as in strength=0.5")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return key, value


def shares(text):
    """Parse ``0,0.25,1`` to (0.0, 0.25, 1.0), each from 0 to 1."""
    try:
        found = tuple(real(0, 1)(part) for part in text.split(","))
    except ValueError:
        raise ValueError("expected numbers from 0 to 1 joined by commas, as in 0,0.25,0.5") from None
    if len(set(found)) < len(found):
        raise ValueError("names a share twice")
    return found


def label_spaces(text):
    """Parse ``task,all`` to ("task", "all")."""
    found = names(text)
    if strangers := [name for name in found if name not in ("task", "seen", "all")]:
        raise ValueError(f"{strangers[0]} is not one of task, seen, all")
    return found


def some_of(choices):
    """Return a parser: ``k,v`` -> ("k", "v"), each one of ``choices``, in their order."""
    def parse(text):
        found = names(text)
        if strangers := [name for name in found if name not in choices]:
            raise ValueError(f"{strangers[0]} is not one of {', '.join(choices)}")
        return tuple(name for name in choices if name in found)
    return parse


def parts(text):
    """Parse ``train+val`` to ("train", "val")."""
    found = tuple(text.split("+"))
    if len(set(found)) < len(found) or not set(found) <= {"train", "val", "test"}:
        raise ValueError("expected train, val or test joined by +, as in train+val")
    return found


def place(text):
    """Parse ``coco=/data/coco`` to ("coco", "/data/coco")."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ValueError("expected NAME=PATH, as in coco=/data/coco")
    return name, path


def word_or(word, parse):
    """Return a parser that keeps ``word`` and passes anything else to ``parse``."""
    return lambda text: text if text == word else parse(text)


def all_or(parse):
    """Return a parser that keeps ``all`` and passes anything else to ``parse``."""
    return word_or("all", parse)


def warmup(text):
    """Parse a number of steps, or a share of the run such as ``20%``, which is resolved once the number of
    steps is known."""
    try:
        if text.endswith("%"):
            real(0, 100)(text[:-1])
        else:
            whole(0)(text)
    except ValueError:
        raise ValueError("expected a number of steps, or a share such as 20%") from None
    return text


def number_or_share(text):
    """Parse ``0.06`` to 0.06 and keep ``95%``; a number is at least 0, a share at most 100%."""
    try:
        if not text.endswith("%"):
            return real(0)(text)
        real(0, 100)(text[:-1])
    except ValueError:
        raise ValueError("expected a number, at least 0, or a share such as 95%") from None
    return text


def none_or(parse):
    """Return a parser: ``none`` -> None; anything else goes to ``parse``."""
    return lambda text: None if text == "none" else parse(text)


def auto_or(parse):
    """Return a parser that keeps ``auto`` and passes anything else to ``parse``."""
    return word_or("auto", parse)


def one_or_several(parse):
    """Return a parser: ``7`` -> the value of ``parse``; ``1,2`` -> a tuple of such values."""
    def several(text):
        if "," not in text:
            return parse(text)
        found = tuple(map(parse, text.split(",")))
        if len(set(found)) < len(found):
            raise ValueError("names a value twice")
        return found
    return several


UNITS = {"s": 1, "m": 60, "h": 3600}


def interval(text):
    """Parse ``"500"`` to (500, None), in steps, and ``"10m"`` to (None, 600.0), in seconds."""
    if text[-1:] in UNITS:
        return None, real(above=0)(text[:-1]) * UNITS[text[-1]]
    return whole(1)(text), None


def rhythm(text):
    """Check that ``interval`` understands a text, and return it unchanged."""
    try:
        interval(text)
    except ValueError:
        raise ValueError("expected steps, as in 500, or a time, as in 30s, 10m, 2h") from None
    return text
