"""Data that code gives: Tasks of Python, ``task:NAME``, and functions of a user's file, ``my.py:open_mine``.

What such a name stands for is never read from a file of a run: a Task lives in one Python process, and a function runs
only where the command line names it. Importing this loads no torch.
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
_allowed = set()    # the functions that command lines of this process have named


def given(tasks):
    """While entered, ``task:NAME`` stands for the Tasks {name: Task}."""
    return held(_given, tasks)


def allow(name):
    """Let the function of a name run: the command line, which alone chooses code, gives it."""
    _allowed.add(name)


def open_given(name, root):
    """The Task of Python called ``name``. UserError where this process has none."""
    key = name.partition(":")[2]
    if key not in _given:
        raise UserError(f"{name} is a Task of another call from Python: give it again, among the datasets of this one")
    task = _given[key]
    if announced := getattr(task, "announced", ""):
        print(f"{name}: {announced}")
    return _checked(task, name, key)


def open_function(name, root):
    """What a function of a user's file returns, called with ``root`` or nothing."""
    path, _, function = name.rpartition(":")
    if name not in _allowed:
        raise UserError(f"{name} is code, and only the command line chooses code to run: name it there, as by "
                        f"--eval-datasets {name}")
    module = load_file(path)
    if not callable(found := getattr(module, function, None)):
        there = ", ".join(key for key, value in vars(module).items() if inspect.isfunction(value))
        raise UserError(f"{name}: there is no function {function} in it; it has {there or 'none'}")
    return _checked(found(*_arguments(name, found, root)), name, function)


def _arguments(name, function, root):
    for arguments in ((), (root,)):
        with contextlib.suppress(TypeError):
            inspect.signature(function).bind(*arguments)
            return arguments
    raise UserError(f"{name}: takes {inspect.signature(function)}; it is called with nothing, or with the value of "
                    "--data-location alone")


def _checked(task, name, file):
    """The Task under the name that its files have, with the digest of what names and labels tell of it."""
    if not isinstance(task, Task):
        raise UserError(f"{name}: returns {type(task).__name__}, not a Task, as clip_continual.Task.from_dataset "
                        "makes")
    if task.pairs:
        raise UserError(f"{name}: is of images with captions; list them in a table and give pairs:FILE")
    if reason := _fault(task):
        raise UserError(f"{name}: {reason}")
    digest = digest_of_task(task)
    return dataclasses.replace(task, name=file, templates=task.templates or SIMPLE, lists={**task.lists, name: digest},
                               place=task.place or f"{file}_{digest[:8]}", from_code=True)


def _fault(task):
    """What cannot be trained on or scored in a Task that was made by hand; None without."""
    if not task.classnames or not all(isinstance(name, str) and name.strip() for name in task.classnames):
        return "its classnames are to be texts, one for each class"
    if faulty := [text for text in task.templates if "{c}" not in text]:
        return f"its template {faulty[0]!r} has no {{c}} where the class name goes"
    if not task.splits or not all(callable(split) or isinstance(split, Split) for split in task.splits.values()):
        return 'its splits are to be {"train": Split, "test": Split}'
    return None


def digest_of_task(task):
    """Return the digest, in hex, of the names, prompts and labels of a Task: what resuming and finished scores rely on.
    A split that is listed when asked for counts where it is trained on."""
    parts = [(part, list(task.split(part).listing())) for part, split in sorted(task.splits.items())
             if part == "train" or isinstance(split, Split)]
    content = [list(task.classnames), list(task.templates), parts]
    return hashlib.sha256(json.dumps(content).encode("utf-8", "surrogateescape")).hexdigest()
