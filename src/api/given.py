"""Objects passed in from Python where the command line has names: Tasks, and classes of methods and of hooks."""

import contextlib

import src.datasets.from_code
import src.models.custom
from src.cli.flags import FLAGS
from src.datasets.common import Task
from src.errors import UserError
from src.models import ADD_ONS, METHODS
from src.models.custom import GIVEN, call_text, is_literal, made_of
from src.models.hooks import Hooks


@contextlib.contextmanager
def given(keywords, *values):
    """Register the Tasks, the method and the hooks in ``keywords`` under names inside the context. Yield keywords
    with these names and the arguments of the method and hook objects."""
    keywords, classes = _with_method(keywords)
    keywords, classes = _with_hooks(keywords, classes)
    with src.datasets.from_code.given(_tasks([keywords, *values])), src.models.custom.given(classes):
        yield keywords


def _with_method(keywords):
    """Return (keywords with the method replaced by a name, {name: class})."""
    method = keywords.get("method")
    if method is None or isinstance(method, str):
        return keywords, {}
    kind = _kind_of(method, "--method", "a name, a class derived from Hooks, or an instance of one")
    if name := _name_of_ours(kind):
        raise UserError(f"--method {kind.__name__}: is built in; give {name!r}, and its flags as keywords")
    named = keywords | {"method": f"{GIVEN}:{kind.__name__}"}
    if kind is not method:
        if keywords.get("set"):
            raise UserError(f"--set with an object of {kind.__name__}: it already has its keywords; give the class")
        named["set"] = made_of(method)
    return named, {kind.__name__: kind}


def _with_hooks(keywords, classes):
    """-> (keywords in which hooks are texts, {name: class} with theirs)"""
    if keywords.get("hooks") is None:
        return keywords, classes
    hooks, texts, classes = keywords["hooks"], [], dict(classes)
    for hook in hooks if isinstance(hooks, list | tuple) else [hooks]:
        if isinstance(hook, str):
            texts.append(hook)
            continue
        kind = _kind_of(hook, "--hooks", "a class derived from Hooks, an object of one, FILE.py:Class, or a list of "
                                         "these")
        if flags := _switches_of_ours(kind):
            raise UserError(f"--hooks {kind.__name__}: comes with the package; give {flags} instead")
        if classes.setdefault(kind.__name__, kind) is not kind:
            raise UserError(f"--hooks {kind.__name__}: another class of this call has that name; rename one")
        texts.append(call_text(f"{GIVEN}:{kind.__name__}", {} if hook is kind else _recorded(hook)))
    return keywords | {"hooks": texts}, classes


def _recorded(hook):
    """What an object of hooks was made with. UserError for a value that no text of a command line stands for."""
    found = made_of(hook, "--hooks")
    if odd := [name for name, value in found.items() if not is_literal(value)]:
        raise UserError(f"--hooks {type(hook).__name__}({odd[0]}={found[odd[0]]!r}): a run records the keywords of its "
                        "hooks, and this one is not a finite number, text, None, list, tuple or dict of these")
    return found


def _kind_of(value, flag, expected):
    kind = value if isinstance(value, type) else type(value)
    if not issubclass(kind, Hooks):
        raise UserError(f"{flag} {value!r}: expected {expected}")
    return kind


def _switches_of_ours(kind):
    """The flags that switch on a class of this package, in words; "" of another class."""
    target = f"{kind.__module__}:{kind.__name__}"
    flags = [FLAGS[key].name for name, row in ADD_ONS.items() if row.target == target for key in row.switches or [name]]
    method = _name_of_ours(kind)
    return " or ".join([*flags, *([f"--method {method}"] if method else [])])


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
