"""Files around the code: they parse, agree with each other, and name no place that only one machine has."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from src import __version__
from src.models import METHODS

ROOT = Path(__file__).parents[1]
YAML = [".pre-commit-config.yaml", "CITATION.cff", "environment.yml",
        *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(".github/**/*.yml"))]
PROJECT = dict(re.findall(r'^([\w-]+) = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def load(name):
    return yaml.safe_load(read(name))


@pytest.mark.parametrize("name", YAML)
def test_it_parses(name):
    assert isinstance(load(name), dict)


def test_the_citation_is_of_this_version_and_its_license():
    citation = load("CITATION.cff")
    assert citation["version"] == __version__ and citation["title"].startswith(PROJECT["name"])
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert read("LICENSE").startswith(f"{citation['license']} License")


def test_the_changelog_knows_this_version_and_has_the_newest_first():
    versions = re.findall(r"^## \[([^\]]+)\](?: - (\d{4}-\d\d-\d\d))?$", read("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == ("Unreleased", "") and versions[1][0] == __version__
    assert versions[1][1] == str(load("CITATION.cff")["date-released"])
    assert len(re.findall("^## ", read("CHANGELOG.md"), re.MULTILINE)) == len(versions)
    dates = [date for _, date in versions[1:]]
    assert dates == sorted(dates, reverse=True) and all(dates)


def test_the_version_is_in_one_place():
    """Beside the citation and the changelog, which are compared with it."""
    assert "version" not in PROJECT and 'version = {attr = "src.__version__"}' in read("pyproject.toml")
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


# -- sources -----------------------------------------------------------------------------------------------------------

PAPER = re.compile(r"arXiv:(\d{4}\.\d{5})")


def sources():
    """The rows of docs/sources.md, each a list of cells."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in read("docs/sources.md").splitlines()
            if line.startswith("| ")]
    return rows[1:]


def test_every_method_has_its_sources():
    rows = sources()
    assert all(len(row) == 5 and all(row) for row in rows)
    assert set(METHODS) <= {name for row in rows for name in re.findall(r"[\w-]+", row[0])}
    commits = "not recorded|-|[0-9a-f]{7}(, [0-9a-f]{7})*"
    assert all(re.fullmatch(commits, row[3]) for row in rows)


def test_sources_say_what_the_pages_of_methods_say():
    stated = set(re.findall(r"\b[0-9a-f]{7}\b(?<!\d{7})", " ".join(row[3] for row in sources())))
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "methods").glob("*.md")]
    assert stated and all(any(commit in page for page in pages) for commit in stated)


def test_the_citation_has_the_papers_of_the_sources():
    cited = [PAPER.search(identifier["value"])[1] for paper in load("CITATION.cff")["references"]
             for identifier in paper["identifiers"]]
    assert len(cited) == len(set(cited)) == len(load("CITATION.cff")["references"])
    assert set(cited) == {paper for row in sources() for paper in PAPER.findall(row[1])}
    assert all({"type", "title", "authors", "year"} <= paper.keys() for paper in load("CITATION.cff")["references"])


# -- what is installed -------------------------------------------------------------------------------------------------


def requirements():
    """{package: lower bound} of requirements.txt."""
    lines = [line for line in read("requirements.txt").splitlines() if line and not line.startswith("#")]
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<\d+)?", line).groups() for line in lines)


def test_supported_pythons_are_named_alike():
    named = re.findall(r"Python :: (3\.\d+)", read("pyproject.toml"))
    assert named == ["3.10", "3.11", "3.12", "3.13"] and PROJECT["requires-python"] == f">={named[0]}"
    matrix = load(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert matrix == named


def test_the_environment_has_the_requirements_and_nothing_else():
    """One list of packages: conda gives Python and pip, pip reads requirements.txt."""
    environment = load("environment.yml")
    conda = [part for part in environment["dependencies"] if isinstance(part, str)]
    [by_pip] = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    assert environment["name"] == PROJECT["name"] and by_pip == ["-r requirements.txt"]
    assert conda == [f"python{PROJECT['requires-python']},<3.14", "pip"]  # of newer ones nothing is known
    assert {"torch", "torchvision", "PyYAML", "pytest", "ruff"} <= requirements().keys()


def test_what_is_imported_is_required():
    """Every package that src/, clip/ and the programs import, by the name under which pip knows it."""
    pip_names = {"PIL": "pillow", "yaml": "PyYAML", "sklearn": "scikit-learn", "open_clip": "open_clip_torch"}
    found = set()
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("clip/**/*.py"), *ROOT.glob("scripts/*.py"), *ROOT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    found -= {"src", "clip", "scripts", *sys.stdlib_module_names}
    # Loggers that a flag asks for; a reader of one kind of image; what builds the site, and the notebook's outputs.
    optional = {"wandb", "tensorboard", "pillow_heif", "mkdocs", "nbclient", "nbformat"}
    assert {pip_names.get(name, name) for name in found} - optional <= requirements().keys()


def test_continuous_integration_runs_what_anyone_runs():
    workflow = load(".github/workflows/ci.yml")
    steps = workflow["jobs"]["test"]["steps"]
    assert steps[0]["uses"].startswith("actions/checkout@") and steps[-1] == {"run": ".ci/run"}
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert lowest in workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111 and read(".ci/run").splitlines()[-1].startswith("make ")


def test_checks_before_a_commit_fetch_nothing():
    for repository in load(".pre-commit-config.yaml")["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["language"] == "system"
            words = hook["entry"].split()
            assert words[0] == ".venv/bin/python"
            assert words[1] == "-m" or (ROOT / words[1]).is_file()
            assert all((ROOT / path).exists() for path in re.findall(r"[\w/]+\.md", hook.get("files", "").replace(
                "\\", "")))


def test_every_form_asks_for_the_command():
    forms = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"))
    assert forms
    for form in forms:
        content = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= content.keys()
        assert "command" in {field.get("id") for field in content["body"]}


# -- no private place or person ----------------------------------------------------------------------------------------

OWN = re.compile(re.escape(f"{ROOT}/") + "|/" + "home/\\w|py" + "pi|python" + r"hosted|anaconda\.(org|com)|"
                 r"[\w.+-]+@[\w-]+\.(com|org|net|edu|io)\b", re.IGNORECASE)


def committed():
    """Every text file that git knows or would take."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a checkout of git")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True,
                            text=True, check=True).stdout.split("\0")
    for name in filter(None, listed):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in content[:8000]:
            yield name, content.decode("utf-8")


def test_no_file_names_a_machines_own_path_a_registry_or_an_address():
    found = [f"{name}: {match[0]}" for name, text in committed() for match in OWN.finditer(text)]
    assert not found


@pytest.mark.parametrize("text", [f"in {ROOT}/x", "from Py" + "PI", "a.b@" + "c.org", "/" + "home/me"])
def test_one_would_be_seen(text):
    assert OWN.search(text)
