"""Parsing: every flag, every spelling, every wrong value of a built flag."""

import contextlib
import json
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.args import UNSAID, Config, differences, parse
from src.cli import checks, kinds
from src.cli.flags import FLAGS
from src.cli.recipes import recipe_names
from src.errors import UserError
from src.models import METHODS

COUNT = ("0", "-1", "1.5", "x", "nan", "inf", "1e3", "")
POSITIVE = ("0", "-1", "nan", "inf", "-inf", "x", "")
LIST = ("A,,B", "A,A", ",", "")
WRONG = {
    **dict.fromkeys(("iterations", "epochs", "batch_size", "ref_batch_size", "eval_interval", "batch_size_eval",
                     "max_evaluation_size", "log_interval", "shots", "ref_size", "memory_size", "lora_r",
                     "orthogonal_gradients", "num_phases", "phase", "linear_epochs", "linear_batch_size",
                     "grad_accum", "inflora_rank", "keeplora_rank", "nusa_rank", "diki_length", "diki_blocks",
                     "moe_rank", "condu_rank", "condu_experts", "ddas_iterations", "ddas_reference_iterations"), COUNT),
    "moe_experts": ("1", *COUNT), **dict.fromkeys(("moe_frozen", "ddas_decay"), ("-1", "1.5", "x", "nan", "")),
    "ddas_threshold": ("-0.1", "nan", "inf", "x", "101%", "-1%", "x%", "%", ""),
    **dict.fromkeys(("eps", "max_grad_norm", "T", "text_tower_weight", "lora_alpha", "orthogonal_budget",
                     "modx_temperature", "linear_lr", "inflora_scale", "keeplora_alpha", "task_cache_size",
                     "ddas_lr"), POSITIVE),
    "rail_width": COUNT, **dict.fromkeys(("rail_ridge", "rail_gamma"), POSITIVE),
    **dict.fromkeys(("modx_alpha", "linear_wd", "ewc_strength"), ("-0.1", "nan", "inf", "x")),
    **dict.fromkeys(("image_dir", "annotations"), ("coco", "=a", "coco=", "")),
    "linear_percent": ("0", "-1", "101", "nan", "x"), "flickr_splits": ("", "train,val", "train+train", "all"),
    "phase_seed": ("-1", "1.5", "x"),
    **dict.fromkeys(("text_datasets", "report", "check_data", "lora_target_modules"), LIST),
    **dict.fromkeys(("dataset_order", "eval_datasets", "fetch"), (*LIST, "CIFAR100/1", "CIFAR100/x", "CIFAR100/")),
    "label_space": (*LIST, "tasks", "task,every"), "replay_weight": ("-0.1", "nan", "x"),
    **dict.fromkeys(("lora_dropout", "inflora_dropout", "nusa_dropout", "moe_dropout"), ("-0.1", "1", "nan", "x")),
    "nusa_energy": ("0", "-0.1", "1", "nan", "x"), "inflora_sites": (*LIST, "k,x", "k,k", "kv"),
    **dict.fromkeys(("orthogonal_energy", "inflora_energy", "keeplora_feature_energy"),
                    ("0", "-0.1", "1.1", "nan", "x")),
    **dict.fromkeys(("keeplora_image_energy", "keeplora_text_energy"), ("-0.1", "1.1", "nan", "x")),
    **dict.fromkeys(("seed", "shot_seed"), ("-1", "1.5", "x", "nan", "1,1", "1,x", "1,")),
    "jobs": ("0", "-1", "1.5", "x", "1025", ""),
    **dict.fromkeys(("we_wise_alpha", "mv_avg_decay", "wise_ft_alpha", "ref_wise_alpha", "inflora_energy_step",
                     "ewc_decay"),
                    ("-0.1", "1.1", "nan", "x")),
    "hooks": ("x", "my.py", "my.py:A(1)", "my.py:A(x=y)", "my.py:A,my.py:A", "python:", ""),
    "set": ("x", "=1", "a b=1", "1a=2", ""), "recipe": ("nonsense", "", "none.yaml", "recipes/zscl"),
    "avg_freq": COUNT, "l2": ("-0.1", "nan", "inf", "x"), "alpha": ("-0.1", "1.1", "x", "", "0,", "0,0"),
    "val_fraction": ("0", "-0.1", "0.95", "1", "nan"),
    **dict.fromkeys(("wd", "lr_floor"), ("-0.1", "nan", "inf", "x")),
    "ls": ("-0.1", "1.1", "nan", "x"),
    "rail_beta": ("-0.1", "1.1", "nan", "x"),
    "beta2": ("-0.1", "1", "nan", "x"), "warmup_length": ("-1", "x", "nan", "120%", "-5%", "%", "1.5"),
    "workers": ("-1", "1.5", "x", "257"), "save_interval": ("0", "-1", "1.5", "x", "0m", "-1h", "nanm", "m", "5d", ""),
    "lr": ("0", "-1e-5", "nan", "inf", "x", "", "1e-5,", "DTD=1e-5", "1e-5,DTD=0", "1e-5,1e-4", "1e-5,DTD=1,DTD=2"),
    **{flag.key: ("nonsense", "") for flag in FLAGS.values() if flag.choices},
}
# Any text is a value of these; files and names are checked later.
TEXTS = {"train_dataset", "save", "load", "model_config", "model_name", "clip_cache", "ref_dataset", "ref_sentences",
         "ddas_reference",
         "ref_model", "eval_single", "class_names", "prompt", "template", "data_location", "split_file", "shots_file",
         "orthogonal_gradients_path", "linear_eval", "export", "study", "reproduce",
         "rescore", "task_cache"}


