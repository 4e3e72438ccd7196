"""Command lines that make no sense: each is carried out, or refused with one error."""

import contextlib
import io
import shutil
import socket

import pytest
from cli_files import listing
from hypothesis import given, settings
from hypothesis import strategies as st

import src.main
from src.cli.flags import FLAGS
from src.cli.kinds import SCORING
from src.cli.texts import read_value
from src.main import main
from src.run.sequence import Run

pytest_plugins = ["cli_fixtures"]

EMPTY = ("", " ", "\t", "\n")
NUMBERS = ("0", "-0", "-1", "1e999", "-1e999", "nan", "inf", "-inf", "1e308", "5e-324", "0x10", "1_0", "٣", "²", "1.5",
           "1e3", "1e-5", "2%", "-2%", "1e999%", "9" * 30, "9" * 400, "9" * 5000, "0.1", "1", "2", "30s", "1e308h")
LISTS = (",", ",,", "a,", ",a", "a,a", "a=b", "=", "=1", "a=", "a==1", "a=1,a=2", "1e-5,toy-colours=1", "train+train",
         "task,all", "all,seen", "coco=", "=x", "coco=/nowhere", "a={[]: 1}", "a=" + "(" * 3000, "a=" + "9" * 5000,
         "a=None", "1=1")
TEXTS = ("%s%n%d", "{}", "{c}", "{0.__class__}", "{", "$(touch canary)", "`touch canary`", "; touch canary", "😀",
         "e\u0301", "\u202eedoc", "a\nb", "a\rb", "\x1b[31mred", "\0", "a\0b", "\ud800", "x" * 300, "x" * 20_000,
         "None", "__class__", "../" * 20, "'", '"', "\\")
WORDS = ("--", "-", "-x", "---", "--lr", "@file", "--lr=", "--=", "-5")
PATHS = (".", "..", "/", "//", "a/b/c", "/dev/null", "/dev/null/x", "/dev/zero", "/proc/self/mem", "~",
         "~nobody-here/x")
NAMES = ("toy", "toy-colours", "toy-shapes,toy-sizes", "toy-colors", "TOY-COLOURS", "toy-colours/4", "toy-colours/1",
         "toy-colours/" + "9" * 5000, "toy-colours-1of2", "toy-colours-0of0", "toy-colours-9of8",
         "toy-colours-1of" + "9" * 5000, "toy-pairs-new", "toy-pairs-new_phase1", "toy-pairs-new_phase" + "9" * 5000,
         "toy-reference", "mtil-1", "DTD", "conceptual_captions", "ImageNet", "random", "joint", "folder:", "csv:",
         "pairs:", ":", "folder:.", "folder:/dev/null", "folder:~nobody-here", "csv:~nobody-here/x.csv", "csv:.",
         "csv:/dev/null", "pairs:/dev/null", "pairs:~nobody-here/a", "folder:\0", "csv:\0", "pairs:a\0b",
         "pairs:" + "x" * 300, "csv:" + "x" * 300, "folder:" + "x" * 300, "csv:\ud800", "folder:../..", "x.py:Y",
         "ZSCL", "icarl")
VALUES = (*EMPTY, *NUMBERS, *LISTS, *TEXTS, *WORDS, *PATHS, *NAMES)
# Words that go beside or against each other; a hostile one by itself is mostly refused before anything else is seen.
GOOD = {
    "method": ("finetune", "lwf", "ZSCL", "icarl", "ewc", "modx", "inflora", "nusa-cl", "keeplora",
               "keeplora-plus", "diki", "moe-adapters", "condu", "condu-lora", "rail", "ridge", "class-means"),
    "train_dataset": ("toy-colours", "toy-pairs-new"),
    "dataset_order": ("toy-colours,toy-sizes", "toy"), "eval_datasets": ("toy-colours", "toy-sizes,toy-pairs-dull"),
    "ref_dataset": ("toy-reference", "toy-colours"), "ref_sentences": ("random", "toy-reference"),
    "text_datasets": ("toy-colours",), "check_data": ("toy-sizes",), "fetch": ("toy-sizes",),
    "linear_eval": ("toy-sizes",),
    "recipe": ("zscl", "finetune"), "lr": ("1e-5", "1e-5,toy-colours=1e-4"), "model": ("toy",), "model_name": ("ViT",),
    "label_space": ("task,all", "seen"), "alpha": ("0,0.5",), "flickr_splits": ("train",), "set": ("a=1",),
    "hooks": ("x.py:Y(a=1)",),
    "save_interval": ("10m", "2"), "warmup_length": ("20%", "0"), "phase": ("1", "all"), "template": ("{c}",),
    "device": ("cpu", "cuda", "mps"), "lora_target_modules": ("attn.out_proj", "mlp.c_fc,nothing"),
}
UNKNOWN = ("--colour", "--lrr", "--LR", "--we-wise_alpha", "--no-we", "--évalue", "--\ud800", "--x\0", "--l r",
           "--" + "x" * 5000, "positional", "😀")


