"""Find and read the YAML files that flags name, ours or custom ones. Knows no flag."""

import os
import re
from pathlib import Path

from src.cli.texts import hint_before, nearest_or_all, plain_texts
from src.errors import UserError

SUFFIXES = (".yaml", ".yml")
KINDS = {str: "must be a text", dict: "must be a mapping", list: "must be a list",
         (list, str): "must be a list, true or false"}
MOST_LETTERS = 60  # in a label
LABEL = re.compile(rf"[A-Za-z0-9][\w.+=-]{{0,{MOST_LETTERS - 1}}}", re.ASCII)  # part of a folder name


def names_in(folder):
    """Return the names of the files that come with the framework."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def path_of(where, name, folder):
    """Return the path of one of our names, a file in ``folder``, or the name itself if it ends like a YAML file."""
    if name.endswith(SUFFIXES):
        return Path(name)
    names = names_in(folder)
    if name not in names:
        raise UserError(f"{where}: {hint_before(name, names)}there are {', '.join(names)}, or give a custom FILE.yaml")
    return folder / f"{name}.yaml"


def read_mapping(where, path, expected):
    """Return the content of a file. ``expected``: the keys of its mapping, for messages."""
    if not os.path.isfile(path):
        raise UserError(f"{where}: no such file")
    from clip.files.plain_yaml import read_yaml  # imported only when a file is read
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected a mapping with {expected}")
    return content


def require_parts(where, content, parts, kinds=KINDS):
    """Refuse a key outside ``parts``, {key: type}, or a value of another type. ``kinds``: {type: its description}."""
    for key, value in content.items():
        if key not in parts:
            raise UserError(f"{where}: unknown key {key}; {nearest_or_all(key, parts)}")
        if not isinstance(value, parts[key]):
            raise UserError(f"{where}: {key} {kinds[parts[key]]}")


def value_texts(where, value):
    """Return the texts of a value: a single one, or those of a list."""
    texts = plain_texts(value)
    if texts is None:
        raise UserError(f"{where}: expected a value, as on the command line, or a list of values")
    return texts
