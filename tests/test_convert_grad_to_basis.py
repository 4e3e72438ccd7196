"""Raw gradients to a basis on the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convert_grad_to_basis
from src.models.bases import read_gradients

ROOT = Path(__file__).parents[1]


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def convert(folder, *words):
    return convert_grad_to_basis.main(["--input", str(folder / "in.pth"), "--output", str(folder / "new" / "out.pth"),
                                       *words])


def written(folder):
    return torch.load(folder / "new" / "out.pth", weights_only=True)


def skewness(rows):
    return (rows.double() @ rows.double().T - torch.eye(len(rows), dtype=torch.float64)).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("energy", [None, 0.5, 1.0])
def test_raw_gradients_become_a_basis(tmp_path, capsys, energy, dtype):
    rows = normal(6, 200, dtype=dtype)
    torch.save({"a.weight": {"snapshots": rows}, "b.weight": {"snapshots": torch.zeros(6, 3)}}, tmp_path / "in.pth")
    assert convert(tmp_path, *(["--energy", str(energy)] if energy else [])) == 0
    values, vectors = torch.linalg.svd(rows.double(), full_matrices=False)[1:]
    share = values.square().cumsum(0) / values.square().sum()
    count = next(k for k in range(1, 7) if share[k - 1] >= (energy or 0.97) - 1e-12)
    basis = written(tmp_path)
    assert basis["a.weight"]["basis"].dtype == basis["a.weight"]["energy"].dtype == torch.float32
    torch.testing.assert_close(basis["a.weight"]["energy"].double(), values[:count].square(), rtol=1e-5, atol=0)
    torch.testing.assert_close((basis["a.weight"]["basis"].double() @ vectors.T).abs(),
                               torch.eye(count, 6, dtype=torch.float64), rtol=0, atol=1e-5)
    assert basis["b.weight"]["basis"].shape == (0, 3) and basis["b.weight"]["energy"].shape == (0,)
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'out.pth'}: 2 tensors, {count} rows\n"


def test_a_basis_is_made_orthonormal_again(tmp_path, capsys):
    rows = torch.linalg.qr(normal(3000, 9))[0].T.bfloat16()
    energy = torch.arange(9.0).flip(0)
    torch.save({"a.weight": {"basis": rows, "energy": energy}}, tmp_path / "in.pth")
    assert convert(tmp_path) == 0
    entry, (note, _) = written(tmp_path)["a.weight"], capsys.readouterr().out.splitlines()
    assert skewness(rows) > 1e-4 and skewness(entry["basis"]) < 1e-6
    assert entry["basis"].dtype == torch.float32 and torch.equal(entry["energy"], energy)
    assert (entry["basis"] @ rows.float().T).diagonal().abs().min() > 0.999
    assert note.startswith(f"note: {tmp_path / 'in.pth'} is already a basis")


def test_what_it_writes_is_a_basis_file(tmp_path):
    torch.save({"a.weight": {"snapshots": normal(4, 50)}}, tmp_path / "in.pth")
    convert(tmp_path)
    again, first = read_gradients(tmp_path / "new" / "out.pth"), read_gradients(tmp_path / "in.pth")
    torch.testing.assert_close(again["a.weight"]["basis"].abs(), first["a.weight"]["basis"].abs())
    assert torch.equal(again["a.weight"]["energy"], first["a.weight"]["energy"])


@pytest.mark.parametrize("content", [None, b"", b"text", {"state_dict": {}}, {"a": {"snapshots": torch.ones(3)}}])
def test_bad_input(tmp_path, capsys, content):
    if isinstance(content, bytes):
        (tmp_path / "in.pth").write_bytes(content)
    elif content:
        torch.save(content, tmp_path / "in.pth")
    assert convert(tmp_path) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: --input {tmp_path / 'in.pth'}") and said.err.count("\n") == 1
    assert said.out == "" and not (tmp_path / "new").exists()


def test_bad_input_leaves_an_older_output(tmp_path):
    (tmp_path / "in.pth").write_bytes(b"text")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "out.pth").write_bytes(b"older")
    assert convert(tmp_path) == 2
    assert [path.read_bytes() for path in (tmp_path / "new").iterdir()] == [b"older"]


def test_bad_output(tmp_path, capsys):
    torch.save({"a.weight": {"snapshots": torch.ones(2, 3)}}, tmp_path / "in.pth")
    (tmp_path / "new").write_bytes(b"a file where a folder should be")
    assert convert(tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --output {tmp_path / 'new' / 'out.pth'}: ") and error.count("\n") == 1


@pytest.mark.parametrize("energy", ["0", "-0.5", "1.01", "nan", "much"])
def test_a_wrong_energy(tmp_path, capsys, energy):
    torch.save({"a.weight": {"snapshots": torch.ones(2, 3)}}, tmp_path / "in.pth")
    with pytest.raises(SystemExit) as stopped:
        convert(tmp_path, "--energy", energy)
    assert stopped.value.code == 2 and not (tmp_path / "new").exists()
    assert energy in capsys.readouterr().err.splitlines()[-1]


def test_help_imports_no_torch():
    code = ("import contextlib, sys, convert_grad_to_basis\n"
            "with contextlib.suppress(SystemExit): convert_grad_to_basis.main(['--help'])\n"
            "print([name for name in ('torch', 'numpy') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "--energy" in done.stdout


def test_the_command_of_the_docstring(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({"a.weight": {"snapshots": torch.ones(2, 4)}}, "grad_DTD.pth")
    python, script, *words = convert_grad_to_basis.__doc__.splitlines()[3].split()
    assert python == "python" and ROOT / script == Path(convert_grad_to_basis.__file__)
    assert convert_grad_to_basis.main(words) == 0
    assert capsys.readouterr().out == "basis_DTD.pth: 1 tensors, 1 rows\n"
    torch.testing.assert_close(torch.load("basis_DTD.pth", weights_only=True)["a.weight"]["basis"].abs(),
                               torch.full((1, 4), 0.5))
