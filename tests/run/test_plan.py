"""--dry-run: its figures are those of the run, what is missing ends nothing, and nothing is written or fetched."""

import re
import urllib.request

import pytest
from cli_files import BATCH, RATE, STEPS, read_json
from dataset_files import put_json

from clip import catalog
from clip.files import hub
from src.datasets.splits import stored_lists
from src.machine.files import atomic_file, reading_only
from src.run.weights import without_weights
from src.store.checkpoint import write_checked

pytest_plugins = ["cli_fixtures"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def unreachable(*_, **__):
        raise AssertionError("a dry run fetches nothing")
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


def tree(folder):
    """{path: (when it was changed, its bytes)} of all that is under a folder, and the folder itself."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
            for path in (folder, *folder.rglob("*"))}


@pytest.fixture
def plan(cli, tmp_path):
    """plan(word, ...) -> what a dry run tells; a failure where it changes anything under tmp_path."""
    def call(*words):
        before = tree(tmp_path)
        done = cli(*words, *([] if any("--dry-run" in str(word) for word in words) else ["--dry-run"]))
        assert tree(tmp_path) == before
        assert done.status in (0, 2) and "Traceback" not in done.err
        return done
    return call


@pytest.fixture
def words(world, tmp_path):
    """words(word, ...) of a short training, into tmp_path / "out"; those given later win."""
    def command(*more):
        what = () if "--dataset-order" in more else ("--train-dataset", world.colours)
        length = () if "--epochs" in more else ("--iterations", STEPS)
        return ["--load", world.model, *what, *length, "--batch-size", BATCH, "--lr", RATE, "--warmup-length", 0,
                "--workers", 0, "--data-location", tmp_path / "data", "--save", tmp_path / "out", *more]
    return command


def section(done, title):
    """The lines of a part of the plan."""
    return re.search(rf"^{title}.*\n((?:.+\n)*)", done.out, re.MULTILINE)[1].splitlines()


# -- figures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [
    "", "--train-mode text --method lwf --distill-text-tower --we", "--lora --lora-target-modules mlp.c_fc",
    "--train-mode image-fc --l2 1 --wise-merge", "--method ZSCL --ref-dataset {tones} --ref-model {model} --we-wise"])
def test_figures_are_those_of_the_run(plan, words, cli, world, tmp_path, more):
    command = words(*more.format(**vars(world)).split())
    planned, done = plan(*command), cli(*command)
    assert planned.status == done.status == 0, planned.out + done.err
    ran = read_json(tmp_path / "out" / "run_colours.json")
    assert f"trains {ran['trainable_tensors']} of " in planned.out
    assert f" tensors, {ran['trainable_values']:,} of " in planned.out
    memory, = [line for line in done.out.splitlines() if line.startswith("memory: ")]
    figure = memory.removeprefix("memory: ")
    assert section(planned, "memory of the first task")[0].startswith(f"{figure}; without activations")


def test_figures_on_pairs_count_the_scale_that_trains_there(plan, cli, words, pairs, tmp_path):
    command = words("--train-dataset", pairs, "--method", "modx")
    planned, done = plan(*command), cli(*command)
    assert planned.status == done.status == 0, planned.out + done.err
    ran = read_json(tmp_path / "out" / "run_stream.json")
    tensors, values = re.search(r"trains (\d+) of (\d+) tensors, ([\d,]+) of ([\d,]+)", planned.out).group(1, 3)
    assert (int(tensors), int(values.replace(",", ""))) == (ran["trainable_tensors"], ran["trainable_values"])
    assert f"trains {tensors} of {tensors} tensors" in planned.out


def test_a_warm_up_that_never_ends(plan, cli, words, world):
    """3 steps of a warm-up of 4 reach three quarters of the rate."""
    command = words("--warmup-length", 4, "--lr", "8e-5")
    planned = plan(*command)
    assert [re.split(r"\s*\|\s*", row)[5] for row in section(planned, "tasks")[2:3]] == ["6e-05"]
    assert "it never falls" in section(planned, "tasks")[3]
    warning, = cli(*command).warnings
    assert "--warmup-length 4" in warning and f"{world.colours}: 3 steps reach 6e-05 of 8e-05" in warning
    assert warning in planned.out and cli(*words("--warmup-length", 2, "--overwrite")).warnings == []


def test_epochs_by_dataset(plan, cli, words, world, tmp_path):
    """What is planned is what is trained; a run with other epochs is another run."""
    order = ("--dataset-order", f"{world.colours},{world.tones}", "--epochs")
    command = words(*order, f"1,{world.tones}=2")
    rows = [re.split(r"\s*\|\s*", row) for row in section(plan(*command), "tasks")[2:4]]
    assert [row[4] for row in rows] == ["1.0", "2.0"] and cli(*command).status == 0
    assert [read_json(tmp_path / "out" / f"run_{name}.json")["iterations"] for name in ("colours", "tones")] == [
        int(row[3]) for row in rows]
    other = plan(*words(*order, 1))
    assert other.status == 2 and f"--epochs 1,{world.tones}=2 there, 1 here" in other.out


@pytest.mark.parametrize(("more", "fragment"), [
    ("--schedule constant --warmup-length 4", "to its peak over the warm-up and stays there"),
    ("--schedule onecycle", "30 % of the steps"),
    ("--epochs 3 --schedule late-cosine", "falls once per epoch, by a quarter of a cosine"),
    ("--lr-floor 1e-6", "then falls by cosine to 1e-06")])
def test_how_the_rate_goes(plan, words, more, fragment):
    command = words(*more.split())
    if "onecycle" in more or "late-cosine" in more:
        place = command.index("--warmup-length")
        del command[place:place + 2]
    last = section(plan(*command), "tasks")[3]
    assert last.endswith(fragment) or fragment in last and "onecycle" in more
    assert "never falls" not in last


def test_the_whole_plan(plan, words, world):
    done = plan(*words("--method", "lwf", "--l2", 1, "--moving-avg", "--eval-datasets", world.tones))
    assert done.status == 0 and done.out.splitlines()[-1] == "the run would start"
    assert "\nflag: --method lwf" in done.out and "\ndefault: --set none" in done.out
    assert section(done, "method") == ["LwF -> L2 -> MovingAverage, in this order at each step; at the end of a task "
                                       "LwF comes last"]
    rows = section(done, "data under")
    assert [re.split(r"\s*\|\s*", row)[1:-1] for row in rows[2:]] == [
        [world.colours, "training", "3", "18", "12", "here"], [world.tones, "evaluation", "2", "12", "8", "here"]]
    assert section(done, "files")[0].endswith("out/colours.pth: new")


def test_steps(plan, words, world):
    """18 images in batches of 4 are 5 steps per epoch, the last one with 2; 12 images are 3."""
    done = plan(*words("--epochs", 3, "--dataset-order", f"{world.colours},{world.tones}", "--warmup-length", "50%",
                       "--lr", f"1e-5,{world.tones}=2e-5"))
    rows = [re.split(r"\s*\|\s*", row)[1:-1] for row in section(done, "tasks")[2:4]]
    assert rows == [[f"1 {world.colours}", "18", "15", "3.0", "1e-05", "8"],
                    [f"2 {world.tones}", "12", "9", "3.0", "2e-05", "5"]]
    rest = ", fewer in the last step of an epoch; "
    assert section(done, "tasks")[4].startswith(f"24 steps in all, 4 images each{rest}")
    for more in (("--dataset-order", f"{world.tones},{world.tones}"), ("--iterations", 4)):
        assert rest not in plan(*words(*more)).out


def test_steps_of_full_batches(plan, words, world):
    """Of 18 images in batches of 4 an epoch has 4 steps."""
    done = plan(*words("--epochs", 3, "--last-batch", "drop"))
    assert re.split(r"\s*\|\s*", section(done, "tasks")[2])[1:5] == [f"1 {world.colours}", "18", "12", "3.0"]
    assert section(done, "tasks")[3].startswith("12 steps in all, 4 images each; ")


# -- nothing is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", ["", "--val-fraction 0.2", "--shots 2", "--dry-run=probe"])
def test_index_lists_are_drawn_and_not_stored(plan, words, world, tmp_path, more):
    done = plan(*words("--train-dataset", world.loose, *more.split()))
    assert done.status == 0 and not (tmp_path / "data").exists() and not (tmp_path / "out").exists()
    assert "loose" in done.out


def test_stored_lists_are_read(tmp_path):
    stored_lists(tmp_path, "x", ["a", "b"], lambda: {"train": [1], "test": [0]}, 42)
    with reading_only():
        assert stored_lists(tmp_path, "x", ["a", "b"], lambda: 1 / 0, 42) == {"train": [1], "test": [0]}


def test_a_write_would_be_an_error(tmp_path):
    with reading_only(), pytest.raises(RuntimeError, match="would be written"), atomic_file(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())
    with atomic_file(tmp_path / "a"):
        pass


# -- what is missing ---------------------------------------------------------------------------------------------------


def test_data_that_the_run_would_download(plan, words):
    done = plan(*words("--train-dataset", "DTD", "--eval-datasets", "DTD"))
    assert done.status == 0, done.out
    row, told = section(done, "data under")[2:]
    assert re.split(r"\s*\|\s*", row)[1:-1] == ["DTD", "training, evaluation", "47", "1880", "1880", "to download"]
    assert "would download it" in told and re.split(r"\s*\|\s*", section(done, "tasks")[2])[2:4] == ["1880", "3"]


def test_data_that_must_be_fetched_by_hand(plan, words, world):
    done = plan(*words("--train-dataset", "StanfordCars", "--eval-datasets",
                       f"StanfordCars,folder:nowhere,{world.tones}", "--method", "ZSCL", "--ref-dataset",
                       "ImageNet", "--ref-sentences", "conceptual_captions", "--ref-model", world.model))
    assert done.status == 2
    states = {row[1]: row[3:] for row in (re.split(r"\s*\|\s*", line)[:-1] for line in section(done, "data under")[2:])}
    assert states["StanfordCars"] == ["196", "8144", "8041", "missing"]
    assert states["ImageNet"] == ["1000", "1281167", "50000", "missing"]
    assert states["conceptual_captions"] == states["folder:nowhere"] == ["-", "-", "-", "missing"]
    assert states[world.tones][-1] == "here"
    refusals = section(done, "the run would be refused")
    assert len(refusals) == 4 and all(any(name in line for line in refusals) for name in (
        "section StanfordCars of datasets.md", "section ImageNet", "section conceptual_captions", "folder:nowhere"))
    assert "teacher 1)" in section(done, "memory of the first task")[0]
    assert re.search(r"trains (\d+) of \d+ tensors, [\d,]+ of [\d,]+ values", done.out)


def test_class_splits_of_missing_data(plan, words, tmp_path):
    done = plan(*words("--dataset-order", "CIFAR100/10"))
    assert done.status == 0 and done.out.count("to download") == 10
    assert re.split(r"\s*\|\s*", section(done, "data under")[2])[3:6] == ["10", "5000", "1000"]


@pytest.fixture
def published(monkeypatch):
    """tiny-vit as if it had published weights; they are not downloaded yet."""
    monkeypatch.setitem(catalog.ARCHIVES, "tiny-vit", 64 * "0")


@pytest.mark.parametrize("more", ["", "--method ZSCL --ref-dataset toy-reference --ref-sentences toy-reference"])
def test_weights_that_the_run_would_download(plan, published, tmp_path, more):
    done = plan("--model", "tiny-vit", "--train-dataset", "toy-sizes", "--iterations", 2, "--lr", RATE, "--clip-cache",
                tmp_path / "cache", "--train-mode", "image", "--dry-run=probe", *more.split())
    zeros = without_weights(catalog.read_architecture("tiny-vit"))["state_dict"]
    values = {name: value.numel() for name, value in zeros.items()}
    trained = sum(value for name, value in values.items() if name.startswith("visual."))
    assert done.status == 0 and f"{trained:,} of {sum(values.values()):,} values" in done.out
    assert f"not at {tmp_path / 'cache' / 'tiny-vit.pt'}: the run would download them from https://" in done.out
    assert section(done, "probe") == ["not run: see what is missing"]


@pytest.fixture
def nothing_cached(tmp_path_factory, monkeypatch):
    """The caches of other libraries, empty."""
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))


SMALL = {"embed_dim": 16, "image_resolution": 32, "vision_layers": 1, "vision_width": 64, "vision_heads": 1,
         "vision_patch_size": 16, "context_length": 77, "vocab_size": 49408, "transformer_width": 64,
         "transformer_heads": 1, "transformer_layers": 1, "activation": "gelu"}


def test_weights_of_open_clip_that_the_run_would_download(plan, nothing_cached, monkeypatch):
    """Their shapes are in open_clip's own table, so the plan is whole."""
    monkeypatch.setattr(hub, "open_clip_block", lambda name: dict(SMALL))
    words = ["--train-dataset", "toy-sizes", "--iterations", 2, "--lr", RATE, "--dry-run=probe"]
    done = plan("--model", "ViT-B-32:laion2b_s34b_b79k", *words)
    values = sum(value.numel() for value in without_weights(SMALL)["state_dict"].values())
    assert done.status == 0 and f"of {values:,} values" in done.out, done.out + done.err
    assert "ViT-B-32:laion2b_s34b_b79k are not here: the run would download them through open_clip" in done.out
    assert section(done, "probe") == ["not run: see what is missing"]


@pytest.mark.parametrize("words", ["--model org/clip", "--load hf-hub:org/clip",
                                   "--load {model} --method ZSCL --ref-dataset {tones} --ref-model org/clip"])
def test_weights_of_which_nothing_is_known(plan, nothing_cached, world, words):
    """Status 0 would vouch for what may not be a CLIP."""
    done = plan("--train-dataset", world.colours, "--iterations", 2, "--lr", RATE, *words.format(**vars(world)).split())
    assert done.status == 2 and "hf-hub:org/clip are not in the hub's cache: the run would download them" in done.err
    assert "and only then is the model known" in done.err


def test_zero_shot_weights_of_other_libraries_are_not_fetched_either(plan, nothing_cached, cli, world, tmp_path,
                                                                     monkeypatch):
    """The teacher of a checkpoint that was trained from such weights."""
    import torch
    monkeypatch.setattr(hub, "open_clip_block", lambda name: dict(SMALL))
    content = torch.load(world.model, weights_only=True)
    torch.save({**content, "model": "ViT-B-32:laion2b_s34b_b79k"}, tmp_path / "a.pth")
    done = plan("--load", tmp_path / "a.pth", "--train-dataset", world.colours, "--iterations", 2, "--lr", RATE,
                "--method", "ZSCL", "--ref-dataset", world.tones)
    assert done.status == 0 and "the run would download them through open_clip" in done.out, done.out + done.err


@pytest.mark.slow
def test_values_of_a_published_model(plan, tmp_path):
    done = plan("--train-dataset", "toy-sizes", "--iterations", 2, "--lr", RATE, "--clip-cache", tmp_path)
    assert done.status == 0 and "trains 301 of 302 tensors, 149,620,736 of 149,620,737 values" in done.out


# -- what earlier runs have left ---------------------------------------------------------------------------------------


def test_a_finished_task(plan, words, cli):
    assert cli(*words()).status == 0
    assert section(plan(*words()), "files")[0].endswith("colours.pth: finished, and skipped")
    assert section(plan(*words("--overwrite")), "files")[0].endswith("colours.pth: finished, and replaced")
    assert section(plan(*words("--resume")), "files")[0].endswith("colours.pth: finished, and skipped")
    other = plan(*words("--seed", 7))
    assert other.status == 2 and "--seed 42 there, 7 here" in other.out and "give --overwrite" in other.out
    assert plan(*words("--seed", 7, "--overwrite")).status == 0


def test_an_unfinished_task(plan, words, tmp_path):
    from src.args import parse
    numbers = parse([str(word) for word in words()]).numbers()
    write_checked(tmp_path / "out" / "resume_colours.pth", {"iteration": 2, "config": numbers, "seconds": 1.0,
                                                            "rest": True})
    assert section(plan(*words("--resume")), "files")[0].endswith("unfinished, resumes after step 2")
    assert section(plan(*words()), "files")[0].endswith("unfinished, and started again")
    other = plan(*words("--resume", "--wd", 0.5))
    assert other.status == 2 and "--wd 0 there, 0.5 here" in other.out
    write_checked(tmp_path / "out" / "resume_colours.pth", {"iteration": 2, "config": numbers, "seconds": 1.0})
    old = plan(*words("--resume"))
    assert old.status == 2 and "left out the last 2 of 18 images of each epoch" in old.out


def test_refusals_of_a_run_are_told(plan, words, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    done = plan(*words("--save", tmp_path / "file" / "below", "--eval-split", "val"))
    refusals = section(done, "the run would be refused")
    assert done.status == 2 and len(refusals) == 2
    assert "--eval-split val" in refusals[0] and "cannot be written" in refusals[1]


# -- evaluations and probes --------------------------------------------------------------------------------------------


def test_an_evaluation(plan, cli, words, world, tmp_path):
    assert cli(*words()).status == 0
    done = plan("--load", tmp_path / "out" / "colours.pth", "--eval-only", "--label-space", "all")
    assert done.status == 0 and section(done, "files") == [str(tmp_path / "out" / "metrics_colours.csv")]
    assert re.split(r"\s*\|\s*", section(done, "data under")[2])[1:-1] == [
        world.colours, "evaluation", "3", "18", "12", "here"]
    assert "\ntasks\n" not in done.out


@pytest.mark.parametrize(("order", "family", "shots", "spaces", "published"), [
    ("mtil-1", "ZSCL", "all", "given; label space task", [
        "published zero-shot, mtil-1: Transfer 69.4, Avg 65.3, Last 65.3 (arXiv:2303.06628); ranks with this run",
        "published zscl, mtil-1: Transfer 68.1, Avg 75.4, Last 83.6 (arXiv:2303.06628); ranks with this run"]),
    ("mtil-1-coop", "CoOp, own split of CIFAR100 and MNIST", "all", "given; label space task", [
        "no published row of zero-shot under these conditions",
        "published zero-shot, mtil-1: Transfer 69.4, Avg 65.3, Last 65.3 (arXiv:2303.06628); differs from this run in "
        "data family", "no published row of zscl under these conditions",
        "published zscl, mtil-1: Transfer 68.1, Avg 75.4, Last 83.6 (arXiv:2303.06628); differs from this run in data "
        "family"]),
    ("xtail-1", "ZSCL", "16", "not given; label space all", [
        "no published row of zero-shot under these conditions", "no published row of zscl under these conditions"])])
def test_what_the_numbers_will_hold_for(plan, tmp_path, order, family, shots, spaces, published):
    done = plan("--recipe", "zscl", "--dataset-order", order, "--model", "toy", "--data-location", tmp_path, "--save",
                tmp_path / "out")
    assert section(done, "conditions of the numbers") == [
        f"data family {family}; reference set ImageNet + conceptual_captions; shots {shots}; router none; task id at "
        f"test {spaces}", *published]


def test_a_published_row_is_told_from_few_shots(plan, tmp_path):
    done = plan("--recipe", "finetune", "--dataset-order", "mtil-2", "--model", "toy", "--shots", 16, "--label-space",
                "task,all", "--data-location", tmp_path, "--save", tmp_path / "out")
    *heads, zero_shot, none, finetune = section(done, "conditions of the numbers")
    assert [head.split("; ")[-1] for head in heads] == ["label space task", "label space all"]
    assert zero_shot.endswith("ranks with this run") and none == "no published row of finetune under these conditions"
    assert finetune.startswith("published finetune, mtil-2: Transfer 46.6") and finetune.endswith("in shots")


@pytest.mark.slow
def test_planned_conditions_are_those_of_the_run(plan, cli, words, world, pairs, tmp_path):
    """Of a sequence, of a single task after another, of an evaluation, of pairs and of a linear layer."""
    def same(*command):
        planned, done = plan(*command), cli(*command)
        found = [line for line in done.out.splitlines() if line.startswith("data family ")]
        assert done.status == 0 and found and section(planned, "conditions of the numbers") == found, found
    out = tmp_path / "out"
    same(*words("--dataset-order", f"{world.colours},{world.tones}", "--shots", 2, "--label-space", "task,all",
                "--save", tmp_path / "sequence"))
    assert cli(*words()).status == 0
    same(*words("--train-dataset", pairs, "--save", tmp_path / "pairs"))
    same("--load", out / "colours.pth", "--eval-only", "--eval-datasets", f"{world.tones},{pairs}", "--workers", 0)
    same("--load", out / "colours.pth", "--linear-eval", world.colours, "--eval-only", "--workers", 0)


def test_a_probe(plan, words, world):
    done = plan(*words("--dataset-order", f"{world.colours},{world.tones}", "--iterations", 1000, "--dry-run=probe"))
    step, total, peak = section(done, "probe")
    seconds, before = map(float, re.fullmatch(r"([\d.]+) s per step after a first one of [\d.]+ s; ([\d.]+) s before.*",
                                              step).groups())
    minutes, rest = map(int, re.fullmatch(r"2000 steps in all: about (?:0:)?(\d+):(\d\d), evaluations not counted",
                                          total).groups())
    assert 60 * minutes + rest == pytest.approx(2000 * seconds + 2 * before, abs=2.5)
    assert peak.startswith("peak memory ") and done.status == 0


def test_an_export_that_would_be_refused(plan, words, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "open_clip_config.json").write_text("{}", encoding="utf-8")
    assert plan(*words("--export", tmp_path / "new")).status == 0 and not (tmp_path / "new").exists()
    done = plan(*words("--export", tmp_path / "there"))
    assert done.status == 2 and "open_clip_config.json from another export or source would be lost" in done.out


def test_several_checkpoints_of_a_sequence(plan, cli, words, world, tmp_path):
    out = tmp_path / "trained"
    for more in ([], ["--load", out / "colours.pth", "--train-dataset", world.tones]):
        assert cli(*words(*more, "--save", out)).status == 0
    done = plan("--load", f"{out / 'colours.pth'},{out / 'tones.pth'}", "--eval-only", "--eval-datasets",
                f"{world.colours},{world.tones}")
    assert done.status == 0 and "the run would start" in done.out, done.out


def test_an_evaluation_has_no_joint_task(cli, world):
    """It ended in an IndexError, for want of datasets to join."""
    words = ("--load", world.model, "--eval-only", "--joint", "--eval-datasets", world.colours, "--workers", 0)
    for more in ((), ("--dry-run",)):
        done = cli(*words, *more)
        assert done.status == 0 and any("--joint has no effect" in line for line in done.warnings), done.err


def test_what_is_not_scored_is_not_planned_to_be(cli, world, tmp_path):
    put_json(tmp_path / "captions_train2017.json", {
        "images": [{"id": index, "file_name": f"{index}.png"} for index in range(4)],
        "annotations": [{"image_id": index, "caption": "a disc"} for index in range(4)]})
    done = cli("--load", world.model, "--train-dataset", "coco", "--image-dir", f"coco={tmp_path}", "--annotations",
               f"coco={tmp_path / 'captions_train2017.json'}", "--iterations", 1, "--dry-run")
    assert done.status == 0 and "it is trained on but not scored" in done.out, done.err
    row, = (line for line in done.out.splitlines() if line.startswith("| coco "))
    assert "training" in row and "evaluation" not in row
