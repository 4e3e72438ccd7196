"""Fixtures of studies whose cells leave a folder made before: ``make_place``, ``place``. A module takes them by
``pytest_plugins = ["study_fixtures"]``."""

import sys

import pytest
from study_files import PROGRAM, Place

from src.run import launcher


@pytest.fixture
def make_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setattr(launcher, "LOOK", 0.01)
    monkeypatch.setattr(launcher, "LOOK_AGAIN", 0.03)
    monkeypatch.setattr(launcher, "PROGRAM", (sys.executable, "-I", "-S", "-c", PROGRAM))
    return lambda seeds: Place(tmp_path, seeds)


@pytest.fixture
def place(make_place):
    return make_place(3)
