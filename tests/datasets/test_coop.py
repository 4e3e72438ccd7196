"""CoOp's lists: their formats, their classes, what is refused, and what happens where none exists."""

import random

import pytest
from cli_files import BATCH, RATE, read_json, rows
from dataset_files import CALTECH, label_of, put_json, put_text

from src.args import parse
from src.datasets import open_task
from src.datasets.coop import LISTS, VARIANT_LISTS, drawn_like_diki, find_lists, folder_of, with_lists
from src.errors import UserError
from src.run.build import data_of
from src.run.datasets import Datasets

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]

# What CoOp's files call an image of ours: the folders that its layout keeps apart are missing.
CUT = {"DTD": "dtd/images/", "Flowers": "jpg/", "Food": "images/", "OxfordPet": "images/"}
PARTS = ("train", "val", "test")
TRAIN_IN_COOP = {"Caltech101": "caltech-101", "OxfordPet": "oxford_pets"}  # folders that its layout calls otherwise


def coop_list(task, keep=lambda label: True, name=str):
    """A list in CoOp's form of all images of a Task, of the labels that are kept, counted through: of each class the
    first image is train, the last of several test, and what is between val."""
    labels = {label: number for number, label in enumerate(filter(keep, range(len(task.classnames))))}
    by_class = {}
    for split in map(task.split, task.splits):
        for file, label in zip(split.files, split.labels, strict=True):
            by_class.setdefault(label, []).append([file.removeprefix(CUT.get(task.name, "")), labels.get(label),
                                                   name(task.classnames[label])])
    kept = [sorted(found) for label, found in sorted(by_class.items()) if label in labels]
    return {"train": [row for found in kept for row in found[:1]],
            "val": [row for found in kept for row in found[1:-1]],
            "test": [row for found in kept for row in found[1:][-1:]]}


@pytest.fixture
def opened(every_dataset, unverified, no_network):
    return lambda name: open_task(name, str(every_dataset.root))


@pytest.fixture
def dtd(opened):
    return opened("DTD")


@pytest.fixture
def lists(dtd, tmp_path):
    """A folder with the list of DTD in CoOp's layout. -> its path"""
    put_json(tmp_path / "dtd" / LISTS["DTD"], coop_list(dtd, name=lambda text: text.upper().replace("-", "_")))
    return tmp_path


