"""Images of trials and of test runs: apart, or refused before anything starts."""

import os

import pytest
from cli_files import picture
from dataset_files import WRITERS

from src.args import parse
from src.cli.study import plan_of, read_study
from src.errors import UserError
from src.run.held_out import refuse_shared_images


def write(folder, *parts):
    for part in parts:
        for row, name in enumerate(("red", "blue")):
            for index in range(4):
                picture(folder / part / name / f"{index}.png", 0.3 * row, index)


@pytest.fixture
def check(tmp_path):
    """check(base, select) of a study in which DIR is the folder of the test."""
    def call(base, select=""):
        text = (f"base: {{iterations: 1, data-location: {tmp_path}/data, {base}}}\n"
                "axes: {method: [finetune], seed: [1]}\n"
                f"select: {{grid: {{lr: [1e-5, 1e-4]}}, seeds: [5], {select}}}")
        (tmp_path / "my.yaml").write_text(text.replace("DIR", str(tmp_path)), encoding="utf-8")
        plan, _ = plan_of(read_study(str(tmp_path / "my.yaml")), "out", parse)
        refuse_shared_images(plan.trials, plan.first)
    return call


def test_three_parts_are_apart(check, tmp_path, capsys):
    write(tmp_path / "data3", "train", "val", "test")
    check("dataset-order: 'folder:DIR/data3'")
    assert capsys.readouterr().err == ""


def test_val_that_serves_as_test_is_refused(check, tmp_path, capsys):
    write(tmp_path / "two", "train", "val")
    with pytest.raises(UserError, match="row finetune: 8 val images of folder:.*two are test images too, on which its "
                                        "test runs are scored; take val images from other data"):
        check("dataset-order: 'folder:DIR/two'")
    assert capsys.readouterr().out == "", "what opening says stands in the output of each run"


def test_val_of_the_training_data_is_apart(check, tmp_path):
    write(tmp_path / "two", "train", "val")
    check("dataset-order: 'folder:DIR/two'", "on: {val-fraction: 0.25}")


def test_other_data_are_apart_unless_their_files_are_the_same(check, tmp_path):
    write(tmp_path / "two", "train", "val")
    write(tmp_path / "other", "train", "val", "test")
    on = "on: {orders: {A: 'folder:DIR/%s'}}"
    check("dataset-order: 'folder:DIR/two'", on % "other")
    os.symlink(tmp_path / "two", tmp_path / "alias")
    with pytest.raises(UserError, match="8 val images of folder:.*alias are test images of folder:.*two too"):
        check("dataset-order: 'folder:DIR/two'", on % "alias")


def test_data_without_val(check, tmp_path):
    write(tmp_path / "two", "train", "test")
    with pytest.raises(UserError, match="row finetune: folder:.*two has no val split to choose on; it has train, test; "
                                        "hold out some .* images, with on: {val-fraction: 0.1}"):
        check("dataset-order: 'folder:DIR/two'")


def test_cells_that_are_scored_on_val(check):
    check("dataset-order: toy-colours")
    with pytest.raises(UserError, match="216 val images of toy-colours are val images too"):
        check("dataset-order: toy-colours, eval-split: val")
    check("dataset-order: toy-colours, eval-split: val", "on: {orders: {A: toy-sizes}}")


def test_data_that_are_not_there_are_left_to_their_runs(check):
    check("dataset-order: 'folder:DIR/nothing'")


@pytest.mark.parametrize(("flags", "warned"), [("", True), (", flickr-splits: train", False)])
def test_val_images_that_train_are_warned_of(flags, warned, check, tmp_path, capsys):
    WRITERS["flickr30k"](tmp_path / "data")
    check(f"dataset-order: flickr30k{flags}")
    text = "warning: select: row finetune: 1 val images of flickr30k are training images too\n"
    assert capsys.readouterr().err == (text if warned else "")
