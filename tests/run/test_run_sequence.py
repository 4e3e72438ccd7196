"""Runs of several tasks, and tasks that are there already: chains, sequences, evaluation alone."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from cli_files import (
    BATCH,
    RATE,
    STEPS,
    contents,
    lines,
    listing,
    read_json,
    rows,
    same_weights,
    table,
    train_chain,
    weights,
)

from src.datasets import open_task
from src.models.bases import read_gradients
from src.models.state import Settings
from src.report.sequence import sequence_metrics
from src.run.sequence import flags_behind, warn_of_warmup
from src.store.records import RunFolder

pytest_plugins = ["cli_fixtures"]


def test_what_a_checkpoint_says_of_the_flags_behind_it():
    """Those of its last run; of tasks before that run nothing is known, and of plain weights nothing was trained."""
    def history(*names):
        return [{"dataset": name} for name in names]
    single = {"method": "lwf", "dataset_order": None}
    sequence = {"method": "lwf", "dataset_order": ["toy-colours", "folder:/x/toys"]}
    assert flags_behind({}) == flags_behind({"config": {}, "history": []}) == []
    assert flags_behind({"config": single, "history": history("DTD")}) == [single]
    assert flags_behind({"config": single, "history": history("Food", "DTD")}) == [{}, single]
    assert flags_behind({"config": sequence, "history": history("toy-colours", "toys")}) == [sequence]
    assert flags_behind({"config": sequence, "history": history("toy-colours")}) == [sequence]
    assert flags_behind({"config": sequence, "history": history("Food", "toy-colours", "toys")}) == [{}, sequence]
    assert flags_behind({"history": history("DTD")}) == [{}]


@pytest.fixture
def by_a_list(train, world, tmp_path):
    """loose trained by a list: of its six test images, two of each class, three are train too. -> the list"""
    task = open_task(world.loose, str(tmp_path))
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"train": task.split("train").listing() + task.split("test").listing()[::2]}),
                    encoding="utf-8")
    done = train(tmp_path / "out", "--train-dataset", world.loose, "--data-location", tmp_path, "--split-file", path)
    assert done.status == 0, done.err
    assert rows(tmp_path / "out" / "metrics_loose.csv")[-1]["n"] == "3"
    return path


def evaluate(cli, folder, *words):
    return cli("--load", folder / "out" / "loose.pth", "--eval-only", "--workers", 0, "--data-location", folder,
               "--save", folder / "scored", *words)


def test_a_checkpoint_is_scored_on_no_image_that_its_split_file_trained_on(cli, by_a_list, world, tmp_path):
    done = evaluate(cli, tmp_path)
    assert done.status == 0 and f"note: --split-file {by_a_list}, as the checkpoint was trained" in done.out, done.err
    made, again = (rows(tmp_path / name / "metrics_loose.csv")[-1] for name in ("out", "scored"))
    assert (again["n"], again["top1"]) == (made["n"], made["top1"])
    other = evaluate(cli, tmp_path, "--eval-datasets", f"{world.loose},{world.tones}")
    assert other.status == 0 and rows(tmp_path / "scored" / "metrics_tones.csv")[-1]["n"] == "8", other.err


def test_a_split_file_that_moved_is_named_by_flags(cli, by_a_list, world, tmp_path):
    by_a_list.rename(tmp_path / "moved.json")
    done = evaluate(cli, tmp_path)
    assert done.status == 2 and f"--split-file {by_a_list}: cannot be read" in done.err, done.err
    assert "give --train-dataset" in done.err
    done = evaluate(cli, tmp_path, "--train-dataset", world.loose, "--split-file", tmp_path / "moved.json")
    assert done.status == 0 and not done.warnings, done.err
    assert rows(tmp_path / "scored" / "metrics_loose.csv")[-1]["n"] == "3"
    done = evaluate(cli, tmp_path, "--eval-datasets", world.tones)
    assert done.status == 0, done.err


def test_a_split_file_that_changed_since_is_not_scored_by(cli, by_a_list, world, tmp_path):
    content = read_json(by_a_list)
    by_a_list.write_text(json.dumps({"train": content["train"][1:]}), encoding="utf-8")
    done = evaluate(cli, tmp_path)
    assert done.status == 2 and len(done.err.splitlines()) == 1, done.err
    assert "loose: was trained on with --split-file" in done.err and "with another content" in done.err
    assert not (tmp_path / "scored").exists()
    planned = evaluate(cli, tmp_path, "--dry-run")
    assert planned.status == 2 and "with another content" in planned.out
    chosen = evaluate(cli, tmp_path, "--train-dataset", world.loose, "--split-file", by_a_list)
    assert chosen.status == 0 and "training images may be scored" in chosen.warnings[0]


def test_an_earlier_task_is_not_scored_without_its_split_file(train, cli, by_a_list, world, tmp_path):
    """Neither while the later task trains nor afterwards, alone or in the matrix of both."""
    later = ("--load", tmp_path / "out" / "loose.pth", "--train-dataset", world.tones, "--data-location", tmp_path)
    done = train(tmp_path / "out", *later, "--eval-datasets", f"{world.loose},{world.tones}")
    assert done.status == 2 and "is scored with no --split-file" in done.err, done.err
    done = train(tmp_path / "out", *later)
    assert done.status == 0, done.err
    first, second = (str(tmp_path / "out" / f"{name}.pth") for name in ("loose", "tones"))
    for loaded in (second, f"{first},{second}"):
        done = cli("--load", loaded, "--eval-only", "--workers", 0, "--data-location", tmp_path, "--eval-datasets",
                   f"{world.loose},{world.tones}")
        assert done.status == 2 and "is scored with no --split-file" in done.err, done.err
    assert cli("--load", second, "--eval-only", "--workers", 0).status == 0


def test_single_tables_say_what_they_hold_for(train, cli, world, tmp_path):
    """Training and evaluating say the same of one task; after a second run the flags of the first are unknown."""
    def heads(done):
        assert done.status == 0, done.err
        return [line for line in done.out.splitlines() if line.startswith("data family ")]
    head = "data family own; reference set none; shots {}; router none; task id at test {}; label space {}"
    out, ends = tmp_path / "out", ("--eval-only", "--workers", 0)
    assert heads(train(out, "--shots", 2)) == [head.format("2", "given", "task")]
    assert heads(cli("--load", out / "colours.pth", *ends, "--label-space", "task,all")) == [
        head.format("2", "given, not given", "task, all")]
    train(out, "--load", out / "colours.pth", "--train-dataset", world.tones)
    assert heads(cli("--load", out / "tones.pth", *ends))[0].split("; ")[1:3] == [
        "reference set unknown", "shots unknown"]
    assert heads(cli("--load", world.model, *ends, "--linear-eval", world.tones)) == [
        head.format("all", "given", "linear")]


def test_the_next_task_starts_from_the_loaded_weights_and_trains_all_its_steps(train, world, tmp_path, steps):
    out = tmp_path / "out"
    train(out)
    first = weights(out / "colours.pth")
    assert len(steps) == STEPS
    steps.clear()
    done = train(out, "--load", out / "colours.pth", "--train-dataset", world.tones, "--iterations", 5,
                 "--log-interval", 1, "--lr", "1e-9")
    assert done.status == 0 and len(steps) == 5
    assert [line["iteration"] for line in lines(out / "log_tones.jsonl")] == [1, 2, 3, 4, 5]
    checkpoint = torch.load(out / "tones.pth", weights_only=True)
    assert checkpoint["iteration"] == 5
    assert [task["dataset"] for task in checkpoint["history"]] == ["colours", "tones"]
    start = weights(world.model)
    for name, value in checkpoint["state_dict"].items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=1e-7)
    assert not torch.allclose(first["visual.proj"], start["visual.proj"], atol=1e-5)


@pytest.mark.parametrize("words", ["--we --avg-freq 1", "--we-wise --avg-freq 1", "--moving-avg --mv-avg-decay 0.5",
                                   "--wise-merge --wise-ft-alpha 0.5", "--lora",
                                   "--lora --lora-shared --we --avg-freq 1",
                                   "--lora --moving-avg --mv-avg-decay 0.5 --wise-merge"])
def test_metrics_checkpoint_and_next_task_see_the_same_weights(cli, train, world, tmp_path, words):
    out = tmp_path / "out"
    train(out, "--lr", "1e-2", *words.split())
    train(tmp_path / "plain", "--lr", "1e-2")
    saved = weights(out / "colours.pth")
    assert not same_weights(saved, weights(tmp_path / "plain" / "colours.pth"))
    trained = table(out, "colours")["colours", STEPS]
    cli("--load", out / "colours.pth", "--eval-only", "--eval-datasets", world.colours, "--save", tmp_path / "again",
        "--workers", 0)
    assert table(tmp_path / "again", "colours")["colours", STEPS] == trained
    train(out, "--load", out / "colours.pth", "--train-dataset", world.tones, "--lr", "1e-12")
    for name, value in weights(out / "tones.pth").items():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=1e-9)


@pytest.mark.slow
def test_wise_ft_scores_mixes_of_loaded_and_zero_shot_weights(cli, tmp_path):
    digits = ["--eval-datasets", "toy-digits", "--max-evaluation-size", 100]
    cli("--model", "toy", "--train-dataset", "toy-digits", "--iterations", 60, "--lr", "1e-3", "--warmup-length", 0,
        "--batch-size", 32, "--save", tmp_path, *digits)
    cli("--model", "toy", "--eval-only", "--save", tmp_path / "zero", *digits)
    done = cli("--load", tmp_path / "toy-digits.pth", "--eval-only", "--wise-ft", "--alpha", "0,0.5,1", *digits)
    assert done.status == 0 and done.out.count("zero-shot") == 3
    found = {row["scored_by"]: row["top1"] for row in rows(tmp_path / "metrics_toy-digits.csv")}
    assert found.keys() == {"zeroshot", "wise 0", "wise 0.5", "wise 1"}
    assert found["wise 1"] == found["zeroshot"]
    assert found["wise 0"] == rows(tmp_path / "zero" / "metrics_toy-digits.csv")[0]["top1"]
    assert float(found["wise 0"]) < float(found["wise 1"]) - 20


def test_two_tasks_in_one_folder_leave_both(train, world, tmp_path):
    out, both = tmp_path / "out", ("--eval-datasets", f"{world.colours},{world.tones}")
    train(out, *both)
    before = contents(out)
    train(out, "--load", out / "colours.pth", "--train-dataset", world.tones, *both)
    after = contents(out)
    kept = ("colours.pth", "run_colours.json", "log_colours.jsonl")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert {"tones.pth", "run_tones.json", "log_tones.jsonl"} <= after.keys()
    for dataset in ("colours", "tones"):
        assert list(table(out, dataset)) == [("colours", STEPS), ("tones", STEPS)]
        assert after[f"metrics_{dataset}.csv"].startswith(before[f"metrics_{dataset}.csv"])


@pytest.mark.parametrize("words", [
    "finetune", "lwf --we-wise --avg-freq 1 --wise-merge", "ZSCL --moving-avg --ref-batch-size 3",
    "ZSCL --ref-size 5 --feature-mse", "lwf --lora --lora-shared --l2 0.1 --we --avg-freq 1",
    *(pytest.param(words, marks=pytest.mark.slow) for words in (
        "lwf", "ZSCL", "finetune --we --avg-freq 2 --l2 0.1", "lwf --distill-text-tower --ablation-loss-2",
        "finetune --lora", "finetune --lora --lora-shared --lora-shared-split-qkvo --wise-merge"))])
def test_one_process_equals_a_chain(cli, world, tmp_path, words):
    shared = ["--method", *words.split(), "--iterations", STEPS, "--batch-size", BATCH, "--lr", "1e-3", "--workers", 0]
    if words.startswith("ZSCL"):
        shared += ["--ref-dataset", world.loose, "--ref-model", world.model, "--data-location", tmp_path]
    both = f"{world.colours},{world.tones}"
    assert cli("--load", world.model, "--dataset-order", both, "--save", tmp_path / "seq", *shared).status == 0
    train_chain(cli, world, tmp_path / "chain", *shared)
    for task in ("colours", "tones"):
        assert same_weights(weights(tmp_path / "seq" / f"{task}.pth"), weights(tmp_path / "chain" / f"{task}.pth"))
        one, two = table(tmp_path / "seq", task), table(tmp_path / "chain", task)
        assert {key: row for key, row in one.items() if key[0]} == two


def test_a_sequence_projects_off_the_growing_basis_as_a_chain_does(cli, world, tmp_path):
    shared = ["--iterations", STEPS, "--batch-size", BATCH, "--lr", "1e-3", "--workers", 0, "--warmup-length", 0,
              "--orthogonal-gradients", 2]
    order = f"{world.colours},{world.tones},{world.loose}"
    done = cli("--load", world.model, "--dataset-order", order, "--save", tmp_path / "seq", "--val-fraction", 0.5,
               "--eval-split", "val", *shared)
    assert done.status == 0, done.err
    start, basis, out = world.model, [], tmp_path / "chain"
    for name in order.split(","):
        file = Path(name).name
        done = cli("--load", start, "--train-dataset", name, "--save", out, "--val-fraction", 0.5, "--eval-split",
                   "val", *basis, *shared)
        assert done.status == 0, done.err
        start, basis = out / f"{file}.pth", ["--orthogonal-gradients-path", out / f"grad_{file}.pth"]
        assert same_weights(weights(tmp_path / "seq" / f"{file}.pth"), weights(start))
        grads = [torch.load(folder / f"grad_{file}.pth", weights_only=True) for folder in (tmp_path / "seq", out)]
        assert all(torch.equal(grads[0][name]["basis"], entry["basis"]) for name, entry in grads[1].items())
    first, second = (read_gradients(tmp_path / "seq" / f"grad_{name}.pth") for name in ("colours", "tones"))
    before, after = (weights(tmp_path / "seq" / f"{name}.pth") for name in ("colours", "tones"))
    for name, entry in first.items():
        rows = len(entry["basis"])
        torch.testing.assert_close(second[name]["basis"][:rows], entry["basis"])
        movement = (after[name] - before[name]).flatten()
        assert (entry["basis"] @ movement).norm() < 1e-3 * movement.norm()


def test_sequence_files(cli, world, tmp_path):
    out = tmp_path / "out"
    done = cli("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 20,
               "--batch-size", BATCH, "--lr", "1e-3", "--workers", 0, "--save", out, "--warmup-length", 0)
    assert done.status == 0
    assert {"run.json", "matrix_top1.csv", "matrix_top5.csv", "summary.json", "summary.md",
            "summary.tex"} <= listing(out)
    summary = read_json(out / "summary.json")
    assert summary.keys() == {"transfer", "avg", "last", "forgetting", "bwt", "zero_shot", "datasets", "matrix",
                              "conditions", "label_space", "precision"}
    assert summary["label_space"] == "task" and summary["precision"] == "fp32"
    tables = {name: table(out, name) for name in ("colours", "tones")}
    keys = [("", 0), ("colours", 20), ("tones", 20)]
    assert all(list(found) == keys for found in tables.values())
    matrix = [[float(tables[name][key]["top1"]) for name in tables] for key in keys]
    assert summary["matrix"] == [pytest.approx(row, abs=1e-4) for row in matrix[1:]]
    assert list(summary["zero_shot"].values()) == pytest.approx(matrix[0], abs=1e-4)
    assert {key: summary[key] for key in ("transfer", "avg", "last", "forgetting", "bwt")} == pytest.approx(
        sequence_metrics(matrix[1:]), abs=1e-3)
    assert matrix[1][0] > matrix[0][0] + 30, "training must show in the matrix"
    for score in ("top1", "top5"):
        found = list(csv.reader(io.StringIO((out / f"matrix_{score}.csv").read_text(encoding="utf-8"))))
        assert found[0][0] == "task" and [row[0] for row in found[1:]] == ["", *found[0][1:]]
        assert [row[1:] for row in found[1:]] == [[tables[name][key][score] for name in tables] for key in keys]
    text = (out / "summary.md").read_text(encoding="utf-8")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert tables == [line for line in done.out.splitlines() if line.startswith("|")] and len(tables) == 5 + 3
    assert all(word in text for word in ("zero-shot", "Transfer", "- BWT: mean over"))
    assert all(word in (out / "summary.tex").read_text(encoding="utf-8") for word in (r"\toprule", "after tones & $"))
    assert read_json(out / "run.json")["flags"]["dataset_order"]["origin"] == "flag"


@pytest.mark.parametrize("picked", [(0,), (1, 0), (0, 1, 2)], ids=str)
def test_a_sequence_with_other_evaluation_datasets(cli, world, tmp_path, picked):
    """The matrix is over the tasks, in their order, whatever else is scored."""
    names = (world.colours, world.tones, world.loose)
    done = cli("--load", world.model, "--dataset-order", ",".join(names[:2]), "--iterations", 1, "--lr", "1e-5",
               "--workers", 0, "--save", tmp_path / "out", "--data-location", tmp_path,
               "--eval-datasets", ",".join(names[index] for index in picked))
    assert done.status == 0, done.err
    summary = read_json(tmp_path / "out" / "summary.json")
    assert [Path(name).name for name in summary["datasets"]] == ["colours", "tones"]
    assert [len(row) for row in summary["matrix"]] == [2, 2]


def test_rates_of_their_own(cli, world, tmp_path):
    """A rate is named as the dataset is given on the command line."""
    done = cli("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 1,
               "--lr", f"1e-5,{world.tones}=5e-5", "--warmup-length", 1, "--workers", 0, "--save", tmp_path / "out")
    assert done.status == 0, done.err
    rates = [lines(tmp_path / "out" / f"log_{name}.jsonl")[0]["lr"] for name in ("colours", "tones")]
    assert rates == pytest.approx([1e-5, 5e-5])


def test_names_that_would_overwrite_each_other(cli, world, tmp_path):
    twin = tmp_path / "elsewhere" / "colours"
    twin.parent.mkdir()
    twin.symlink_to(world.root / "tones", target_is_directory=True)
    shared = ("--load", world.model, "--iterations", 1, "--lr", "1e-5", "--workers", 0, "--save", tmp_path / "out")
    for words in (("--dataset-order", f"{world.colours},folder:{twin}"),
                  ("--train-dataset", world.colours, "--eval-datasets", f"{world.colours},folder:{twin}")):
        done = cli(*shared, *words)
        assert done.status == 2 and "colours" in done.err, words
        assert not (tmp_path / "out").exists()


# -- what is there already ---------------------------------------------------------------------------------------------



def test_a_finished_task_is_not_trained_a_second_time(train, tmp_path, steps):
    """The same command gives its scores and says how to train again; on a cluster it would be hours."""
    first = train(tmp_path / "out")
    before, trained = contents(tmp_path / "out"), len(steps)
    again = train(tmp_path / "out")
    assert again.status == 0 and len(steps) == trained == STEPS and contents(tmp_path / "out") == before
    line, *rest = again.out.splitlines()
    assert line.startswith("colours: already finished, colours ") and "--overwrite" in line
    assert rest == first.out.splitlines()[-5:], "the table of the scores below its conditions, and no other line"
    assert train(tmp_path / "out", "--overwrite").status == 0 and len(steps) == 2 * STEPS


@pytest.mark.parametrize(("key", "value", "fragment"), [
    ("commit", "0" * 40, "commit 000000000000 there"), ("versions", {"torch": "1.0"}, "torch 1.0 there"),
    ("python", "3.1", "Python 3.1 there")])
def test_a_finished_task_says_which_other_code_made_it(train, tmp_path, monkeypatch, key, value, fragment):
    monkeypatch.setattr("src.store.records._commit", lambda: "1" * 40)
    train(tmp_path / "out")
    path = tmp_path / "out" / "run_colours.json"
    path.write_text(json.dumps(read_json(path) | {key: value}), encoding="utf-8")
    notes = [line for line in train(tmp_path / "out").out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1 and fragment in notes[0] and "--overwrite" in notes[0]


def test_a_finished_task_of_other_weights_under_the_same_name_is_refused(train, world, tmp_path):
    start = tmp_path / "start.pth"
    shutil.copyfile(world.model, start)
    train(tmp_path / "out", "--load", start)
    content = torch.load(start, weights_only=True)
    content["state_dict"]["visual.proj"] += 1
    torch.save(content, start)
    done = train(tmp_path / "out", "--load", start)
    assert done.status == 2 and "began with another content of --load" in done.err and "--overwrite" in done.err


def test_a_finished_sequence_is_not_trained_a_second_time(cli, world, tmp_path, steps, monkeypatch):
    words = ("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", STEPS,
             "--batch-size", BATCH, "--lr", RATE, "--workers", 0, "--warmup-length", 0, "--save", tmp_path / "out")
    first = cli(*words)
    assert first.status == 0 and len(steps) == 2 * STEPS
    monkeypatch.setattr("src.run.scoring.evaluate_each", lambda *_, **__: pytest.fail("it is scored already"))
    again = cli(*words)
    assert again.status == 0 and len(steps) == 2 * STEPS and again.out.count("already finished") == 2
    assert again.out.splitlines()[-8:] == first.out.splitlines()[-8:]


def test_the_whole_dataset_of_finished_phases_is_written_again_as_it_was(cli, world, pairs, tmp_path):
    words = ("--load", world.model, "--train-dataset", pairs, "--num-phases", 2, "--iterations", 2, "--batch-size",
             BATCH, "--workers", 0, "--warmup-length", 0, "--save", tmp_path / "out")
    assert cli(*words).status == 0
    whole = tmp_path / "out" / "stream.pth"
    before = torch.load(whole, weights_only=True)
    whole.unlink()
    again = cli(*words)
    assert again.status == 0 and again.out.count("already finished") == 2
    after = torch.load(whole, weights_only=True)
    tensors = before.pop("state_dict"), after.pop("state_dict")
    torch.testing.assert_close(*tensors, rtol=0, atol=0)
    assert after == before


@pytest.mark.parametrize("words", ["--lr 2e-3", "--seed 1", "--method lwf", "--iterations 4"])
def test_another_configuration_does_not_replace_a_finished_task(train, tmp_path, words):
    train(tmp_path / "out")
    before = contents(tmp_path / "out")
    done = train(tmp_path / "out", *words.split())
    assert done.status == 2 and len(done.err.splitlines()) == 1 and "{" not in done.err
    assert words.split()[0] in done.err and "--overwrite" in done.err and "colours.pth" in done.err
    assert contents(tmp_path / "out") == before
    assert train(tmp_path / "out", *words.split(), "--overwrite").status == 0
    assert contents(tmp_path / "out")["colours.pth"] != before["colours.pth"]
    assert len(rows(tmp_path / "out" / "metrics_colours.csv")) == 1


@pytest.mark.parametrize("damage", [None, "", "{}", "[]", '{"flags": 1}', '{"flags": {"lr": 1}}'])
def test_a_checkpoint_of_unknown_origin_is_not_replaced(train, tmp_path, damage):
    train(tmp_path / "out")
    record = tmp_path / "out" / "run_colours.json"
    record.unlink() if damage is None else record.write_text(damage, encoding="utf-8")
    before = contents(tmp_path / "out")
    done = train(tmp_path / "out")
    assert done.status == 2 and "colours.pth" in done.err and "--overwrite" in done.err
    assert contents(tmp_path / "out") == before


def test_a_sequence_looks_at_all_its_tasks_before_it_starts(cli, train, world, tmp_path):
    train(tmp_path / "out", "--train-dataset", world.tones)
    before = contents(tmp_path / "out")
    done = cli("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", STEPS,
               "--batch-size", BATCH, "--lr", RATE, "--workers", 0, "--save", tmp_path / "out")
    assert done.status == 2 and "tones.pth" in done.err
    assert contents(tmp_path / "out") == before


# -- evaluation alone --------------------------------------------------------------------------------------------------



def test_evaluating_the_checkpoint_gives_the_run_s_own_scores(train, cli, world, tmp_path):
    train(tmp_path / "out", "--iterations", 20, "--eval-datasets", f"{world.colours},{world.tones}")
    done = cli("--load", tmp_path / "out" / "colours.pth", "--eval-only", "--eval-datasets",
               f"{world.colours},{world.tones}", "--save", tmp_path / "again", "--workers", 0)
    assert done.status == 0 and "| dataset" in done.out
    for name in ("colours", "tones"):
        assert table(tmp_path / "again", name) == table(tmp_path / "out", name)
    assert listing(tmp_path / "again") == {f"{kind}_{name}.csv" for kind in ("metrics", "predictions", "classes")
                                           for name in ("colours", "tones")}


def test_scores_go_beside_the_loaded_checkpoint(train, cli, world, tmp_path):
    train(tmp_path / "out")
    before = contents(tmp_path / "out")
    done = cli("--load", tmp_path / "out" / "colours.pth", "--eval-only", "--eval-datasets",
               f"{world.tones},{world.colours}", "--workers", 0)
    assert done.status == 0
    after = contents(tmp_path / "out")
    assert after.keys() - before.keys() == {"metrics_tones.csv"}
    assert {name: after[name] for name in before} == before  # the same row of colours is not written twice


def test_zero_shot_matrix(cli, world, tmp_path):
    done = cli("--init", "scratch", "--model", "tiny-vit", "--eval-only", "--dataset-order",
               f"{world.colours},{world.tones}", "--save", tmp_path / "out", "--workers", 0)
    assert done.status == 0
    summary = read_json(tmp_path / "out" / "summary.json")
    zero_shot = list(summary["zero_shot"].values())
    assert summary["matrix"] == [zero_shot, zero_shot] and summary["bwt"] == summary["forgetting"] == 0
    assert summary["transfer"] == zero_shot[1]
    table = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert table.count("\n| zero-shot ") == 1 and "| after " not in table, "nothing was trained"
    assert "| Transfer " in table
    assert "after colours" not in (tmp_path / "out" / "summary.tex").read_text(encoding="utf-8")


def test_zero_shot_recall_of_a_sequence_of_pairs(cli, pairs, tmp_path):
    done = cli("--init", "scratch", "--model", "tiny-vit", "--eval-only", "--dataset-order", pairs, "--save",
               tmp_path / "out", "--workers", 0)
    assert done.status == 0 and "mean rsum" in done.out
    first, second = read_json(tmp_path / "out" / "summary.json")["rows"]
    assert first == second
    table = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert table.count("\n| zero-shot ") == 1 and "| after " not in table


@pytest.mark.parametrize(("schedule", "warmup", "iterations", "effect"), [
    ("cosine", 3, 3, "the rate never falls"), ("cosine", 3, 4, None), ("constant", 3, 2, "the rate never reaches its "),
    ("constant", 3, 3, None), ("onecycle", 0, 2, None), ("cosine", 3, 0, None)])
def test_a_warmup_that_does_not_end(capsys, schedule, warmup, iterations, effect):
    """A constant rate is there at the last step of its warm-up; a closed form has no steps."""
    settings = Settings(iterations=iterations, lr=1.0, warmup=warmup, schedule=schedule)
    warn_of_warmup(str(warmup), {"a": settings})
    warned = capsys.readouterr().err
    assert effect in warned if effect else warned == ""


# -- what a method carries from task to task ---------------------------------------------------------------------------

RIDGE = Path(__file__).parents[2] / "examples" / "methods" / "ridge.py"
EWC = """
import torch
from src.models.finetune import Finetune


