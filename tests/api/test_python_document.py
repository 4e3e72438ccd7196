"""Every code block of docs/python.md runs, one after the other as in a notebook, on short runs of the toy world."""

import functools
from pathlib import Path

import pytest
from document_commands import ROOT, blocks

import clip_continual as cc

DOCUMENT = "docs/python.md"
TEXT = (ROOT / DOCUMENT).read_text(encoding="utf-8")
# What makes a run short; a keyword of the document wins, unless it is the length.
SHORT = {"iterations": 2, "batch_size": 8, "max_evaluation_size": 8, "warmup_length": 0, "model": "toy", "workers": 0}


def code_blocks():
    return [(first, "\n".join(lines)) for first, language, lines in blocks(TEXT) if language == "python"]


def shortened(function, flags):
    @functools.wraps(function)
    def call(*arguments, **keywords):
        length = {"iterations": flags["iterations"]} if "iterations" in flags else {}
        return function(*arguments, **flags | keywords | length)
    return call


@pytest.fixture
def short(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    evaluation = {key: SHORT[key] for key in ("max_evaluation_size", "workers")}
    monkeypatch.setattr("src.api.commands.train", shortened(cc.train, SHORT))
    monkeypatch.setattr("src.api.commands.evaluate", shortened(cc.evaluate, evaluation))


@pytest.mark.slow
def test_all_blocks_run_one_after_the_other(short, capsys):
    names = {"__name__": "notebook"}
    for first, code in code_blocks():
        exec(compile("\n" * first + code, DOCUMENT, "exec"), names)
    assert "zero-shot" in capsys.readouterr().out and Path("ckpt/tables/paper.md").is_file()


def test_each_name_is_explained():
    assert not [name for name in cc.__all__ if f"cc.{name}" not in TEXT]
