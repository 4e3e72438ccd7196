"""FMOW and IWildCam: which images are in which split, class names from the metadata, damage."""

import sys

import pytest
from cli_files import rows
from dataset_files import errors_of, label_of, put_table, write_fmow, write_iwildcam

from src.datasets import open_task
from src.datasets.wilds import IWILDCAM_NAMES

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]

WRITE = {"FMOW": write_fmow, "IWildCam": write_iwildcam}


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize(("words", "part"), [((), "test"), (("--wilds-split", "ood"), "ood_test"),
                                             (("--eval-split", "val"), "val"),
                                             (("--wilds-split", "ood", "--eval-split", "val"), "ood_val")])
def test_the_split_that_is_scored(every_dataset, cli, world, tmp_path, name, words, part):
    done = cli("--load", world.model, "--eval-only", "--eval-datasets", name, "--data-location", every_dataset.root,
               "--save", tmp_path / "out", "--workers", 0, *words)
    assert done.status == 0, done.err
    row = rows(tmp_path / "out" / f"metrics_{name}.csv")[0]
    assert row["n"] == str(every_dataset.copies[name].sizes[part])


def test_sequestered_pictures_are_left_out(every_dataset):
    """Numbers of files count them, so that what follows them must not shift."""
    task = open_task("FMOW", str(every_dataset.root))
    files = [file for part in task.splits for file in task.split(part).files]
    assert len(files) == len(set(files)) == 92 and "images/rgb_img_0.png" not in files
    assert task.split("train").files[:2] == ["images/rgb_img_1.png", "images/rgb_img_2.png"]
    for part in task.splits:
        split = task.split(part)
        assert all(label_of(split.image(index)) == split.labels[index] for index in range(len(split)))


def test_species_that_no_image_shows_are_no_classes(every_dataset):
    names = open_task("IWildCam", str(every_dataset.root)).classnames
    assert len(names) == 182 and "unseen one" not in names
    assert names[:2] + names[-2:] == ["empty", "white-lipped peccary", "unknown dove", "central american red brocket"]


def test_species_have_their_english_names():
    """By y, as published; four of them stand for two species each, which stay two classes."""
    assert len(IWILDCAM_NAMES) == 182 and IWILDCAM_NAMES[66] == "leopard cat" and IWILDCAM_NAMES[81] == "dog"
    assert all(name == name.strip().lower() and name for name in IWILDCAM_NAMES)


METADATA = "iwildcam_v2.0/metadata.csv"
DAMAGE = {  # dataset, file, its content or None to remove it, what the message names
    "no version file": ("FMOW", "fmow_v1.1/RELEASE_v1.1.txt", None, "fmow"),
    "no metadata": ("FMOW", "fmow_v1.1/rgb_metadata.csv", None, "fmow_v1.1"),
    "no countries": ("FMOW", "fmow_v1.1/country_code_mapping.csv", None, "fmow_v1.1"),
    "other columns": ("FMOW", "fmow_v1.1/rgb_metadata.csv", "a,b\n1,2\n", "fmow_v1.1"),
    "empty metadata": ("FMOW", "fmow_v1.1/rgb_metadata.csv", "", "fmow_v1.1"),
    "no image": ("FMOW", "fmow_v1.1/images/rgb_img_76.png", None, "rgb_img_76.png"),
    "no species": ("IWildCam", "iwildcam_v2.0/categories.csv", None, "categories.csv"),
    "species without names": ("IWildCam", "iwildcam_v2.0/categories.csv", "y,id\n0,1\n", "categories.csv"),
    "a species that the release lacks": ("IWildCam", "iwildcam_v2.0/categories.csv", "y,name\n182,a\n", "species 182"),
    "too few species": ("IWildCam", "iwildcam_v2.0/categories.csv", "y,name\n0,a\n", "IWildCam"),
    "a split of its own": ("IWildCam", METADATA, "split,filename,y,location_remapped,sequence_remapped,datetime\n"
                           "mine,a.jpg,0,0,0,2013-05-01 10:20:30.000\n", "iwildcam_v2.0"),
    "labels with holes": ("IWildCam", METADATA, "split,filename,y,location_remapped,sequence_remapped,datetime\n"
                          "train,a.jpg,5,0,0,2013-05-01 10:20:30.000\n", "iwildcam_v2.0"),
    "no columns": ("IWildCam", METADATA, "a\n1\n", "iwildcam_v2.0"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told(tmp_path, cli, world, case):
    name, file, content, fragment = DAMAGE[case]
    WRITE[name](tmp_path)
    path = tmp_path / file
    assert path.exists()
    path.unlink() if content is None else path.write_text(content, encoding="utf-8")
    done = cli("--load", world.model, "--eval-only", "--eval-datasets", name, "--data-location", tmp_path,
               "--workers", 0)
    assert done.status == 2 and len(errors_of(done)) == 1, done.err
    assert fragment in done.err


def test_without_the_package(tmp_path, cli, world, monkeypatch):
    write_fmow(tmp_path)
    monkeypatch.setitem(sys.modules, "wilds", None)
    done = cli("--load", world.model, "--eval-only", "--eval-datasets", "FMOW", "--data-location", tmp_path)
    assert done.status == 2 and "pip install 'clip-continual[wilds]'" in done.err and len(done.err.splitlines()) == 1


def test_a_label_that_no_species_has(tmp_path, cli):
    write_iwildcam(tmp_path)
    species = [{"y": label, "name": f"s{label}"} for label in range(181)]
    put_table(tmp_path / "iwildcam_v2.0" / "categories.csv", species)
    done = cli("--check-data", "IWildCam", "--data-location", tmp_path)
    assert done.status == 1 and "181 classes, not 182" in done.out and "label 181, outside the 181 classes" in done.out
