"""Custom classes: those of your own file, ``my.py:EWC``, and those passed in from Python, ``python:EWC``. One of
``--hooks`` stands with its keywords, ``my.py:Logger(every=10)``."""

import ast
import inspect
import math
import re

from src.errors import UserError
from src.machine.code_files import held, load_file
from src.models.hooks import Hooks, moments_of

GIVEN = "python"  # takes the place of a file's path
TARGET = re.compile(rf"(?:{GIVEN}|.+?\.py):[^\W\d]\w*", re.DOTALL)
WANTED = "expected FILE.py:Class or FILE.py:Class(key=value), several joined by commas"
_given = {}       # {name: class}, while a call from Python runs


def given(classes):
    """Make ``python:NAME`` stand for the classes {name: class} inside the context."""
    return held(_given, classes)


def require_given(target, flag="--method"):
    """Raise UserError if ``python:NAME`` stands for no class here."""
    name = target.rpartition(":")[2]
    if name not in _given:
        raise UserError(f"{flag} {target}: this class was passed to a call from Python, and this process does not "
                        f"have it; pass the class {name} again, or write it into a file and give "
                        f"{flag} FILE.py:{name}")


def class_of(target, flag="--method"):
    """Return the class of ``my.py:EWC`` or ``python:EWC``. Raise UserError if there is none."""
    path, _, name = target.rpartition(":")
    if path == GIVEN:
        require_given(target, flag)
        return _given[name]
    module = load_file(path)
    if not hasattr(module, name):
        classes = ", ".join(key for key, value in vars(module).items() if isinstance(value, type))
        raise UserError(f"{flag} {target}: the file has no class {name}; it has {classes or 'none'}")
    return getattr(module, name)


def hooks_class(target):
    """The class of a value of --hooks. UserError where it is none that acts beside a method."""
    kind = class_of(target, "--hooks")
    if not (isinstance(kind, type) and issubclass(kind, Hooks)):
        raise UserError(f"--hooks {target}: is no class derived from Hooks")
    if kind.closed_form:
        raise UserError(f"--hooks {target}: {kind.__name__} declares closed_form, which only a method can be; give "
                        f"--method {target}")
    if not moments_of(kind):
        raise UserError(f"--hooks {target}: {kind.__name__} overrides nothing that a run calls, such as losses or "
                        "after_step, so it would do nothing; leave it out")
    return kind


# -- a class with its keywords, as text --------------------------------------------------------------------------------


def read_calls(text):
    """``my.py:Logger(every=10),my.py:Watch`` -> [("my.py:Logger", {"every": 10}), ("my.py:Watch", {})].

    Values are Python literals, and nothing is evaluated. ValueError, with what is expected, for any other text.
    """
    found, rest = [], text
    while True:
        match = TARGET.match(rest := rest.strip())
        if match is None:
            raise ValueError(WANTED)
        keywords, rest = _bracket(rest[match.end():])
        found.append((match[0], keywords))
        if not rest.strip():
            return found
        if not rest.lstrip().startswith(","):
            raise ValueError(WANTED)
        rest = rest.lstrip()[1:]


def call_text(target, keywords):
    """The text of a class with its keywords that ``read_calls`` reads as such."""
    return f"{target}({', '.join(f'{name}={value!r}' for name, value in keywords.items())})" if keywords else target


def call_texts(text):
    """The texts of the classes in a value of --hooks, each in the one form that ``call_text`` has for it."""
    return tuple(call_text(*call) for call in read_calls(text))


def joined_calls(values):
    """The values of --hooks, given once or several times, as one. ValueError for a class that is named twice: resume
    points and checkpoints keep what is of a hook by the name of its class."""
    texts = tuple(text for value in values for text in value)
    targets = [target for text in texts for target, _ in read_calls(text)]
    if twice := [target for target in targets if targets.count(target) > 1]:
        raise ValueError(f"names {twice[0]} twice; give it once, or a subclass with another name")
    return texts


def _bracket(text):
    """The keywords in the bracket with which a text begins, and what is behind it; ({}, text) without a bracket."""
    if not text.startswith("("):
        return {}, text
    for end in (position + 1 for position, letter in enumerate(text) if letter == ")"):
        try:
            call = ast.parse("_" + text[:end], mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError):  # a bracket within a value, or a text
            continue
        return _keywords(call), text[end:]
    raise ValueError(f"{WANTED}; the bracket holds no key=value pairs of Python")


def _keywords(call):
    names = [part.arg for part in call.keywords]
    if call.args or None in names:
        raise ValueError("a value in the bracket has no name; give key=value")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"gives {twice[0]} twice")
    return {part.arg: _literal(part.arg, part.value) for part in call.keywords}


def _literal(name, node):
    try:
        value = ast.literal_eval(node)
        if is_literal(value) and repr(value):  # ValueError of numbers that have too many digits
            return value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    raise ValueError(f"{name}: expected a finite number, a text in quotes, None, or a list, tuple or dict of these")


def is_literal(value):
    """Return whether a value consists of finite numbers, texts, None, lists, tuples and dicts alone."""
    if isinstance(value, list | tuple):
        return all(map(is_literal, value))
    if isinstance(value, dict):
        return all(map(is_literal, [*value, *value.values()]))
    return value is None or type(value) in (bool, int, str) or type(value) is float and math.isfinite(value)


# -- what an object was made with --------------------------------------------------------------------------------------


def made_of(hook, flag="--method"):
    """Return {keyword: value} that a hook object was made with. Raise UserError if making it again gives a
    different one."""
    kind = type(hook)
    found = _made_with(kind, vars(hook).get("made_with"), flag)
    again = vars(kind(**found))
    changed = [name for name, value in vars(hook).items()
               if name != "made_with" and (name not in again or _differ(value, again[name]))]
    if changed:
        raise UserError(f"{flag} {kind.__name__}(...): each task rebuilds the object from its keywords, and "
                        f"{', '.join(changed)} would differ; make it a keyword of the class")
    return found


def _made_with(kind, made_with, flag):
    """Return the arguments an object was made with, by name."""
    signature = inspect.signature(kind)
    if made_with is None and signature.parameters:
        by_name = "and its keywords by --set" if flag == "--method" else "as FILE.py:Class(key=value)"
        raise UserError(f"{flag} {kind.__name__}(...): does not record its arguments; give the class, {by_name}")
    arguments, keywords = made_with or ((), {})
    found = {}
    for name, value in signature.bind(*arguments, **keywords).arguments.items():
        sort = signature.parameters[name].kind
        if sort is inspect.Parameter.VAR_POSITIONAL:
            raise UserError(f"{flag} {kind.__name__}(...): takes *{name}, and a run records keywords; give the class "
                            "keywords instead")
        found |= value if sort is inspect.Parameter.VAR_KEYWORD else {name: value}
    return found


def _differ(one, other):
    """Return whether two values are known to differ: plain values, or lists and dicts of these. Others are
    not compared."""
    if isinstance(one, list | tuple | dict) and type(one) is type(other):
        if len(one) != len(other):
            return True
        pairs = zip(_parts(one), _parts(other), strict=True)
        return any(_differ(*pair) for pair in pairs)
    return (_is_plain(one) or _is_plain(other)) and not _same(one, other)


def _parts(value):
    return [part for item in value.items() for part in item] if isinstance(value, dict) else value


def _same(one, other):
    return _is_plain(one) and _is_plain(other) and (one == other or one != one and other != other)


def _is_plain(value):
    return value is None or isinstance(value, str | int | float | bool)
