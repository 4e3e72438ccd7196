"""Fixtures of the command line's tests: ``world``, ``cli``, ``train``. A module takes them by
``pytest_plugins = ["cli_fixtures"]``."""

import csv
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_files import BATCH, COLOURS, RATE, STEPS, TONES, picture, write_model, write_pictures
from torch.optim.optimizer import register_optimizer_step_post_hook

from src.main import main
from src.store.records import Journal

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Files that no test may change: two models of different shapes and two tasks, with their words for a command."""
    root = tmp_path_factory.mktemp("world")
    write_model(root / "tiny.pth")
    write_model(root / "wide.pth", embed_dim=24)
    for name, hues in (("colours", COLOURS), ("tones", TONES)):
        write_pictures(root / name / "train", hues, 6)
        write_pictures(root / name / "test", hues, 4)
    write_pictures(root / "loose", COLOURS, 10)
    return SimpleNamespace(root=root, model=root / "tiny.pth", other_model=root / "wide.pth",
                           colours=f"folder:{root / 'colours'}", tones=f"folder:{root / 'tones'}",
                           loose=f"folder:{root / 'loose'}", image=root / "loose" / "red_disc" / "0.png",
                           names=sorted(name.replace("_", " ") for name in COLOURS))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """pairs:FILE of 22 training and 9 test images, two captions each, one image without any."""
    root = tmp_path_factory.mktemp("pairs")
    table = [("split", "image", "caption")]
    for index in range(31):
        name = list(COLOURS)[index % 3]
        picture(root / f"{index}.png", COLOURS[name], index)
        part = "train" if index < 22 else "test"
        table += [(part, f"{index}.png", f"a photo of a {name}."), (part, f"{index}.png", f"{name} light")]
    picture(root / "bare.png", 0.5, 99)
    table.append(("train", "bare.png", ""))
    with (root / "stream.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(table)
    return f"pairs:{root / 'stream.csv'}"


@pytest.fixture
def cli(capsys):
    """cli(word, ...) -> status, out, warnings, err (the rest of stderr) of a command line, run in this process."""
    def call(*words):
        capsys.readouterr()
        status = main([str(word) for word in words])
        printed = capsys.readouterr()
        told = printed.err.splitlines()
        return SimpleNamespace(status=status, out=printed.out,
                               warnings=[line for line in told if line.startswith("warning: ")],
                               err="\n".join(line for line in told if not line.startswith("warning: ")))
    return call


@pytest.fixture
def train(cli, world):
    """train(save, word, ...): a short run of the tiny model; words given later win over the ones here."""
    def call(save, *words):
        length = () if "--epochs" in words else ("--iterations", STEPS)
        return cli("--load", world.model, "--train-dataset", world.colours, *length, "--batch-size", BATCH, "--lr",
                   RATE, "--warmup-length", 0, "--workers", 0, "--save", save, *words)
    return call


@pytest.fixture
def record(tmp_path):
    """record(script, word, ...) -> status, the command lines that it runs, stderr; none of them is executed."""
    python, log = tmp_path / "a python", tmp_path / "log"
    python.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done >> "$LOG"\necho >> "$LOG"\n',
                      encoding="utf-8")
    python.chmod(0o755)

    def call(name, *words, **environment):
        log.write_text("", encoding="utf-8")
        done = subprocess.run(["sh", str(SCRIPTS / f"{name}.sh"), *words], cwd=tmp_path, capture_output=True, text=True,
                              timeout=300, check=False,
                              env=os.environ | {"PYTHON": str(python), "LOG": str(log)} | environment)
        commands = [block.split("\n") for block in log.read_text(encoding="utf-8").split("\n\n") if block]
        return done.returncode, commands, done.stderr
    return call


@pytest.fixture
def steps():
    """Counts what the optimiser has really done."""
    count = []
    handle = register_optimizer_step_post_hook(lambda *_: count.append(1))
    yield count
    handle.remove()


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(task, iteration): Ctrl-C arrives right after that step of that task; interrupt(None) heals."""
    original = Journal.step

    def at(task, iteration=0):
        def step(journal, state, losses):
            original(journal, state, losses)
            if state.task.name == task and state.iteration == iteration:
                raise KeyboardInterrupt
        monkeypatch.setattr(Journal, "step", step)
    return at
