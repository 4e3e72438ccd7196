"""Random orders: which permutations a seed draws, on any Python, and the values of the protocol that they permute."""

import itertools
import random

import pytest

from src.args import parse
from src.cli.axes import Cell
from src.cli.checks import check
from src.cli.orders import first_permutations, is_random, label_of_draw, random_orders, values_of_protocol
from src.cli.protocols import PROTOCOLS
from src.cli.training_checks import STEPPING
from src.errors import UserError
from src.models import METHODS

IDLE = {"avg_freq", "mv_avg_decay", "warmup_length", "ls"}  # of averages, of other schedules, of other methods


def test_what_a_seed_draws_is_written_down():
    """By hand: the last of ABCD changes places with number int(4 x 0.32) = 1, then the third with int(3 x 0.15) = 0,
    then the second with itself, int(2 x 0.65) = 1. The third permutation that seed 7 draws is the second again, which
    is skipped."""
    draws = random.Random(7)
    assert [int(draws.random() * places) for places in (4, 3, 2) * 3] == [1, 0, 1, 0, 1, 0, 0, 1, 0]
    assert random_orders("x", "random:3@7", "toy-sizes,toy-colours,toy-shapes,toy-digits") == [
        ("toy-shapes", "toy-digits", "toy-sizes", "toy-colours"),
        ("toy-shapes", "toy-digits", "toy-colours", "toy-sizes"),
        ("toy-digits", "toy-shapes", "toy-sizes", "toy-colours")]


@pytest.mark.parametrize("seed", range(6))
def test_they_are_different_and_fewer_are_the_first_of_more(seed):
    every = first_permutations("ABCD", 24, seed)
    assert sorted(every) == sorted(itertools.permutations("ABCD"))
    assert all(first_permutations("ABCD", number, seed) == every[:number] for number in range(1, 24))


def test_every_permutation_is_as_likely_as_another():
    """Over 3000 seeds each of the six comes first 500 times; the chi-squared statistic of 5 degrees of freedom is below
    20.5 but for one case of a thousand, and the draws are fixed."""
    counts = [0] * 6
    for seed in range(3000):
        counts[list(itertools.permutations("ABC")).index(first_permutations("ABC", 1, seed)[0])] += 1
    assert sum((count - 500) ** 2 / 500 for count in counts) < 20.5


def test_a_named_order_is_permuted_task_by_task():
    [order] = random_orders("x", "random:1@3", "mtil-1")
    assert sorted(order) == sorted(PROTOCOLS["mtil-1"].order) and order != PROTOCOLS["mtil-1"].order
    [split] = random_orders("x", "random:1@3", "CIFAR100/10")
    assert sorted(split) == sorted(f"CIFAR100-{part}of10" for part in range(1, 11))


@pytest.mark.parametrize(("text", "base", "expected"), [
    ("random:7@1", "a,b,c", "random:7@1: 3 tasks allow 1 to 6 orders"),
    ("random:0@1", "DTD,MNIST", "2 tasks allow 1 to 2 orders"),
    ("random:10001@1", "mtil-1", "11 tasks allow 1 to 10000 orders"),
    ("random:3", "DTD,MNIST", "expected the number of orders and a seed, as in random:5@7"),
    ("random:-1@2", "DTD,MNIST", "expected the number of orders"),
    ("random:3@1", None, "random:3@1 permutes the tasks of a base order; name one, as in base: {dataset-order"),
    ("random:3@1", "DTD,DTD", "x: base: --dataset-order DTD,DTD: names DTD twice")])
def test_what_cannot_be_drawn(text, base, expected):
    assert is_random(text)
    with pytest.raises(UserError) as caught:
        random_orders("x", text, base)
    assert expected in str(caught.value), str(caught.value)


def test_labels_stay_when_the_number_changes():
    assert label_of_draw("random:5@7") == label_of_draw("random:90@7") == "random-7"


def differences(name, words):
    """The flags whose values a named order and the same order written out do not share; none where it is refused."""
    texts = {"dataset_order": ",".join(PROTOCOLS[name].order), **words}
    named = [word for key, text in words.items() for word in (f"--{key}", text)]
    try:
        one = parse([*named, "--dataset-order", name, "--save", "x", "--resume"])
        warned = check(one).warnings
    except UserError:
        return set()
    other = parse(Cell("c", "r", "o", texts, drawn_from=name).words("x"))
    assert check(other).warnings == warned
    return {key for key, value in one.numbers().items() if other.numbers()[key] != value}


@pytest.mark.parametrize("name", ["toy", "mtil-1-5shot", "cil-zscl-cifar100-10", "toy-pairs"])
def test_cells_have_the_values_of_the_protocol(name):
    """As the named order has them, but for what the method at hand does not read."""
    recipes = [{"recipe": recipe} for recipe in ("zscl", "keeplora", "lora")]
    for words in [{"method": method} for method in METHODS] + recipes:
        closed = METHODS.get(words.get("method", ""), METHODS["finetune"]).closed_form
        assert differences(name, words) <= (IDLE | set(STEPPING) if closed else IDLE), words


def test_what_a_cell_says_itself_comes_before_the_protocol():
    texts = {"epochs": "3", "lr": "1e-3"}
    found = values_of_protocol("mtil-1", texts)
    assert found.keys().isdisjoint({"iterations", "epochs", "lr"}) and found["batch_size"] == "64"
    assert values_of_protocol("mtil-1", {})["lr"] == "1e-05,Aircraft=5e-05,MNIST=5e-05"
    assert values_of_protocol("DTD,MNIST", texts) == values_of_protocol("", texts) == {}
