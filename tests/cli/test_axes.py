"""Axes of a study: labels that are names of folders, and cells of random orders."""

import pytest
from study_files import jobs_of

from src.cli.axes import label_of
from src.errors import UserError

pytest_plugins = ["study_fixtures"]


@pytest.mark.parametrize(("key", "text", "label"), [
    ("recipe", "zscl", "zscl"), ("recipe", "mine/a.yaml", "a"), ("method", "my.py:EWC", "my.py-EWC"),
    ("dataset_order", "CIFAR100/10", "CIFAR100-10"), ("seed", "3", "seed-3"), ("lr", "1e-5,MNIST=5e-5",
                                                                                 "lr-1e-5-MNIST=5e-5"),
    ("mv_avg_decay", "0.9", "mv-avg-decay-0.9"), ("load", "../a b/ü.pth", "load-..-a-b-.pth"),
    ("dataset_order", "folder:/a/long/way/colours,DTD,folder:tones", "colours-DTD-tones")])
def test_labels_are_names_of_folders(key, text, label):
    assert label_of(key, text) == label


def test_custom_hooks_are_an_axis(study):
    """Which tells its rows from those of the method, by a label or by what the hooks are called."""
    cells = study("base: {dataset-order: toy}\naxes:\n  what:\n    plain: {method: lwf}\n"
                  "    logged: {hooks: ['my.py:Logger(every=2)', 'my.py:Pull']}\n").cells
    assert [cell.row for cell in cells] == ["plain", "logged"]
    assert cells[1].words("out")[:4] == ("--hooks", "my.py:Logger(every=2)", "--hooks", "my.py:Pull")
    cells = study("base: {dataset-order: toy}\naxes: {hooks: ['my.py:Logger(every=2)', 'my.py:Pull']}\n").cells
    assert [cell.row for cell in cells] == ["hooks-my.py-Logger-every=2", "hooks-my.py-Pull"]


RANDOM = """
base: {method: lwf, dataset-order: mtil-1}
axes: {orders: [mtil-1, "random:3@7"], seed: [1, 2]}
exclude: [{orders: random-7-2, seed: 2}]
"""


def test_random_orders_are_orders_like_others(study):
    cells = study(RANDOM).cells
    assert [cell.name for cell in cells] == [
        "mtil-1_seed-1", "mtil-1_seed-2", "random-7-1_seed-1", "random-7-1_seed-2", "random-7-2_seed-1",
        "random-7-3_seed-1", "random-7-3_seed-2"]
    assert {cell.row for cell in cells} == {"my"} and cells[2].order == "random-7-1"
    more = study(RANDOM.replace("3@7", "5@7")).cells
    assert {cell.name: cell.texts for cell in cells}.items() <= {cell.name: cell.texts for cell in more}.items()
    words = cells[2].words("out")
    order = words[words.index("--dataset-order") + 1].split(",")
    assert len(order) == len(set(order)) == 11 and "StanfordCars" in order
    jobs, warnings = jobs_of(study(RANDOM), "out")
    assert not warnings and {job.iterations for job in jobs} == {1000}
    assert jobs[0].numbers["lr"] == jobs[2].numbers["lr"] == {"": 1e-5, "Aircraft": 5e-5, "MNIST": 5e-5}


def test_labelled_random_orders(study):
    found = study("base: {dataset-order: [DTD, MNIST], iterations: 1}\naxes: {orders: {mine: 'random:2@0'}, seed: [1]}")
    assert sorted(cell.texts["dataset_order"] for cell in found.cells) == ["DTD,MNIST", "MNIST,DTD"]
    assert [cell.name for cell in found.cells] == ["mine-1_seed-1", "mine-2_seed-1"]


@pytest.mark.parametrize(("text", "expected"), [
    ("base: {dataset-order: 'random:2@7'}\naxes: {seed: [1]}",
     "base: --dataset-order random:2@7: random orders are values of an axis; write orders: [random:2@7]"),
    ("base: {dataset-order: toy}\naxes: {variant: {a: {dataset-order: 'random:2@7'}}}", "are values of an axis"),
    ("base: {dataset-order: toy}\naxes: {orders: [[random:2@7, DTD]]}", "are values of an axis"),
    ("axes: {orders: ['random:2@7']}", "axes: orders: random:2@7 permutes the tasks of a base order"),
    ("base: {dataset-order: toy}\naxes: {orders: ['random:2@7', 'random:3@7']}", "random-7-1 is given twice"),
    ("base: {dataset-order: toy}\naxes: {orders: [DTD]}", "base has --dataset-order, which axis orders replaces")])
def test_what_is_wrong_with_random_orders(text, expected, study):
    with pytest.raises(UserError) as caught:
        study(text)
    assert expected in str(caught.value) and "my.yaml: " in str(caught.value), str(caught.value)
