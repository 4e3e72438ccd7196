"""Files around the code: they parse, agree with each other, and name no place that only one machine has."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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
    assert citation["version"] == PROJECT["version"] and citation["title"].startswith(PROJECT["name"])
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert read("LICENSE").startswith(f"{citation['license']} License")


def test_the_changelog_knows_this_version_and_has_the_newest_first():
    versions = re.findall(r"^## \[([^\]]+)\](?: - (\d{4}-\d\d-\d\d))?$", read("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == ("Unreleased", "") and versions[1][0] == PROJECT["version"]
    assert versions[1][1] == str(load("CITATION.cff")["date-released"])
    assert len(re.findall("^## ", read("CHANGELOG.md"), re.MULTILINE)) == len(versions)
    dates = [date for _, date in versions[1:]]
    assert dates == sorted(dates, reverse=True) and all(dates)


def requirements():
    """{package: lower bound} of requirements.txt."""
    lines = [line for line in read("requirements.txt").splitlines() if line and not line.startswith("#")]
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in lines)


def test_the_environment_has_the_requirements_and_nothing_else():
    """One list of packages: conda gives Python and pip, pip reads requirements.txt."""
    environment = load("environment.yml")
    conda = [part for part in environment["dependencies"] if isinstance(part, str)]
    [by_pip] = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    assert environment["name"] == PROJECT["name"] and by_pip == ["-r requirements.txt"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
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
    # Loggers that a flag asks for; a reader of one kind of image; what stores the outputs of the notebook.
    optional = {"wandb", "tensorboard", "pillow_heif", "nbclient", "nbformat"}
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


# -- no place or person of one's own -----------------------------------------------------------------------------------

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
