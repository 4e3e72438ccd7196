"""What a custom class is, as a digest: for resume points and finished tasks, which another class may not take over.

The code that runs counts, and not the text of a file, which may have changed since: that of the class, of its bases
and nested classes, and of the functions, classes and plain values of a user's files that this code names.
"""

import dis
import hashlib
import inspect
import sys
import types
from pathlib import Path

from src.machine.code_files import PREFIX

OURS = ("clip_continual", f"{PREFIX}src", f"{PREFIX}clip")
PACKAGES = {"site-packages", "dist-packages"}
# Attributes of a class that tell where it stands, and not what it does.
HIDDEN = {"__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__", "__static_attributes__",
          "__annotations__", "__qualname__", "__annotate__", "__annotations_cache__", "__annotate_func__", "_abc_impl"}
_first = {}  # {where a list, dict or set stands: (itself, what it held when it was first seen)}


def code_digests(classes):
    """{"the class NAME ...": digest of its code} of [(how a message calls it, class)]. Other versions of Python compile
    to other code, which is not compared: the key names the version."""
    found = {}
    for name, kind in classes:
        key = f"the class {name} (Python {sys.version_info.major}.{sys.version_info.minor})"
        found[key] = hashlib.sha256(repr(_Reader().of(kind)).encode()).hexdigest()
    return found


def uncounted(kind):
    """The names that the code of a class uses and of which its digest tells nothing but the type: modules of the user's
    and objects."""
    reader = _Reader()
    reader.of(kind)
    return sorted(reader.uncounted)


class _Reader:
    """Makes nested lists of texts of values, the same in every process."""

    def __init__(self):
        self.seen, self.uncounted = [], set()

    def of(self, value, place=None):
        """``place``: the module and the name under which a value stands there, for what only such a value has."""
        if isinstance(value, staticmethod | classmethod):
            return self.of(value.__func__)
        if isinstance(value, property):
            return [self.of(part) for part in (value.fget, value.fset, value.fdel)]
        if inspect.isfunction(value):
            return self._once(value, self._function)
        if isinstance(value, type):
            return self._once(value, self._class) if _is_theirs(value.__module__ or "") else _full_name(value)
        if inspect.iscode(value):
            return [value.co_code.hex(), [self.of(part) for part in value.co_consts], list(value.co_names),
                    list(value.co_varnames)]
        if isinstance(value, list | dict | set):
            return self._as_first_seen(value, place)
        if isinstance(value, frozenset):
            return sorted(map(repr, map(self.of, value)))
        if isinstance(value, tuple):
            return [self.of(part) for part in value]
        if value is None or isinstance(value, str | bytes | int | float | complex):
            return repr(value)
        return self._object(value, place)

    def _once(self, value, read):
        """What ``read`` makes of a function or a class; of one that is met again its number."""
        for number, other in enumerate(self.seen):
            if other is value:
                return f"seen {number}"
        self.seen.append(value)
        return read(value)

    def _class(self, kind):
        bases = [base for base in kind.__mro__ if _is_theirs(base.__module__)]
        return [_full_name(base) for base in kind.__mro__[1:] if base not in bases], [
            [base.__name__, [[name, self.of(value, (base.__module__, f"{base.__qualname__}.{name}"))]
                             for name, value in sorted(vars(base).items()) if name not in HIDDEN]] for base in bases]

    def _function(self, function):
        """Of what a decorator of a package, or of ours, makes of a function: that function, and whose decorator."""
        home = function.__globals__.get("__name__", "")
        if not _is_theirs(home):
            return [home, self.of(function.__wrapped__)] if hasattr(function, "__wrapped__") else _full_name(function)
        inner = self.of(function.__wrapped__) if hasattr(function, "__wrapped__") else []
        return [self.of(function.__code__), self.of(function.__defaults__), self.of(function.__kwdefaults__), inner,
                self._globals(function, home), self._closure(function, home)]

    def _globals(self, function, home):
        """[name, value] of what the code of a function names outside of it."""
        there = function.__globals__
        return [[name, self.of(there[name], (home, name))] for name in sorted(_names(function.__code__))
                if name in there]

    def _closure(self, function, home):
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        found = [(name, cell.cell_contents) for name, cell in cells if name != "__class__" and not _is_empty(cell)]
        return [[name, self.of(value, (home, f"{function.__qualname__}.{name}"))] for name, value in found]

    def _as_first_seen(self, value, place):
        """What a list, dict or set held when it was first seen: what a run adds to it is no change."""
        if place is None:
            return self._parts(value)
        if place not in _first or _first[place][0] is not value:
            _first[place] = value, self._parts(value)
        return _first[place][1]

    def _parts(self, value):
        if isinstance(value, set):
            return sorted(map(repr, map(self.of, value)))
        parts = [part for item in value.items() for part in item] if isinstance(value, dict) else value
        return [type(value).__name__, *map(self.of, parts)]

    def _object(self, value, place):
        """The type of anything else, which tells little of it."""
        module = value.__name__ if isinstance(value, types.ModuleType) else None
        is_code = inspect.isroutine(value) or hasattr(type(value), "__get__")  # of packages, or slots of a class
        if place and not is_code and (module is None or _is_theirs(module)) and not place[1].endswith("__"):
            self.uncounted.add(place[1])
        return module or (_full_name(value) if inspect.isroutine(value) else type(value).__name__)


def _names(code):
    """The global names that code reads, and the code within it."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return found.union(*(_names(part) for part in code.co_consts if inspect.iscode(part)))


def _is_empty(cell):
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _full_name(value):
    return f"{getattr(value, '__module__', None)}.{value.__qualname__}"


def _is_theirs(module):
    """Whether a module is the user's, such as that of a session: neither ours, nor a package's or Python's."""
    if module == "__main__":
        return True
    ours = any(module == name or module.startswith(f"{name}.") for name in OURS)
    if ours or module.partition(".")[0] in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or PACKAGES.isdisjoint(folder.name for folder in Path(file).resolve().parents)