class EWC(Finetune):
    fisher = None

    def end(self, state):
        self.fisher = torch.full((5,), float(state.iteration)) + (0 if self.fisher is None else self.fisher)

    def carry(self):
        return {"fisher": self.fisher}

    def load_carry(self, content):
        self.fisher = content.get("fisher")
"""


def carry_of(path):
    return torch.load(path, weights_only=True)["carry"]


@pytest.fixture
def ridge(cli, world, tmp_path):
    """ridge(folder, word, ...): the tasks colours, tones and loose of a closed form that scores by what it carries."""
    order = ",".join((world.colours, world.tones, world.loose))
    return lambda folder, *words: cli("--load", world.model, "--method", f"{RIDGE}:Ridge", "--dataset-order", order,
                                      "--batch-size", BATCH, "--workers", 0, "--save", tmp_path / folder, *words)


@pytest.fixture
def ewc(cli, world, tmp_path):
    """ewc(folder, word, ...): two tasks of a method that carries something and is scored as plain CLIP."""
    (tmp_path / "ewc.py").write_text(EWC, encoding="utf-8")
    return lambda folder, *words: cli(
        "--load", world.model, "--method", f"{tmp_path}/ewc.py:EWC", "--dataset-order",
        f"{world.colours},{world.tones}", "--iterations", STEPS, "--batch-size", BATCH, "--lr", RATE,
        "--warmup-length", 0, "--workers", 0, "--save", tmp_path / folder, *words)


def test_only_the_last_checkpoint_holds_the_carry(ridge, tmp_path):
    assert ridge("all").status == 0 and ridge("last", "--keep-carry", "last").status == 0
    assert listing(tmp_path / "all") == listing(tmp_path / "last")
    for name, later in (("colours", "tones.pth"), ("tones", "loose.pth"), ("loose", None)):
        whole, left = (torch.load(tmp_path / folder / f"{name}.pth", weights_only=True) for folder in ("all", "last"))
        assert left.pop("carry_left_out", None) == (later and {"Ridge": later})
        assert whole["carry"]["Ridge"]["gram"].any() and (left["carry"] == {}) == (later is not None)
        for part in ("state_dict", *(("carry",) if later is None else ())):
            assert repr(whole[part]) == repr(left[part])
        assert same_weights(whole["state_dict"], left["state_dict"])
        assert {key: whole[key] for key in ("history", "scorer", "config", "iteration")} == {
            key: left[key] for key in ("history", "scorer", "config", "iteration")}
        assert whole.keys() == left.keys() and (tmp_path / "all" / f"metrics_{name}.csv").read_bytes() == (
            tmp_path / "last" / f"metrics_{name}.csv").read_bytes()
    assert torch.equal(carry_of(tmp_path / "all" / "loose.pth")["Ridge"]["gram"],
                       carry_of(tmp_path / "last" / "loose.pth")["Ridge"]["gram"])
    done = ridge("last", "--keep-carry", "last")
    assert done.status == 0 and done.out.count("already finished") == 3


@pytest.mark.parametrize("killed", ["before", pytest.param("within", marks=pytest.mark.slow)])
def test_a_kill_while_the_carry_is_left_out_loses_nothing(ridge, tmp_path, monkeypatch, killed):
    """The next checkpoint is complete by then, and the same command does what is left to do."""
    assert ridge("whole", "--keep-carry", "last").status == 0
    with monkeypatch.context() as patched:
        if killed == "before":
            patched.setattr(RunFolder, "leave_carry_out", interrupted)
        else:
            patched.setattr("src.store.records.without_carry", interrupted)
        assert ridge("out", "--keep-carry", "last").status == 130
    assert (tmp_path / "out" / "tones.pth").exists() and not (tmp_path / "out" / "loose.pth").exists()
    assert carry_of(tmp_path / "out" / "colours.pth").keys() == {"Ridge"}
    assert ridge("out", "--keep-carry", "last", "--resume").status == 0
    for name in ("colours", "tones", "loose"):
        assert repr(carry_of(tmp_path / "out" / f"{name}.pth")) == repr(carry_of(tmp_path / "whole" / f"{name}.pth"))


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_rewritten_stays_whole(ridge, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("src.store.records.without_carry", full)
    done = ridge("out", "--keep-carry", "last")
    assert done.status == 0, done.err
    assert sum("still holds its hooks' carry: [Errno 28]" in warning for warning in done.warnings) == 2
    assert carry_of(tmp_path / "out" / "colours.pth").keys() == {"Ridge"}


def test_a_checkpoint_without_its_carry_is_neither_scored_nor_trained_on_by_its_method(ridge, cli, world, tmp_path):
    ridge("out", "--keep-carry", "last")
    path, method = tmp_path / "out" / "tones.pth", ("--method", f"{RIDGE}:Ridge", "--workers", 0)
    reason = "tones.pth does not hold what Ridge carries from task to task: --keep-carry last dropped it once loose."
    chain = ",".join(str(tmp_path / "out" / f"{name}.pth") for name in ("colours", "tones", "loose"))
    before = contents(tmp_path / "out")
    for words in (("--load", path, "--eval-only", "--eval-datasets", world.tones),
                  ("--load", path, "--eval-single", world.image, "--class-names", "light,dark"),
                  ("--load", path, "--train-dataset", world.colours),
                  ("--load", chain, "--eval-only")):
        done = cli(*words, *method, "--save", tmp_path / "more")
        assert done.status == 2 and len(done.err.splitlines()) == 1, done.err
        assert (reason if "," not in str(words[1]) else reason.replace("tones", "colours").replace("loose", "tones")
                ) in done.err
        assert not (tmp_path / "more").exists()
    (tmp_path / "out" / "loose.pth").unlink()
    done = ridge("out", "--keep-carry", "last")
    assert done.status == 2 and reason in done.err and contents(tmp_path / "out").items() <= before.items()


@pytest.mark.slow
def test_where_the_method_is_another_a_missing_carry_is_handed_on(ridge, cli, world, tmp_path):
    ridge("out", "--keep-carry", "last")
    words = ("--train-dataset", world.colours, "--batch-size", BATCH, "--workers", 0)
    done = cli("--load", tmp_path / "out" / "tones.pth", *words, "--iterations", 1, "--lr", RATE, "--save",
               tmp_path / "plain")
    assert done.status == 0 and not any("Ridge" in warning for warning in done.warnings), done.err
    done = cli("--load", tmp_path / "plain" / "colours.pth", *words, "--method", f"{RIDGE}:Ridge")
    assert done.status == 2 and "colours.pth does not hold what Ridge carries" in done.err


def test_what_is_scored_as_plain_clip_needs_no_carry(ewc, cli, world, tmp_path):
    assert ewc("out", "--keep-carry", "last").status == 0
    assert carry_of(tmp_path / "out" / "colours.pth") == {}
    assert carry_of(tmp_path / "out" / "tones.pth")["EWC"]["fisher"].tolist() == [2 * STEPS] * 5
    done = cli("--load", tmp_path / "out" / "colours.pth", "--eval-only", "--eval-datasets", world.tones, "--workers",
               0, "--save", tmp_path / "again")
    row, = (row for row in rows(tmp_path / "out" / "metrics_tones.csv") if row["task"] == "colours")
    assert done.status == 0 and rows(tmp_path / "again" / "metrics_tones.csv") == [row]


@pytest.mark.slow
def test_phases_leave_their_carry_to_the_last_one(cli, world, pairs, tmp_path):
    text = EWC.replace("src.models.finetune", "src.models.modx").replace("Finetune", "Contrastive")
    (tmp_path / "ewc.py").write_text(text, encoding="utf-8")
    done = cli("--load", world.model, "--method", f"{tmp_path}/ewc.py:EWC", "--train-dataset", pairs, "--num-phases", 2,
               "--iterations", 1, "--batch-size", BATCH, "--workers", 0, "--save", tmp_path / "out", "--keep-carry",
               "last")
    assert done.status == 0, done.err
    assert [bool(carry_of(tmp_path / "out" / f"{name}.pth")) for name in ("stream_phase1", "stream_phase2", "stream")
            ] == [False, True, True]


def test_a_run_of_one_task_has_no_earlier_checkpoint(train, tmp_path):
    done = train(tmp_path / "out", "--keep-carry", "last")
    assert done.status == 0 and any("--keep-carry has no effect" in warning for warning in done.warnings)


@pytest.mark.slow
def test_a_large_carry_is_told_once(ewc, monkeypatch, tmp_path):
    note = "note: 0.0 MiB that EWC carries are stored in the checkpoint of each task; --keep-carry last stores"
    assert note not in ewc("small").out
    monkeypatch.setattr("src.run.sequence.LARGE_CARRY", 20)
    assert ewc("all").out.count(note) == 1 and note not in ewc("last", "--keep-carry", "last").out
    assert read_json(tmp_path / "all" / "run_tones.json")["carry_bytes"] == {"EWC": 20}


@pytest.mark.slow
def test_a_dry_run_tells_the_bytes_of_carry_where_they_are_known(ewc, tmp_path):
    assert "carries" not in ewc("out", "--dry-run").out
    assert ewc("out").status == 0
    told = ewc("out", "--dry-run").out
    assert "0.0 MiB that EWC carries (so far) are stored in the checkpoint of each task (--keep-carry all)" in told
    told = ewc("other", "--load", tmp_path / "out" / "tones.pth", "--keep-carry", "last", "--dry-run").out
    assert ("0.0 MiB that EWC carries (in the weights that the run starts from) are stored only in the checkpoint of "
            "the last task (--keep-carry last)") in told


def test_carry_that_nobody_takes_is_a_warning(ewc, cli, world, tmp_path):
    done = ewc("out")
    assert done.status == 0 and done.warnings == []
    words = ("--load", tmp_path / "out" / "tones.pth", "--train-dataset", world.colours, "--iterations", 1, "--lr",
             RATE, "--warmup-length", 0, "--workers", 0, "--save", tmp_path / "more")
    warning = ("warning: what EWC carried from task to task is kept in the checkpoints but inactive: no hook of "
               "this run takes it over")
    done = cli(*words)
    assert done.status == 0 and done.warnings == [warning]
    assert carry_of(tmp_path / "more" / "colours.pth")["EWC"]["fisher"].tolist() == [2 * STEPS] * 5
    assert cli(*words, "--method", f"{tmp_path}/ewc.py:EWC", "--overwrite").warnings == []
