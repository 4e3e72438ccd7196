"""A reproduction from end to end on small data: what passes, fails, is missing, is interrupted or has changed."""

import contextlib
import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cli_files import BATCH, RATE, contents, picture

from src.args import parse
from src.cli.reproductions import read_reproduction
from src.machine.interruption import Interrupted
from src.main import main
from src.report.certificate import faults_of
from src.run import inputs, reproduce
from src.run.digests import code_digest

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[2]


class HereLauncher:
    """Replaces the launcher: runs the commands in this process, and leaves the record that they have ended.
    ``stops``: the names of runs before which it is interrupted; ``then``: what is called after each."""

    stops, then, ran = (), staticmethod(lambda name: None), []

    def __init__(self, jobs, slots, signals, report):
        self.left = [job for job in jobs if reproduce.state_of(job).kind != reproduce.DONE]

    def run(self):
        for job in self.left:
            if job.name in self.stops:
                raise Interrupted("interrupted by SIGTERM")
            status = main([*job.words, "--quiet"])
            record = {"status": status, "message": "the end"}
            (job.folder / "cell.json").write_text(json.dumps(record), encoding="utf-8")
            self.ran.append(job.name)
            self.then(job.name)


@pytest.fixture
def launcher(monkeypatch):
    kind = type("Launcher", (HereLauncher,), {"ran": []})
    monkeypatch.setattr(reproduce, "Launcher", kind)
    return kind


class Place:
    """A folder with a model, two datasets of four test images per class, and what a file says of two runs over them."""

    def __init__(self, world, folder):
        for name in ("colours", "tones"):
            shutil.copytree(world.root / name, folder / name)
        shutil.copy(world.model, folder / "tiny.pth")
        common = {"dataset-order": [f"folder:{folder / name}" for name in ("colours", "tones")],
                  "model": str(folder / "tiny.pth")}
        self.folder, self.save, self.spec = folder, folder / "out", folder / "mine.yaml"
        self.flags = {"zero": common | {"eval-only": True},
                      "trained": common | {"method": "finetune", "iterations": 3, "batch-size": BATCH, "lr": RATE,
                                           "warmup-length": 0}}
        self.cells = {"zero": {"colours": 0, "tones": 0}, "trained": {"transfer": 0, "last": 0, "tones": 0}}

    def write(self):
        runs = {name: {"flags": self.flags[name], "cells": cells} for name, cells in self.cells.items()}
        content = {"source": "a run of these tests", "tolerance": 0.01, "runs": runs}
        self.spec.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def words(self, save=None):
        return ["--reproduce", str(self.spec), "--save", str(save or self.save), "--device", "cpu", "--workers", "0"]

    def run(self, save=None):
        self.write()
        return main(self.words(save))

    def certificate(self, save=None):
        return json.loads(((save or self.save) / "certificate.json").read_text(encoding="utf-8"))

    def publish(self):
        """Take what the runs in ``save`` found, by their matrices in csv, for what is published."""
        def rows(run):
            with (self.save / run / "matrix_top1.csv").open(encoding="utf-8", newline="") as file:
                return {row.pop("task"): {name: float(value) for name, value in row.items()}
                        for row in csv.DictReader(file)}
        zero, trained = rows("zero"), rows("trained")
        last = trained["tones"]
        self.cells = {"zero": zero[""], "trained": {
            "transfer": trained["colours"]["tones"], "last": sum(last.values()) / 2, "tones": last["tones"]}}


