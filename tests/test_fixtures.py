"""Files that version 0.1 wrote: today's command line reads them and answers what 0.1 answered.

tests/fixtures/make_0_1.py records how they were made. Only the command line is used here, so moved modules need no
change; files are compared by content, printed text never.
"""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from cli_files import lines, read_json, rows

pytest_plugins = ["cli_fixtures"]

FOLDER = Path(__file__).parent / "fixtures" / "0.1"
EXPECTED = read_json(FOLDER / "expected.json")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Unpack the archive. Tests leave its files as they are, except that the resumed run finishes."""
    root = tmp_path_factory.mktemp("fixtures")
    with tarfile.open(FOLDER / "files.tar.xz") as archive:
        for entry in archive:
            path = root / entry.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(entry).read())
    return root


@pytest.fixture
def check(files, cli, monkeypatch):
    """check(name) -> folder: run a stored command and compare every table and log with the stored answers."""
    def call(name):
        monkeypatch.chdir(files)
        command, answers = EXPECTED[name]["command"], EXPECTED[name]["answers"]
        done = cli(*command)
        assert done.status == 0, done.err
        folder = files / command[command.index("--save") + 1]
        assert answers
        for file, stored in answers.items():
            found = lines(folder / file) if file.endswith(".jsonl") else rows(folder / file)
            assert_same(found[-len(stored):], stored, file)
            assert file.endswith(".jsonl") or len(found) == len(stored)
        return folder
    return call


def assert_same(found, stored, file):
    """Require each stored column with its value; later versions may add columns. Of distillation they log the KL
    divergence alone, which stands beside the cross-entropy here."""
    for row, expected in zip(found, stored, strict=True):
        for key, value in expected.items():
            if key in ("image_distillation", "text_distillation"):
                continue
            assert same(row[key], value, 1e-3 if file.endswith(".jsonl") else 1e-4), (file, key, row[key], value)


def same(one, other, tolerance):
    try:
        return float(one) == pytest.approx(float(other), abs=tolerance, rel=tolerance)
    except ValueError:
        return one == other


def read(path):
    return torch.load(path, weights_only=True)


def test_the_fixtures_are_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 300 * 1024


@pytest.mark.parametrize("name", ["score_plain", "single_plain"])
def test_a_plain_checkpoint_is_scored(name, check):
    check(name)


def test_a_linear_head_is_scored_and_trained_again(check, files):
    """Its loss at the first step is the stored one: the head of the checkpoint is reused."""
    found, = rows(check("score_head") / "metrics_tones.csv")
    assert found["scored_by"] != "zeroshot"
    folder = check("train_head")
    before, after = read(files / "head" / "tones.pth"), read(folder / "tones.pth")
    assert set(before["heads"]) == set(after["heads"]) == {"tones"}
    assert before["heads"]["tones"].shape == after["heads"]["tones"].shape
    assert not torch.equal(before["heads"]["tones"], after["heads"]["tones"])


@pytest.mark.parametrize("kind", ["lora", "shared"])
def test_a_checkpoint_holds_the_merged_adapter(kind, check, files):
    check(f"score_{kind}")
    check(f"single_{kind}")
    start, merged = (read(files / path)["state_dict"] for path in ("plain/colours.pth", f"{kind}/tones.pth"))
    adapter = read(files / kind / "tones.lora.pth")
    assert start.keys() == merged.keys()
    changed = {name for name in start if not torch.equal(start[name], merged[name])}
    assert changed and all(name.endswith((".c_fc.weight", ".c_proj.weight", "attn.out_proj.weight", "in_proj_weight"))
                           for name in changed)
    if kind == "lora":
        factors, scale = adapter["peft"], adapter["config"]["lora_alpha"] / adapter["config"]["r"]
        checked = set()
        for key, factor in factors.items():
            if key.endswith(".lora_A.weight"):
                site = key.removesuffix(".lora_A.weight")
                name = site.removeprefix("base_model.model.") + ".weight"
                update = scale * factors[f"{site}.lora_B.weight"] @ factor
                assert torch.allclose(start[name] + update, merged[name], atol=1e-5), name
                checked.add(name)
        assert changed <= checked
    else:
        assert adapter["shared"] is True and adapter["r"] == 2 and adapter["lora"]


def test_icarl_replays_the_exemplars_of_its_carry(check, files):
    folder = check("train_icarl")
    log = lines(folder / "log_lights.jsonl")
    assert all(line["replay"] > 0 for line in log)
    before, = read(files / "icarl" / "tones.pth")["carry"]["ICaRL"]["memory"]
    first, second = read(folder / "lights.pth")["carry"]["ICaRL"]["memory"]
    assert first["source"] == before["source"] and second["source"].endswith("lights")
    for kept, drawn in zip(first["exemplars"], before["exemplars"], strict=True):
        assert 0 < len(kept) < len(drawn) and torch.equal(kept, drawn[:len(kept)])


def test_a_gradient_basis_is_projected_off(check, files):
    """No weight moves along a direction of the basis."""
    folder = check("train_basis")
    basis = read(files / "basis" / "grad_tones.pth")
    before, after = (read(path)["state_dict"] for path in (files / "basis" / "tones.pth", folder / "lights.pth"))
    assert len(basis) > 10
    for name, entry in basis.items():
        change = (after[name] - before[name]).flatten()
        assert (entry["basis"] @ change).norm() <= 1e-3 * change.norm(), name
        assert change.norm() > 0, name


def test_the_phases_of_modx_are_scored_and_continued(check):
    check("score_phases")
    folder = check("train_phase")
    history = read(folder / "pairs_phase2.pth")["history"]
    assert [entry["dataset"] for entry in history] == ["colours", "pairs_phase1", "pairs_phase2"]


def test_a_resume_point_is_resumed(check, files):
    """The lines of the first steps are kept, so the run did not start again; it ends with the stored loss."""
    point = files / "resume" / "resume_tones.pth"
    step = read(point)["iteration"]
    log = (files / "resume" / "log_tones.jsonl").read_text(encoding="utf-8").splitlines()
    before = [line for line in log if json.loads(line)["iteration"] <= step]
    assert 0 < step < 40 and len(before) == step
    folder = check("resume")
    after = (folder / "log_tones.jsonl").read_text(encoding="utf-8").splitlines()
    assert after[:step] == before and len(after) == 40
    assert not point.exists() and (folder / "tones.pth").is_file()


def test_a_finished_sequence_is_reported(check):
    check("report")


def test_the_checkpoints_of_a_sequence_give_its_matrix(check, files):
    folder = check("chain")
    for space in ("", "_seen"):
        stored, found = (read_json(path / f"summary{space}.json") for path in (files / "sequence", folder))
        assert found["matrix"] == stored["matrix"] and found["last"] == stored["last"]


def test_a_finished_sequence_is_skipped_by_resume(cli, files, monkeypatch):
    monkeypatch.chdir(files)
    facts, before = read_json(files / "sequence" / "run.json"), read_json(files / "sequence" / "summary.json")
    kept = {path: path.read_bytes() for path in (files / "sequence").glob("*.pth")}
    done = cli(*facts["command"], "--resume")
    assert done.status == 0, done.err
    after = read_json(files / "sequence" / "summary.json")
    assert {key: after[key] for key in before} == before
    assert kept and {path: path.read_bytes() for path in kept} == kept