def values_of(flag):
    good = st.sampled_from(GOOD.get(flag.key) or flag.choices or ("1", "2", "0.5"))
    return st.integers(0, 9).flatmap(lambda roll: good if roll < 7 else st.sampled_from(VALUES) if roll < 9 else
                                     st.text(max_size=8))


@st.composite
def words_of(draw, keys):
    """The words of one flag: by its name or in the underscore spelling, its value behind a space or an equals sign."""
    roll = draw(st.integers(0, 39))
    if roll == 0:
        return [draw(st.sampled_from(UNKNOWN))]
    flag = FLAGS[draw(st.sampled_from(keys))]
    name = draw(st.sampled_from((flag.name, "--" + flag.key)))
    if flag.switch:
        return [name + ("=1" if roll == 1 else "")]
    if roll == 1:
        return [name]
    value = draw(values_of(flag))
    return [f"{name}={value}"] if roll < 12 else [name, value]


def command_lines(keys, most):
    return st.lists(words_of(keys), max_size=most).map(lambda parts: [word for words in parts for word in words])


def carried_out_or_refused(argv, folder):
    """Run a command line in a folder; its exit status, after what holds for every command line is asserted."""
    before = listing(folder)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors) for errors in
                ("strict", "backslashreplace"))  # as Python's own
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as leaving:  # --help
            status = leaving.code
        out.flush()
    err.flush()
    told = err.buffer.getvalue().decode()
    assert status in (0, 1, 2), (status, argv)
    assert "Traceback" not in told and "Exception ignored" not in told, told
    if status == 2 and "\nthe run would be refused\n- " in out.buffer.getvalue().decode():  # a dry run gives reasons
        assert "error: " not in told and listing(folder) == before, argv
    elif status == 2:
        _, error, message = told.rpartition("error: ")
        assert error and told.count("\nerror: ") + told.startswith("error: ") == 1, told
        assert message.endswith("\n") and 1 <= len(message.splitlines()) <= 2 and len(message) < 3000, message
        assert message.replace("\n", "").isprintable(), ascii(message)
        assert listing(folder) == before, argv
    return status


@pytest.fixture
def sealed(monkeypatch, tmp_path):
    """An empty working directory, and no way out: no network, no downloaded weights."""
    def refuse(*_):
        raise OSError("no network here")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def fuzz(lines, run, examples):
    @settings(max_examples=examples, deadline=None, database=None, derandomize=True)
    @given(lines)
    def check(argv):
        statuses.append(run(argv))
    statuses = []
    check()
    assert {0, 2} <= {*statuses}, "one kind of command lines only"
    return statuses


def resolved(sealed, monkeypatch, examples):
    monkeypatch.setattr(src.main, "RUNS", dict.fromkeys(src.main.RUNS, lambda config: None))
    starts = st.sampled_from(([], ["--train-dataset", "toy-colours", "--iterations", "1"], ["--eval-only"],
                              ["--dataset-order", "toy", "--epochs", "1"]))
    lines = st.tuples(starts, command_lines(sorted(FLAGS), 4)).map(lambda parts: [*parts[0], *parts[1]])
    fuzz(lines, lambda argv: carried_out_or_refused(argv, sealed), examples)


def test_command_lines_resolve(sealed, monkeypatch):
    resolved(sealed, monkeypatch, 100)


@pytest.mark.slow
def test_many_command_lines_resolve(sealed, monkeypatch):
    resolved(sealed, monkeypatch, 5000)


class Reached(Exception):
    """All was opened and nothing refused it."""


# What a run would need long for, or needs more than this machine: said last, where the last word counts.
SHORT = ("--iterations", "1", "--linear-epochs", "1", "--workers", "0", "--batch-size-eval", "8", "--device", "cpu")
RUNNING = sorted({key for key, flag in FLAGS.items() if {*flag.runs} & {*SCORING}} - {
    "iterations", "epochs", "workers", "save", "compile", "load", "export", "wandb", "tensorboard"})


