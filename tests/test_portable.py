"""Other machines' arithmetic: the rows of `make test-portable`, and the probe that sums in another order."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml
from this_machine import ROOT, python_path

TOOLS = Path(__file__).parent / "tools"
PROBE = """
import torch
generator = torch.Generator().manual_seed(0)
left, right = (torch.randn(16, 64, generator=generator) for _ in range(2))
exact = left.double() @ right.double().T
for product in (torch.nn.functional.linear(left, right), left @ right.T, torch.nn.Linear(64, 16)(left)):
    print(product.double().sub(exact).abs().max().item() if product.shape == exact.shape else 0, product.sum().item())
norm = torch.nn.functional.layer_norm(left, (64,))
print((norm.mean(dim=1).abs().max() + (norm.var(dim=1, unbiased=False) - 1).abs().max()).item())
print(torch.nn.functional.linear.__name__)
"""


@pytest.fixture
def portable(monkeypatch):
    """Return the module tests/tools/portable.py."""
    spec = importlib.util.spec_from_file_location("portable", TOOLS / "portable.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "portable", module)  # where dataclasses look up its names
    spec.loader.exec_module(module)
    return module


def probed(**variables):
    done = subprocess.run([sys.executable, "-c", PROBE], env=os.environ | variables, capture_output=True, text=True,
                          check=True)
    *numbers, name = done.stdout.split()
    return [float(number) for number in numbers], name


@pytest.mark.slow
def test_the_probe_changes_rounding_only():
    plain, _ = probed(PYTHONPATH=str(ROOT))
    other, name = probed(PYTHONPATH=python_path(TOOLS / "summation_order"))
    assert name == "reversed_linear" and plain[1] != other[1] and plain[3] != other[3]
    assert plain[1] == pytest.approx(other[1], abs=1e-3) and plain[3] == pytest.approx(other[3], abs=1e-3)
    assert max(plain[0], plain[2], plain[-1], other[0], other[2], other[-1]) < 1e-4


@pytest.mark.slow
def test_the_probe_fills_memory_that_nothing_has_written():
    code = ("import torch; x = torch.ones(2)\n"
            "for new in (torch.empty(2), torch.empty_like(x), x.new_empty(2)): assert new.isnan().all()\n"
            "assert torch.empty(2, dtype=torch.long).shape == torch.empty(2, requires_grad=True).shape == (2,)\n"
            "with torch.device('meta'): assert torch.empty(2).is_meta")
    subprocess.run([sys.executable, "-c", code], check=True,
                   env=os.environ | {"PYTHONPATH": str(TOOLS / "summation_order")})


def test_the_probe_does_not_import_torch():
    done = subprocess.run([sys.executable, "-c", "import sys; print('torch' in sys.modules)"], capture_output=True,
                          text=True, check=True, env=os.environ | {"PYTHONPATH": str(TOOLS / "summation_order")})
    assert done.stdout == "False\n"


def test_continuous_integration_runs_every_row(portable):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["portable"]
    assert job["strategy"]["matrix"]["row"] == list(portable.ENVIRONMENTS)
    assert job["steps"][-1]["run"] == "make test-portable ONLY=${{ matrix.row }}"
    pythons = next(step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    wanted = {row.python.removeprefix("python") for row in portable.ENVIRONMENTS.values() if row.python}
    assert wanted <= set(pythons.split())


def fake(status, line):
    """Stand in for the pytest of a row."""
    def start(command, **options):
        return types.SimpleNamespace(stdout=iter([f"{line}\n"]), wait=lambda: status)
    return start


@pytest.mark.parametrize(("status", "word"), [(0, "green"), (1, "RED")])
def test_the_summary_has_every_row_and_its_status(portable, monkeypatch, capsys, status, word):
    monkeypatch.setattr(portable.subprocess, "Popen", fake(status, "7 passed"))
    monkeypatch.setattr(sys, "argv", ["portable.py", "sums", "plain"])
    assert portable.main() == status
    rows = capsys.readouterr().out.partition("== summary\n")[2].splitlines()
    assert [row.split()[:2] for row in rows] == [["sums", f"{word}:"], ["plain", f"{word}:"]]
    assert all("7 passed" in row for row in rows) and re.search(r"--random-order-seed=\d+", rows[1])


@pytest.mark.parametrize("name", ["plain", "avx2", "sums"])
def test_a_row_s_variables_order_and_second_process_reach_pytest(portable, monkeypatch, name):
    calls = []

    def start(command, **options):
        calls.append((command, options))
        return types.SimpleNamespace(stdout=iter(()), wait=lambda: 0, kill=lambda: None)
    monkeypatch.setattr(portable.subprocess, "Popen", start)
    row = portable.ENVIRONMENTS[name]
    assert portable.run(name, row, ["tests/test_x.py"])[1]
    *beside, (command, options) = calls
    assert command[-1] == "tests/test_x.py" and row.variables.items() <= options["env"].items()
    assert ("--random-order" in command) == row.shuffled
    assert [words[-1] for words, _ in beside] == [portable.BUSY] * row.busy


def test_a_missing_interpreter_is_in_the_summary(portable, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["portable.py", "newest"])
    assert portable.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "newest  skipped: no python3.13"


def test_a_shim_that_fails_is_passed_over(portable, monkeypatch, tmp_path):
    for folder, status in (("shims", 127), ("versions/3.13.0/bin", 0)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "python3.13").write_text(f"#!/bin/sh\nexit {status}\n", encoding="utf-8")
        (tmp_path / folder / "python3.13").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "shims"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert portable.executable("python3.13") == tmp_path / "versions" / "3.13.0" / "bin" / "python3.13"


def test_an_unknown_row_is_an_error(portable, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["portable.py", "avx3"])
    with pytest.raises(SystemExit):
        portable.main()
    assert "unknown: avx3" in capsys.readouterr().err


def test_names_are_a_list_for_a_matrix(portable, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["portable.py", "--list"])
    assert portable.main() == 0 and json.loads(capsys.readouterr().out) == list(portable.ENVIRONMENTS)
