"""Where each dataset comes from: the table agrees with that of datasets, with datasets.md and with the readers."""

import re
from pathlib import Path

import pytest

from src.datasets import DATASETS, list_datasets
from src.datasets.sources import HUB, REFERENCE, SOURCES, TORCHVISION, WILDS, how_it_comes, size_text
from src.datasets.wilds import FOLDERS

DOCUMENT = (Path(__file__).parents[2] / "datasets.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (\w+) \|.*\| ([^|]+) \|$", DOCUMENT, re.MULTILINE))
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))


def test_each_dataset_on_a_disk_has_a_source():
    assert SOURCES.keys() == {name for name, entry in DATASETS.items() if entry.folder}


@pytest.mark.parametrize("name", SOURCES)
def test_who_downloads_it_has_the_code_for_it(name):
    entry, source = DATASETS[name], SOURCES[name]
    assert entry.downloads == (source.by == TORCHVISION) and bool(entry.fetch) == (source.by in (WILDS, HUB))
    assert (not source.by) == bool(source.files), "either a package downloads it, or there are files to get"
    assert source.gigabytes is not None or not source.by, "the size of what is downloaded is printed before"


@pytest.mark.parametrize("name", SOURCES)
def test_the_document_says_the_same(name):
    source, section = SOURCES[name], " ".join(SECTIONS[name].split())
    assert all(word in section or "archive" in section for word in (*source.files, source.origin))
    if name in ROWS:
        assert ROWS[name].startswith({"downloads": "downloads itself", "--fetch": "`--fetch`"}.get(
            how_it_comes(name), "by hand"))


def test_files_that_are_named_elsewhere():
    """The same archive as another dataset's: its section says so."""
    assert "archive" in SECTIONS["ImageNetVidRobust"] and "ILSVRC2012_img_train.tar" in SECTIONS["ImageNet"]


def test_folders_of_wilds_are_those_of_the_table():
    assert {name: folder for name, (_, folder) in FOLDERS.items()} == {
        name: DATASETS[name].folder for name, source in SOURCES.items() if source.by == WILDS}


def test_the_reference_set_downloads_itself_and_has_the_classes_of_imagenet():
    assert SOURCES[REFERENCE].by and DATASETS[REFERENCE].classes == DATASETS["ImageNet"].classes == 1000
    assert not DATASETS[REFERENCE].pairs and SOURCES[REFERENCE].gigabytes < 2


@pytest.mark.parametrize(("name", "text"), [("DTD", "0.64"), ("SUN397", "39.1"), ("YTBB", "not recorded")])
def test_sizes(name, text):
    assert size_text(name) == text


def test_the_list_says_how_each_comes(tmp_path):
    comes = {row[0]: row[-2] for row in list_datasets(tmp_path)}
    assert (comes["DTD"], comes["FMOW"], comes["ImageNetV2"], comes["ImageNet"], comes["toy-sizes"]) == (
        "downloads", "--fetch", "--fetch", "by hand", "drawn")
