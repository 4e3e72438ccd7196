"""The named sequences: their order, their published values, and how they fill what was not given."""

import pytest

from src.args import origins_text, parse
from src.cli import checks
from src.cli.flags import FLAGS
from src.cli.protocols import PROTOCOLS
from src.datasets import DATASETS, expand

MTIL_1 = "Aircraft Caltech101 CIFAR100 DTD EuroSAT Flowers Food MNIST OxfordPet StanfordCars SUN397".split()
MTIL_2 = "StanfordCars Food MNIST OxfordPet Flowers SUN397 Aircraft Caltech101 DTD EuroSAT CIFAR100".split()
PUBLISHED = {"model": "ViT-B/16", "train_mode": "whole", "iterations": 1000, "batch_size": 64, "batch_size_eval": 128,
             "lr": {None: 1e-5, "Aircraft": 5e-5, "MNIST": 5e-5}, "wd": 0, "ls": 0.2, "warmup_length": "100", "T": 2,
             "precision": "fp32"}


@pytest.mark.parametrize(("name", "order"), [("mtil-1", MTIL_1), ("mtil-2", MTIL_2)])
def test_mtil(name, order):
    config = parse(["--dataset-order", name])
    assert list(config.dataset_order) == order
    assert {key: config.values[key] for key in PUBLISHED} == PUBLISHED
    assert {config.origins[key] for key in PUBLISHED} == {f"protocol {name}"}
    assert config.origins["seed"] == "default" and config.origins["dataset_order"] == "flag"
    assert config.beta2 == 0.999 and config.seed == 42


@pytest.mark.parametrize(("words", "key", "value", "origin"), [
    ("--batch-size 32", "batch_size", 32, "flag"), ("--ls 0", "ls", 0, "flag"),
    ("--lr 1e-6", "lr", {None: 1e-6}, "flag"), ("--iterations 7", "iterations", 7, "flag"),
    ("--epochs 3", "epochs", 3, "flag"), ("--epochs 3", "iterations", None, "default"),
    ("--wd 0.1", "ls", 0.2, "protocol mtil-1"), ("--model RN50", "model", "RN50", "flag"),
    ("", "beta2", 0.999, "default"),
])
def test_flag_wins_over_protocol_over_default(words, key, value, origin):
    config = parse(["--dataset-order", "mtil-1", *words.split()])
    assert config.values[key] == value and config.origins[key] == origin


XTAIL_2 = "StanfordCars Aircraft OxfordPet Food SUN397 MNIST Flowers DTD Caltech101 EuroSAT".split()
VARIANTS = {"mtil-1-coop": (MTIL_1, {"split_file": "coop"}), "mtil-2-coop": (MTIL_2, {"split_file": "coop"}),
            "mtil-1-5shot": (MTIL_1, {"shots": 5, "iterations": 500}),
            "mtil-2-5shot": (MTIL_2, {"shots": 5, "iterations": 500}),
            "mtil-1-16shot": (MTIL_1, {"shots": 16}), "mtil-2-16shot": (MTIL_2, {"shots": 16}),
            "mtil-1-bf16": (MTIL_1, {"precision": "bf16"}), "mtil-2-bf16": (MTIL_2, {"precision": "bf16"}),
            "xtail-1": ([name for name in MTIL_1 if name != "CIFAR100"], {"shots": 16, "label_space": ("all",)}),
            "xtail-2": (XTAIL_2, {"shots": 16, "label_space": ("all",)})}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("words", ["", "--recipe zscl --save out", "--eval-only"])
def test_variants_differ_from_mtil_in_what_they_name(name, words):
    """With a recipe too, and in an evaluation, which scores the same images and label space."""
    order, values = VARIANTS[name]
    config = parse(["--dataset-order", name, *words.split()])
    assert list(config.dataset_order) == order
    expected = PUBLISHED | values
    assert {key: config.values[key] for key in expected} == expected
    assert {config.origins[key] for key in values} == {f"protocol {name}"}
    checks.check(config)


@pytest.mark.parametrize(("order", "precision"), [("mtil-1", "fp32"), ("mtil-1-bf16", "bf16"), ("mtil-2-bf16", "bf16")])
def test_a_recipe_says_which_precision_the_order_has(order, precision):
    config = parse(["--recipe", "zscl", "--dataset-order", order, "--save", "out"])
    said = next(line for line in origins_text(config).splitlines() if line.startswith(f"protocol {order}:"))
    assert f"--precision {precision}" in said


def test_xtail_has_the_published_number_of_classes():
    """1100, of which Caltech101 has 100 in the lists that papers use, 101 here."""
    for name in ("xtail-1", "xtail-2"):
        classes = [DATASETS[task].classes for task in PROTOCOLS[name].order]
        assert len(classes) == 10 and sum(classes) == 1101


CIL = {"cil-zscl-cifar100-10": ("CIFAR100/10", 10), "cil-zscl-cifar100-20": ("CIFAR100/20", 20),
       "cil-zscl-cifar100-50": ("CIFAR100/50", 50), "cil-zscl-tinyimagenet-100-5": ("TinyImageNet/100+5", 21),
       "cil-zscl-tinyimagenet-100-10": ("TinyImageNet/100+10", 11),
       "cil-zscl-tinyimagenet-100-20": ("TinyImageNet/100+20", 6), "cil-pilot-cifar100-10": ("CIFAR100/10", 10),
       "cil-pilot-imagenetr-10": ("ImageNetR/10", 10), "cil-pilot-cub200-10": ("CUB200/10", 10)}


@pytest.mark.parametrize("name", CIL)
def test_class_incremental_presets(name):
    order, tasks = CIL[name]
    config = parse(["--dataset-order", name])
    assert config.dataset_order == expand((order,)) and len(config.dataset_order) == tasks
    line = name.split("-")[1]
    assert config.class_order == line and config.label_space == ("seen",) and config.origins["lr"] == f"protocol {name}"
    assert config.template == {"zscl": "all:a bad photo of a {c}.", "pilot": "all:a photo of a {c}."}[line]
    assert (config.epochs, config.iterations, config.batch_size, config.ls) == (1, None, 64, 0.2)
    checks.check(config)


def test_every_preset_of_the_class_incremental_setting_is_tested():
    assert {name for name in PROTOCOLS if name.startswith("cil-")} == CIL.keys()


def test_values_for_one_method_only():
    assert parse(["--dataset-order", "toy", "--method", "ZSCL"]).ref_dataset == "toy-reference"
    assert parse(["--dataset-order", "toy", "--method", "ZSCL", "--ref-dataset", "DTD"]).ref_dataset == "DTD"
    assert parse(["--dataset-order", "toy"]).ref_dataset is None


def test_a_protocol_holds_only_values_of_flags():
    for name, protocol in PROTOCOLS.items():
        for method in FLAGS["method"].choices:
            for key, value in protocol.fill(method).items():
                flag = FLAGS[key]
                assert not flag.choices or value in (*flag.choices, "toy"), f"{name}: {flag.name} {value}"


def test_a_sequence_of_names_takes_no_protocol():
    config = parse(["--dataset-order", ",".join(MTIL_1)])
    assert config.iterations is None and config.origins["lr"] == "default"
