"""The first screens: short, and each count in them is that of the code and of the documents behind it."""

import json
import re
from pathlib import Path

import pytest

from src.cli.reproductions import read_reproduction, reproduction_names
from src.models import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ERRORS = (ROOT / "docs" / "silent-errors.md").read_text(encoding="utf-8")


def rows(text, section):
    """Return the rows of the first table of a section, each as a list of cells."""
    table = re.search(r"^\|.*\n\|[-|: ]+\n((?:\|.*\n)+)", text.partition(f"\n## {section}\n")[2], re.MULTILINE)[1]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


def test_it_fits_on_two_screens():
    assert len(README.splitlines()) <= 125


def test_silent_errors_are_counted():
    found = rows(ERRORS, "ZSCL's repository and its forks") + rows(ERRORS, "Code of other methods")
    assert f"[{len(found)} silent errors of published code](docs/silent-errors.md)" in README


@pytest.mark.parametrize("section", ["ZSCL's repository and its forks", "Code of other methods",
                                     "Inputs that other programs read wrongly"])
def test_each_silent_error_has_a_test(section):
    for row in rows(ERRORS, section):
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[-1])
        assert named, row
        for file, test in named:
            assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8"), row


def test_what_was_reproduced_is_counted():
    certificates = [json.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("reproductions/*.json")]
    passed = {(content["name"], cell["name"]) for content in certificates for cell in content["cells"] if cell["pass"]}
    cells = sum(len(read_reproduction(name).expected) for name in reproduction_names())
    assert f"published numbers reproduced here: {len(passed)} of {cells}; " in " ".join(README.split())


def test_methods_are_counted():
    """None was run against its authors' code on real weights; whoever does it first counts them here."""
    text = " ".join(README.split())
    assert f"methods run against their authors' code on real weights: 0 of {len(METHODS)}." in text


@pytest.mark.parametrize("figure", ["1.74 times faster (1.65 to 1.91)", "5.99"])
def test_times_are_those_of_the_table(figure):
    assert figure in README and figure.replace("times faster (", "(").split(" (")[0] in (
        ROOT / "docs" / "speed.md").read_text(encoding="utf-8")


def test_the_method_is_short():
    method = re.search(r"```python\n(import torch\n.*?)```", README, re.DOTALL)[1]
    assert "class Steady(Finetune)" in method and len([line for line in method.splitlines() if line]) <= 20