def opened(sealed, monkeypatch, examples):
    """Everything up to the first step."""
    def reached(*_):
        raise Reached
    for name in ("train", "evaluate"):
        monkeypatch.setattr(Run, name, reached)

    def run(argv):
        try:
            return carried_out_or_refused(["--model", "toy", "--train-dataset", "toy-sizes", *argv, *SHORT[:2],
                                           *SHORT[4:], "--save", "out"], sealed)
        except Reached:
            return 0
    fuzz(command_lines(RUNNING, 3), run, examples)


def test_command_lines_open(sealed, monkeypatch):
    opened(sealed, monkeypatch, 12)


@pytest.mark.slow
def test_many_command_lines_open(sealed, monkeypatch):
    opened(sealed, monkeypatch, 500)


def trained(sealed, world, examples):
    """Truly, by the tiny model; what is finished leaves its checkpoint."""
    def run(argv):
        shutil.rmtree("out", ignore_errors=True)
        status = carried_out_or_refused(["--load", str(world.model), "--train-dataset", world.colours, "--batch-size",
                                         "4", "--lr", "9e-5", *argv, *SHORT, "--save", "out"], sealed)
        planned = any(word.replace("_", "-").startswith("--dry-run") for word in argv)
        assert status != 0 or listing("out") or planned, argv
        return status
    fuzz(command_lines(sorted({*RUNNING} - {"model", "dataset_order", "train_dataset", "eval_only", "precision"}), 3),
         run, examples)


def test_command_lines_train(sealed, world):
    trained(sealed, world, 12)


@pytest.mark.slow
def test_many_command_lines_train(sealed, world):
    trained(sealed, world, 500)


# What these tests found, case by case.

ONCE = "--train-dataset", "toy-sizes", "--iterations", "1"
FOUND = {
    "an empty folder, a variable that is not set": ([*ONCE, "--save", ""], "--save : is empty"),
    "an empty file to load": ([*ONCE, "--load="], "--load : is empty"),
    "a line break": (["--method", "fine\ntune"], "--method fine tune: "),
    "a terminal's escape": (["--method", "\x1b[31m"], "--method \\x1b[31m: "),
    "a value of two thousand letters": (["--method", "x" * 20_000], "--method xxxxx"),
    "another error's name": (["--method", "UserError: "], "--method UserError: : "),
    "NUL": ([*ONCE, "--save", "a\0b"], "--save a\\x00b: must be UTF-8"),
    "no UTF-8": (["--train-dataset", "folder:\udcff"], "--train-dataset folder:\\udcff: must be UTF-8"),
    "two dashes for a value": (["--train-mode=--"], "--train-mode --: "),
    "nobody's home": (["--train-dataset", "folder:~nobody-here/x", "--iterations", "1"], "no such folder"),
    "a name too long for a file": (["--train-dataset", "csv:" + "x" * 300, "--iterations", "1"], "no such file"),
    "a name too long for a table of pairs": (["--train-dataset", "pairs:" + "x" * 300, "--iterations", "1"],
                                             "no such file"),
    "a split of 5000 digits": (["--train-dataset", "toy-sizes-1of" + "9" * 5000, "--iterations", "1"], "no dataset"),
    "a phase of 5000 digits": (["--train-dataset", "toy-pairs-new_phase" + "9" * 5000, "--iterations", "1"],
                               "no dataset"),
    "more phases than names fit into memory": (["--train-dataset", "toy-pairs-new", "--epochs", "1", "--num-phases",
                                                "1000000000000"], "--num-phases 1000000000000: expected"),
    "a warm-up of 400 digits": ([*ONCE, "--warmup-length", "9" * 400], "--warmup-length 999"),
    "a seed that torch cannot take": ([*ONCE, "--shots", "1", "--shot-seed", str(2 ** 64)], "--shot-seed 1844"),
}


@pytest.mark.parametrize("case", FOUND)
def test_found(case, cli, sealed):
    argv, said = FOUND[case]
    done = cli("--model", "toy", *argv)
    assert done.status == 2 and done.err.startswith("error: ") and said in done.err
    assert done.err.isprintable() and len(done.err) < 3000 and not listing(sealed)


@pytest.mark.parametrize("value", ["{[]: 1}", "(" * 3000, "9" * 5000])
def test_what_is_no_literal_is_a_text(value):
    assert read_value(FLAGS["set"], ["a=" + value]) == {"a": value}
