"""Warnings and errors: coloured on a terminal, plain anywhere else."""

import sys
from types import SimpleNamespace

import pytest

from src.machine.notices import complain, marked, warn, warnings_to


def test_what_is_no_terminal_gets_plain_text(capsys):
    warn("a rate is high")
    complain("no such file")
    assert capsys.readouterr() == ("", "warning: a rate is high\nerror: no such file\n")


def test_warnings_can_go_to_a_function(capsys):
    found, inner = [], []
    with warnings_to(found.append):
        warn("one")
        with pytest.raises(ValueError, match="other"), warnings_to(inner.append):
            warn("two")
            raise ValueError("other")
        warn("three")
    warn("four")
    assert (found, inner, capsys.readouterr().err) == (["one", "three"], ["two"], "warning: four\n")


@pytest.mark.parametrize(("variables", "coloured"), [
    ({"TERM": "xterm"}, True), ({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False),
    ({"NO_COLOR": ""}, True)])
def test_a_terminal_gets_colours_unless_it_wants_none(variables, coloured, monkeypatch):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    texts = ["\x1b[1;31merror:\x1b[0m x", "\x1b[1;33mwarning:\x1b[0m x"] if coloured else ["error: x", "warning: x"]
    assert [marked("error", "x"), marked("warning", "x")] == texts


def test_a_process_without_stderr_gets_plain_text(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert marked("error", "x") == "error: x"
