"""Orders of classes: the published ones, files in each form, and what is refused; where class splits are cut."""

import json
from pathlib import Path

import pytest
from cli_files import read_json

from src.datasets import class_split, expand, find_entry, open_task
from src.datasets.class_orders import class_bounds, class_order, split_count
from src.datasets.splits import with_classes
from src.errors import UserError

pytest_plugins = ["cli_fixtures"]

PILOT = read_json(Path(__file__).parents[1] / "data" / "pilot_cifar100.json")
HALF = [3, 0, 2, 1, 7, 6, 5, 4]  # of the eight classes of toy-colours
FORMS = {  # as files come
    "a.yaml": "class_order:\n" + "".join(f"  - {number}\n" for number in HALF), "b.yml": f"class_order: {HALF}\n",
    "c.json": json.dumps(HALF), "d.json": json.dumps({"class_order": HALF}),
    "e.json": json.dumps({"toy-sizes": [0], "toy-colours": HALF}), "f.txt": "\n".join(map(str, HALF)),
    "g.txt": " ".join(map(str, HALF)), "h.txt": str(HALF), "i": ",".join(map(str, HALF)),
}


@pytest.fixture
def write(tmp_path):
    def call(text, name="order.json"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)
    return call


def test_the_order_of_pilot_is_the_published_list():
    assert class_order("CIFAR100", 100, "pilot").numbers == PILOT
    assert sorted(class_order("CUB200", 200, "pilot").numbers) == list(range(200))


@pytest.mark.parametrize(("name", "classes", "first", "last"), [
    ("CIFAR100", 100, [87, 0, 52, 58, 44], [54, 26, 35, 39]),
    ("TinyImageNet", 200, [131, 181, 22, 172], [10, 107, 194, 98])])
def test_the_orders_of_zscl(name, classes, first, last):
    found = class_order(name, classes, "zscl").numbers
    assert found[:len(first)] == first and found[-4:] == last and sorted(found) == list(range(classes))
    assert class_order(name, classes, "zscl", 1) == class_order(name, classes, "zscl", 2), "no seed moves it"


@pytest.mark.parametrize("name", FORMS)
def test_files_in_every_form(write, name):
    found = class_order("toy-colours", 8, write(FORMS[name], name))
    assert found.numbers == HALF and [*found.lists] == ["--class-order"]


@pytest.mark.parametrize(("text", "name", "fragment"), [
    ("[0, 1, 2, 3, 4, 5, 6, 8]", "a.json", "numbered from 0; the order names 8"),
    ("[0, 1, 2, 3, 4, 5, 6, 6]", "a.json", "the order names 6 twice"), ("[0, 1]", "a.json", "the order has 2"),
    ("[0, 1, -2]", "a.json", "'-2' is not a class number"), ('["red"]', "a.json", "'red' is not a class number"),
    ("[]", "a.json", "no list"), ("{}", "a.json", "neither class_order nor toy-colours"), ("3", "a.json", "no list"),
    ("[1", "a.json", "cannot be read"),
    ("class_order: abc", "a.yaml", "no list"), ("a: [1]", "a.yaml", "neither"), ("a: b: c", "a.yaml", "cannot be read"),
    ("one two", "a.txt", "'one' is not a class number"), ("[0.5]", "a.json", "'0.5' is not a class number")])
def test_faulty_files(write, text, name, fragment):
    path = write(text, name)
    with pytest.raises(UserError) as caught:
        class_order("toy-colours", 8, path)
    assert fragment in str(caught.value) and f"--class-order {path}" in str(caught.value)


def test_what_has_no_published_order():
    with pytest.raises(UserError, match="has no order for DTD; there are CIFAR100, TinyImageNet"):
        class_order("DTD", 47, "zscl")


# -- base classes and increments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "parts", "sizes"), [
    (8, 4, [2, 2, 2, 2]), (8, 3, [2, 3, 3]), (8, (4, 2), [4, 2, 2]), (8, (2, 6), [2, 6]), (8, (5, 1), [5, 1, 1, 1]),
    (200, (100, 20), [100, 20, 20, 20, 20, 20]), (100, 10, [10] * 10)])
