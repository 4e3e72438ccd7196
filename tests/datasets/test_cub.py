"""CUB-200-2011: lists that do not agree, and PILOT's folders."""

import pytest
from dataset_files import label_of, put, put_text, write_cub

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


def both(folder):
    for part in ("train", "test"):
        put(folder / part / "001.A" / "1.jpg", 0)


@pytest.mark.parametrize(("damage", "fragment"), [
    (lambda folder: (folder / "classes.txt").unlink(), "there is no classes.txt"),
    (lambda folder: (folder / "images.txt").unlink(), "images.txt cannot be read"),
    (change("images.txt", "\n400 ", "\n401 "), "number other images"),
    (change("train_test_split.txt", "\n400 0", "\n400 2"), "image 400 has class 200, split 2"),
    (change("image_class_labels.txt", "\n400 200", "\n400 201"), "image 400 has class 201"),
    (both, "two ways")])
def test_lists_that_do_not_agree(tmp_path, damage, fragment):
    write_cub(tmp_path)
    damage(tmp_path / "CUB_200_2011")
    with pytest.raises(UserError) as caught:
        open_task("CUB200", str(tmp_path))
    assert fragment in str(caught.value) and str(tmp_path / "CUB_200_2011") in str(caught.value)


def write_folders(root):
    """PILOT's form: two images a class to train on, one to test."""
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


@pytest.mark.parametrize(("write", "order", "said"), [
    (write_cub, "pilot", "own split, not comparable"), (write_cub, "seed", "all"),
    (write_folders, "pilot", "train folder")])
def test_the_order_of_pilot_on_another_split_says_so(tmp_path, capsys, write, order, said):
    write(tmp_path)
    words = ["--dataset-order", "CUB200/10", "--epochs", "1", "--class-order", order, "--data-location", str(tmp_path)]
    task = Datasets(data_of(parse(words))).open("CUB200-3of10")
    assert task.train_data == said and len(task.classnames) == 20
    assert ("own split, not comparable" in capsys.readouterr().out) == (said != "all" and said != "train folder")
