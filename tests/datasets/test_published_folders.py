"""ImageNet-R with a training part: PILOT's folders, or a list."""

import json

import pytest
from dataset_files import label_of, put, wnid, write_imagenet_r

from src.datasets import open_task
from src.datasets.imagenet import CLASSES_R
from src.datasets.splits import with_split_file
from src.errors import UserError


def test_imagenet_r_in_two_folders(tmp_path):
    for part, number in (("train", 2), ("test", 1)):
        for label, index in enumerate(CLASSES_R):
            for image in range(number):
                put(tmp_path / "imagenet-r" / part / wnid(index) / f"art_{image}.jpg", label)
    task = open_task("ImageNetR", str(tmp_path))
    assert {part: len(task.split(part)) for part in task.splits} == {"train": 400, "test": 200}
    assert task.train_data == "train folder" and len(task.classnames) == 200 and len(task.templates) == 80
    assert label_of(task.split("train").image(399)) == 199


def test_imagenet_r_by_a_list(tmp_path):
    """What the list has to train on is no longer test."""
    write_imagenet_r(tmp_path)
    task = open_task("ImageNetR", str(tmp_path))
    with pytest.raises(UserError, match="has no train split; it has test; --split-file FILE can list another"):
        task.split("train")
    files = task.split("test").files
    listed = [f"imagenet-r/{file}" for file in files[:150]]
    (tmp_path / "list.json").write_text(json.dumps({"train": [[file.partition("/")[2], 0, ""] for file in listed]}),
                                        encoding="utf-8")
    found = with_split_file(task, tmp_path / "list.json")
    assert found.split("train").files == files[:150] and found.split("test").files == files[150:]
    assert list(found.split("train").labels) == list(range(150))
