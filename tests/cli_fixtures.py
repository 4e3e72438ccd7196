"""Fixtures of the command line's tests: ``world``, ``cli``, ``train``. A module takes them by
``pytest_plugins = ["cli_fixtures"]``."""

from types import SimpleNamespace

import pytest
from cli_files import BATCH, COLOURS, RATE, STEPS, TONES, write_model, write_pictures

from src.main import main


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
