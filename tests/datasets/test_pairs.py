"""Image-text pairs from the command line: phases, chains, joint training, retrieval rows and matrices; linear layers.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_files import BATCH, RATE, STEPS, lines, listing, picture, read_json, rows, same_weights, weights

from src.args import parse
from src.cli.checks import check
from src.datasets.pairs import boundaries, joined, joint_task, with_all_captions, with_phase
from src.errors import UserError
from src.run.build import data_of
from src.run.datasets import Datasets

pytest_plugins = ["cli_fixtures"]

HEADER = ("iteration,task,phase,split,i2t_r1,i2t_r5,i2t_r10,t2i_r1,t2i_r5,t2i_r10,i2t_medr,t2i_medr,rsum")


@pytest.fixture
def train(cli, world, pairs):
    def call(save, *words):
        return cli("--load", world.model, "--train-dataset", pairs, "--iterations", STEPS, "--batch-size", BATCH,
                   "--lr", RATE, "--workers", 0, "--save", save, *words)
    return call


def test_a_task_of_pairs(train, pairs, world, tmp_path):
    done = train(tmp_path / "out", "--log-interval", 1)
    assert done.status == 0 and done.warnings == []
    assert "1 of 23 images have no caption" in done.out
    assert listing(tmp_path / "out") == {
        "stream.pth", "metrics_stream.csv", "run_stream.json", "log_stream.jsonl", "report_stream.html"}
    log = lines(tmp_path / "out" / "log_stream.jsonl")
    assert all({"contrastive", "scale", "lr"} <= line.keys() for line in log)
    start, saved = weights(world.model), weights(tmp_path / "out" / "stream.pth")
    assert not torch.equal(start["logit_scale"], saved["logit_scale"])
    assert (tmp_path / "out" / "metrics_stream.csv").read_text(encoding="utf-8").splitlines()[0] == HEADER
    found = read_json(tmp_path / "out" / "run_stream.json")["drift"]["stream"]
    assert found["image_angle"] > 0 < found["text_angle"] and 0 <= found["keep_i2t"] <= 1
    row, = rows(tmp_path / "out" / "metrics_stream.csv")
    assert (row["iteration"], row["task"], row["phase"], row["split"]) == ("3", "stream", "", "test")
    recalls = [float(row[name]) for name in ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10")]
    assert float(row["rsum"]) == pytest.approx(sum(recalls), abs=1e-3) and recalls[2] == 100 >= recalls[1] >= recalls[0]


def test_mod_x_logs_what_it_keeps(train, tmp_path):
    assert train(tmp_path / "out", "--method", "modx", "--log-interval", 1).status == 0
    first, *_ = log = lines(tmp_path / "out" / "log_stream.jsonl")
    assert all({"contrastive", "off_diagonal", "keep_i2t", "keep_t2i", "scale"} <= line.keys() for line in log)
    assert first["off_diagonal"] == pytest.approx(0, abs=1e-4)  # a ViT is its own old model at the first step
    assert 0 <= first["keep_i2t"] <= 1


def test_defaults_of_pairs_are_printed_and_stored(cli, world, pairs, tmp_path):
    done = cli("--load", world.model, "--train-dataset", pairs, "--iterations", 1, "--workers", 0, "--batch-size", 4,
               "--save", tmp_path / "out")
    assert done.status == 0 and "protocol pairs: " in done.out and "--wd 0.1" in done.out
    flags = read_json(tmp_path / "out" / "run_stream.json")["flags"]
    assert flags["lr"] == {"value": {"": 1e-5}, "origin": "protocol pairs"}
    assert flags["warmup_length"]["value"] == "20%" and flags["epochs"]["value"] is None
    values = {key: parse(f"--train-dataset coco --save x {words}".split()).values for key, words in (
        ("plain", ""), ("scratch", "--init scratch"), ("joint", "--joint"), ("given", "--wd 0.3 --epochs 2"))}
    assert [values[key]["lr"][None] for key in ("plain", "scratch")] == [1e-5, 5e-4]
    assert [(values[key]["wd"], values[key]["eps"], values[key]["epochs"], values[key]["batch_size"])
            for key in ("plain", "joint", "given")] == [
        (0.1, 1e-8, 35, 280), (0.01, 1e-5, 35, 280), (0.3, 1e-8, 2, 280)]


def test_phase_boundaries():
    assert boundaries(30014, 5) == [0, 6002, 12005, 18008, 24011, 30014]


def test_phases_are_disjoint_and_complete(pairs):
    task = Datasets(data_of(parse(["--train-dataset", pairs, "--epochs", "1"]))).open(pairs)
    for how in ("contiguous", "random"):
        parts = [with_phase(task, phase, 3, how, seed=1).split("train") for phase in (1, 2, 3)]
        assert [len(part) for part in parts] == [7, 7, 8]
        files = [file for part in parts for file in part.files]
        assert (files == task.split("train").files) == (how == "contiguous")
        assert sorted(files) == sorted(task.split("train").files)
    other = with_phase(task, 1, 3, "random", seed=2).split("train").files
    assert other != with_phase(task, 1, 3, "random", seed=1).split("train").files
    with pytest.raises(UserError, match="--num-phases 40"):
        with_phase(task, 1, 40)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["modx", "finetune --phase-split random",
                                   "modx --caption-choice all --we --avg-freq 1"])
def test_all_phases_equal_a_chain(cli, train, world, pairs, tmp_path, words):
    shared = ["--method", *words.split(), "--num-phases", 3]
    done = train(tmp_path / "all", *shared)
    assert done.status == 0, done.err
    start, out = world.model, tmp_path / "chain"
    for phase in (1, 2, 3):
        assert train(out, *shared, "--phase", phase, "--load", start).status == 0
        start = out / f"stream_phase{phase}.pth"
        assert same_weights(weights(start), weights(tmp_path / "all" / start.name))
    names = {f"{prefix}stream_phase{phase}{suffix}" for phase in (1, 2, 3)
             for prefix, suffix in (("", ".pth"), ("run_", ".json"))} | {"stream.pth", "metrics_stream.csv"}
    assert names <= listing(tmp_path / "all") and names <= listing(out)
    assert same_weights(weights(out / "stream.pth"), weights(start))
    found = rows(tmp_path / "all" / "metrics_stream.csv")
    assert [(row["task"], row["phase"]) for row in found] == [
        ("", ""), ("stream", "1"), ("stream", "2"), ("stream", "3")]
    assert found[1:] == rows(out / "metrics_stream.csv")
    matrix = (tmp_path / "all" / "matrix_rsum.csv").read_text(encoding="utf-8").splitlines()
    assert matrix[0] == "task,stream" and [row.split(",")[0] for row in matrix[1:]] == [
        "", "stream_phase1", "stream_phase2", "stream_phase3"]


def test_phases_do_not_replace_what_the_whole_dataset_left(train, tmp_path):
    train(tmp_path / "out")
    before = (tmp_path / "out" / "stream.pth").read_bytes()
    done = train(tmp_path / "out", "--num-phases", 2)
    assert done.status == 2 and "stream.pth" in done.err and "--overwrite" in done.err
    assert (tmp_path / "out" / "stream.pth").read_bytes() == before
    assert train(tmp_path / "phases", "--num-phases", 2).status == 0
    assert train(tmp_path / "phases", "--num-phases", 2).status == 0, "phases may be run again"


def test_mixes_of_weights_are_rows_of_their_own(cli, pairs, tmp_path):
    """Each alpha has one, and none replaces the row that training has written."""
    cli("--model", "toy", "--train-dataset", pairs, "--iterations", 5, "--batch-size", BATCH, "--lr", 0.1,
        "--warmup-length", 0, "--workers", 0, "--save", tmp_path / "out")
    trained, = rows(tmp_path / "out" / "metrics_stream.csv")
    done = cli("--load", tmp_path / "out" / "stream.pth", "--eval-only", "--eval-datasets", pairs, "--wise-ft",
               "--alpha", "0,0.5,1", "--save", tmp_path / "out", "--workers", 0)
    assert done.status == 0, done.err
    assert sum(line.endswith("label space retrieval") for line in done.out.splitlines()) == 3  # a head above each table
    found = {row.pop("scored_by"): row for row in rows(tmp_path / "out" / "metrics_stream.csv")}
    assert list(found) == ["", "wise 0", "wise 0.5", "wise 1"] and found[""] == found["wise 1"] == trained
    cli("--model", "toy", "--eval-only", "--eval-datasets", pairs, "--save", tmp_path / "start", "--workers", 0)
    start, = rows(tmp_path / "start" / "metrics_stream.csv")
    recalls = ("i2t_r1", "t2i_r1", "rsum")
    assert [found["wise 0"][name] for name in recalls] == [start[name] for name in recalls]
    assert [trained[name] for name in recalls] != [start[name] for name in recalls]


def test_pairs_and_classes_are_scored_side_by_side(cli, train, world, pairs, tmp_path):
    train(tmp_path / "out", "--eval-datasets", f"{pairs},{world.colours}")
    assert rows(tmp_path / "out" / "metrics_colours.csv")[0]["scored_by"] == "zeroshot"
    before = rows(tmp_path / "out" / "metrics_stream.csv")
    done = cli("--load", tmp_path / "out" / "stream.pth", "--eval-only", "--eval-datasets", f"{world.colours},{pairs}",
               "--save", tmp_path / "again", "--workers", 0)
    assert done.status == 0 and "rsum" in done.out and "top-1" in done.out
    assert rows(tmp_path / "again" / "metrics_stream.csv") == before


def test_retrieval_among_more_images_than_there_are_is_refused_before_training(train, tmp_path):
    done = train(tmp_path / "out", "--retrieval-split", "1k")
    assert done.status == 2 and "--retrieval-split 1k" in done.err and not (tmp_path / "out").exists()


def test_joint_pairs(cli, train, world, pairs, tmp_path):
    done = train(tmp_path / "out", "--joint", "--train-dataset", f"{pairs},toy-pairs-new", "--max-evaluation-size", 20,
                 "--batch-size", 8)
    assert done.status == 0, done.err
    assert {"joint.pth", "run_joint.json", "metrics_stream.csv", "metrics_toy-pairs-new.csv"} <= listing(
        tmp_path / "out")
    assert [row["task"] for row in rows(tmp_path / "out" / "metrics_toy-pairs-new.csv")] == ["joint"]


def test_joint_classes_are_each_told_apart_among_their_own(cli, world, tmp_path):
    """The first step's loss by hand: each row over the prompts of its own dataset."""
    done = cli("--load", world.model, "--joint", "--train-dataset", f"{world.colours},{world.tones}", "--iterations", 2,
               "--batch-size", 10, "--lr", "1e-9", "--workers", 0, "--log-interval", 1, "--save", tmp_path / "out",
               "--label-space", "task,all")
    assert done.status == 0, done.err
    terms = [line["task"] for line in lines(tmp_path / "out" / "log_joint.jsonl")]
    assert all(0 < term < math.log(3) + 1 for term in terms)
    tasks = [Datasets(data_of(parse(["--train-dataset", name, "--epochs", "1"]))).open(name)
             for name in (world.colours, world.tones)]
    joint = joint_task(tasks)
    assert joint.split("train").labels == [*tasks[0].split("train").labels,
                                           *(3 + label for label in tasks[1].split("train").labels)]
    assert joint.split("train").image(18).tobytes() == tasks[1].split("train").image(0).tobytes()
    few = joint_task([tasks[0], replace(tasks[1], drawn_from=tasks[1].split("train"), splits={
        "train": tasks[1].split("train").subset([0])})])
    assert joint.drawn_from is None and len(few.split("train")) == 19
    assert few.drawn_from.labels == joint.split("train").labels
    found = rows(tmp_path / "out" / "metrics_tones.csv")
    assert [(row["task"], row["label_space"], row["k"]) for row in found] == [
        ("joint", "task", "2"), ("joint", "all", "5")]


