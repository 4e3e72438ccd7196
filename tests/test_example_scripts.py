"""The scripts of ``examples/`` run by the commands in their heads, on embedded data, a few steps each."""

import functools
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from cli_files import COLOURS, write_pictures

import clip_continual as cc
from src.args import parse

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
LENGTH = {"iterations": 2, "warmup_length": 0}  # where a script says how long
SMALL = {"max_evaluation_size": 8, "workers": 0}
QUICK = ("own_module",)


def head(name):
    return (FOLDER / name).read_text(encoding="utf-8").split('"""')[1]


def commands(name, program):
    """The words after ``python -m program`` of each command in the head of a script."""
    lines = re.findall(rf"^    python -m {re.escape(program)}([^#\n]*)", head(name), re.MULTILINE)
    return [line.split() for line in lines]


@pytest.fixture
def short(tmp_path, monkeypatch):
    """An empty current folder, in which what Python trains is short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)

    def shortened(function, **more):
        @functools.wraps(function)
        def call(*arguments, **keywords):
            length = {key: value for key, value in LENGTH.items() if key in keywords}
            return function(*arguments, **keywords | length | SMALL | more)
        return call
    monkeypatch.setattr("src.api.commands.train", shortened(cc.train, batch_size=8))
    monkeypatch.setattr("src.api.commands.evaluate", shortened(cc.evaluate))


def run(name, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_module(f"examples.{name}", run_name="__main__", alter_sys=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_head_has_a_command(name):
    assert commands(f"{name}.py", f"examples.{name}")
    for words in commands(f"{name}.py", "src.main"):
        config = parse(words)
        assert config.method.startswith(f"examples/{name}.py:") and config.dataset_order


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
                                  for name in SCRIPTS if name != "own_pictures"])
def test_scripts_run_by_the_command_of_their_head(name, short, monkeypatch, capsys):
    (words,) = commands(f"{name}.py", f"examples.{name}")
    run(name, words, monkeypatch)
    printed = capsys.readouterr().out
    assert "toy-new-shapes" in printed or "finetune" in printed
    assert list(Path("ckpt").rglob("run.json"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_method", "own_module"])
def test_their_classes_are_methods_of_the_command_line(name, cli, monkeypatch, tmp_path):
    (words,) = commands(f"{name}.py", "src.main")
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in words]
    order, save = words.index("--dataset-order") + 1, words.index("--save") + 1
    words[order], words[save] = "toy-sizes,toy-colours", str(tmp_path / "out")
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in (LENGTH | SMALL).items()]
    done = cli(*words, "--model", "toy", "--lr", "1e-3", "--batch-size", "8", *flags)
    assert done.status == 0, done.err
    assert (tmp_path / "out" / "toy-colours.pth").is_file()


def test_own_pictures_by_the_command_of_its_head(short, monkeypatch, capsys):
    write_pictures(Path("photos"), COLOURS, 10)
    first, second = commands("own_pictures.py", "examples.own_pictures")
    assert first == ["photos"] and second == ["photos", "toy"]
    run("own_pictures", second, monkeypatch)
    printed = capsys.readouterr().out
    assert f"{len(COLOURS)} classes, top-1 on held-out pictures: " in printed and "open_clip" not in printed
    assert Path("ckpt/own_pictures/predictions_photos.csv").is_file()
    assert Path("ckpt/own_pictures/photos.pth").is_file()


@pytest.mark.slow
def test_own_pictures_with_a_vit_are_exported(short, world, monkeypatch, capsys):
    write_pictures(Path("photos"), COLOURS, 10)
    run("own_pictures", ["photos", str(world.model)], monkeypatch)
    assert "local-dir:ckpt/own_pictures/open_clip" in capsys.readouterr().out
    assert Path("ckpt/own_pictures/open_clip/open_clip_config.json").is_file()


# -- the script of the cluster -----------------------------------------------------------------------------------------


@pytest.fixture
def slurm(tmp_path):
    """slurm(word, ..., NAME=value) -> (status, what was said, the calls of sbatch and python), none of them real.
    ``PYTHON_STATUS``: that of python."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    for name, more in (("sbatch", 'echo "77;cluster"'), ("python", 'exit "${PYTHON_STATUS:-0}"')):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "$LOG"\n{more}\n', encoding="utf-8")
        (programs / name).chmod(0o755)

    def call(*words, **environment):
        log.write_text("", encoding="utf-8")
        done = subprocess.run(["bash", FOLDER / "slurm.sh", *words], capture_output=True, text=True, cwd=tmp_path,
                              timeout=60, check=False, env=os.environ | environment | {
                                  "PATH": f"{programs}:{os.environ['PATH']}", "LOG": str(log)})
        return done.returncode, done.stdout + done.stderr, log.read_text(encoding="utf-8").splitlines()
    return call


def test_the_cluster_gets_one_array_of_a_study(slurm):
    status, said, calls = slurm()
    assert status == 0 and said == ("submitted 77; its state: python -m src.main --study studies/toy.yaml --save "
                                    "ckpt/study --status\n")
    call, = calls
    options, _, words = call.removeprefix("sbatch ").partition(" train.sh ")
    assert options == "--parsable --array=1-4"
    config = parse(words.split())
    assert (config.kind, config.study, config.save) == ("study", "studies/toy.yaml", "ckpt/study")
    assert (ROOT / config.study).is_file() and parse(said.split("src.main ")[1].split()).status


def test_data_are_fetched_before_and_nothing_is_submitted_while_some_are_left(slurm):
    named = re.search(r"^#     (JOBS=.*) bash examples/slurm.sh (.*)$", (FOLDER / "slurm.sh").read_text(), re.MULTILINE)
    environment, words = dict(pair.split("=") for pair in named[1].split()), named[2].split()
    status, _, calls = slurm(*words, **environment)
    assert status == 0 and len(calls) == 2 and calls[1].startswith("sbatch --parsable --array=1-16 train.sh ")
    assert parse(calls[0].split()[3:]).kind == "fetching" and parse(calls[1].split()[4:]).study == words[0]
    assert (ROOT / words[0]).is_file()
    status, _, calls = slurm(*words, **environment, PYTHON_STATUS="1")
    assert status == 1 and len(calls) == 1
