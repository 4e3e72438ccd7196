"""The table of datasets: names, near misses, file names; nothing is opened that is not asked for."""

import subprocess
import sys

import pytest

from src.datasets import find_entry, open_task, stem
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
