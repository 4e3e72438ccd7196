"""The command line as a whole: bad input says one thing and writes nothing; one image is classified."""

import re
import urllib.error
from pathlib import Path

import pytest
import torch
from cli_files import COLOURS, listing, picture, write_pictures

import clip_continual as cc
from src import __version__
from src.cli.flags import FLAGS, GROUPS

pytest_plugins = ["cli_fixtures"]

START = "--load {model} --iterations 1 --batch-size 4 --lr 1e-5 --workers 0 --save out"
TASK = f"{START} --train-dataset {{colours}}"
ZSCL = f"{TASK} --method ZSCL --ref-dataset {{tones}}"
SINGLE = "--load {model} --eval-only --eval-single {image}"
CASES = {  # what makes it wrong: (command, what the message must hold)
    "nothing": ("", ["--train-dataset"]),
    "unknown flag": (f"{TASK} --iteratoins 3", ["--iteratoins", "--iterations"]),
    "unknown dataset": (f"{START} --train-dataset DTDD", ["--train-dataset", "'DTDD'", "DTD"]),
    "unknown method": (f"{TASK} --method lfw", ["--method lfw", "lwf"]),
    "zero iterations": (f"{START} --train-dataset DTD --iterations 0", ["--iterations 0", "at least 1"]),
    "two lengths": (f"{TASK} --epochs 1", ["--iterations", "--epochs"]),
    "no length": ("--load {model} --train-dataset {colours} --save out", ["--iterations", "--epochs"]),
    "load missing": (f"{TASK} --load none.pth", ["--load none.pth", "no such file"]),
    "load corrupt": (f"{TASK} --load corrupt.pth", ["corrupt.pth"]),
    "load cut short": (f"{TASK} --load short.pth", ["short.pth"]),
    "load without weights": (f"{TASK} --load empty.pth", ["empty.pth"]),
    "load no CLIP": (f"{TASK} --load other.pth", ["other.pth", "CLIP"]),
    "load a folder": (f"{TASK} --load {{root}}", ["--load", "{root}"]),
    "load another architecture": (f"{TASK} --model tiny-vit", ["--load", "{model}", "tiny-vit"]),
    "teacher missing": (f"{ZSCL} --ref-model none.pth", ["--ref-model none.pth", "no such file"]),
    "teacher corrupt": (f"{ZSCL} --ref-model corrupt.pth", ["corrupt.pth"]),
    "teacher of other width": (f"{ZSCL} --ref-model {{other_model}}", ["--ref-model", "{other_model}", "24", "16"]),
    "no teacher": (ZSCL, ["--ref-model"]),
    "no reference": (f"{TASK} --method ZSCL", ["--method ZSCL", "--ref-dataset"]),
    "reference missing": (f"{TASK} --method ZSCL --ref-dataset folder:nowhere --ref-model {{model}}", ["nowhere"]),
    "reference without texts": (f"{TASK} --method ZSCL --ref-dataset toy-reference --ref-model {{model}}",
                                ["--ref-dataset toy-reference", "--ref-sentences"]),
    "prompts of nothing": (f"{TASK} --method lwf --text-datasets toy-reference", ["toy-reference"]),
    "prompts missing": (f"{TASK} --method lwf --text-datasets folder:nowhere", ["nowhere"]),
    "text mode": (f"{TASK} --method lwf --train-mode text", ["--method lwf", "--train-mode text"]),
    "config missing": ("--model-config none.yaml --model-name a --init scratch --iterations 1 --save out "
                       "--train-dataset {colours}", ["--model-config none.yaml"]),
    "config nonsense": ("--model-config corrupt.pth --model-name a --init scratch --iterations 1 --save out "
                        "--train-dataset {colours}", ["--model-config", "corrupt.pth"]),
    "config without the name": ("--model-config one.yaml --model-name b --init scratch --iterations 1 --save out "
                                "--train-dataset {colours}", ["--model-config", "one.yaml", "'b'"]),
    "save is a file": (f"{TASK} --save corrupt.pth", ["--save corrupt.pth"]),
    "save below a file": (f"{TASK} --save corrupt.pth/out", ["--save corrupt.pth/out"]),
    "save too long": (f"{TASK} --save {'a' * 300}", ["--save aaa"]),
    "folder missing": (f"{START} --train-dataset folder:nowhere", ["folder:nowhere"]),
    "folder too long": (f"{START} --train-dataset folder:{'a' * 300}", ["folder:aaa"]),
    "folder is a file": (f"{START} --train-dataset folder:corrupt.pth", ["folder:corrupt.pth"]),
    "folder empty": (f"{START} --train-dataset folder:empty", ["empty", "class folders"]),
    "class folder empty": (f"{START} --train-dataset folder:holes", ["holes", "hole", "image"]),
    "only a test part": (f"{START} --train-dataset folder:untrained", ["untrained", "train"]),
    "no val part": (f"{TASK} --eval-split val", ["--eval-split val"]),
    "trains on no classes": (f"{START} --train-dataset toy-reference", ["toy-reference", "--ref-dataset"]),
    "scores no classes": (f"{TASK} --eval-datasets toy-reference", ["toy-reference"]),
    "unknown template": (f"{TASK} --template nope", ["--template nope", "simple", "{{c}}"]),
    "no such device": (f"{TASK} --device mps", ["--device mps"]),
    "template before any download": ("--train-dataset {colours} --iterations 1 --lr 1e-5 --clip-cache cache --save out "
                                     "--template nope", ["--template nope"]),
    "data before any download": ("--train-dataset folder:nowhere --iterations 1 --lr 1e-5 --clip-cache cache "
                                 "--save out", ["folder:nowhere"]),
    "rate of a stranger": (f"{TASK} --lr 1e-5,DTD=1e-4", ["--lr", "DTD"]),
    "rate without the others": (f"{TASK} --lr DTD=1e-4", ["--lr DTD=1e-4"]),
    "evaluation of nothing": ("--load {model} --eval-only --save out", ["--load", "--eval-datasets"]),
    "image missing": ("--load {model} --eval-single none.png --class-names names.txt", ["--eval-single none.png"]),
    "image undecodable": ("--load {model} --eval-single corrupt.pth --class-names names.txt", ["corrupt.pth"]),
    "names missing": (f"{SINGLE} --class-names none.txt", ["--class-names none.txt"]),
    "names not given": (SINGLE, ["--class-names"]),
    "names empty": (f"{SINGLE} --class-names blank.txt", ["--class-names blank.txt"]),
    "names not text": (f"{SINGLE} --class-names {{image}}", ["--class-names", "{image}"]),
    "names a folder": (f"{SINGLE} --class-names empty", ["--class-names empty"]),
    "names below a file": (f"{SINGLE} --class-names corrupt.pth/imagenet_classes.txt", ["--class-names corrupt.pth"]),
    "report of nothing": ("--report nowhere", ["--report nowhere", "no such folder"]),
    "report of one task": ("--report empty", ["--report empty", "no finished sequence", "a folder above them"]),
    "report of nonsense": ("--report nonsense", ["--report nonsense", "damaged"]),
}