def refusal(words):
    with pytest.raises(UserError) as caught:
        parse(words)
    message = str(caught.value)
    assert message and len(message.splitlines()) <= 2
    return message


def test_every_flag_has_its_wrong_values():
    assert {flag.key for flag in FLAGS.values() if not flag.switch} == WRONG.keys() | TEXTS


@pytest.mark.parametrize(("key", "text"), [(key, text) for key, texts in WRONG.items() for text in texts])
def test_wrong_value(key, text):
    assert refusal([f"{FLAGS[key].name}={text}"]).startswith(f"{FLAGS[key].name} {text}: ")


@pytest.mark.parametrize(("words", "fragments"), [
    ("--iteratoins 100", ["--iteratoins", "did you mean --iterations"]),
    ("--iteratoins=100", ["--iteratoins=100", "did you mean --iterations"]),
    ("--train_datset DTD", ["--train_datset", "--train-dataset"]),
    ("--qqqq", ["--qqqq", "--help"]),
    ("--iter 5", ["--iter"]),  # no abbreviations: a flag to come might make them mean something else
    ("DTD", ["unknown argument DTD", "--help"]),
    ("-x", ["-x"]),
    ("--method zsl", ["--method zsl", "did you mean ZSCL"]),
    ("--method fine-tune", ["did you mean finetune"]),
    ("--method qqqqq", ["--method qqqqq", "there are " + ", ".join(METHODS)]),
    ("--model ViT-B/61", ["--model ViT-B/61", "did you mean ViT-B/16"]),
    ("--model rn5", ["did you mean RN50?"]),
    ("--precision fp23", ["did you mean fp32"]),
    ("--iterations", ["--iterations", "expected one argument"]),
    ("--save --load x", ["--save", "expected one argument"]),
    ("--eval-only=yes", ["--eval-only", "yes"]),
])
def test_wrong_words(words, fragments):
    message = refusal(words.split())
    assert all(fragment in message for fragment in fragments), message


