"""Recipes: named sets of flags, one YAML file each in ``recipes/``, or a file of the user's own. Knows no flag.

    about: One sentence.
    flags: {method: finetune, we: true, avg-freq: 100}
    published:                                                      # may be left out, as about may
      mtil-1: {transfer: 68.1, avg: 75.4, last: 83.6, family: ZSCL, router: none, source: "arXiv:2303.06628"}
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from src.cli.texts import nearest, plain_texts
from src.errors import UserError

FOLDER = Path(__file__).parents[2] / "recipes"
SUFFIXES = (".yaml", ".yml")
PARTS = {"about": str, "flags": dict, "published": dict}


@dataclass(frozen=True)
class Recipe:
    """``flags``: {name without its dashes: texts}, one text unless the file has a list; ``published``: {order: {number:
    text}}, beside the numbers "family" (whose splits and prompts), "router" (none, sample or batch) and "source". All
    is text, read by whoever knows what it means."""

    flags: dict
    about: str = ""
    published: dict = field(default_factory=dict)


def recipe_names():
    """Names of the recipes that come with the framework."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_recipe(name):
    """The recipe of that name, or of a YAML file of the user's. Raises UserError naming the file and the key."""
    content = _read(_path(name), name)
    if not isinstance(content, dict):
        raise UserError(f"--recipe {name}: expected a mapping with flags:")
    for key, value in content.items():
        if key not in PARTS:
            raise UserError(f"--recipe {name}: unknown key {key}; there are {', '.join(PARTS)}")
        if not isinstance(value, PARTS[key]):
            raise UserError(f"--recipe {name}: {key} is to be {'a sentence' if PARTS[key] is str else 'a mapping'}")
    if not content.get("flags"):
        raise UserError(f"--recipe {name}: has no flags:")
    flags = {key: _texts(name, key, value) for key, value in content["flags"].items()}
    return Recipe(flags, content.get("about", ""), content.get("published", {}))


def _path(name):
    """A name of ours, or a path: what ends as a YAML file does."""
    if name.endswith(SUFFIXES):
        return Path(name)
    names = recipe_names()
    if name not in names:
        hint = nearest(name, names)
        raise UserError(f"--recipe {name}: {hint}{' ' if hint else ''}there are {', '.join(names)}, or give FILE.yaml "
                        "of your own")
    return FOLDER / f"{name}.yaml"


def _read(path, name):
    if not os.path.isfile(path):
        raise UserError(f"--recipe {name}: no such file")
    from clip.files.plain_yaml import read_yaml  # a command line without a recipe reads no YAML
    try:
        return read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--recipe {name}: {error}") from None


def _texts(name, key, value):
    texts = plain_texts(value)
    if texts is None:
        raise UserError(f"--recipe {name}: {key}: expected a value, as on the command line, or a list of values")
    return texts