@pytest.fixture
def place(tmp_path, monkeypatch, world):
    """A working directory with broken things in it, and no network."""
    def unreachable(address, *_, **__):
        raise urllib.error.URLError(f"no network for {getattr(address, 'full_url', address)}")
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.chdir(tmp_path)
    Path("corrupt.pth").write_bytes(b"\x80nonsense" * 9)
    Path("short.pth").write_bytes(world.model.read_bytes()[:5000])
    Path("empty.pth").write_bytes(b"")
    torch.save({"weight": torch.zeros(2)}, "other.pth")
    Path("one.yaml").write_text("a:\n  embed_dim: 8\n", encoding="utf-8")
    Path("names.txt").write_text("red disc\nblue\n", encoding="utf-8")
    Path("blank.txt").write_text("\n \n", encoding="utf-8")
    Path("nonsense").mkdir()
    Path("nonsense/summary.json").write_text("[1", encoding="utf-8")
    Path("empty").mkdir()
    write_pictures(Path("holes/train"), COLOURS, 1)
    Path("holes/train/hole").mkdir()
    write_pictures(Path("single"), COLOURS, 1)
    write_pictures(Path("untrained/test"), COLOURS, 1)
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_bad_input(cli, world, place, case):
    command, fragments = CASES[case]
    before = listing(place) | {"data", "data/splits"}
    done = cli(*command.format(**vars(world)).split())
    assert done.status == 2 and done.out.count("error") == 0
    assert done.err.startswith("error: ") and len(done.err.splitlines()) <= 2 and "Traceback" not in done.err
    assert all(fragment.format(**vars(world)) in done.err for fragment in fragments), done.err
    left = {name for name in listing(place) - before if not re.match(r"data/splits/\w+\.json", name)}
    assert not left


def test_no_cuda(cli, world, place, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = cli(*TASK.format(**vars(world)).split(), "--device", "cuda")
    assert done.status == 2 and "--device cuda" in done.err and "cpu" in done.err
    assert not Path("out").exists()
    # the device is known to be missing before anything is fetched for it
    done = cli("--train-dataset", world.colours, "--iterations", 1, "--device", "cuda", "--clip-cache", "cache")
    assert done.status == 2 and "--device cuda" in done.err


@pytest.mark.parametrize("name", ["CIFAR10", "DTD", "Flowers", "MNIST"])
def test_a_dataset_that_cannot_be_fetched(cli, world, place, name):
    done = cli(*START.format(**vars(world)).split(), "--train-dataset", name, "--data-location", "nothing")
    assert done.status == 2 and len(done.err.splitlines()) == 1
    for fragment in (name, "--data-location", "nothing", "datasets.md"):
        assert fragment in done.err
    assert not Path("out").exists()


def test_published_weights_that_cannot_be_fetched(cli, world, place):
    done = cli("--train-dataset", world.colours, "--iterations", 1, "--lr", "1e-5", "--save", "out", "--clip-cache",
               "cache")
    assert done.status == 2 and "ViT-B-16.pt" in done.err and "cache/ViT-B-16.pt" in done.err
    assert not Path("out").exists() and not listing("cache")


def test_a_folder_that_may_not_be_written(cli, world, place, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))
    monkeypatch.setattr(Path, "mkdir", refuse)
    done = cli(*TASK.format(**vars(world)).split())
    assert done.status == 2 and "--save out" in done.err and "Permission denied" in done.err


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded(cli, world, place, workers):
    write_pictures(Path("some/train"), COLOURS, 2)
    write_pictures(Path("some/test"), COLOURS, 2)
    Path("some/test/blue/1.png").write_bytes(b"no picture")
    words = TASK.format(**vars(world)).split()
    done = cli(*words, "--eval-datasets", "folder:some", "--workers", workers)
    assert done.status == 2 and len(done.err.splitlines()) == 1 and "Traceback" not in done.err
    assert "some/test/blue/1.png" in done.err and "decoded" in done.err
    assert not Path("out/colours.pth").exists()


