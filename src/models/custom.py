"""Custom methods: classes in your own file, ``my.py:EWC``, and classes passed in from Python, ``python:EWC``."""

import hashlib
import inspect

from src.errors import UserError
from src.machine.code_files import PREFIX, held, load_file

GIVEN = "python"  # takes the place of a file's path
ONE_OF_OURS = f"{PREFIX}src."
_given = {}       # {name: class}, while a call from Python runs


def given(classes):
    """Make ``python:NAME`` stand for the classes {name: class} inside the context."""
    return held(_given, classes)


def require_given(target):
    """Raise UserError if ``python:NAME`` stands for no class here."""
    name = target.rpartition(":")[2]
    if name not in _given:
        raise UserError(f"--method {target}: this class was passed to a call from Python, and this process does not "
                        f"have it; pass the class {name} again, or write it into a file and give "
                        f"--method FILE.py:{name}")


def class_of(target):
    """Return the class of ``my.py:EWC`` or ``python:EWC``. Raise UserError if there is none."""
    path, _, name = target.rpartition(":")
    if path == GIVEN:
        require_given(target)
        return _given[name]
    module = load_file(path)
    if not hasattr(module, name):
        classes = ", ".join(key for key, value in vars(module).items() if isinstance(value, type))
        raise UserError(f"--method {target}: the file has no class {name}; it has {classes or 'none'}")
    return getattr(module, name)


# -- what a class is ---------------------------------------------------------------------------------------------------


def code_digest_of(target):
    """Return {"the class NAME": digest of its code} for ``python:NAME``, for resume points and finished
    tasks; {} for others.

    The digest covers the class's code and that of bases outside this package, since a notebook may change a
    class and keep its name. Code that it calls outside the class is not covered.
    """
    path, _, name = target.rpartition(":")
    if path != GIVEN:
        return {}
    bases = [base for base in class_of(target).__mro__ if not base.__module__.startswith((ONE_OF_OURS, "builtins"))]
    content = [[base.__name__, sorted((key, _code(value)) for key, value in vars(base).items() if key not in HIDDEN)]
               for base in bases]
    return {f"the class {name}": hashlib.sha256(repr(content).encode()).hexdigest()}


# Attributes that depend on where a class is defined, not on what it does.
HIDDEN = {"__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__", "__static_attributes__",
          "__annotations__", "__qualname__", "__annotate__", "__annotations_cache__"}


def _code(value):
    """Reduce an attribute of a class to nested lists of strings that are the same in every process."""
    if isinstance(value, staticmethod | classmethod):
        return _code(value.__func__)
    if isinstance(value, property):
        return [_code(part) for part in (value.fget, value.fset, value.fdel)]
    if inspect.isfunction(value):
        inner = _code(value.__wrapped__) if hasattr(value, "__wrapped__") else []
        return [_code(value.__code__), _code(value.__defaults__), _code(value.__kwdefaults__), inner]
    if inspect.iscode(value):
        return [value.co_code.hex(), [_code(part) for part in value.co_consts], list(value.co_names),
                list(value.co_varnames)]
    if isinstance(value, frozenset | set):
        return sorted(map(repr, map(_code, value)))
    if isinstance(value, tuple | list):
        return [_code(part) for part in value]
    if isinstance(value, dict):
        return [[_code(key), _code(part)] for key, part in value.items()]
    plain = value is None or isinstance(value, str | bytes | int | float | complex)
    return repr(value) if plain else type(value).__name__


def made_of(hook):
    """Return {keyword: value} that a hook object was made with. Raise UserError if making it again gives a
    different one."""
    kind = type(hook)
    found = _keywords(kind, vars(hook).get("made_with"))
    again = vars(kind(**found))
    changed = [name for name, value in vars(hook).items()
               if name != "made_with" and (name not in again or _differ(value, again[name]))]
    if changed:
        raise UserError(f"--method {kind.__name__}(...): each task rebuilds the object from its keywords, and "
                        f"{', '.join(changed)} would differ; make it a keyword of the class")
    return found


def _keywords(kind, made_with):
    """Return the arguments an object was made with, by name."""
    signature = inspect.signature(kind)
    if made_with is None and signature.parameters:
        raise UserError(f"--method {kind.__name__}(...): does not record its arguments; give the class, and its "
                        "keywords by --set")
    arguments, keywords = made_with or ((), {})
    found = {}
    for name, value in signature.bind(*arguments, **keywords).arguments.items():
        sort = signature.parameters[name].kind
        if sort is inspect.Parameter.VAR_POSITIONAL:
            raise UserError(f"--method {kind.__name__}(...): takes *{name}, and a run records keywords; give the class "
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
