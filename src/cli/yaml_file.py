"""YAML files that a flag names, ours or custom ones: where they lie, and what may stand in them. Knows no flag."""

import os
import re
from pathlib import Path

from src.cli.texts import hint_before, nearest_or_all, plain_texts
from src.errors import UserError

SUFFIXES = (".yaml", ".yml")
KINDS = {str: "is to be a text", dict: "is to be a mapping", list: "is to be a list",
         (list, str): "is to be a list, true or false"}
MOST_LETTERS = 60  # of a label
LABEL = re.compile(rf"[A-Za-z0-9][\w.+=-]{{0,{MOST_LETTERS - 1}}}", re.ASCII)  # part of a folder's name


def names_in(folder):
    """Names of the files that come with the framework."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def path_of(where, name, folder):
    """A name of ours, which is a file in ``folder``, or a path: what ends as a YAML file does."""
    if name.endswith(SUFFIXES):
        return Path(name)
    names = names_in(folder)
    if name not in names:
        raise UserError(f"{where}: {hint_before(name, names)}there are {', '.join(names)}, or give a custom FILE.yaml")
    return folder / f"{name}.yaml"


def read_mapping(where, path, expected):
    """The content of a file. ``expected``: the keys of a mapping, as a message names them."""
    if not os.path.isfile(path):
        raise UserError(f"{where}: no such file")
    from clip.files.plain_yaml import read_yaml  # a command line without a file reads no YAML
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected a mapping with {expected}")
    return content


def require_parts(where, content, parts, kinds=KINDS):
    """Refuse what is none of ``parts``, {key: type}, or of another type. ``kinds``: {type: the words for it}."""
    for key, value in content.items():
        if key not in parts:
            raise UserError(f"{where}: unknown key {key}; {nearest_or_all(key, parts)}")
        if not isinstance(value, parts[key]):
            raise UserError(f"{where}: {key} {kinds[parts[key]]}")


def value_texts(where, value):
    """The texts of a value: one, or those of a list."""
    texts = plain_texts(value)
    if texts is None:
        raise UserError(f"{where}: expected a value, as on the command line, or a list of values")
    return texts
