"""Objects passed in from Python where the command line has names: Tasks, and classes of methods."""

import contextlib

import src.datasets.from_code
import src.models.custom
from src.datasets.common import Task
from src.errors import UserError
from src.models import METHODS
from src.models.custom import GIVEN, made_of
from src.models.hooks import Hooks


@contextlib.contextmanager
def given(keywords, *values):
    """Register the Tasks and the method in ``keywords`` under names inside the context. Yield keywords with
    these names and the arguments of a method object."""
    keywords, classes = _with_method(keywords)
    with src.datasets.from_code.given(_tasks([keywords, *values])), src.models.custom.given(classes):
        yield keywords


def _with_method(keywords):
    """Return (keywords with the method replaced by a name, {name: class})."""
    method = keywords.get("method")
    if method is None or isinstance(method, str):
        return keywords, {}
    kind = method if isinstance(method, type) else type(method)
    if not issubclass(kind, Hooks):
        raise UserError(f"--method {method!r}: expected a name, a class derived from Hooks, or an instance of one")
    if name := _name_of_ours(kind):
        raise UserError(f"--method {kind.__name__}: is built in; give {name!r}, and its flags as keywords")
    named = keywords | {"method": f"{GIVEN}:{kind.__name__}"}
    if kind is not method:
        if keywords.get("set"):
            raise UserError(f"--set with an object of {kind.__name__}: it already has its keywords; give the class")
        named["set"] = made_of(method)
    return named, {kind.__name__: kind}


def _name_of_ours(kind):
    """Return the name of a class in METHODS; None for any other class."""
    target = f"{kind.__module__}:{kind.__name__}"
    return next((name for name, row in METHODS.items() if target in (row.target, row.on_pairs and row.on_pairs.target)),
                None)


def _tasks(values):
    """Return {name: Task} of all Tasks in nested values."""
    found = {}
    for task in _leaves(values):
        if isinstance(task, Task) and found.setdefault(task.name, task) is not task:
            raise UserError(f"two Tasks are called {task.name!r}, and so would be their files; give each its own name")
    return found


def _leaves(value):
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value
