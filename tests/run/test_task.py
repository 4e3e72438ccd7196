"""A task as the command line starts it, on a tiny model and a few pictures: its files, adapters, interruptions."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_files import BATCH, RATE, STEPS, contents, lines, listing, read_json, rows, same_weights, table, weights

from clip import loader
from src.args import parse
from src.cli.flags import FLAGS
from src.datasets import open_task
from src.datasets.seeds import balanced_subset
from src.models.evaluation import SUBSET_SEED
from src.models.lora_injection import load_adapter
from src.models.wrapped import plain_weights
from src.run.build import adapt, training_of

pytest_plugins = ["cli_fixtures"]

HEADER = "iteration,top1,top5,task,label_space,split,n,scored_by,k,train_data,mean_per_class"


# -- one task ----------------------------------------------------------------------------------------------------------


def test_files_of_a_task(train, tmp_path):
    done = train(tmp_path / "out")
    assert done.status == 0 and done.err == "" and done.warnings == []
    assert listing(tmp_path / "out") == {
        "colours.pth", "metrics_colours.csv", "run_colours.json", "log_colours.jsonl", "report_colours.html"}
    assert "colours: 3 steps" in done.out and "top-1" in done.out


def test_without_save_nothing_is_written(cli, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("--load", world.model, "--train-dataset", world.colours, "--iterations", 1, "--lr", "1e-5",
               "--workers", 0, "--warmup-length", 0)
    assert done.status == 0 and "top-1" in done.out
    assert len(done.warnings) == 1 and "--save" in done.warnings[0] and done.err == ""
    assert listing(tmp_path) == set()


def test_a_warning_is_one_line_on_stderr(train, tmp_path):
    done = train(tmp_path / "out", "--T", 3)
    assert done.status == 0 and done.err == ""
    assert done.warnings == ["warning: --T has no effect with --method finetune"]


def test_checkpoint_content(train, world, tmp_path):
    train(tmp_path / "out", "--eval-datasets", f"{world.colours},{world.tones}")
    checkpoint = torch.load(tmp_path / "out" / "colours.pth", weights_only=True)
    assert checkpoint.keys() == {"format", "state_dict", "architecture", "model", "dataset", "iteration", "history",
                                 "heads", "carry", "config"}
    assert checkpoint["format"] == 1 and checkpoint["iteration"] == STEPS and checkpoint["dataset"] == "colours"
    start = weights(world.model)
    assert checkpoint["state_dict"].keys() == start.keys()
    assert not same_weights(checkpoint["state_dict"], start)
    assert torch.equal(checkpoint["state_dict"]["logit_scale"], start["logit_scale"])
    history, = checkpoint["history"]
    assert history["dataset"] == "colours" and history["classnames"] == world.names
    assert set(history["metrics"]) == {"colours", "tones"}
    assert checkpoint["config"]["lr"] == {"": RATE} and "save" not in checkpoint["config"]


@pytest.mark.slow
def test_a_fresh_process_reads_the_checkpoint(train, world, tmp_path):
    train(tmp_path / "out")
    command = [sys.executable, "-m", "src.main", "--load", tmp_path / "out" / "colours.pth", "--eval-only",
               "--eval-datasets", world.colours, "--save", tmp_path / "again", "--workers", "0"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "again" / "metrics_colours.csv") == rows(tmp_path / "out" / "metrics_colours.csv")


def test_description_of_a_run(train, world, tmp_path):
    train(tmp_path / "out", "--train-mode", "image", "--seed", 7)
    found = read_json(tmp_path / "out" / "run_colours.json")
    flags = found["flags"]
    assert flags["seed"] == {"value": 7, "origin": "flag"} and flags["wd"] == {"value": 0.0, "origin": "default"}
    assert flags["lr"] == {"value": {"": RATE}, "origin": "flag"}
    assert flags.keys() == FLAGS.keys() and found["command"][:2] == ["--load", str(world.model)]
    assert found["seed"] == 7 and found["precision"] == "fp32" and found["iterations"] == STEPS
    assert found["versions"]["torch"] and found["python"].startswith(f"{sys.version_info[0]}.")
    tower = [value for name, value in weights(world.model).items() if name.startswith("visual.")]
    assert found["trainable_values"] == sum(value.numel() for value in tower)
    assert found["trainable_tensors"] == len(tower)
    assert found["seconds"] > 0 and found["peak_memory_bytes"] > 1e6 and found["hardware"]
    assert found["commit"] is None or len(found["commit"]) == 40


def test_log(train, tmp_path):
    train(tmp_path / "out", "--iterations", 5, "--log-interval", 2, "--method", "lwf", "--warmup-length", 10)
    log = lines(tmp_path / "out" / "log_colours.jsonl")
    assert [line["iteration"] for line in log] == [2, 4, 5]
    for line in log:
        assert {"task", "image_kl", "text_kl", "lr", "images_per_second"} == line.keys() - {"iteration"}
        assert line["lr"] == pytest.approx(RATE * line["iteration"] / 10) and line["images_per_second"] > 0


@pytest.mark.parametrize(("words", "iterations"), [
    ("--eval-interval 2 --iterations 5", [2, 4, 5]), ("--eval-interval 3 --iterations 6", [3, 6]),
    ("--eval-interval 9 --iterations 5", [5]), ("--eval-every-epoch --iterations 11", [5, 10, 11]),
    ("--eval-every-epoch --epochs 2 --last-batch drop", [4, 8]),
    ("--eval-every-epoch --epochs 2", [5, 10]), ("--epochs 1", [5]), ("--epochs 2 --batch-size 100", [2]),
])
def test_rhythm_of_evaluation(train, tmp_path, words, iterations):
    train(tmp_path / "out", *words.split())
    found = rows(tmp_path / "out" / "metrics_colours.csv")
    assert [int(row["iteration"]) for row in found] == iterations  # 18 images in batches of 4: the fifth has 2
    assert {row["task"] for row in found} == {"colours"}


def test_metrics(train, world, tmp_path):
    train(tmp_path / "out", "--eval-datasets", f"{world.tones},{world.colours}")
    text = (tmp_path / "out" / "metrics_colours.csv").read_text(encoding="utf-8")
    assert text.splitlines()[0] == HEADER
    row, = rows(tmp_path / "out" / "metrics_colours.csv")
    assert row == {"iteration": "3", "top1": row["top1"], "top5": "100.0000", "task": "colours", "label_space": "task",
                   "split": "test", "n": "12", "scored_by": "zeroshot", "k": "3", "train_data": "all",
                   "mean_per_class": row["top1"]}
    assert float(row["top1"]) in [pytest.approx(100 * hits / 12, abs=1e-3) for hits in range(13)]
    assert rows(tmp_path / "out" / "metrics_tones.csv")[0]["k"] == "2"


def test_part_of_the_evaluation_images(train, world, tmp_path):
    train(tmp_path / "out", "--max-evaluation-size", 5)
    row, = rows(tmp_path / "out" / "metrics_colours.csv")
    assert row["n"] == "5"


def test_the_same_run_twice_gives_the_same_files(train, tmp_path):
    for name in ("one", "two"):
        train(tmp_path / name, "--eval-interval", 2)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one["metrics_colours.csv"] == two["metrics_colours.csv"]
    assert same_weights(weights(tmp_path / "one" / "colours.pth"), weights(tmp_path / "two" / "colours.pth"))
    train(tmp_path / "one", "--eval-interval", 2, "--overwrite")  # into the same folder
    assert contents(tmp_path / "one")["metrics_colours.csv"] == one["metrics_colours.csv"]
    assert listing(tmp_path / "one") == set(one)


@pytest.mark.parametrize("words", ["--seed 43", "--lr 2e-3", "--batch-size 5", "--ls 0.2", "--train-mode image",
                                   "--beta2 0.9", "--wd 0.5", "--warmup-length 2", "--max-grad-norm 0.01",
                                   "--eps 1e-2", "--method lwf", "--l2 1000", "--we --avg-freq 1",
                                   "--we-wise --avg-freq 1", "--moving-avg", "--wise-merge"])
def test_every_number_acts(train, tmp_path, words):
    train(tmp_path / "one")
    assert train(tmp_path / "two", *words.split()).status == 0
    assert not same_weights(weights(tmp_path / "one" / "colours.pth"), weights(tmp_path / "two" / "colours.pth"))


@pytest.mark.parametrize("words", ["--workers 1", "--quiet", "--log-interval 1", "--eval-interval 1",
                                   "--batch-size-eval 5"])
def test_what_must_not_change_numbers(train, tmp_path, words):
    train(tmp_path / "one")
    assert train(tmp_path / "two", *words.split()).status == 0
    assert same_weights(weights(tmp_path / "one" / "colours.pth"), weights(tmp_path / "two" / "colours.pth"))
    last = [table(tmp_path / name, "colours")["colours", STEPS] for name in ("one", "two")]
    assert last[0] == last[1]


# -- adapters and projection -------------------------------------------------------------------------------------------

LORA = {"peft": ["--lora"], "shared": ["--lora", "--lora-shared"],
        "split": ["--lora", "--lora-shared", "--lora-shared-split-qkvo"]}


@pytest.mark.parametrize("words", LORA.values(), ids=LORA)
def test_adapters_are_merged_into_a_plain_checkpoint_from_which_the_next_task_goes_on(cli, train, world, tmp_path,
                                                                                      words):
    """No silent reset to the zero-shot weights: adapted weights are what is scored, saved, loaded and trained on."""
    out, start = tmp_path / "out", weights(world.model)
    done = train(out, "--lr", "1e-2", "--iterations", 6, *words)
    assert done.status == 0 and {"colours.pth", "colours.lora.pth"} <= listing(out)
    saved = weights(out / "colours.pth")
    assert saved.keys() == start.keys()
    changed = {name for name in saved if not torch.equal(saved[name], start[name])}
    parts = {".mlp.c_fc.weight", ".mlp.c_proj.weight", ".attn.out_proj.weight"} | (
        {".attn.in_proj_weight"} if "--lora-shared" in words else set())
    assert changed == {f"{tower}resblocks.0{part}" for tower in ("transformer.", "visual.transformer.")
                       for part in parts}
    trained = table(out, "colours")["colours", 6]
    cli("--load", out / "colours.pth", "--eval-only", "--eval-datasets", world.colours, "--save", tmp_path / "again",
        "--workers", 0)
    assert table(tmp_path / "again", "colours")["colours", 6] == trained
    train(out, "--load", out / "colours.pth", "--train-dataset", world.tones, "--lr", "1e-12", *words)
    for name, value in weights(out / "tones.pth").items():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=1e-8)
    assert max((saved[name] - start[name]).abs().max() for name in changed) > 1e-3


@pytest.mark.parametrize("words", LORA.values(), ids=LORA)
def test_the_adapter_file_alone_rebuilds_the_merged_weights(train, world, tmp_path, words):
    train(tmp_path / "out", "--lr", "1e-2", *words)
    saved = weights(tmp_path / "out" / "colours.pth")
    config = parse(["--load", str(world.model), "--train-dataset", world.colours, "--iterations", "1", *words])
    model = loader.build(loader.read_checkpoint(world.model))
    adapt(training_of(config), model, seed=1)
    load_adapter(model, torch.load(tmp_path / "out" / "colours.lora.pth", weights_only=True))
    for name, value in plain_weights(model).items():
        torch.testing.assert_close(value, saved[name], rtol=1e-6, atol=1e-6)


def test_adapters_honour_the_train_mode_and_count_their_values(train, world, tmp_path):
    train(tmp_path / "out", "--lora", "--lora-r", 2, "--train-mode", "image", "--lr", "1e-2")
    start = weights(world.model)
    changed = [name for name, value in weights(tmp_path / "out" / "colours.pth").items()
               if not torch.equal(value, start[name])]
    assert changed and all(name.startswith("visual.") for name in changed)
    found = read_json(tmp_path / "out" / "run_colours.json")
    assert found["trainable_values"] == 2 * ((32 + 32) + 2 * (32 + 128)) and found["trainable_tensors"] == 6


def test_the_penalty_of_adapters_is_on_what_they_add_to_the_weights(train, world, tmp_path):
    """At the second step the logged term is c * |dW|^2 of the weights that one step leaves."""
    train(tmp_path / "one", "--lora", "--lr", "1e-2", "--iterations", 1, "--lora-dropout", 0)
    train(tmp_path / "two", "--lora", "--lr", "1e-2", "--iterations", 2, "--lora-dropout", 0, "--l2", 3,
          "--log-interval", 1, "--warmup-length", 1)
    start, one = weights(world.model), weights(tmp_path / "one" / "colours.pth")
    distance = sum((one[name] - start[name]).square().sum().item() for name in one)
    log = lines(tmp_path / "two" / "log_colours.jsonl")
    assert log[0]["l2"] == 0 and log[1]["l2"] == pytest.approx(3 * distance, rel=1e-3) and distance > 1e-6


def test_dropout_of_adapters_is_seeded_and_evaluation_does_not_disturb_it(train, tmp_path):
    for name, words in (("one", []), ("two", ["--eval-interval", 1]), ("seed", ["--seed", 43]),
                        ("none", ["--lora-dropout", 0])):
        train(tmp_path / name, "--lora", "--lora-dropout", 0.5, "--lr", "1e-2", *words)
    found = {name: weights(tmp_path / name / "colours.pth") for name in ("one", "two", "seed", "none")}
    assert same_weights(found["one"], found["two"])
    assert not same_weights(found["one"], found["seed"]) and not same_weights(found["one"], found["none"])


def test_without_a_path_nothing_is_projected(train, tmp_path):
    train(tmp_path / "plain")
    train(tmp_path / "out", "--orthogonal-gradients", 2)
    assert same_weights(weights(tmp_path / "plain" / "colours.pth"), weights(tmp_path / "out" / "colours.pth"))
    train(tmp_path / "next", "--load", tmp_path / "out" / "colours.pth", "--orthogonal-gradients", 2)
    train(tmp_path / "same", "--load", tmp_path / "out" / "colours.pth")
    assert same_weights(weights(tmp_path / "next" / "colours.pth"), weights(tmp_path / "same" / "colours.pth"))


def test_an_interruption_keeps_the_raw_snapshots(train, world, tmp_path, interrupt):
    interrupt("colours", 2)
    assert train(tmp_path / "out", "--orthogonal-gradients", 3).status == 130
    assert listing(tmp_path / "out") == {"grad_colours.raw.pth"}
    interrupt(None)
    raw = torch.load(tmp_path / "out" / "grad_colours.raw.pth", weights_only=True)
    assert all(entry["snapshots"].shape[0] == 2 for entry in raw.values())
    done = train(tmp_path / "next", "--orthogonal-gradients-path", tmp_path / "out" / "grad_colours.raw.pth")
    assert done.status == 0 and "tensors" in done.out


def test_a_basis_of_another_model_is_refused_before_a_step(train, world, tmp_path, steps):
    train(tmp_path / "out", "--orthogonal-gradients", 2)
    steps.clear()
    done = train(tmp_path / "wide", "--load", world.other_model, "--orthogonal-gradients-path",
                 tmp_path / "out" / "grad_colours.pth", "--train-mode", "text")
    assert done.status == 0 and steps  # only its embedding differs, which no basis holds
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"no tensors")
    done = train(tmp_path / "none", "--orthogonal-gradients-path", damaged)
    assert done.status == 2 and str(damaged) in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "none").exists()


# -- interruptions -----------------------------------------------------------------------------------------------------


def test_an_interrupted_task_is_no_finished_one(train, tmp_path, interrupt):
    interrupt("colours", 2)
    done = train(tmp_path / "out")
    assert done.status == 130 and "interrupted" in done.err and "Traceback" not in done.err
    assert "colours.pth" not in listing(tmp_path / "out")
    assert not any(name.startswith(".") for name in listing(tmp_path / "out"))
    interrupt(None)
    assert train(tmp_path / "out", "--lr", "2e-3").status == 0, "another configuration may take over"


def test_an_interrupted_evaluation_leaves_no_checkpoint(train, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr("src.run.scoring.evaluate_each", stop)
    assert train(tmp_path / "out").status == 130
    assert "colours.pth" not in listing(tmp_path / "out")


def test_an_interrupted_second_task_leaves_the_first_as_it_was(train, world, tmp_path, interrupt):
    out = tmp_path / "out"
    train(out)
    before = contents(out)
    interrupt("tones", 1)
    done = train(out, "--load", out / "colours.pth", "--train-dataset", world.tones, "--eval-datasets",
                 f"{world.colours},{world.tones}")
    after = contents(out)
    assert done.status == 130 and "tones.pth" not in after
    assert {name: after[name] for name in before} == before


def test_rows_of_an_unfinished_run_go_when_the_task_is_run_again(train, tmp_path, interrupt):
    interrupt("colours", 4)
    train(tmp_path / "out", "--iterations", 6, "--eval-interval", 3)
    assert [key[1] for key in table(tmp_path / "out", "colours")] == [3]
    interrupt(None)
    train(tmp_path / "out", "--iterations", 6, "--eval-interval", 2)
    assert [key[1] for key in table(tmp_path / "out", "colours")] == [2, 4, 6]


# -- the prediction of each image --------------------------------------------------------------------------------------


def test_predictions_of_an_evaluation_and_of_the_last_row(cli, world, tmp_path):
    """They add up to the rows of the metrics; single evaluations on the way write none."""
    shared = ("--batch-size", BATCH, "--lr", RATE, "--workers", 0, "--warmup-length", 0, "--label-space", "task,all")
    order = f"{world.colours},{world.tones}"
    done = cli("--load", world.model, "--dataset-order", order, "--iterations", 2, *shared, "--save", tmp_path / "seq")
    assert done.status == 0, done.err
    written = {name for name in listing(tmp_path / "seq") if name.startswith(("predictions_", "classes_"))}
    assert written == {f"{kind}_{name}{mark}.csv" for kind in ("predictions", "classes")
                       for name in ("colours", "tones") for mark in ("", "_all")}
    done = cli("--load", tmp_path / "seq" / "tones.pth", "--eval-only", "--eval-datasets", order, *shared[4:6],
               *shared[8:], "--save", tmp_path / "eval")
    assert done.status == 0, done.err
    for name in written:
        assert (tmp_path / "eval" / name).read_bytes() == (tmp_path / "seq" / name).read_bytes(), name
    for name in ("colours", "tones"):
        last = {row["label_space"]: row for row in rows(tmp_path / "eval" / f"metrics_{name}.csv")}
        for space, mark in (("task", ""), ("all", "_all")):
            images = rows(tmp_path / "eval" / f"predictions_{name}{mark}.csv")
            classes = rows(tmp_path / "eval" / f"classes_{name}{mark}.csv")
            assert len(images) == sum(int(row["support"]) for row in classes) == int(last[space]["n"])
            assert all((world.root / name / "test" / row["image"]).is_file() or
                       (world.root / name / row["image"]).is_file() for row in images)
            right = [row for row in images if row["rank"] == "1"]
            assert all(row["prediction"] == row["label"] for row in right)
            assert all(row["prediction_dataset"] in ("colours", "tones") for row in images if space == "all")
            assert float(last[space]["top1"]) == pytest.approx(100 * len(right) / len(images), abs=1e-4)
            mean = sum(float(row["accuracy"]) for row in classes) / len(classes)
            assert float(last[space]["mean_per_class"]) == pytest.approx(mean, abs=1e-3)


@pytest.mark.slow
def test_predictions_of_mixed_weights(cli, tmp_path):
    """A file per share; the ends are those of the loaded and of the zero-shot weights. Images that are not files have
    their number in the whole split."""
    digits = ["--eval-datasets", "toy-digits", "--max-evaluation-size", 20, "--workers", 0]
    done = cli("--model", "toy", "--train-dataset", "toy-digits", "--iterations", 20, "--lr", "1e-3", "--warmup-length",
               0, "--batch-size", 32, "--save", tmp_path / "run", *digits)
    assert done.status == 0, done.err
    loaded = ("--eval-only", "--load", tmp_path / "run" / "toy-digits.pth")
    for name, words in (("zero", ("--model", "toy", "--eval-only")), ("one", loaded),
                        ("mixes", (*loaded, "--wise-ft", "--alpha", "0,0.5,1"))):
        assert cli(*words, *digits, "--save", tmp_path / name).status == 0
    shares = ("0", "0.5", "1")
    assert {path.name for kind in ("predictions", "classes") for path in (tmp_path / "mixes").glob(f"{kind}_*")} == {
        f"{kind}_toy-digits_wise{share}.csv" for kind in ("predictions", "classes") for share in shares}
    zero, one = (rows(tmp_path / name / "predictions_toy-digits.csv") for name in ("zero", "one"))
    mixes = [rows(tmp_path / "mixes" / f"predictions_toy-digits_wise{share}.csv") for share in shares]
    assert mixes[0] == zero and mixes[2] == one
    assert mixes[1] not in (zero, one)
    labels = open_task("toy-digits", "").split("test").labels
    chosen = balanced_subset(labels, 20, SUBSET_SEED)
    assert [int(row["image"]) for row in one] == list(chosen) != list(range(20))
    assert [int(row["label_number"]) for row in one] == [labels[number] for number in chosen]


def test_an_evaluation_beside_its_checkpoint_writes_no_predictions(train, cli, world, tmp_path):
    train(tmp_path / "out")
    before = listing(tmp_path / "out")
    assert cli("--load", tmp_path / "out" / "colours.pth", "--eval-only", "--workers", 0).status == 0
    assert listing(tmp_path / "out") == before
