"""CUB-200-2011: lists that do not agree, and PILOT's folders."""

import pytest
from dataset_files import label_of, put, put_text, write_cub, write_imagenet_r

from src.args import parse
from src.datasets import open_task
from src.errors import UserError
from src.run.build import data_of
from src.run.datasets import Datasets


def change(name, old, new):
    def apply(folder):
        text = (folder / name).read_text(encoding="utf-8")
        assert text.count(old) == 1
        put_text(folder / name, text.replace(old, new))
    return apply


def append(name, line):
    def apply(folder):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    return apply


def image_twice(folder):
    """One image under two numbers: in train as class 1, in test as class 2."""
    first = (folder / "images.txt").read_text(encoding="utf-8").splitlines()[0].partition(" ")[2]
    for name, value in (("images", first), ("image_class_labels", "2"), ("train_test_split", "0")):
        append(f"{name}.txt", f"401 {value}")(folder)


def both(folder):
    for part in ("train", "test"):
        put(folder / part / "001.A" / "1.jpg", 0)


@pytest.mark.parametrize(("damage", "fragment"), [
    (lambda folder: (folder / "classes.txt").unlink(), "classes.txt cannot be read"),
    (lambda folder: (folder / "images.txt").unlink(), "images.txt cannot be read"),
    (change("images.txt", "\n400 ", "\n401 "), "number other images"),
    (change("train_test_split.txt", "\n400 0", "\n400 2"), "image 400 has class 200, split 2"),
    (change("image_class_labels.txt", "\n400 200", "\n400 201"), "image 400 has class 201"),
    (append("image_class_labels.txt", "1 2"), "image_class_labels.txt has 1 twice"),
    (append("classes.txt", "201 201.Dodo"), "has 201 classes, where 200 are expected"),
    (image_twice, "twice in images.txt"),
    (both, "two ways")])
def test_lists_that_do_not_agree(tmp_path, damage, fragment):
    write_cub(tmp_path)
    damage(tmp_path / "CUB_200_2011")
    with pytest.raises(UserError) as caught:
        open_task("CUB200", str(tmp_path))
    assert fragment in str(caught.value) and str(tmp_path / "CUB_200_2011") in str(caught.value)


def write_folders(root):
    """PILOT's form: two images per class to train on, one to test."""
    for part, number in (("train", 2), ("test", 1)):
        for label in range(200):
            for index in range(number):
                put(root / "CUB_200_2011" / part / f"{label + 1:03}.Bird_{label}" / f"{part}_{index}.jpg", label)


def test_the_folders_of_pilot(tmp_path):
    write_folders(tmp_path)
    task = open_task("CUB200", str(tmp_path))
    assert task.classnames[:2] == ["Bird 0", "Bird 1"] and task.train_data == "train folder"
    assert (len(task.split("train")), len(task.split("test"))) == (400, 200)
    assert all(label_of(task.split("test").image(label)) == label for label in range(0, 200, 40))
    (tmp_path / "CUB_200_2011" / "test" / "003.Bird_2").rename(tmp_path / "CUB_200_2011" / "test" / "003.Other")
    with pytest.raises(UserError, match="the same 200 are expected in train/ and test/"):
        open_task("CUB200", str(tmp_path))


@pytest.mark.parametrize(("write", "order", "train_data", "notes"), [
    (write_cub, "pilot", "own split, not comparable", 1), (write_cub, "seed", "all", 0),
    (write_folders, "pilot", "train folder", 0)])
def test_the_order_of_pilot_on_another_split_prints_one_note(tmp_path, capsys, write, order, train_data, notes):
    write(tmp_path)
    words = ["--dataset-order", "CUB200/10", "--epochs", "1", "--class-order", order, "--data-location", str(tmp_path)]
    datasets = Datasets(data_of(parse(words)))
    for part in (3, 4):
        task = datasets.open(f"CUB200-{part}of10")
        assert task.train_data == train_data and len(task.classnames) == 20
    assert capsys.readouterr().out.count("own split, not comparable") == notes


def test_imagenet_r_gets_no_note_on_the_lists_of_an_archive(tmp_path, capsys):
    """It has no such lists: without PILOT's folders it has test images only."""
    write_imagenet_r(tmp_path)
    words = ["--dataset-order", "ImageNetR/10", "--epochs", "1", "--class-order", "pilot", "--data-location",
             str(tmp_path)]
    with pytest.raises(UserError, match="has no train split"):
        Datasets(data_of(parse(words))).open("ImageNetR-1of10").split("train")
    assert capsys.readouterr().out == ""