@pytest.fixture
def place(world, tmp_path):
    return Place(world, tmp_path)


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A place whose runs are done and whose expected numbers are those that they found."""
    place = Place(world, tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "Launcher", HereLauncher)
        patch.setattr("src.report.page.write_pictures", lambda run, folder: None)
        assert place.run() == 1
    place.publish()
    return place


@pytest.fixture
def published(finished, launcher, monkeypatch):
    """It, with expected numbers that a test may change."""
    monkeypatch.setattr(finished, "cells", {run: dict(cells) for run, cells in finished.cells.items()})
    return finished


def timeless(certificate):
    """Without times."""
    runs = {name: {key: value for key, value in run.items() if key != "seconds"}
            for name, run in certificate["runs"].items()}
    return {key: value for key, value in certificate.items() if key != "date"} | {"runs": runs}


def test_what_was_published_passes_and_nothing_is_run_twice(published, launcher, capsys):
    assert published.run() == 0 and not launcher.ran
    certificate = published.certificate()
    assert certificate["passed"] and all(cell["pass"] for cell in certificate["cells"])
    assert len(certificate["cells"]) == 5 and certificate["name"] == "mine"
    printed = capsys.readouterr().out
    assert "mine: reproduced, 5 of 5 cells pass" in printed and "certificate.json" in printed
    assert faults_of(certificate, read_reproduction(str(published.spec))) == []


def test_a_perturbed_number_fails_alone(published, capsys):
    published.cells["trained"]["tones"] += 0.02
    assert published.run() == 1
    certificate = published.certificate()
    assert [cell["cell"] for cell in certificate["cells"] if not cell["pass"]] == ["tones"]
    assert [cell["run"] for cell in certificate["cells"] if not cell["pass"]] == ["trained"]
    assert not certificate["passed"]
    assert "mine: not reproduced, 4 of 5 cells pass" in capsys.readouterr().out


def test_what_a_certificate_says_of_its_runs(published):
    published.run()
    certificate = published.certificate()
    text = json.dumps({key: value for key, value in certificate.items() if key != "runs"})
    assert str(published.folder) not in text
    for name, run in certificate["runs"].items():
        words = run["command"].removeprefix("python -m src.main ").split()
        flags = parse(words).numbers()
        assert {key: flags[key] for key in run["flags"]} == run["flags"] and "image_dir" not in run["flags"]
        assert words[words.index("--save") + 1] == f"mine/{name}" and "--device" not in words
        assert run["weights"]["start"]["tensors"] == inputs.tensors_digest(
            inputs.starting_checkpoint(inputs.weights_of_roles(reproduce_command(published, name))["start"])[
                "state_dict"])
        [made] = run["made_by"]
        assert made["hardware"].startswith("cpu") and {"torch", "torchvision"} <= made["versions"].keys()
        assert run["seconds"] >= 0 and run["conditions"]["space"] == "task"
    zero, trained = (certificate["runs"][name]["datasets"] for name in ("zero", "trained"))
    assert [set(found) for found in zero.values()] == [{"classes", "test"}] * 2
    assert [set(found) for found in trained.values()] == [{"classes", "test", "train"}] * 2
    assert zero[next(iter(zero))]["test"] == trained[next(iter(trained))]["test"]
    assert certificate["code"] == code_digest()


def reproduce_command(place, name):
    from src.run.build import command_of
    run = json.loads((place.save / name / "run.json").read_text(encoding="utf-8"))
    return command_of(parse(run["command"]))


def test_all_that_is_missing_is_listed_and_nothing_is_written(place, launcher, capsys):
    shutil.rmtree(place.folder / "tones")
    place.flags["zero"] |= {"dataset-order": ["StanfordCars", "DTD"], "model": "RN50"}
    place.cells["zero"] = {"DTD": 50}
    place.write()
    words = [*place.words(), "--data-location", str(place.folder), "--clip-cache", str(place.folder / "cache")]
    assert main(words) == 2 and not place.save.exists() and not launcher.ran
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("weights or data are missing; nothing was run:") and len(lines) == 6
    for start in ("the weights of RN50 are not at ", "DTD is not at ", "StanfordCars is not at "):
        assert sum(line.startswith(f"- {start}") for line in lines) == 1
    assert sum("tones" in line for line in lines) == 1
    assert lines[-1] == ("Fetch 1 of these with: python -m src.main --check-data DTD --data-location "
                         f"{place.folder}")


def test_a_resumed_reproduction_has_the_same_certificate(published, launcher):
    published.run()
    other = published.folder / "again"
    launcher.stops = ("trained",)
    assert published.run(other) == 75 and not (other / "certificate.json").exists()
    launcher.stops = ()
    assert published.run(other) == 0
    assert timeless(published.certificate(other)) == timeless(published.certificate())
    assert launcher.ran == ["zero", "trained"]


def test_a_run_that_fails_makes_no_certificate(place, launcher, monkeypatch, capsys):
    monkeypatch.setattr(launcher, "run", lambda self: [
        (job.folder.mkdir(parents=True), (job.folder / "cell.json").write_text(json.dumps(
            {"status": 2, "message": "error: no"}), encoding="utf-8")) for job in self.left])
    assert place.run() == 1 and not (place.save / "certificate.json").exists()
    assert "zero: failed, error: no" in capsys.readouterr().err


def other_weight(folder):
    import torch
    content = torch.load(folder / "tiny.pth", weights_only=True)
    content["state_dict"]["logit_scale"] += 1e-6
    torch.save(content, folder / "tiny.pth")


CHANGES = {
    "datasets": lambda folder: picture(folder / "colours/test/blue/0.png", 0.1, 1),
    "classes": lambda folder: [(folder / "tones" / part / "warm").rename(folder / "tones" / part / "hot")
                               for part in ("train", "test")],
    "weights start tensors": other_weight}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_between_two_calls_is_named(place, launcher, what, capsys):
    launcher.stops = ("zero",)
    assert place.run() == 75
    CHANGES[what](place.folder)
    launcher.stops, before = (), contents(place.save)
    assert place.run() == 2 and contents(place.save) == before
    message = capsys.readouterr().err.splitlines()[-1]
    assert "its runs began with other inputs; restore them, or give another --save (runs zero " in message
    assert what in message


def test_other_code_between_two_calls_is_named(place, launcher, monkeypatch, capsys):
    launcher.stops = ("zero",)
    assert place.run() == 75
    launcher.stops = ()
    monkeypatch.setattr(reproduce, "code_digest", lambda: "other")
    assert place.run() == 2 and capsys.readouterr().err.splitlines()[-1].endswith("give another --save (code)")


def test_what_changes_while_a_run_is_at_it_makes_no_certificate(place, launcher, capsys):
    del place.cells["trained"]
    launcher.then = staticmethod(lambda name: name == "zero" and CHANGES["datasets"](place.folder))
    assert place.run() == 2 and not (place.save / "certificate.json").exists()
    assert "no certificate, because inputs changed during the runs (runs zero datasets" in capsys.readouterr().err


def test_a_folder_that_no_reproduction_began_is_refused(place, launcher, capsys):
    (place.save / "zero").mkdir(parents=True)
    assert place.run() == 2 and not launcher.ran
    assert "inputs.json is not, so what its run read is unknown" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", '{"code": 1}'])
def test_damaged_digests_are_no_evidence(place, launcher, text, capsys):
    place.save.mkdir()
    (place.save / "inputs.json").write_text(text, encoding="utf-8")
    assert place.run() == 2 and not launcher.ran
    assert str(place.save) in capsys.readouterr().err


def test_a_cell_that_the_run_has_not_is_refused_first(place, launcher, capsys):
    place.cells["zero"] = {"shapes": 50}
    assert place.run() == 2 and not place.save.exists()
    assert "zero: cells: shapes is not a number of this run; its cells are transfer, avg" in capsys.readouterr().err


# -- real processes ----------------------------------------------------------------------------------------------------


def begun(place):
    return (place.save / "trained" / "log_colours.jsonl").exists()


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_certificate(place):
    """The launcher and its run are killed once the first task trains."""
    place.flags["trained"] |= {"iterations": 400}
    place.write()
    whole = subprocess.run([sys.executable, "-m", "src.main", *place.words(place.folder / "whole")], cwd=ROOT,
                           capture_output=True, text=True, check=False)
    assert whole.returncode == 1, whole.stderr
    words = [sys.executable, "-m", "src.main", *place.words(), "--save-interval", "5"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 300
    while not begun(place):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 75 and not (place.save / "certificate.json").exists()
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=3)
    process.kill()
    process.wait()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert timeless(place.certificate()) == timeless(place.certificate(place.folder / "whole"))
