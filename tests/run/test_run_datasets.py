"""The datasets of a run: opened once, as the flags ask for."""

import pytest

from src.args import parse
from src.errors import UserError
from src.run.build import data_of
from src.run.datasets import Datasets

pytest_plugins = ["cli_fixtures"]


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


def test_class_splits_are_opened_by_the_seed_of_the_run():
    from src.datasets import open_task
    for words, seed in (("", 42), ("--seed 5", 5)):
        found = Datasets(config(f"--train-dataset toy-colours-1of4 {words}")).open("toy-colours-1of4")
        assert found.classnames == open_task("toy-colours-1of4", "", seed).classnames
    assert len(open_task("toy-colours-1of4", "", 5).classnames) == 2