def test_where_classes_are_cut(classes, parts, sizes):
    assert split_count(classes, parts) == len(sizes)
    bounds = [class_bounds(classes, part, parts) for part in range(1, 1 + len(sizes))]
    assert [last - first for first, last in bounds] == sizes
    assert [first for first, _ in bounds[1:]] == [last for _, last in bounds[:-1]]
    assert bounds[0][0] == 0 and bounds[-1][1] == classes


@pytest.mark.parametrize("parts", [9, (8, 1), (9, 1), (4, 3), (4, 0), (0, 2)])
def test_classes_that_cannot_be_cut_so(parts):
    assert split_count(8, parts) == 0


def test_names_of_base_classes_and_increments():
    assert expand(("CIFAR100/50+25",)) == ("CIFAR100-1of50+25", "CIFAR100-2of50+25", "CIFAR100-3of50+25")
    assert class_split("CIFAR100-2of50+25") == ("CIFAR100", 2, (50, 25))
    assert find_entry("CIFAR100-3of50+25") is find_entry("CIFAR100")
    for name in ("CIFAR100-4of50+25", "CIFAR100-0of50+25", expand(("CIFAR100/50+7",))[0], "coco-1of2+2"):
        with pytest.raises(UserError, match="and no such split"):
            find_entry(name)


def test_a_split_has_the_classes_of_the_order(write):
    colours = open_task("toy-colours", "")
    path = write(json.dumps(HALF))
    cut = [with_classes(colours, part, (4, 2), 0, path) for part in (1, 2, 3)]
    assert [task.name for task in cut] == [f"toy-colours-{part}of4+2" for part in (1, 2, 3)]
    assert [name for task in cut for name in task.classnames] == [colours.classnames[label] for label in HALF]
    assert len({task.place for task in (*cut, with_classes(colours, 1, (4, 2), 0))}) == 4
    assert cut[0].lists == cut[1].lists != {} and sum(len(task.split("train")) for task in cut) == 720


# -- in a run ---------------------------------------------------------------------------------------------------------


WORDS = "--model toy --workers 0 --max-evaluation-size 24 --batch-size 8 --iterations 1 --lr 1e-5 --quiet".split()


@pytest.fixture
def sequence(cli, write, tmp_path):
    """A class-incremental run of three steps by the order of a file. -> its folder"""
    done = cli("--dataset-order", "toy-colours/4+2", "--class-order", write(json.dumps(HALF)), "--label-space", "seen",
               "--template", "all:a bad photo of a {c}.", "--save", tmp_path / "out", *WORDS)
    assert done.status == 0, done.err
    assert "Inc. avg" in done.out
    return tmp_path / "out"


def test_a_class_incremental_run_and_its_chain(cli, sequence, tmp_path):
    """The checkpoints bring the order and the prompt, so that their matrix is that of the run."""
    files = ",".join(str(sequence / f"toy-colours-{part}of4+2.pth") for part in (1, 2, 3))
    done = cli("--load", files, "--eval-only", "--label-space", "seen", "--max-evaluation-size", 24, "--workers", 0,
               "--quiet", "--save", tmp_path / "again")
    assert done.status == 0, done.err
    assert "note: --template all:a bad photo of a {c}., as the checkpoint was trained" in done.out
    made, again = (read_json(folder / "summary.json") for folder in (sequence, tmp_path / "again"))
    for key in ("matrix", "incremental_steps", "incremental_avg", "avg", "last"):
        assert made[key] == again[key], key
    assert made["incremental_steps"][0] == made["matrix"][0][0] and len(made["incremental_steps"]) == 3
    assert "Inc. avg: average incremental accuracy" in (sequence / "summary.md").read_text(encoding="utf-8")


def test_an_order_that_was_changed_since_a_task_was_trained(cli, sequence, write):
    order = [0, 3, *HALF[2:]]
    done = cli("--dataset-order", "toy-colours/4+2", "--class-order", write(json.dumps(order)), "--label-space", "seen",
               "--template", "all:a bad photo of a {c}.", "--save", sequence, *WORDS)
    assert done.status == 2 and "another content of --class-order" in done.err, done.err


def test_an_order_without_class_splits_is_warned_of(cli, tmp_path):
    done = cli("--train-dataset", "toy-sizes", "--class-order", "pilot", "--dry-run", *WORDS)
    assert any("--class-order has no effect without class splits" in text for text in done.warnings)
