"""The table of datasets: names, near misses, file names; nothing is opened that is not asked for."""

import subprocess
import sys

import pytest

from src.datasets import class_split, expand, find_entry, open_task, stem
from src.errors import UserError

SIZES = {  # classes, train, test
    "CIFAR10": (10, 50000, 10000), "CIFAR100": (100, 50000, 10000), "DTD": (47, 1880, 1880),
    "Flowers": (102, 1020, 6149), "MNIST": (10, 60000, 10000),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    entry = find_entry(name)
    assert (entry.classes, entry.sizes["train"], entry.sizes["test"]) == SIZES[name]
    assert entry.downloads


@pytest.mark.parametrize(("name", "fragments"), [
    ("cifar100", ["'cifar100'", "CIFAR100"]), ("DTDs", ["did you mean DTD"]), ("toy-color", ["toy-colours"]),
    ("xyzzy", ["'xyzzy'", "folder:PATH"]), ("", ["''"]), ("folders:/a", ["'folders:/a'", "folder:PATH"]),
    ("Folder:/a", ["folder:PATH"]),
])
def test_unknown_name(name, fragments):
    with pytest.raises(UserError) as caught:
        find_entry(name)
    assert all(fragment in str(caught.value) for fragment in fragments), caught.value


@pytest.mark.parametrize(("name", "expected"), [
    ("DTD", "DTD"), ("toy-new-shapes", "toy-new-shapes"), ("folder:/data/pets", "pets"), ("folder:pets/", "pets"),
    ("folder:/data/pets.v2", "pets.v2"),
])
def test_names_of_files(name, expected):
    assert stem(name) == expected


@pytest.mark.parametrize(("name", "expected"), [
    ("CIFAR100-3of10", ("CIFAR100", 3, 10)), ("toy-new-shapes-1of2", ("toy-new-shapes", 1, 2)),
    ("CIFAR100", ("CIFAR100", None, None)), ("pets-1of2", ("pets-1of2", None, None)),
    ("folder:/data/DTD-1of2", ("folder:/data/DTD-1of2", None, None)), ("CIFAR100-3of", ("CIFAR100-3of", None, None)),
    ("CIFAR100-10of10", ("CIFAR100", 10, 10)), ("CIFAR100-03of10", ("CIFAR100-03of10", None, None)),
])
def test_names_of_class_splits(name, expected):
    """Only the datasets of the table have some, each under one name; a folder of the user's may be called anything."""
    assert class_split(name) == expected
    assert stem(name) == name.rpartition("/")[2]


@pytest.mark.parametrize(("names", "expected"), [
    (("CIFAR100/3",), ("CIFAR100-1of3", "CIFAR100-2of3", "CIFAR100-3of3")),
    (("DTD", "toy-sizes/2", "MNIST"), ("DTD", "toy-sizes-1of2", "toy-sizes-2of2", "MNIST")),
    (("folder:/data/pets/2", "csv:a/3"), ("folder:/data/pets/2", "csv:a/3")), ((), ()), (("mtil-1",), ("mtil-1",)),
    (("toy-sizes/02",), ("toy-sizes-1of2", "toy-sizes-2of2")),
])
def test_names_are_written_out(names, expected):
    assert expand(names) == expected


@pytest.mark.parametrize("names", [("CIFAR100/1",), ("CIFAR100/0",), ("CIFAR100/",), ("CIFAR100/-2",), ("CIFAR100/x",),
                                   ("CIFAR100/2/2",), ("CIFAR100/2", "CIFAR100-2of2"), ("DTD/2", "DTD/2"),
                                   ("nothing/x",)])
def test_names_that_cannot_be_written_out(names):
    with pytest.raises(ValueError, match="class splits|twice"):
        expand(names)


@pytest.mark.parametrize("name", ["CIFAR100/101", "coco/2", "nothing/2", "CIFAR100/9999999999999"])
def test_more_splits_than_classes_are_refused_by_name(name):
    """However many there are to be."""
    with pytest.raises(UserError, match=f"{name.split('/')[0]}-1of{name.split('/')[1]}"):
        find_entry(expand((name,))[0])


def test_a_class_split_is_known_before_it_is_opened():
    assert find_entry("CIFAR100-10of10") is find_entry("CIFAR100")
    for name in ("CIFAR100-11of10", "CIFAR100-0of10", "CIFAR10-1of11", "coco-1of2"):
        with pytest.raises(UserError, match=f"{name}: .* no such split"):
            find_entry(name)


def test_a_class_split_opens_by_its_name():
    whole, half = open_task("toy-sizes", "/nowhere"), open_task("toy-sizes-2of2", "/nowhere", class_seed=3)
    assert half.name == "toy-sizes-2of2" and len(half.classnames) == 2 and set(half.classnames) < set(whole.classnames)


@pytest.mark.parametrize("name", ["folder:", "folder:.", "folder:/", "folder:..", "folder:a/.."])
def test_a_folder_without_a_name_cannot_name_files(name):
    """Its files would be called ".pth" and "log_.jsonl"."""
    try:
        assert stem(name).strip(".")
    except UserError as error:
        assert name in str(error)


def test_toy_tasks_open():
    task = open_task("toy-colours", "/nowhere")
    assert task.name == "toy-colours" and len(task.classnames) >= 2
    assert len(task.prompts()) == len(task.classnames) and task.classnames[0] in task.prompts()[0]
    assert {"train", "test"} <= set(task.splits) and len(task.split("test").labels) > 0
    assert set(task.split("train").labels) == set(range(len(task.classnames)))


def test_finding_opens_nothing():
    code = ("import sys\nfrom src.datasets import DATASETS, find_entry\n[find_entry(name) for name in DATASETS]\n"
            "find_entry('folder:/nowhere')\n"
            "print([name for name in sys.modules if name in ('torch', 'numpy', 'PIL', 'src.datasets.toy')])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_split_is_told():
    with pytest.raises(UserError, match="toy-reference has no nosuch split; it has train"):
        open_task("toy-reference", "/nowhere").split("nosuch")