def test_captions_as_items_and_splits_together(pairs):
    task = Datasets(data_of(parse(["--train-dataset", pairs, "--epochs", "1"]))).open(pairs)
    items = with_all_captions(task).split("train")
    assert len(items) == 44 and [len(captions) for captions in items.captions] == [1] * 44
    assert items.image(2).tobytes() == task.split("train").image(1).tobytes()
    both = joined([task.split("train"), task.split("test")])
    assert len(both) == 31 and both.captions[22] == task.split("test").captions[0]


def test_a_linear_layer_on_frozen_features(cli, tmp_path):
    words = ["--model", "toy", "--eval-only", "--linear-eval", "toy-shapes", "--linear-epochs", 3, "--linear-lr", 0.03,
             "--linear-percent", 10, "--linear-cache-features"]
    done = cli(*words, "--save", tmp_path / "out")
    assert done.status == 0, done.err
    row, = rows(tmp_path / "out" / "metrics_toy-shapes.csv")
    assert row["scored_by"] == "linear 10%" and float(row["top1"]) > 2 * 12.5
    done = cli(*words, "--linear-percent", 50)
    assert done.status == 2 and "--linear-percent 50" in done.err
    assert cli("--model", "toy", "--eval-only", "--linear-eval", "toy-pairs-new").status == 2


