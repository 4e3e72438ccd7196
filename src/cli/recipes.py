"""Read recipes: named sets of flags, one YAML file each in ``recipes/``, or a custom file. Knows no flag.

    about: One sentence.
    flags: {method: finetune, we: true, avg-freq: 100}
    published:                                                      # optional, as is about
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
    """Hold the texts of a recipe, not yet parsed.

    ``flags``: {name without dashes: texts}, one text unless the file has a list. ``published``: {order:
    {number: text}}, plus "family" (whose splits and prompts), "router" (none, sample or batch) and "source".
    """

    flags: dict
    about: str = ""
    published: dict = field(default_factory=dict)


def recipe_names():
    """Return the names of the recipes that come with the framework."""
    return names_in(FOLDER)


def read_recipe(name):
    """Return the recipe of that name or of a custom YAML file. Raises UserError naming the file and the key."""
    where = f"--recipe {name}"
    content = read_mapping(where, path_of(where, name, FOLDER), "flags:")
    require_parts(where, content, PARTS, KINDS | {str: "must be a sentence"})
    if not content.get("flags"):
        raise UserError(f"{where}: has no flags:")
    flags = {key: value_texts(f"{where}: {key}", value) for key, value in content["flags"].items()}
    return Recipe(flags, content.get("about", ""), content.get("published", {}))
