"""Each method, add-on and recipe has a page with its formula, a command, its cost and the published numbers."""

import re
from pathlib import Path

import pytest

from src.cli.flags import FLAGS
from src.cli.recipes import read_recipe, recipe_names
from src.models import ADD_ONS, METHODS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "methods"
INDEX = (FOLDER / "README.md").read_text(encoding="utf-8")
HEADINGS = ("Formula", "Cost", "Expected numbers", "Where it fails")
MODES = "train-modes.md"  # no method: what each mode trains


def pages(section):
    """{name: page} of a table of the index: names are the code in its first cell."""
    table = INDEX.partition(f"\n## {section}")[2].partition("\n## ")[0]
    linked = re.findall(r"^\| ([^|]*) \| \[[^]]*\]\(([\w-]+\.md)\)", table, re.MULTILINE)
    return {name: page for names, page in linked for name in re.findall(r"`([^`]+)`", names)}


def test_each_method_has_a_page():
    assert pages("Methods").keys() == METHODS.keys()


def test_each_add_on_has_a_page():
    switches = {FLAGS[key].name for row, add_on in ADD_ONS.items() for key in (add_on.switches or (row,))}
    assert switches - {"--orthogonal-gradients-path"} <= pages("Add-ons").keys()


def test_each_recipe_has_a_page():
    assert pages("Recipes").keys() == set(recipe_names())


def test_each_page_is_of_something():
    named = {page for section in ("Methods", "Add-ons", "Recipes") for page in pages(section).values()}
    assert named == {path.name for path in FOLDER.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", sorted({*pages("Methods").values(), *pages("Add-ons").values()} - {MODES}))
def test_a_page_has_formula_cost_numbers_and_a_command(page):
    text = (FOLDER / page).read_text(encoding="utf-8")
    assert [heading for heading in HEADINGS if f"\n## {heading}\n" not in text] == []
    assert re.search(r"^    (python -m src\.main|sh scripts/)", text, re.MULTILINE)
    numbers = text.partition("\n## Expected numbers\n")[2].partition("\n## ")[0]
    assert re.search("not measured here|[Nn]ot reproduced here|reproduced here|none (was|were) measured|Measured on",
                     " ".join(numbers.split()), re.IGNORECASE)


@pytest.mark.parametrize("name", recipe_names())
def test_the_page_of_a_recipe_has_its_published_numbers(name):
    text = (FOLDER / pages("Recipes")[name]).read_text(encoding="utf-8")
    for published in read_recipe(name).published.values():
        numbers = [published[key] for key in ("transfer", "avg", "last") if key in published]
        row = r"\s*[/|]\s*".join(map(re.escape, numbers))
        assert re.search(rf"(?<![\d.]){row}(?!\d)", text), (name, numbers)
