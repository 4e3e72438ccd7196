"""The installed package: one name, nothing beside it, the same commands from any folder."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

import setup
from src import __version__

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


def names(lines):
    return {re.match(r"[\w-]+", line)[0] for line in lines}


def test_requirements_are_of_what_runs_and_of_extras():
    lists = setup.requirements()
    assert lists.keys() == {"", "wilds", "tensorboard", "dev"}
    assert {"torch", "peft", "matplotlib"} <= names(lists[""]) and names(lists["dev"]) >= {"pytest", "ruff"}
    assert names(lists["wilds"]) == {"wilds"} and names(lists["tensorboard"]) == {"tensorboard"}
    every = [line for lines in lists.values() for line in lines]
    assert len(names(every)) == len(every)


def test_extras():
    extras = setup.extras()
    assert extras.keys() == {"dev", "wilds", "wandb", "tensorboard", "streams"}
    assert names(extras["dev"]) >= {"pytest", "wilds", "tensorboard"} and names(extras["wandb"]) == {"wandb"}
    assert extras["streams"] == []  # nothing that reads pairs needs another package


def test_a_source_archive_has_all_that_the_wheel_is_built_of():
    lines = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    assert {line.removeprefix("graft ") for line in lines if line.startswith("graft ")} == set(setup.FOLDERS)
    [included] = [line.split()[1:] for line in lines if line.startswith("include ")]
    assert "requirements.txt" in included and all((ROOT / name).is_file() for name in included)


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
                                                                             f"clip_continual-{__version__}.dist-info"}
    assert (tmp_path / "env" / "bin" / "clip-continual").is_file()
    refused = subprocess.run([*pip, "-e", str(ROOT)], capture_output=True, text=True, check=False,
                             env=os.environ | paths)
    assert refused.returncode and "work in the checkout" in refused.stderr + refused.stdout


# -- a fresh environment -----------------------------------------------------------------------------------------------

NO_NETWORK = re.compile("dns error|error sending request|Name or service not known|NewConnectionError|ConnectTimeout")
OPENAI = """
def load(name):
    return "a model", "a transform"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built of the source archive, as an index would have both."""
    folder = tmp_path_factory.mktemp("dist")
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True, capture_output=True)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    code = code.replace("build_sdist", "build_wheel")
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=folder / archive.name.removesuffix(".tar.gz"),
                   check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory):
    """The Python of an environment into which the wheel and its requirements were installed, beside Hugging Face's
    datasets and a package that is called as OpenAI's, by uv where it can be had, else by pip."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    (folder / "openai" / "clip").mkdir(parents=True)
    (folder / "openai" / "clip" / "__init__.py").write_text(OPENAI, encoding="utf-8")
    (folder / "openai" / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "clip"\nversion = "1.0"\n', encoding="utf-8")
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    done = subprocess.run([*map(str, install), str(wheel), "datasets", str(folder / "openai")], capture_output=True,
                          text=True, check=False)
    if done.returncode and NO_NETWORK.search(done.stderr):
        pytest.skip("no index can be reached")
    assert done.returncode == 0, done.stderr
    return python


def in_fresh(python, folder, *words):
    """Run a program of the environment, or Python; no variable of this process leads it back here."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python.parent / words[0], *words[1:]] if words[0] == "clip-continual" else [python, *words]
    return subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, check=False, env=variables)


@pytest.mark.slow
def test_a_fresh_environment_has_the_command_and_nothing_is_broken(fresh, tmp_path):
    assert in_fresh(fresh, tmp_path, "clip-continual", "--version").stdout == f"clip-continual {__version__}\n"
    assert "--lora-r" in in_fresh(fresh, tmp_path, "clip-continual", "--help", "lora").stdout
    checked = in_fresh(fresh, tmp_path, "-m", "pip", "check")
    assert checked.returncode == 0, checked.stdout
    done = in_fresh(fresh, tmp_path, "-c", "import clip_continual as cc; print(cc.__version__)")
    assert done.stdout == f"{__version__}\n", done.stderr


@pytest.mark.slow
def test_packages_of_the_same_names_stay_as_they_are(fresh, tmp_path):
    code = ("import clip, datasets, clip_continual as cc; print(clip.load('x')[0], clip.__file__)\n"
            "print(datasets.Dataset.from_dict({'a': [1, 2]})[1], cc.load('toy')[2]('a').shape)")
    done = in_fresh(fresh, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    own, theirs = done.stdout.splitlines()
    assert own.startswith("a model ") and "clip_continual" not in own and theirs.startswith("{'a': 2} ")
    site = next((fresh.parents[1] / "lib").glob("python*/site-packages"))
    record = (site / f"clip_continual-{__version__}.dist-info" / "RECORD").read_text(encoding="utf-8")
    assert {line.split("/")[0] for line in record.splitlines() if not line.startswith("../")} == {
        "clip_continual", f"clip_continual-{__version__}.dist-info"}


@pytest.mark.slow
def test_it_trains_in_a_fresh_environment(fresh, tmp_path):
    words = ("--train-dataset toy-sizes --iterations 1 --batch-size 4 --model toy --warmup-length 0 --device cpu "
             "--workers 0 --save out")
    done = in_fresh(fresh, tmp_path, "clip-continual", *words.split())
    assert done.returncode == 0 and (tmp_path / "out" / "toy-sizes.pth").is_file(), done.stderr
    assert f'"version": "{__version__}"' in (tmp_path / "out" / "run_toy-sizes.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_wilds_is_not_there_and_the_message_names_the_extra(fresh, tmp_path):
    (tmp_path / "data" / "fmow_v1.1").mkdir(parents=True)
    done = in_fresh(fresh, tmp_path, *"clip-continual --eval-only --model toy --eval-datasets FMOW --workers 0".split())
    assert done.returncode == 2 and "pip install 'clip-continual[wilds]'" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
