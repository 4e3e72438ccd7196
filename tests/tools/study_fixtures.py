"""Fixtures of studies: ``study`` reads a file; cells leave a folder made before in ``stand_ins``, ``make_place``,
``place``. A module takes them by ``pytest_plugins = ["study_fixtures"]``."""

import sys

import pytest
from study_files import PROGRAM, Place

from src.cli.study import read_study
from src.run import launcher


@pytest.fixture
def study(tmp_path):
    """study(text, beside) -> the Study of a file with this text."""
    def read(text, beside=()):
        (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
        return read_study(str(tmp_path / "my.yaml"), beside)
    return read


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """The folder in which PROGRAM, which stands in for each cell's process, finds what to leave and what to do."""
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setattr(launcher, "LOOK", 0.01)
    monkeypatch.setattr(launcher, "LOOK_AGAIN", 0.03)
    monkeypatch.setattr(launcher, "PROGRAM", (sys.executable, "-I", "-S", "-c", PROGRAM))
    return tmp_path


@pytest.fixture
def make_place(stand_ins):
    return lambda seeds: Place(stand_ins, seeds)


@pytest.fixture
def place(make_place):
    return make_place(3)