@pytest.mark.parametrize(("words", "key", "value"), [
    ("--batch_size 16", "batch_size", 16), ("--batch_size=16", "batch_size", 16),
    ("--train_dataset some_name", "train_dataset", "some_name"), ("--save a_b --eval_only", "save", "a_b"),
    ("--max_grad-norm 1", "max_grad_norm", 1.0), ("--image_loss", "image_loss", True),
    ("--dry-run --save x", "dry_run", "on"), ("--dry-run=probe", "dry_run", "probe"), ("--dry_run", "dry_run", "on"),
    ("--dry-run probe --save x", "dry_run", "probe"), ("--save x", "dry_run", "off"),
    ("--batch-size 1 --batch_size 2", "batch_size", 2), ("--T 3", "T", 3.0), ("--seed=7", "seed", 7),
    ("--seed 1,2", "seed", (1, 2)), ("--jobs auto --study a.yaml", "jobs", "auto"),
])
def test_spellings(words, key, value):
    assert parse(words.split()).values[key] == value


def test_defaults_and_origins():
    config = parse(["--train-dataset", "DTD", "--seed", "42"])
    assert {key: value for key, value in config.values.items() if key != "train_dataset"} == {
        key: flag.default for key, flag in FLAGS.items() if key != "train_dataset"}
    assert {key for key, origin in config.origins.items() if origin == "flag"} == {"train_dataset", "seed"}
    assert config.given("seed") and not config.given("lr")
    assert config.argv == ("--train-dataset", "DTD", "--seed", "42")
    with pytest.raises(AttributeError, match="no_such_flag"):
        _ = config.no_such_flag


@pytest.mark.parametrize(("words", "kind"), [
    ("--train-dataset A", kinds.TRAIN), ("", kinds.TRAIN), ("--dataset-order A,B", kinds.SEQUENCE),
    ("--dataset-order A,B --eval-only", kinds.EVAL), ("--eval-only --eval-datasets A", kinds.EVAL),
    ("--eval-single a.png --eval-only", kinds.SINGLE), ("--eval-single a.png", kinds.SINGLE),
    ("--report a,b --eval-only", kinds.REPORT), ("--load a.pth --export out", kinds.EXPORT),
    ("--export out --train-dataset A", kinds.TRAIN), ("--export out --iterations 1", kinds.TRAIN),
    ("--export out --eval-only", kinds.EVAL), ("--export out --dataset-order A,B", kinds.SEQUENCE),
    ("--list-datasets", kinds.LIST), ("--check-data DTD", kinds.CHECK), ("--fetch DTD", kinds.FETCH),
    ("--study a.yaml --seed 1", kinds.STUDY),
    ("--reproduce a.yaml --dataset-order A", kinds.REPRODUCE), ("--rescore a --label-space all", kinds.RESCORE),
    ("--seed 1,2 --dataset-order A,B", kinds.STUDY), ("--seed 1,2 --report a", kinds.REPORT)])
def test_kind_of_run(words, kind):
    assert parse(words.split()).kind == kind


def test_what_two_runs_must_share():
    numbers = parse(["--save", "x", "--lr", "1e-5,DTD=1e-4", "--eval-datasets", "A,B"]).numbers()
    assert numbers["lr"] == {"": 1e-5, "DTD": 1e-4}
    assert not {"save", "workers", "device", "quiet", "log_interval", "overwrite", "eval_interval"} & numbers.keys()
    assert {"seed", "lr", "method", "load", "precision", "batch_size", "train_mode", "T"} <= numbers.keys()


def test_a_run_of_a_version_without_a_flag_had_its_default():
    config = parse(["--train-dataset", "DTD", "--iterations", "3"])
    before = {key: value for key, value in config.numbers().items() if key not in UNSAID}
    assert differences(config.numbers(), before) == []
    other = parse(["--train-dataset", "DTD", "--iterations", "3", "--optimizer", "sgd", "--lr-floor", "1e-6",
                   "--last-batch", "drop"])
    assert differences(other.numbers(), before) == [
        "--optimizer adamw there, sgd here", "--lr-floor 0 there, 1e-06 here", "--last-batch keep there, drop here"]


