"""Convert texts of the command line to values of flags, and values to texts."""

import difflib
import shlex

from src.errors import UserError
from src.models.custom import GIVEN

SWITCHED = {"true": True, "on": True, "false": False, "off": False}  # how files write a switch


def nearest(name, names, most=2):
    """Return "did you mean a or b?" with the nearest names, ignoring case; "" if none is near."""
    spelled = {each.lower(): each for each in names}
    near = difflib.get_close_matches(name.lower(), spelled, n=most)
    return f"did you mean {' or '.join(spelled[match] for match in near)}?" if near else ""


def hint_before(name, names, most=2):
    """Return ``nearest`` with a trailing space, to put before a sentence; "" if no name is near."""
    hint = nearest(name, names, most)
    return f"{hint} " if hint else ""


def nearest_or_all(name, names):
    """Return ``nearest``, or the list of all names."""
    return nearest(name, names) or f"there are {', '.join(names)}"


def plain_texts(value):
    """Return the texts of a YAML value, a single one or a list; None for anything else or an empty list."""
    texts = value if isinstance(value, list) else [value]
    return texts if texts and all(isinstance(text, str) and text for text in texts) else None


def switched(flag, text):
    """Return whether a YAML text switches a flag on. Raises UserError if it is neither true nor false."""
    if text.lower() not in SWITCHED:
        raise UserError(f"{flag.name} {text}: expected true or false")
    return SWITCHED[text.lower()]


def read_value(flag, text):
    """Return the value of a command-line text. Raises UserError with the flag, the value and the way out."""
    if flag.switch:
        return True
    for part in text if flag.repeated else [text]:
        _reject_blank(flag, part)
    if flag.name == "--method" and (".py:" in text or text.startswith(f"{GIVEN}:")):
        return text
    text = _as_choice(flag, text)
    if flag.choices and text not in flag.choices and not (flag.also and flag.also(text)):
        raise UserError(f"{flag.name} {text}: {hint_before(text, flag.choices, most=1)}there are "
                        f"{', '.join(flag.choices)}")
    if flag.repeated:
        return _joined(flag, text)
    return _parsed(flag, text)


def _joined(flag, texts):
    found = [_parsed(flag, part) for part in texts]
    try:
        return flag.joined(found)
    except ValueError as error:
        raise UserError(f"{flag.name} {','.join(texts)}: {error}") from None


def _as_choice(flag, text):
    """Return the choice that the text spells in another case or by a common synonym; else the text itself."""
    if not flag.choices:
        return text
    meant = flag.means.get(text.lower(), text)
    same = [choice for choice in flag.choices if choice.lower() == meant.lower()]
    return same[0] if len(same) == 1 and meant not in flag.choices else meant


def _reject_blank(flag, text):
    if not text.strip():
        raise UserError(f"{flag.name} {text}: is empty (an unset variable?); give a value, or leave it out")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):  # not allowed in files or text
        raise UserError(f"{flag.name} {text}: must be UTF-8 without NUL characters; rename the file or name")


def _parsed(flag, text):
    try:
        return flag.parse(text)
    except ValueError as error:
        raise UserError(f"{flag.name} {text}: {error}") from None


def shown_default(flag):
    """Return the default as the documentation shows it."""
    return flag.shown or shown(False if flag.switch else flag.default)


def unnamed_choices(flag):
    """The choices of a flag whose help does not name them all."""
    return () if all(choice in flag.help for choice in flag.choices) else flag.choices


def shown(value):
    """Return a resolved value as a user would write it."""
    if value is None or isinstance(value, bool):
        return {True: "on", False: "off", None: "none"}[value]
    if isinstance(value, dict):
        return ",".join(f"{name}={shown(part)}" if name else shown(part) for name, part in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def command_line(words):
    """Return the command of these words, as typed in a shell."""
    return f"python -m src.main {shlex.join(words)}"