@pytest.mark.slow
def test_underscores_work_to_the_end(cli, world, place):
    done = cli("--load", world.model, "--train_dataset", world.colours, "--iterations=1", "--batch_size", 4, "--lr",
               "1e-5", "--warmup_length=1", "--save", "my_run", "--workers", 0)
    assert done.status == 0, done.err
    assert Path("my_run/colours.pth").exists()


def printed(cli, capsys, words):
    """What a command line prints that ends with status 0 before it runs anything."""
    with pytest.raises(SystemExit) as caught:
        cli(*words)
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--help", "--lr", "1"], ["--resume", "--help"]])
def test_help_prints_every_flag_and_the_groups(cli, capsys, words):
    text = printed(cli, capsys, words)
    assert {flag.name for flag in FLAGS.values()} <= set(re.findall(r"--[A-Za-z][\w-]*", text))
    about = " ".join(text.split("\n\n")[1].split())
    assert "--help GROUP" in about and f": {', '.join(GROUPS)}." in about
    assert len(text.split("\n\n")[0].splitlines()) == 1  # and no screen of usage


@pytest.mark.parametrize("words", [["--help", "lora"], ["-h", "LoRA"], ["--help=lora"], ["--lr", "1", "-h", "lora"]])
def test_help_of_a_group_prints_its_flags_alone(cli, capsys, words):
    text = printed(cli, capsys, words)
    assert re.findall(r"^  (--[\w-]+)", text, re.MULTILINE) == [flag.name for flag in GROUPS["LoRA"]]


def test_help_names_the_choices_that_its_texts_leave_out(cli, capsys):
    text = " ".join(printed(cli, capsys, ["--help", "training"]).split())
    assert "which parameters train; one of whole, image, text, image-fc, image-fc-fixed, fc [whole]" in text
    assert "adamw, adam, or sgd without momentum [adamw]" in text


def test_help_of_an_unknown_group_is_one_message(cli):
    done = cli("--help", "lorra")
    assert done.status == 2 and done.out == "" and len(done.err.splitlines()) == 1
    assert "--help lorra: no such group" in done.err and "did you mean LoRA" in done.err
    assert f"the groups are {', '.join(GROUPS)}" in done.err


def test_the_version(cli, capsys):
    assert printed(cli, capsys, ["--version"]) == f"clip-continual {__version__}\n"
    assert cc.__version__ == __version__
    assert "did you mean --version" in cli("--versoin").err


# -- one image ---------------------------------------------------------------------------------------------------------


def probabilities(text):
    return {name.strip(): float(value) for name, value in re.findall(r"^\| (.+?) \| *([\d.]+) \|$", text, re.MULTILINE)}


def test_one_image(cli, world, place):
    done = cli(*SINGLE.format(**vars(world)).split(), "--class-names", "names.txt")
    assert done.status == 0 and done.err == "" and done.warnings == []
    found = probabilities(done.out)
    assert found.keys() == {"red disc", "blue"} and sum(found.values()) == pytest.approx(100, abs=0.11)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_the_prompt_acts(cli, world, place):
    command = [*SINGLE.format(**vars(world)).split(), "--class-names", "names.txt"]
    assert cli(*command).out == cli(*command, "--prompt", "a photo of a {}.").out
    plain, other = (probabilities(cli(*words).out) for words in (command, [*command, "--prompt", "{} light"]))
    assert plain.keys() == other.keys() and max(abs(plain[name] - other[name]) for name in plain) > 1


def test_imagenet_names_are_written_where_they_are_missing(cli, world, place):
    picture(Path("one.png"), 0.3, 0)
    done = cli("--load", world.model, "--eval-single", "one.png", "--class-names",
               "data/text_classes/imagenet_classes.txt", "--eval-only")
    assert done.status == 0, done.err
    names = Path("data/text_classes/imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    assert len(names) == 1000 and names[0] == "tench"
    assert len(probabilities(done.out)) == 5
    Path("data/text_classes/imagenet_classes.txt").write_text("red disc\n", encoding="utf-8")
    done = cli("--load", world.model, "--eval-single", "one.png", "--class-names",
               "data/text_classes/imagenet_classes.txt")
    assert probabilities(done.out) == {"red disc": 100.0}