def test_epochs_by_dataset_are_another_run_than_those_of_all():
    """One number stays as earlier versions wrote it; datasets of their own are named as the command line names them."""
    before, now = (parse(["--dataset-order", "DTD,MNIST", "--epochs", text]).numbers() for text in ("3", "3,DTD=2"))
    assert before["epochs"] == 3 and now["epochs"] == {"": 3, "DTD": 2}
    assert differences(now, before) == ["--epochs 3 there, 3,DTD=2 here"]
    assert differences(now, json.loads(json.dumps(now))) == []


# -- anything at all ---------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NUMBER = st.one_of(st.integers(-10, 10**30).map(str), st.floats().map(repr), st.sampled_from(["20%", "auto", "1_0"]))
NAME = st.sampled_from(["DTD", "CIFAR100", "toy", "mtil-1", "toy-colours", "toy-reference", "folder:/nowhere", "csv:a",
                        "finetune", "lwf", "ZSCL", "icarl", "whole", "text", "RN50", "scratch", "cpu", "random", ""])
NAMES = st.lists(NAME, max_size=3).map(",".join)
VALUE = st.one_of(NAME, NAMES, NUMBER, TEXT, st.text(string.ascii_letters + "=,.:%-", max_size=10))


def plausible(flag):
    """The flag with a value that it might well take, so that the checks across flags have something to do."""
    if flag.switch:
        return st.just(flag.name)
    if flag.key == "lr":
        values = st.sampled_from(["1e-5", "1e-3", "1e-5,DTD=1e-4"])
    elif flag.key == "recipe":
        values = st.sampled_from(recipe_names())
    elif flag.key == "label_space":
        values = st.sampled_from(["task", "seen", "task,all"])
    elif flag.key in TEXTS or WRONG[flag.key][:len(LIST)] == LIST:
        values = st.one_of(NAME, NAMES)
    else:
        values = st.sampled_from(flag.choices or ["1", "1", "0.5"])
    return values.map(lambda value: f"{flag.name}={value}")


WORD = st.one_of(
    *(plausible(flag) for flag in FLAGS.values()),
    st.tuples(st.sampled_from([flag.name for flag in FLAGS.values()]), VALUE).map("=".join),
    st.sampled_from([f"--{flag.key}" for flag in FLAGS.values()]), VALUE)


TRAINING = ["--train-dataset=toy-colours", "--iterations=1"]
STARTS = [[], TRAINING, ["--dataset-order=toy"], ["--eval-only", "--eval-datasets=DTD"],
          ["--eval-single=" + __file__, "--class-names=a"]]


@settings(max_examples=600, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(STARTS), st.lists(WORD, max_size=6))
@example(TRAINING, ["--load=" + "a" * 300])
@example(TRAINING, ["--save=" + "a" * 300])
@example([], ["--report=a,b", "--lr=1e-5,x=1"])
def test_anything_gives_a_config_or_one_message(start, words):
    words = start + words
    if {"-h", "--help"} & set(words):
        return
    with contextlib.suppress(SystemExit):  # an abbreviation of -h, as in -hx
        try:
            config = parse(words)
            remarks = checks.check(config)
        except UserError as error:
            assert str(error).strip()
        else:
            assert isinstance(config, Config) and all(warning.strip() for warning in remarks.warnings)


# -- several files of --load -------------------------------------------------------------------------------------------


def test_the_files_of_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "a,b", "d,e,f"):
        (tmp_path / name).write_text("", encoding="utf-8")
    expected = {"a": ("a",), "b,a": ("b", "a"), "a,b": ("a,b",), "b,a,b": ("b", "a,b"), "d,e,f,a": ("d,e,f", "a"),
                "d,e": ("d", "e"), "b,,a": ("b", "", "a"), "none": ("none",)}
    assert {text: parse(["--load", text]).loaded for text in expected} == expected
    assert parse([]).loaded == ()
