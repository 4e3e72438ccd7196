"""The datasets of a run: opened once, as the flags ask for."""

import pytest
from cli_files import read_json
from dataset_files import put, put_json, wnid

from src.args import parse
from src.cli.checks import check
from src.datasets.imagenet import CLASSES_R
from src.errors import UserError
from src.run.build import data_of
from src.run.datasets import Datasets

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]


def config(words=""):
    return data_of(parse(words.split()))


def sizes(task):
    return {name: len(task.split(name)) for name in ("train", "val", "test")}


@pytest.mark.parametrize(("words", "first", "number"), [
    ([], "a photo of a {c}.", 1), (["--template", "DTD"], "a photo of a {c} texture.", 8),
    (["--template", "my {c}!"], "my {c}!", 1)])
def test_templates_of_data_without_its_own(world, tmp_path, words, first, number):
    datasets = Datasets(data_of(parse([*words, "--data-location", str(tmp_path)])))
    templates = datasets.open(world.colours).templates
    assert templates[0] == first and len(templates) == number
    own = datasets.open("toy-colours").templates
    assert own == Datasets(config()).open("toy-colours").templates
    assert datasets.open(world.colours) is datasets.open(world.colours), "each is opened once"


@pytest.mark.parametrize(("template", "found"), [
    ("all:a bad photo of a {c}.", ["a bad photo of a {c}."]), ("all:Food", ["a photo of a {c}, a type of food."])])
def test_a_template_for_all_data_replaces_their_own(world, template, found):
    datasets = Datasets(data_of(parse(["--template", template])))
    assert datasets.open("toy-colours").templates == datasets.open(world.colours).templates == found
    with pytest.raises(UserError, match="--template nothing: there are"):
        Datasets(data_of(parse(["--template", "all:nothing"])))


def test_the_first_prompt_of_each_dataset_alone(world):
    own = {name: Datasets(config()).open(name).templates for name in ("toy-colours", world.colours)}
    datasets = Datasets(data_of(parse(["--template", "all:first"])))
    assert len(own["toy-colours"]) > 1
    assert {name: datasets.open(name).templates for name in own} == {name: each[:1] for name, each in own.items()}
    with pytest.raises(UserError, match="all:first for the first prompt of each dataset"):
        Datasets(data_of(parse(["--template", "first"])))


def test_a_dataset_is_opened_as_it_was_trained_on_where_that_is_asked(tmp_path):
    """Shots are for the datasets of the run; another one has them only as the earlier task that it was."""
    datasets = Datasets(config(f"--train-dataset toy-colours --shots 2 --val-fraction 0.5 --data-location "
                               f"{tmp_path}"))
    few = {"train": 16, "val": 360, "test": 504}
    assert sizes(datasets.open("toy-colours")) == sizes(datasets.open("toy-colours", trained=True)) == few
    assert sizes(datasets.open("toy-sizes")) == {"train": 720, "val": 216, "test": 504}
    earlier = datasets.open("toy-sizes", trained=True)
    assert sizes(earlier) == {"train": 6, "val": 360, "test": 504}
    assert earlier.train_data == "val 0.5, 2 shots seed 0"


@pytest.fixture
def listed(tmp_path):
    """ImageNetR of two images per class, and a list with the first of each to train on. -> its words"""
    for label, index in enumerate(CLASSES_R):
        for image in range(2):
            put(tmp_path / "imagenet-r" / wnid(index) / f"art_{image}.jpg", label)
    put_json(tmp_path / "list.json", {"train": [[f"{wnid(index)}/art_0.jpg", 0, ""] for index in CLASSES_R]})
    return f"--iterations 1 --data-location {tmp_path} --split-file {tmp_path / 'list.json'}"


def test_a_split_file_splits_a_dataset_before_its_classes_are_split(listed, monkeypatch):
    """As datasets.md says of ImageNetR: every part has the images of its own classes. The list is read once."""
    read = []
    monkeypatch.setattr("src.datasets.splits.read_json", lambda path: read.append(path) or read_json(path))
    command = parse(f"--dataset-order ImageNetR/10 {listed}".split())
    assert not any("--split-file" in warning for warning in check(command).warnings)
    datasets = Datasets(data_of(command))
    parts = [datasets.open(f"ImageNetR-{part}of10") for part in range(1, 11)]
    for task in parts:
        assert {part: len(task.split(part)) for part in task.splits} == {"train": 20, "test": 20}
        assert sorted(task.split("train").labels) == sorted(task.split("test").labels) == [*range(20)]
        assert all(file.endswith("/art_0.jpg") for file in task.split("train").files)
        assert task.train_data == "split file list.json" and [*task.lists] == ["--split-file"]
    assert len({name for task in parts for name in task.classnames}) == len(read) * 200 == 200


def test_a_split_file_holds_for_every_part_of_its_dataset_and_for_no_other(listed):
    datasets = Datasets(data_of(parse(f"--train-dataset ImageNetR-1of10 {listed}".split())))
    assert len(datasets.open("ImageNetR-2of10").split("train")) == 20
    assert len(datasets.open("ImageNetR").split("test")) == 200
    assert datasets.open("toy-colours").lists == {} and datasets.open("toy-colours").train_data == "all"


def test_class_splits_are_opened_by_the_seed_of_the_run():
    from src.datasets import open_task
    for words, seed in (("", 42), ("--seed 5", 5)):
        found = Datasets(config(f"--train-dataset toy-colours-1of4 {words}")).open("toy-colours-1of4")
        assert found.classnames == open_task("toy-colours-1of4", "", seed).classnames
    assert len(open_task("toy-colours-1of4", "", 5).classnames) == 2
