"""--rescore: the tables of a run again, from what it has kept. Whole runs of a tiny model on folders of images."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from cli_files import BATCH, RATE, read_json

from src.main import main
from src.report.predictions import predictions
from src.report.runs import read_run

pytest_plugins = ["cli_fixtures"]

OWN = ("summary.json", "summary.md", "summary.tex", "matrix_top1.csv", "matrix_top5.csv", "metrics_colours.csv",
       "metrics_tones.csv", "classes_colours.csv", "classes_tones.csv")


def order_of(world, *words):
    return ("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 3,
            "--batch-size", BATCH, "--lr", RATE, "--warmup-length", 0, "--workers", 0, "--quiet", *words)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A sequence that has kept its features exactly, scored in its own classes; no test changes it."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.models.features.STORED", torch.float32)
        assert main([*map(str, order_of(world, "--save", folder, "--keep-features"))]) == 0
    return folder


@pytest.fixture
def rescored(cli, tmp_path):
    """rescored(run, word, ...) -> the folder of tables, and what was printed."""
    def call(run, *words, name="tables"):
        done = cli("--rescore", run, "--save", tmp_path / name, *words)
        assert done.status == 0, done.err
        return tmp_path / name, done
    return call


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run that a test may change."""
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_run_is_given_again_to_the_last_digit(run, rescored):
    folder, done = rescored(run)
    for name in OWN:
        assert (folder / name).read_bytes() == (run / name).read_bytes(), name
    assert f"as scored by {run}, to the last digit" in done.out and not done.warnings
    assert read_run(folder).order == ["colours", "tones"]


def test_images_and_checkpoints_are_not_needed(run, rescored, copied, world, monkeypatch):
    for path in copied.glob("*.pth"):
        path.unlink()
    monkeypatch.setattr("src.datasets.images.read_image", None)
    monkeypatch.setattr("src.run.datasets.open_task", None)
    folder, _ = rescored(copied, "--label-space", "task,all")
    assert (folder / "summary_all.json").is_file()
    assert (folder / "matrix_top1.csv").read_bytes() == (run / "matrix_top1.csv").read_bytes()


def test_other_label_spaces_are_those_of_a_run_that_scores_them(cli, run, rescored, world, tmp_path):
    direct = cli(*order_of(world, "--save", tmp_path / "direct", "--label-space", "all,seen"))
    assert direct.status == 0
    folder, done = rescored(run, "--label-space", "all,seen")
    for name in ("matrix_top1.csv", "matrix_top1_seen.csv", "matrix_top5.csv", "classes_colours.csv"):
        assert (folder / name).read_bytes() == (tmp_path / "direct" / name).read_bytes(), name
    ours, theirs = read_json(folder / "summary.json"), read_json(tmp_path / "direct" / "summary.json")
    assert ours.pop("rescored") == f"rescored from fp16 features of {run}" and ours == theirs
    head = f"label space all; rescored from fp16 features of {run}"
    assert all(head in text for text in (done.out, *((folder / name).read_text(encoding="utf-8")
                                                     for name in ("summary.md", "report.html"))))


def test_other_prompts_are_encoded_by_each_checkpoint(cli, run, rescored, world, tmp_path):
    """As the checkpoints are scored with them."""
    template = ("--template", "all:{c} light", "--label-space", "all")
    chain = ",".join(str(run / f"{task}.pth") for task in ("colours", "tones"))
    assert cli("--load", chain, "--eval-only", "--workers", 0, "--save", tmp_path / "direct", *template).status == 0
    folder, _ = rescored(run, *template)
    for name in ("matrix_top1.csv", "matrix_top5.csv"):
        assert (folder / name).read_bytes() == (tmp_path / "direct" / name).read_bytes(), name
    ours, theirs = (read_json(path / "summary.json")["conditions"] for path in (folder, tmp_path / "direct"))
    assert ours == theirs, (ours, theirs)


def test_fp16_features_are_close(run, rescored, copied):
    """A rounding can move an image that is almost on an edge: one of each dataset, and not more."""
    for path in copied.glob("features/*/*.npz"):
        with np.load(path) as content:
            arrays = {name: content[name] for name in content.files}
        np.savez(path, **arrays | {"features": arrays["features"].astype(np.float16)})
    exact, close = (read_run(rescored(folder, "--label-space", "all,task", name=folder.name + "s")[0])
                    for folder in (run, copied))
    assert close.matrices["task"] == exact.matrices["task"]
    for row, cells in close.matrices["all"]["top1"].items():
        assert cells == pytest.approx(exact.matrices["all"]["top1"][row], abs=100 / 8)


