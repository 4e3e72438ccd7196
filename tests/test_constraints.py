"""constraints.txt pins everything that requirements.txt asks for, on every supported Python and system."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import setup
from scripts import constraints

ROOT = Path(__file__).parents[1]
PINS = [line for line in constraints.FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
PLACES = [{"python_version": python, "python_full_version": f"{python}.1", "sys_platform": system,
           "platform_machine": machine}
          for python in ("3.10", "3.11", "3.12", "3.13") for system, machine in (
              ("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))]


def pinned(place):
    """{name: the versions that are pinned for it in a place}"""
    found = {}
    for pin in map(Requirement, PINS):
        if pin.marker is None or pin.marker.evaluate(place):
            found.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    return found


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place['python_version']} {place['platform_machine']}")
def test_each_package_has_one_version_within_its_bounds(place):
    pins = pinned(place)
    assert all(len(versions) == 1 for versions in pins.values())
    for line in (line for lines in setup.requirements().values() for line in lines):
        wanted = Requirement(line)
        [version] = pins[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), (line, version)


def test_it_holds_versions_alone():
    """No address of an index, no option, no build of one machine (2.15.0+cpu)."""
    assert all(re.fullmatch(r"[a-z\d-]+==[\d.]+(?:(?:a|b|rc|\.post|\.dev)\d+)?(?: ; [^;]+)?", line) for line in PINS)
    assert len(PINS) == len(set(PINS))


def faked(monkeypatch, status=0):
    calls = []

    def run(command, **options):
        calls.append(command)
        if status:
            raise subprocess.CalledProcessError(status, command)
        target = Path(command[command.index("--output-file") + 1])
        kept = target.read_text(encoding="utf-8") if target.exists() else ""
        target.write_text(f"{kept}a==1\nb==2 ; sys_platform == 'win32'\nc==3 ; sys_platform == 'linux'\n",
                          encoding="utf-8")
    monkeypatch.setattr(constraints.subprocess, "run", run)
    monkeypatch.setattr(constraints.shutil, "which", lambda name, path=None: f"/bin/{name}")
    return calls


def test_the_file_is_written_without_other_systems(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(constraints, "FILE", tmp_path / "constraints.txt")
    calls = faked(monkeypatch)
    assert constraints.main(["--write"]) == 0
    assert "--universal" in calls[0] and "--upgrade" not in calls[0]
    assert constraints.FILE.read_text(encoding="utf-8") == constraints.HEAD + "a==1\nc==3 ; sys_platform == 'linux'\n"
    constraints.FILE.write_text("kept==0\n", encoding="utf-8")
    assert constraints.main([]) == 0 and "\nkept==0\na==1\n" in capsys.readouterr().out
    assert constraints.FILE.read_text(encoding="utf-8") == "kept==0\n"


def test_what_cannot_be_resolved_is_one_message(monkeypatch, capsys):
    faked(monkeypatch, status=1)
    assert constraints.main([]) == 2 and "could not resolve" in capsys.readouterr().err
    monkeypatch.setattr(constraints.shutil, "which", lambda name, path=None: None)
    assert constraints.main([]) == 2 and "pip install uv" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resolution_keeps_every_pin(tmp_path):
    """Needs uv and a network."""
    if not (shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))):
        pytest.skip("no uv")
    try:
        found = constraints.resolve(constraints.FILE)
    except subprocess.CalledProcessError:
        pytest.skip("uv cannot reach an index")
    assert found == [line for line in PINS if line]
