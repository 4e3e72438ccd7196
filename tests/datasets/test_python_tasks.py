"""Tasks of Python: images and labels of datasets of torch, whatever form they come in, and of folders."""

import numpy as np
import pytest
import torch
from cli_files import COLOURS, write_pictures
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from src.datasets import open_task
from src.datasets.python_tasks import Task
from src.errors import UserError
from src.templates.collections import SIMPLE

NAMES = ["cat", "dog"]
RED = (200, 10, 20)


def red(size=(5, 4)):
    return Image.new("RGB", size, RED)


class Listed(list):
    """Items that count how often they are read, beside ``targets``."""

    def __init__(self, items, targets):
        super().__init__(items)
        self.targets, self.read = targets, []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


@pytest.mark.parametrize("image", [
    red(), red().convert("RGBA"), np.asarray(red()), torch.from_numpy(np.array(red())).permute(2, 0, 1),
    torch.from_numpy(np.array(red())).permute(2, 0, 1) / 255], ids=["PIL", "alpha", "array", "bytes", "floats"])
def test_an_image_comes_in_many_forms(image):
    task = Task.from_dataset([(image, 1)], NAMES, test=[(image, 0)])
    for part, label in (("train", 1), ("test", 0)):
        split = task.split(part)
        found = split.image(0)
        pixels = np.asarray(found) if isinstance(found, Image.Image) else found.permute(1, 2, 0).numpy()
        assert pixels.dtype == np.uint8 and pixels.shape == (4, 5, 3) and (pixels == RED).all()
        assert split.labels == [label]


@pytest.mark.parametrize("image", [red().convert("L"), np.asarray(red().convert("L")),
                                   torch.from_numpy(np.array(red().convert("L")))[None]])
def test_grey_is_of_three_channels(image):
    found = Task.from_dataset([(image, 0)], NAMES).split("train").image(0)
    pixels = np.asarray(found) if isinstance(found, Image.Image) else found.permute(1, 2, 0).numpy()
    assert pixels.shape == (4, 5, 3) and (pixels == np.array(red().convert("L"))[0, 0]).all()


@pytest.mark.parametrize(("image", "expected"), [
    (Image.fromarray(np.full((4, 5), 30_000, np.uint16)), 117),
    (Image.fromarray(np.full((4, 5), 0.5, np.float32)), 128),
    (Image.new("RGBA", (5, 4), (0, 0, 0, 0)), 255)], ids=["16 bits", "floats", "transparent"])
def test_a_picture_has_the_pixels_that_a_file_of_it_has(image, expected):
    """Pillow alone clips what is deeper than 8 bits, and shows what lies under transparency."""
    assert (np.asarray(Task.from_dataset([(image, 0)], NAMES).split("train").image(0)) == expected).all()


def test_a_picture_whose_white_nothing_tells_is_refused():
    image = Image.fromarray(np.full((4, 5), -3, np.float32))
    with pytest.raises(UserError, match="mine, train: item 0 cannot be decoded .its numbers run from -3"):
        Task.from_dataset([(image, 0)], NAMES).split("train").image(0)


@pytest.mark.parametrize(("image", "message"), [
    (torch.randn(3, 4, 5) * 3, "leave Normalize out|Leave Normalize out"), ("cat.jpg", "is str"),
    (torch.zeros(3, 4, 5, dtype=torch.int64) + 300, "values from 300 to 300"), (np.zeros((4, 5, 3)), "float64"),
    (torch.zeros(4, 5), r"torch.float32 \(4, 5\)")])
def test_what_is_no_image(image, message):
    with pytest.raises(UserError, match=message):
        Task.from_dataset([(image, 0)], NAMES).split("train").image(0)


def test_labels_that_are_listed_are_not_read_and_are_compared():
    items = [(red(), index % 2) for index in range(10)]
    data = Listed(items, [index % 2 for index in range(10)])
    task = Task.from_dataset(data, NAMES, test=items)
    assert sorted(set(data.read)) == [0, 9] and task.split("train").labels == data.targets
    data[3:4] = [(red(), 0)]
    with pytest.raises(UserError, match="item 3 has label 0, but the dataset lists 1"):
        task.split("train").image(3)


def test_a_list_that_is_not_of_the_labels_is_left_alone():
    items = [(red(), 1), (red(), 0)]
    assert Task.from_dataset(Listed(items, [0, 1]), NAMES, test=items).split("train").labels == [1, 0]
    assert Task.from_dataset(Listed(items, [1]), NAMES, test=items).split("train").labels == [1, 0]
    changed = Listed([(red(), 1), (red(), 0), (red(), 1)], [1, 1, 1])
    changed.target_transform = lambda label: label
    assert Task.from_dataset(changed, NAMES, test=items).split("train").labels == [1, 0, 1]


