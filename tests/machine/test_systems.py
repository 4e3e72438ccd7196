"""On Windows every command is one sentence, also where Python lacks the modules that Windows lacks."""

import subprocess
import sys
from pathlib import Path

import pytest

import clip_continual as cc
from src.machine import systems

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("words", ["", "--help", "--version", "--list-datasets", "--no-such-flag"])
def test_a_command_line_on_windows(cli, monkeypatch, words):
    monkeypatch.setattr(systems.sys, "platform", "win32")
    done = cli(words)
    assert done.status == 2 and done.out == ""
    assert len(done.err.splitlines()) == 1 and "Linux and macOS" in done.err and "WSL" in done.err


def test_python_on_windows(monkeypatch):
    monkeypatch.setattr(systems.sys, "platform", "win32")
    with pytest.raises(cc.UserError, match="Linux and macOS"):
        cc.report("ckpt/run")


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_nothing_is_refused_elsewhere(monkeypatch, platform):
    monkeypatch.setattr(systems.sys, "platform", platform)
    systems.refuse_windows()


def test_no_module_that_windows_lacks_is_imported_before():
    code = ("import sys\nfor name in ('fcntl', 'resource', 'termios', 'pwd', 'grp'): sys.modules[name] = None\n"
            "from src.main import main\nimport clip_continual as cc; cc.train\n"
            "sys.platform = 'win32'; sys.exit(main(['--help']))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: clip-continual runs on Linux"), done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stdout == ""
