"""Open data from code: Tasks of Python, ``task:NAME``, and functions in a user's file, ``my.py:open_mine``.

What such a name stands for is never read from a file of a run: a Task lives in one Python process, and a
function runs only if the command line names it. Importing this loads no torch.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import json

from src.datasets.common import Split, Task
from src.errors import UserError
from src.machine.code_files import held, load_file
from src.templates.collections import SIMPLE

_given = {}         # {name: Task}, while a call from Python runs
_allowed = set()    # functions named by command lines of this process


def given(tasks):
    """Let ``task:NAME`` stand for the Tasks {name: Task} while entered."""
    return held(_given, tasks)


def allow(name):
    """Let the function of a name run. Only the command line chooses code, and it gives this name."""
    _allowed.add(name)


def open_given(name, root):
    """Return the Task of Python called ``name``. Raises UserError if this process has none."""
    key = name.partition(":")[2]
    if key not in _given:
        raise UserError(f"{name} is a Task from another call in Python: pass it again with the datasets of this one")
    return _checked(_given[key], name, key)


def open_function(name, root):
    """Return the result of a function in a user's file, called with ``root`` or nothing."""
    path, _, function = name.rpartition(":")
    if name not in _allowed:
        raise UserError(f"{name} is code, and only the command line may choose code to run: name it there, for "
                        f"example --eval-datasets {name}")
    module = load_file(path)
    if not callable(found := getattr(module, function, None)):
        there = ", ".join(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise UserError(f"{name}: it has no function {function}; it has {there or 'none'}")
    return _checked(found(*_arguments(name, found, root)), name, function)


def _arguments(name, function, root):
    for arguments in ((), (root,)):
        with contextlib.suppress(TypeError):
            inspect.signature(function).bind(*arguments)
            return arguments
    raise UserError(f"{name}: takes {inspect.signature(function)}; it is called without arguments, or only with the "
                    "value of --data-location")


def _checked(task, name, file):
    """Return the Task under its name in files, with the digest of its names and labels."""
    if not isinstance(task, Task):
        raise UserError(f"{name}: returns {type(task).__name__}, not a Task, as clip_continual.Task.from_dataset "
                        "makes")
    if task.pairs:
        raise UserError(f"{name}: holds images with captions; list them in a table and give pairs:FILE")
    if reason := _fault(task):
        raise UserError(f"{name}: {reason}")
    if announced := getattr(task, "announced", ""):
        print(f"{name}: {announced}")
    digest = digest_of_task(task)
    return dataclasses.replace(task, name=file, templates=task.templates or SIMPLE, lists={**task.lists, name: digest},
                               place=task.place or f"{file}_{digest[:8]}", from_code=True)


def _fault(task):
    """Return why a handmade Task cannot be trained on or scored; None if it can."""
    if not task.classnames or not all(isinstance(name, str) and name.strip() for name in task.classnames):
        return "its classnames must be texts, one for each class"
    if faulty := [text for text in task.templates if "{c}" not in text]:
        return f"its template {faulty[0]!r} lacks {{c}} for the class name"
    if not task.splits or not all(callable(split) or isinstance(split, Split) for split in task.splits.values()):
        return 'its splits must be {"train": Split, "test": Split}'
    return None


def digest_of_task(task):
    """Return the digest, in hex, of a Task's names, prompts and labels: resuming and finished scores rely on
    it.

    A split that is listed on demand counts if it is trained on.
    """
    parts = [(part, list(task.split(part).listing())) for part, split in sorted(task.splits.items())
             if part == "train" or isinstance(split, Split)]
    content = [list(task.classnames), list(task.templates), parts]
    return hashlib.sha256(json.dumps(content).encode("utf-8", "surrogateescape")).hexdigest()
