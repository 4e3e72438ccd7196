"""The installed package: one name, nothing beside it, the same commands from any folder."""

import ast
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import setup

ROOT = Path(__file__).parents[1]
METHOD = """
import clip
from src.models.finetune import Finetune


class Mine(Finetune):
    def losses(self, state, batch):
        assert clip.__name__ == "clip_continual.clip"
        return super().losses(state, batch)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    setup.build_package(folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path):
    """Another project, with its packages src and clip, and a method file."""
    for name in ("src", "clip", "datasets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('this is another project')\n")
    (tmp_path / "my.py").write_text(METHOD)
    return tmp_path


def run(package, folder, *words):
    return subprocess.run([sys.executable, "-m", "clip_continual.src.main", *words], cwd=folder, capture_output=True,
                          text=True, check=False, env=os.environ | {"PYTHONPATH": str(package)})


def test_one_name_reaches_site_packages(package):
    assert [path.name for path in package.iterdir()] == ["clip_continual"]
    copied = {path.relative_to(package / "clip_continual") for path in package.rglob("*") if path.is_file()}
    kept = {path.relative_to(ROOT) for folder in setup.FOLDERS for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}
    assert copied == kept | {Path("__init__.py")}


def test_every_import_is_renamed(package):
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] not in ("src", "clip"), path
            elif isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & {"src", "clip"}, path


@pytest.mark.parametrize(("text", "expected"), [
    ("import clip\n", "from clip_continual import clip\n"), ("    from src import args, main\n",
                                                             "    from clip_continual.src import args, main\n"),
    ("from clip.model import CLIP", "from clip_continual.clip.model import CLIP"),
    ('"src.models.modx:ModX"', '"clip_continual.src.models.modx:ModX"'), ("clip.load(name)", "clip.load(name)"),
    ("python -m src.main --x", "clip-continual --x"), ("see src/main.py, resrc.x", "see src/main.py, resrc.x")])
def test_renaming(text, expected):
    assert setup.renamed(text) == expected


def test_python_has_the_same_names(package, elsewhere):
    """Lazily, and beside other packages called src and clip."""
    code = ("import sys; import clip_continual as cc; print(sorted(dir(cc)) == sorted(cc.__all__)); "
            "print('torch' in sys.modules); print(cc.train.__module__, cc.UserError.__module__)\n"
            "from clip_continual import clip; print(clip.__name__)")
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(package)})
    assert done.stdout.splitlines() == ["True", "False", "clip_continual.src.api.commands clip_continual.src.errors",
                                        "clip_continual.clip"], done.stderr


def test_it_speaks_of_the_installed_command(package, elsewhere):
    done = run(package, elsewhere, "--list-datasets")
    assert done.returncode == 0 and "toy-digits" in done.stdout, done.stderr
    assert "usage: clip-continual" in run(package, elsewhere, "--help").stdout


def test_requirements_fall_into_two_parts():
    runs, checks = setup.requirements()
    assert any(line.startswith("peft>=") for line in runs) and not set(runs) & set(checks)
    assert any(line.startswith("pytest>=") for line in checks)


@pytest.mark.slow
def test_a_custom_method_imports_what_is_installed(package, elsewhere):
    words = ("--train-dataset toy-sizes --iterations 1 --batch-size 4 --model toy --warmup-length 0 --device cpu "
             "--workers 0")
    done = run(package, elsewhere, "--method", "my.py:Mine", *words.split(), "--save", "out")
    assert done.returncode == 0 and (elsewhere / "out" / "toy-sizes.pth").is_file(), done.stderr


@pytest.mark.slow
def test_weights_that_cannot_be_read_are_one_message(package, elsewhere):
    (elsewhere / "broken.pth").write_bytes(b"\x80nonsense")
    done = run(package, elsewhere, "--load", "broken.pth", "--eval-only", "--eval-datasets", "toy-sizes")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "broken.pth" in done.stderr, done.stderr


@pytest.mark.slow
def test_pip_installs_it_and_refuses_an_editable_installation(tmp_path):
    """Needs no network: nothing but the package is installed, by the setuptools that is here."""
    venv.create(tmp_path / "env", with_pip=True, system_site_packages=False)
    pip = [str(tmp_path / "env" / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    paths = {"PYTHONPATH": str(Path(pytest.__file__).parents[1])}  # setuptools of this environment
    done = subprocess.run([*pip, str(ROOT)], capture_output=True, text=True, check=False, env=os.environ | paths)
    assert done.returncode == 0, done.stderr
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    assert {path.name for path in site.iterdir() if "clip" in path.name} == {"clip_continual",
                                                                             "clip_continual-0.1.0.dist-info"}
    assert (tmp_path / "env" / "bin" / "clip-continual").is_file()
    refused = subprocess.run([*pip, "-e", str(ROOT)], capture_output=True, text=True, check=False,
                             env=os.environ | paths)
    assert refused.returncode and "work in the checkout" in refused.stderr + refused.stdout
