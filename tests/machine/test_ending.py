"""How a process ends: who reads its output, which packages are there."""

import subprocess
import sys
from pathlib import Path

import pytest

from src import main

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[2]
EMBEDDED = "--train-dataset toy-colours --iterations 1 --lr 1e-5 --model toy"


def python(*words, **options):
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True,
                            stdout=subprocess.PIPE, **options)


@pytest.mark.parametrize("words", ["--list-datasets", pytest.param(EMBEDDED, marks=pytest.mark.slow)])
def test_who_reads_the_output_ends_first(words):
    process = python("-m", "src.main", *words.split())
    process.stdout.close()
    printed = process.stderr.read()
    assert process.wait(60) == 141
    assert printed.splitlines()[-1] == "stopped: the reader of the output has ended", printed
    assert "Traceback" not in printed and "Exception" not in printed


def test_no_stdout_at_all():
    process = subprocess.Popen(f"{sys.executable} -m src.main --list-datasets >&-", cwd=ROOT, shell=True,
                               stderr=subprocess.PIPE, text=True)
    assert process.communicate(timeout=300)[1] == "" and process.returncode == 0


def test_a_pipe_that_breaks_elsewhere_is_an_error(cli, monkeypatch):
    def broken(config):
        raise BrokenPipeError("of a worker")
    monkeypatch.setitem(main.RUNS, main.kinds.LIST, broken)
    with pytest.raises(BrokenPipeError, match="of a worker"):
        cli("--list-datasets")


def test_a_python_without_the_packages():
    done = python("-S", "-m", "src.main", *EMBEDDED.split())
    out, printed = done.communicate(timeout=300)
    assert done.returncode == 2 and out == "" and "Traceback" not in printed
    assert f"error: the package torch is not installed for {sys.executable}; activate" in printed


@pytest.mark.parametrize("name", ["src.nothing", "src", "torch.nothing", None])
def test_a_module_that_no_package_has_is_an_error_of_ours(cli, monkeypatch, name):
    def broken(config):
        raise ModuleNotFoundError("no module", name=name)
    monkeypatch.setitem(main.RUNS, main.kinds.LIST, broken)
    with pytest.raises(ModuleNotFoundError):
        cli("--list-datasets")