def test_parts_of_datasets():
    one, other = (Listed([(red(), label)] * 4, torch.tensor([label] * 4)) for label in (0, 1))
    joined = ConcatDataset([one, Subset(other, [0, 2])])
    assert Task.from_dataset(joined, NAMES, test=one).split("train").labels == [0] * 4 + [1] * 2
    assert sorted(set(one.read)) == [0, 3]
    assert Task.from_dataset(ConcatDataset([one, [(red(), 1)]]), NAMES, test=one).split("train").labels == [0] * 4 + [1]


def test_datasets_of_torch(tmp_path):
    tensors = TensorDataset(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))
    assert Task.from_dataset(tensors, NAMES, test=tensors).split("train").labels == [0, 1]
    write_pictures(tmp_path / "colours", COLOURS, 2)
    folder = ImageFolder(tmp_path / "colours")
    task = Task.from_dataset(Subset(folder, [0, 2, 4]), test=folder)
    assert task.classnames == tuple(sorted(COLOURS)) and task.split("train").labels == [0, 1, 2]


def test_without_a_test_part_some_of_each_class_are_held_out():
    data = [(red(), index % 2) for index in range(20)]
    task = Task.from_dataset(data, NAMES)
    assert [len(task.split(part)) for part in ("train", "test")] == [16, 4]
    assert sorted(task.split("test").labels) == [0, 0, 1, 1] and "holding out 4 of 20 images" in task.announced
    again = Task.from_dataset(data, NAMES)
    assert again.split("train").labels == task.split("train").labels
    alone = Task.from_dataset(data[:2], NAMES)
    assert list(alone.splits) == ["train"] and "nothing is held out" in alone.announced
    assert list(Task.from_dataset(None, NAMES, test=data).splits) == ["test"]


@pytest.mark.parametrize(("arguments", "options", "message"), [
    ([[(red(), 0)]], {}, "no attribute `classes`"), ([[(red(), 0)], "cat"], {}, "expected a list of texts"),
    ([[(red(), 0)], ["cat", 1]], {}, "expected a list of texts"), ([[(red(), 2)], NAMES], {}, "label 2 is outside"),
    ([[(red(), -1)], NAMES], {}, "label -1 is outside"), ([[(red(), 0.5)], NAMES], {}, "label 0.5, not a whole number"),
    ([[(red(), True)], NAMES], {}, "label True"), ([[{"image": 1}], NAMES], {}, "item 0 is dict"),
    ([[], NAMES], {}, "has no items"), ([None, NAMES], {}, "mine: has no dataset"),
    ([iter([]), NAMES], {}, "has no length"),
    ([[(red(), 0)], NAMES], {"templates": "a photo of {}"}, r"lacks \{c\}"),
    ([[(red(), 0)], NAMES], {"name": "a/b"}, "only have letters"), ([[(red(), 0)], NAMES], {"name": "a,b"}, "letters")])
def test_what_is_refused(arguments, options, message):
    with pytest.raises(UserError, match=message):
        Task.from_dataset(*arguments, **options)


def test_templates():
    data = [(red(), 0)]
    assert Task.from_dataset(data, NAMES).templates is SIMPLE
    assert Task.from_dataset(data, NAMES, templates="a sketch of a {c}.").templates == ["a sketch of a {c}."]


def test_a_folder_is_the_task_of_its_name(tmp_path):
    write_pictures(tmp_path / "colours", COLOURS, 5)
    plain = open_task(f"folder:{tmp_path / 'colours'}", tmp_path)
    task = Task.from_folder(tmp_path / "colours", data_location=tmp_path)
    assert (task.name, task.classnames, task.place) == (plain.name, plain.classnames, plain.place)
    assert task.split("train").files == plain.split("train").files and "holding out 3 of 15" in task.announced
    other = Task.from_folder(tmp_path / "colours", classnames=["b", "g", "r"], templates="{c}", name="mine",
                             data_location=tmp_path)
    assert (other.name, other.classnames, other.templates) == ("mine", ("b", "g", "r"), ["{c}"])
    with pytest.raises(UserError, match="2 names, and .* has 3 classes: blue"):
        Task.from_folder(tmp_path / "colours", classnames=NAMES, data_location=tmp_path)
