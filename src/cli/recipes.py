"""Recipes: named sets of flags, one YAML file each in ``recipes/``, or a file of the user's own. Knows no flag.

    about: One sentence.
    flags: {method: finetune, we: true, avg-freq: 100}
    published:                                                      # may be left out, as about may
      mtil-1: {transfer: 68.1, avg: 75.4, last: 83.6, family: ZSCL, router: none, source: "arXiv:2303.06628"}
"""

from dataclasses import dataclass, field
from pathlib import Path

from src.cli.yaml_file import KINDS, names_in, path_of, read_mapping, require_parts, value_texts
from src.errors import UserError

FOLDER = Path(__file__).parents[2] / "recipes"
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
    return names_in(FOLDER)


def read_recipe(name):
    """The recipe of that name, or of a YAML file of the user's. Raises UserError naming the file and the key."""
    where = f"--recipe {name}"
    content = read_mapping(where, path_of(where, name, FOLDER), "flags:")
    require_parts(where, content, PARTS, KINDS | {str: "is to be a sentence"})
    if not content.get("flags"):
        raise UserError(f"{where}: has no flags:")
    flags = {key: value_texts(f"{where}: {key}", value) for key, value in content["flags"].items()}
    return Recipe(flags, content.get("about", ""), content.get("published", {}))
