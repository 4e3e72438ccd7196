"""What a linear evaluation leaves, and that it resumes with the same bits."""

import csv

import pytest
import torch
from cli_files import lines, listing

from src.run.layer import KeptLayer

pytest_plugins = ["cli_fixtures"]


@pytest.fixture
def linear(cli, world):
    """linear(save, word, ...): five epochs on the tiny model."""
    shared = ("--load", world.model, "--eval-only", "--linear-eval", world.colours, "--linear-epochs", 5,
              "--linear-batch-size", 5, "--workers", 0)
    return lambda save, *words: cli(*shared, "--save", save, *words)


def layer_of(folder):
    return torch.load(folder / "linear_colours.pth", weights_only=True)


def test_the_layer_and_its_log_are_kept(linear, world, tmp_path):
    done = linear(tmp_path)
    assert done.status == 0, done.err
    assert listing(tmp_path) == {"linear_colours.pth", "log_linear_colours.jsonl", "metrics_colours.csv"}
    layer, log = layer_of(tmp_path), lines(tmp_path / "log_linear_colours.jsonl")
    assert layer["head"].shape == (3, 17) and layer["classnames"] == world.names
    assert [line["iteration"] for line in log] == [1, 2, 3, 4, 5] and log[0]["lr"] == 0.3
    row, = csv.DictReader((tmp_path / "metrics_colours.csv").open(encoding="utf-8", newline=""))
    assert float(row["top1"]) == pytest.approx(layer["scores"]["top1"], abs=1e-4)


def test_a_finished_layer_is_not_trained_a_second_time(linear, tmp_path, monkeypatch):
    first = linear(tmp_path)
    monkeypatch.setattr("src.run.scoring.linear_evaluation", lambda *_, **__: pytest.fail("it is there"))
    again = linear(tmp_path)
    assert again.status == 0 and "--overwrite" in again.out.splitlines()[0]
    assert again.out.splitlines()[-3:] == first.out.splitlines()[-3:]
    for words in (("--overwrite",), ("--linear-lr", 0.2)):
        with pytest.raises(pytest.fail.Exception):
            linear(tmp_path, *words)


@pytest.mark.parametrize("words", [(), ("--linear-cache-features",)], ids=str)
def test_an_interrupted_layer_resumes_with_the_same_bits(linear, tmp_path, monkeypatch, words):
    assert linear(tmp_path / "whole", *words).status == 0
    original = KeptLayer.log

    def stop(layer, line):
        if line["iteration"] == 4:
            raise KeyboardInterrupt
        original(layer, line)
    monkeypatch.setattr(KeptLayer, "log", stop)
    assert linear(tmp_path / "cut", "--save-interval", 1, *words).status == 130
    assert "linear_colours.pth" not in listing(tmp_path / "cut")
    monkeypatch.undo()
    other = linear(tmp_path / "cut", "--resume", "--linear-lr", 0.2, *words)
    assert other.status == 2 and "--linear-lr 0.3 there, 0.2 here" in other.err
    done = linear(tmp_path / "cut", "--resume", *words)
    assert done.status == 0 and "resumes after epoch 3 of 5" in done.out
    assert torch.equal(layer_of(tmp_path / "cut")["head"], layer_of(tmp_path / "whole")["head"])
    log = "log_linear_colours.jsonl"
    assert lines(tmp_path / "cut" / log) == lines(tmp_path / "whole" / log)
    assert listing(tmp_path / "cut") == listing(tmp_path / "whole")


def test_layers_of_several_checkpoints_stand_beside_each_other(linear, train, tmp_path):
    train(tmp_path)
    done = linear(tmp_path, "--load", tmp_path / "colours.pth")
    assert done.status == 0 and "linear_colours_after_colours.pth" in listing(tmp_path)
