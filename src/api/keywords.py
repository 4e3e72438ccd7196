"""Keywords of Python -> the words of a command line, and messages about flags -> messages about keywords.

All checks are those of the command line: a keyword becomes the text of the flag of its name.
"""

import numbers
import os
import re

from src.cli.flags import FLAGS
from src.cli.texts import nearest
from src.cli.values import keyword
from src.datasets import GIVEN
from src.datasets.common import Task
from src.errors import UserError
from src.models.custom import is_literal

JOINTS = {"flickr_splits": "+"}  # separators of lists other than a comma
OTHERS = "others"  # like None: every other dataset in a mapping of rates
NAMED = re.compile(r"(?<![\w-])--([A-Za-z][\w-]*)")


def words_of(keywords):
    """Return the command line equivalent to ``keywords`` {flag key: value}; None is the default. Raise
    UserError for an unknown keyword, and for a value that no text can express."""
    words = []
    for key, value in keywords.items():
        if key not in FLAGS:
            raise UserError(f"unknown keyword {key}; {nearest(key, FLAGS) or 'keywords are the flags of ARGUMENTS.md'}")
        if value is not None:
            words += _words(FLAGS[key], value)
    return words


def _words(flag, value):
    if flag.switch:
        if not isinstance(value, bool):
            raise UserError(f"{flag.name} {value!r}: expected True or False")
        return [flag.name] if value else []
    if flag.key == "hooks":
        texts = value if isinstance(value, list | tuple) else [value]
        return [f"{flag.name}={_one(flag, text)}" for text in texts]
    if flag.bare and isinstance(value, bool) and "off" in flag.choices:
        return [flag.name] if value else [f"{flag.name}=off"]
    if flag.repeated:
        if not isinstance(value, dict):
            raise UserError(f"{flag.name} {value!r}: expected a dict")
        one = _literal if flag.key == "set" else _named
        return [f"{flag.name}={one(flag, name, part)}" for name, part in value.items()]
    return [f"{flag.name}={text_of(flag, value)}"]


def text_of(flag, value):
    """Return the text of a Flag's value: a number, a text, a path, a list of these, or a dict by dataset."""
    if isinstance(value, dict):
        others = [_one(flag, part) for name, part in value.items() if name in (None, OTHERS)]
        return ",".join([*others, *(_named(flag, name, part) for name, part in value.items()
                                    if name not in (None, OTHERS))])
    if isinstance(value, list | tuple):
        joint = JOINTS.get(flag.key, ",")
        return joint.join(_without(flag, _one(flag, part), joint) for part in value)
    return _one(flag, value)


def _without(flag, text, joint):
    """Return an element of a list. A name that contains the separator would become two, unless a file or
    folder has that name."""
    if joint in text and not os.path.exists(text):
        raise UserError(f"{flag.name} {text}: contains {joint!r}, which separates names; rename the file or dataset")
    return text


def _named(flag, name, part):
    return f"{_one(flag, name)}={_one(flag, part)}"


def _one(flag, value):
    if isinstance(value, str):
        return value
    if isinstance(value, Task):
        return f"{GIVEN}:{value.name}"
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return str(int(value)) if isinstance(value, numbers.Integral) else repr(float(value))
    raise UserError(f"{flag.name} {value!r}: expected a text, a number, a path, a Task of data, or a list of "
                    "these")


def _literal(flag, name, value):
    """Return ``"strength", 0.5`` as ``"strength=0.5"``, if reading that gives the same value."""
    if is_literal(value):
        for text in (value, repr(value)) if isinstance(value, str) else (repr(value),):
            read = f"{name}={text}"
            if keyword(read) == (name, value) and type(keyword(read)[1]) is type(value):
                return read
    raise UserError(f"{flag.name} {name}={value!r}: a run records the keywords of its method, and this one is not "
                    "a number, text, None, or a list, tuple or dict of these")


def in_python(message):
    """Rewrite a message about flags for keywords: ``--dataset-order`` -> `` `dataset_order` ``."""
    def renamed(match):
        key = match[1].replace("-", "_")
        return f"`{key}`" if key in FLAGS else match[0]
    return NAMED.sub(renamed, message)