@pytest.mark.parametrize("name", LISTS)
def test_each_list_splits_its_dataset(name, opened, tmp_path):
    """By paths as CoOp writes them, with the classes of the list: Caltech101 has 100 there."""
    task = opened(name)
    absent = CALTECH.index("Faces_easy") if name == "Caltech101" else -1
    content = coop_list(task, lambda label: label != absent)
    put_json(tmp_path / TRAIN_IN_COOP.get(name, name) / LISTS[name], content)
    found = with_lists(task, tmp_path)
    assert len(found.classnames) == len(task.classnames) - (name == "Caltech101")
    assert found.train_data == f"split file {LISTS[name]}" and [*found.lists] == [f"--split-file {LISTS[name]}"]
    for part in PARTS:
        split = found.split(part)
        assert [label for _, label, _ in content[part]] == list(split.labels)
        assert all(file.endswith(path) for file, (path, _, _) in zip(split.files, content[part], strict=True))
        for index in range(0, len(split), 1 + len(split) // 9):
            own = label_of(split.image(index))
            assert task.classnames[own] == found.classnames[split.labels[index]]


def test_the_files_are_called_as_coop_calls_them():
    assert sorted(LISTS.values()) == [f"split_zhou_{name}.json" for name in (
        "Caltech101", "DescribableTextures", "EuroSAT", "Food101", "OxfordFlowers", "OxfordPets", "SUN397",
        "StanfordCars")]


def test_class_names_come_from_the_list(dtd, lists):
    found = with_lists(dtd, lists)
    assert found.classnames[:2] == ["BANDED", "POLKA DOTTED"] and found.templates == dtd.templates
    assert {part: len(found.split(part)) for part in PARTS} == dict.fromkeys(PARTS, 47)


def test_a_list_lies_in_the_folder_or_one_below(dtd, lists, tmp_path):
    assert find_lists("DTD", lists) == [lists / "dtd" / LISTS["DTD"]]
    (lists / LISTS["DTD"]).write_bytes((lists / "dtd" / LISTS["DTD"]).read_bytes())
    assert find_lists("DTD", lists) == [lists / LISTS["DTD"]], "two copies are one list"
    put_json(lists / LISTS["DTD"], {"train": []})
    with pytest.raises(UserError, match="differ; remove one"):
        find_lists("DTD", lists)


# -- Aircraft ---------------------------------------------------------------------------------------------------------


def test_aircraft_has_text_lists(opened, tmp_path):
    """Number, space, variant, which may hold a space; without them the dataset's own, which are the same."""
    task = opened("Aircraft")
    own = with_lists(task, tmp_path)
    assert own.train_data == "archive split" and own.splits is task.splits and own.lists == {}
    moved = {"train": "0000300 F/A-18\n0000299 Boeing 717\n", "val": "0000100 F/A-18\n0000001 797-200\n",
             "test": "0000200 F/A-18\n"}
    for part, text in moved.items():
        put_text(tmp_path / "fgvc_aircraft" / VARIANT_LISTS[part], text)
    found = with_lists(task, tmp_path)
    assert found.split("train").files == ["data/images/0000300.jpg", "data/images/0000299.jpg"]
    assert list(found.split("train").labels) == [0, 1] and len(found.split("test")) == 1
    assert len(found.lists) == 3


@pytest.mark.parametrize(("part", "text", "fragment"), [
    ("train", None, "no images_variant_train.txt for Aircraft"), ("val", "0000200 Concorde\n", "'0000200 Concorde'"),
    ("test", "0000200\n", "'0000200'"), ("train", "9999999 F/A-18\n", "9999999.jpg, which this dataset does not have"),
    ("test", "0000300 F/A-18\n", "names data/images/0000300.jpg twice")])
def test_faulty_variant_lists(opened, tmp_path, part, text, fragment):
    texts = {"train": "0000300 F/A-18\n", "val": "0000100 F/A-18\n", "test": "0000200 F/A-18\n"} | {part: text}
    for name, content in texts.items():
        if content is not None:
            put_text(tmp_path / VARIANT_LISTS[name], content)
    with pytest.raises(UserError) as caught:
        with_lists(opened("Aircraft"), tmp_path)
    assert fragment in str(caught.value)


# -- what is refused --------------------------------------------------------------------------------------------------


def without(key):
    def change(content):
        del content[key]
    return change


def row(position, value, part="train", index=0):
    def change(content):
        content[part][index][position] = value
    return change


def twice(content):
    content["test"].append(content["train"][0])


def swapped(content):
    """Two images change their labels and names, not their paths."""
    one, other = content["train"][0], content["train"][1]
    one[1:], other[1:] = other[1:], one[1:]


def gap(content):
    """A whole class is called 999."""
    for rows_of in content.values():
        for listed in rows_of:
            listed[1] = 999 if listed[1] == 1 else listed[1]


def more(content):
    content["extra"] = []


CHANGED = {
    "a part is missing": (without("val"), "'val' is missing"), "a part too many": (more, "has the part extra"),
    "another path": (row(0, "banded/none.jpg"), "banded/none.jpg, which this dataset does not have"),
    "another label": (row(1, 1), "calls class 1"), "a gap in the labels": (gap, "count from 0"),
    "another name": (row(2, "other"), "calls class 0"), "a label that is a text": (row(1, "0"), "is not [path"),
    "an image twice": (twice, "twice, in train and in test"), "two labels swapped": (swapped, "restore the list"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_list_that_was_changed_is_refused(dtd, lists, case):
    change, fragment = CHANGED[case]
    path = lists / "dtd" / LISTS["DTD"]
    content = read_json(path)
    change(content)
    put_json(path, content)
    with pytest.raises(UserError) as caught:
        with_lists(dtd, lists)
    assert fragment in str(caught.value), caught.value
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "train: 1", '{"train": 3, "val": [], "test": []}',
                                  '{"train": [["a"]], "val": [], "test": []}', '{"train": [], "val": [], "test": []}'])
def test_a_file_that_is_not_a_list(dtd, tmp_path, text):
    put_text(tmp_path / LISTS["DTD"], text)
    with pytest.raises(UserError, match=f"--split-file: {tmp_path / LISTS['DTD']}"):
        with_lists(dtd, tmp_path)


def test_a_list_that_is_missing(dtd, tmp_path):
    with pytest.raises(UserError, match="no split_zhou_DescribableTextures.json for DTD in .* one folder below"):
        with_lists(dtd, tmp_path)


# -- in a run ---------------------------------------------------------------------------------------------------------


def test_what_the_flag_names(tmp_path):
    put_text(tmp_path / "one.json", "{}")
    assert folder_of("coop", "data") == "data" and folder_of(None, "data") is None
    assert folder_of(str(tmp_path / "one.json"), "data") is None and folder_of(str(tmp_path), "data") == str(tmp_path)


@pytest.fixture
def datasets(every_dataset, lists, unverified, no_network, monkeypatch):
    """datasets(words): those of a run on the small copies and the folder of lists; stored lists go elsewhere."""
    monkeypatch.setattr("src.datasets.splits.may_write", lambda: False)
    return lambda words: Datasets(data_of(parse([*words.split(), "--data-location", str(every_dataset.root),
                                                 "--split-file", str(lists)])))


def test_a_dataset_without_a_list_has_our_own_split_with_a_note(datasets, capsys):
    task = datasets("--dataset-order DTD,CIFAR100 --iterations 1").open("CIFAR100")
    assert {part: len(task.split(part)) for part in PARTS} == {"train": 100, "val": 100, "test": 100}
    assert task.train_data == "own split, val 0.2"
    assert "note: CIFAR100: no list exists for it, so the split is our own" in capsys.readouterr().out


def as_diki_draws(sets):
    """{dataset: (train, val)} by the global generator, as a program that seeds it once and asks for train, then val."""
    random.seed(42)
    found = {name: [] for name in sets}
    for _ in range(2):
        for name, labels in sets.items():
            train, val = set(), set()
            for label in dict.fromkeys(labels):
                places = [place for place, other in enumerate(labels) if other == label]
                random.shuffle(places)
                for number, place in enumerate(places):
                    (val if number < round(len(places) * 0.2) else train).add(place)
            found[name].append((train, val))
    return {name: (draws[0][0], draws[1][1]) for name, draws in found.items()}


@pytest.mark.parametrize("order", [("CIFAR100", "MNIST"), ("MNIST", "CIFAR100")])
def test_the_draws_of_diki(order):
    """Train of the first pass, val of the second: four fifths of val are training images. Each order has its own."""
    kinds = {"CIFAR100": [index * 7 % 10 for index in range(500)], "MNIST": [index * 3 % 5 for index in range(203)]}
    sets = {name: kinds[name] for name in order}
    found = {name: tuple(map(set, halves)) for name, halves in drawn_like_diki(sets).items()}
    assert found == as_diki_draws(sets)
    assert found != as_diki_draws(dict(reversed(sets.items())))
    train, val = found["CIFAR100"]
    assert (len(train), len(val)) == (400, 100) and 65 < len(train & val) < 95


def test_a_dataset_without_a_list_as_diki_draws_it(datasets, capsys):
    task = datasets("--dataset-order DTD,CIFAR100 --iterations 1 --val-fraction diki").open("CIFAR100")
    assert task.train_data == "own split, drawn as by DIKI over CIFAR100" and {"train", "val", "test"} == {*task.splits}
    assert "no list exists for it, so the split is our own, drawn as DIKI's code does" in capsys.readouterr().out


def test_draws_of_diki_over_other_datasets_are_other_data(datasets):
    """The draw of a dataset depends on those before it, which no flag of a single run tells."""
    words = "--iterations 1 --val-fraction diki --shots 1"
    alone, both = (datasets(f"--dataset-order {order} {words}").open("MNIST") for order in ("MNIST", "CIFAR100,MNIST"))
    assert alone.train_data == "own split, drawn as by DIKI over MNIST, 1 shots seed 0"
    assert both.train_data == "own split, drawn as by DIKI over CIFAR100+MNIST, 1 shots seed 0"
    assert [*alone.lists] == [*both.lists] == ["--val-fraction diki (MNIST)"]
    assert alone.lists != both.lists


def test_an_earlier_task_is_not_drawn_as_diki_draws_another_sequence(datasets):
    found = datasets("--dataset-order DTD,CIFAR100 --iterations 1 --val-fraction diki")
    with pytest.raises(UserError, match="MNIST is an earlier task, and its draw depends on"):
        found.open("MNIST", trained=True)


def test_the_lists_are_read_once_for_all_class_splits(datasets, monkeypatch):
    read = []
    monkeypatch.setattr("src.datasets.coop.read_json", lambda path: read.append(path) or read_json(path))
    found = datasets("--dataset-order DTD/5 --iterations 1")
    assert sum(len(found.open(f"DTD-{part}of5").classnames) for part in range(1, 6)) == 47 and len(read) == 1


def test_what_is_scored_only_is_split_by_the_lists_too(datasets, capsys):
    found = datasets("--train-dataset DTD --iterations 1 --eval-datasets DTD,CIFAR100")
    assert found.open("DTD").train_data == f"split file {LISTS['DTD']}"
    assert found.open("CIFAR100").train_data == "all" and capsys.readouterr().out == ""


def test_a_reference_stays_as_it_comes(datasets):
    found = datasets("--train-dataset toy-sizes --iterations 1 --lr 1e-5 --method ZSCL --ref-dataset DTD")
    assert found.open("DTD").train_data == "all" and found.open("toy-sizes").train_data == "all"


def test_shots_are_drawn_from_the_train_part(datasets, dtd, lists):
    """Of two images of each class, the rest of the list being test."""
    path = lists / "dtd" / LISTS["DTD"]
    content = read_json(path)
    content = {"train": content["train"] + content["val"], "val": [], "test": content["test"]}
    put_json(path, content)
    few = datasets("--dataset-order DTD --iterations 1 --shots 1").open("DTD")
    assert few.train_data == f"split file {LISTS['DTD']}, 1 shots seed 0"
    files = [file.removeprefix(CUT["DTD"]) for file in few.split("train").files]
    assert sorted(few.split("train").labels) == [*range(47)] and len(files) == 47
    assert {*files} < {listed for listed, _, _ in content["train"]}
    assert len(few.split("test")) == 47


def test_class_splits_are_cut_from_the_classes_of_the_list(datasets):
    parts = [datasets("--dataset-order DTD/2 --iterations 1").open(f"DTD-{part}of2") for part in (1, 2)]
    assert sorted(name for part in parts for name in part.classnames)[0] == "BANDED"
    assert sum(len(part.classnames) for part in parts) == 47


def run(cli, world, every_dataset, *words):
    return cli("--load", world.model, "--workers", 0, "--data-location", every_dataset.root, "--quiet", *words)


@pytest.fixture
def trained(cli, world, every_dataset, lists, tmp_path):
    """A finished task of one step on DTD as CoOp splits it. -> train(word, ...): the same command again"""
    def train(*words):
        return run(cli, world, every_dataset, "--train-dataset", "DTD", "--iterations", 1, "--lr", RATE,
                   "--batch-size", BATCH, "--warmup-length", 0, "--save", tmp_path / "out", "--split-file", lists,
                   *words)
    done = train()
    assert done.status == 0, done.err
    return train


def test_a_list_that_was_changed_since_a_task_was_trained(trained, lists, tmp_path):
    """Valid as it is now, but not what the task was trained on."""
    assert trained().status == 0
    path = lists / "dtd" / LISTS["DTD"]
    content = read_json(path)
    content["train"], content["val"] = content["val"], content["train"]
    put_json(path, content)
    done = trained()
    assert done.status == 2 and f"another content of --split-file {LISTS['DTD']}" in done.err, done.err
    assert trained("--overwrite").status == 0


def test_a_checkpoint_is_scored_on_the_images_of_its_lists(trained, cli, world, every_dataset, lists, tmp_path):
    made = rows(tmp_path / "out" / "metrics_DTD.csv")[-1]
    found = run(cli, world, every_dataset, "--load", tmp_path / "out" / "DTD.pth", "--eval-only", "--save",
                tmp_path / "scored")
    assert found.status == 0 and f"note: --split-file {lists}, as the checkpoint was trained" in found.out, found.err
    again = rows(tmp_path / "scored" / "metrics_DTD.csv")[-1]
    assert (again["top1"], again["n"]) == (made["top1"], made["n"])


def test_a_checkpoint_is_not_scored_by_lists_that_changed(trained, cli, world, every_dataset, lists, tmp_path):
    """Valid as they are now, but images that were trained on may be test."""
    path = lists / "dtd" / LISTS["DTD"]
    content = read_json(path)
    content["train"], content["test"] = content["test"], content["train"]
    put_json(path, content)
    words = ("--load", tmp_path / "out" / "DTD.pth", "--eval-only", "--save", tmp_path / "scored")
    done = run(cli, world, every_dataset, *words)
    assert done.status == 2 and f"DTD: was trained on with --split-file {LISTS['DTD']}" in done.err, done.err
    assert "with another content" in done.err and not (tmp_path / "scored").exists()
    chosen = run(cli, world, every_dataset, *words, "--split-file", lists)
    assert chosen.status == 0 and "training images may be scored" in chosen.warnings[0], chosen.err


def test_a_plan_names_the_lists_that_are_missing(cli, tmp_path):
    done = cli("--dataset-order", "mtil-1-coop", "--model", "toy", "--data-location", tmp_path, "--dry-run")
    assert done.status == 2
    for name in LISTS:
        assert f"no {LISTS[name]} for {name} in {tmp_path}" in done.out, done.out