def test_prompts_that_change_nothing_are_said_to(run, rescored):
    folder, done = rescored(run, "--template", "simple")
    assert "note: --template changes no prompts here" in done.out
    assert (folder / "summary.json").read_bytes() == (run / "summary.json").read_bytes()


def test_without_its_checkpoint_a_task_has_no_other_prompts(cli, copied, tmp_path):
    (copied / "tones.pth").unlink()
    done = cli("--rescore", copied, "--template", "all:{c} light", "--save", tmp_path / "tables")
    assert done.status == 2 and "tones.pth is missing" in done.err and "leave --template out" in done.err
    assert not (tmp_path / "tables").exists()
    shutil.copy(copied / "colours.pth", copied / "tones.pth")
    done = cli("--rescore", copied, "--template", "all:{c} light", "--save", tmp_path / "tables")
    assert done.status == 2 and "holds other weights than those behind the features after tones" in done.err


def test_details_say_every_class_and_the_calibration(run, rescored):
    folder, _ = rescored(run, "--label-space", "task,all")
    classes = list(csv.DictReader((folder / "per_class.csv").open(encoding="utf-8")))
    numbers = list(csv.DictReader((folder / "calibration.csv").open(encoding="utf-8")))
    assert {row["task"] for row in classes} == {"", "colours", "tones"} and len(numbers) == 3 * 2 * 2
    for row in numbers:
        own = [found for found in classes if all(found[key] == row[key] for key in ("task", "dataset", "label_space"))]
        hits = sum(float(found["accuracy"]) * int(found["support"]) for found in own)
        assert hits / int(row["n"]) == pytest.approx(float(row["accuracy"]), abs=1e-3)
        assert 0 <= float(row["ece"]) <= 100 and float(row["nll"]) > 0


def test_predictions_of_the_run_are_the_hits_of_its_table(run):
    summary = read_json(run / "summary.json")
    for row, task in enumerate(("colours", "tones")):
        for column, dataset in enumerate(("colours", "tones")):
            found = predictions(run, task, dataset, "task")
            assert 100 * found.hits.mean() == pytest.approx(summary["matrix"][row][column])
            assert found.files and len(found.files) == len(found.labels)


@pytest.mark.slow
def test_a_finished_run_keeps_its_features_later(cli, world, copied, run, rescored):
    shutil.rmtree(copied / "features")
    done = cli(*order_of(world, "--save", copied, "--keep-features", "--resume"))
    assert done.status == 0 and done.out.count("was finished without kept features") == 2
    folder, _ = rescored(copied)
    assert (folder / "matrix_top1.csv").read_bytes() == (run / "matrix_top1.csv").read_bytes()


def refused(cli, folder, tmp_path, message, *words):
    done = cli("--rescore", folder, *(words or ("--save", tmp_path / "tables")))
    assert done.status == 2 and message in done.err and not (tmp_path / "tables").exists(), done.err


def test_features_of_another_run_are_refused(cli, copied, tmp_path):
    facts = read_json(copied / "run_tones.json")
    facts["scores"]["tones"]["task"]["top1"] += 1
    (copied / "run_tones.json").write_text(json.dumps(facts), encoding="utf-8")
    refused(cli, copied, tmp_path, "the features after tones come from another run")


def test_an_evaluation_that_is_missing_is_named(cli, copied, tmp_path):
    shutil.rmtree(copied / "features" / "after_colours")
    refused(cli, copied, tmp_path, "lacks the features after colours")
    shutil.rmtree(copied / "features")
    refused(cli, copied, tmp_path, "has no kept features; add --keep-features")


def test_folders_that_cannot_be_are_refused_at_once(cli, run, world, copied, tmp_path, monkeypatch):
    refused(cli, tmp_path / "nowhere", tmp_path, "no such folder; give the --save folder")
    refused(cli, run, tmp_path, "whose tables are kept", "--save", run / ".." / run.name)
    refused(cli, run, tmp_path, "holds files of another run", "--save", copied)
    refused(cli, run, tmp_path, "writes tables; give --save DIR", "--quiet")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(cli, run, tmp_path, "with several processes")