def test_the_file_s_places(tmp_path, cli, world):
    """--image-dir and --annotations: COCO's official captions and images that lie elsewhere."""
    picture(tmp_path / "pictures" / "1.png", 0.3, 1)
    done = cli("--load", world.model, "--train-dataset", "coco", "--image-dir", f"coco={tmp_path / 'pictures'}",
               "--annotations", f"coco={tmp_path / 'none.json'}", "--iterations", 1, "--lr", "1e-5")
    assert done.status == 2 and "--annotations coco=" in done.err
    Path(tmp_path / "captions.json").write_text(
        '{"images": [{"id": 7, "file_name": "1.png"}], "annotations": [{"image_id": 7, "caption": "a red disc"}]}',
        encoding="utf-8")
    done = cli("--load", world.model, "--train-dataset", "coco", "--image-dir", f"coco={tmp_path / 'pictures'}",
               "--annotations", f"coco={tmp_path / 'captions.json'}", "--iterations", 1, "--lr", "1e-5", "--workers", 0,
               "--eval-datasets", world.colours, "--batch-size", 1, "--save", tmp_path / "out")
    assert done.status == 0, done.err


# -- the four programs of Mod-X ----------------------------------------------------------------------------------------

PROGRAMS = {
    "joint": (["toy"], ["--joint", "toy-pairs-new,toy-pairs-dull,toy-pairs-night", "toy"], "joint.pth"),
    "cl_5phase": (["toy"], ["finetune", "--num-phases", "5"], "toy-pairs-new_phase5.pth"),
    "modx_5phase": (["toy"], ["modx", "--num-phases", "5"], "toy-pairs-new_phase5.pth"),
    "linear_eval": (["toy"], ["--eval-only", "--linear-eval", "toy-shapes"], "metrics_toy-shapes.csv"),
}
SHORT = {"linear_eval": "--linear-epochs 1 --linear-percent 10 --linear-cache-features"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_on_the_embedded_data(record, cli, tmp_path, monkeypatch, name):
    words, expected, file = PROGRAMS[name]
    monkeypatch.chdir(tmp_path)
    status, [command], _ = record(name, *words, "--save", str(tmp_path / "out"), *SHORT.get(
        name, "--iterations 1 --batch-size 4 --lr 1e-5 --max-evaluation-size 8").split())
    assert status == 0 and all(word in command for word in expected) and command[:2] == ["-m", "src.main"]
    done = cli(*command[2:])
    assert done.status == 0, done.err
    assert file in listing(tmp_path / "out")


@pytest.mark.parametrize(("words", "expected"), [
    (["joint"], ["--model-name RN", "--init scratch", "coco,flickr30k"]),
    (["joint", "coco", "--epochs", "3"], ["--train-dataset coco ", "--epochs 3"]),
    (["modx_5phase"], ["--train-dataset flickr30k", "--method modx"]),
    (["cl_5phase", "pairs:a.csv"], ["--train-dataset pairs:a.csv", "--method finetune"]),
    (["linear_eval", "a.pth"], ["--load a.pth", "--linear-eval ImageNet"])])
def test_a_program_without_the_toy(record, words, expected):
    status, [command], _ = record(*words)
    assert status == 0 and all(part in " ".join(command) + " " for part in expected)
    assert parse(command[2:]).kind in ("training", "sequence", "evaluation")


def test_the_names_of_mod_x_s_architectures():
    assert parse("--model-name RN --init scratch".split()).model == "modx-RN50"
    assert parse("--model-name ViT --init scratch".split()).model == "modx-ViTB32"


@pytest.mark.parametrize("words", [
    "--joint --train-dataset coco,flickr30k --image-dir coco=D --image-dir flickr30k=D2 --annotations coco=F "
    "--annotations flickr30k=F2 --save S --epochs 2 --lr 1e-4 --wd 0.1 --eps 1e-8 --batch-size 560 --model-name RN "
    "--init scratch",
    "--train-dataset flickr30k --method modx --num-phases 5 --phase 2 --modx-alpha 20 --save S --lr 1e-5",
    "--eval-only --linear-eval ImageNet --linear-lr 0.3 --linear-wd 1e-6 --linear-epochs 100 --linear-batch-size 256 "
    "--save S"])
def test_each_old_command_line_has_its_new_one(words):
    assert check(parse(words.split())).warnings == []
