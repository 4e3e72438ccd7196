"""Every name of the table: a small copy in its real format opens, and its images, labels, names and prompts agree."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dataset_files import CALTECH, WRITERS, label_of, put, wnid, write_dtd

from src.datasets import DATASETS, list_datasets, open_task
from src.datasets.imagenet import CLASSES_A, CLASSES_R, class_names
from src.datasets.loading import evaluation_batches, training_batches
from src.datasets.transforms import EvalTransform, TrainTransform
from src.errors import UserError

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]

ROOT = Path(__file__).parents[2]
SIDE = 16
ON_DISK = [name for name in DATASETS if DATASETS[name].folder]
DOWNLOADS = [name for name in ON_DISK if DATASETS[name].downloads]
CAPTIONS = ["conceptual_captions", "coco", "flickr30k"]
CLASSES = [name for name in ON_DISK if name not in CAPTIONS]

# Number, the first one, and a hash of all joined by " / ", from the published lists.
IMAGENET = (80, "a photo of a {c}.", None)
CIFAR = (18, "a photo of a {c}.", "f1c8cf1918967b1d")
TEMPLATES = {
    "Aircraft": (2, "a photo of a {c}, a type of aircraft.", "e828ba1c71d9c8ba"),
    "Caltech101": (34, "a photo of a {c}.", "a3eec69b177b5737"),
    "CIFAR10": CIFAR, "CIFAR100": CIFAR,
    "DTD": (8, "a photo of a {c} texture.", "18fd4e26ad6f5a1d"),
    "EuroSAT": (3, "a centered satellite photo of {c}.", "b115949e238cb51d"),
    "Flowers": (1, "a photo of a {c}, a type of flower.", "15a4cd24ceee766a"),
    "Food": (1, "a photo of a {c}, a type of food.", "c29f4a05955652fb"),
    "MNIST": (1, 'a photo of the number: "{c}".', "1b9b98b6c7bf8e9d"),
    "OxfordPet": (1, "a photo of a {c}, a type of pet.", "ee5e9e3f42e3ca57"),
    "StanfordCars": (9, "a photo of a {c}, a type of car.", "0908c9ec65d0f603"),
    "SUN397": (2, "a photo of a {c}.", "8a9fec6de65b215c"),
    "CUB200": (1, "a photo of a {c}, a type of bird.", None), "TinyImageNet": (1, "a photo of a {c}.", None),
    "FMOW": (16, "satellite photo of a {c}.", "aac71f9167c8991d"),
    "IWildCam": (2, "a photo of {c}.", "9ccf00510b21d251"),
}
# Hashes of the published lists: joined by "; ", indices by " ".
NAMES = {"Caltech101": "0857e2d580220fe1", "EuroSAT": "f70d6f0263f41c2f", "YTBB": "cea898ddcba1358e",
         "FMOW": "7f05de87be616f48", "IWildCam": "778ae8e10d51374d"}
INDICES = {"ImageNetA": (CLASSES_A, "1b241a7a5dd97991"), "ImageNetR": (CLASSES_R, "becd1bb8e8059908")}


def digest(texts, joint):
    return hashlib.sha256(joint.join(texts).encode()).hexdigest()[:16]


@pytest.fixture
def opened(every_dataset, unverified, no_network):
    """opened(name) -> (its Task, what was written)"""
    return lambda name: (open_task(name, str(every_dataset.root)), every_dataset.copies[name])


def test_the_copies_are_those_of_the_table():
    assert set(WRITERS) == set(ON_DISK)
    drawn = {name for name in DATASETS if name.startswith(("toy-", "mini-"))}
    assert {name for name in DATASETS if name not in ON_DISK} == drawn
    assert len(DATASETS) == 53 and len(CLASSES) == 24


@pytest.mark.parametrize("name", DATASETS)
def test_it_opens(name, opened, tmp_path):
    if name in ON_DISK:
        task, copy = opened(name)
        sizes = copy.sizes
    else:
        task, sizes = open_task(name, str(tmp_path)), DATASETS[name].sizes or {"train": 2000}
    assert task.name == name and (DATASETS[name].classes or 0) == len(task.classnames)
    assert {part: len(task.split(part)) for part in task.splits} == sizes
    for part in task.splits:
        split = task.split(part)
        assert split.files is None or len(set(split.files)) == len(split)
        assert all(type(label) is int and 0 <= label < max(1, len(task.classnames)) for label in split.labels)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "MNIST"])
def test_labels_are_those_of_the_pictures(name, opened):
    task, copy = opened(name)
    for part in task.splits:
        split = task.split(part)
        step = 7 if len(split) > 900 else 1
        found = {index: label_of(split.image(index)) for index in range(0, len(split), step)}
        assert found == {index: split.labels[index] for index in found}


def test_digits_are_those_of_the_pictures(opened):
    task, _ = opened("MNIST")
    for part in ("train", "test"):
        split = task.split(part)
        assert [split.image(index).getpixel((9, 9)) for index in range(len(split))] == [
            (20 * label,) * 3 for label in split.labels]


@pytest.mark.parametrize("name", CLASSES)
def test_class_names(name, opened):
    task, copy = opened(name)
    assert {label: task.classnames[label] for label in copy.names} == copy.names
    assert not any("_" in label for label in task.classnames)
    assert name not in NAMES or digest(task.classnames, "; ") == NAMES[name]


@pytest.mark.parametrize("name", INDICES)
def test_shifts_have_some_of_imagenets_classes(name, opened):
    indices, published = INDICES[name]
    assert digest(map(str, indices), " ") == published
    task, _ = opened(name)
    assert task.classnames == [class_names()[index] for index in indices]
    assert [file.split("/")[0] for file in task.split("test").files] == [wnid(index) for index in indices]


def test_numbered_folders_sort_as_numbers(opened):
    files = opened("ImageNetV2")[0].split("test").files
    assert [int(file.split("/")[0]) for file in files] == list(range(1000))


def test_the_folder_of_clutter_is_no_class(opened):
    task, _ = opened("Caltech101")
    files = [file for part in task.splits for file in task.split(part).files]
    assert {file.split("/")[0] for file in files} == set(CALTECH)


@pytest.mark.parametrize("name", CLASSES)
def test_templates(name, opened):
    count, first, published = TEMPLATES.get(name, IMAGENET)
    task, _ = opened(name)
    assert (len(task.templates), task.templates[0]) == (count, first)
    assert published is None or digest(task.templates, " / ") == published
    assert all("{c}" in template for template in task.templates)
    assert task.prompts()[0] == first.replace("{c}", task.classnames[0])


def test_imagenets_templates_are_open_clips(opened):
    assert digest(sorted(opened("ImageNet")[0].templates), " / ") == "882533089a127a41"


@pytest.mark.parametrize("name", [*ON_DISK, "toy-digits", "toy-reference", "toy-other-reference"])
def test_batches(name, opened, tmp_path):
    task = opened(name)[0] if name in ON_DISK else open_task(name, str(tmp_path))
    split = task.reference_split
    for batch in (next(iter(evaluation_batches(split, EvalTransform(SIDE), 4))),
                  next(iter(training_batches(split, TrainTransform(SIDE), 4, 1, 0, 1)))):
        count = min(4, len(split))
        assert str(batch.images.dtype) == "torch.uint8" and tuple(batch.images.shape) == (count, 3, SIDE, SIDE)
        assert tuple(batch.labels.shape) == (count,) and batch.skipped == 0
        if name in CLASSES and name != "MNIST":  # one colour stays what it was, within what JPEG and bicubic change
            assert [label_of(image) for image in batch.images] == batch.labels.tolist()
            assert all(image[channel].int().max() - image[channel].int().min() <= 4
                       for image in batch.images for channel in range(3))


def test_nothing_is_imported_before_it_is_asked_for(every_dataset):
    """Those without torchvision do not even need torch."""
    root = str(every_dataset.root)
    code = ("import sys\nfrom src.datasets import DATASETS, list_datasets, open_task\n"
            "heavy = lambda: {'torch', 'torchvision', 'numpy', 'PIL', 'wilds', 'scipy', 'pandas'} & set(sys.modules)\n"
            f"list_datasets({root!r})\nassert not heavy()\n"
            "for name in ('coco', 'flickr30k', 'ObjectNet', 'ImageNetV2', 'ImageNetVidRobust'):\n"
            f"    open_task(name, {root!r})\nassert not heavy()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ON_DISK)
def test_only_two_need_the_package_wilds(name, opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "wilds", None)  # as if it were not installed
    if name not in ("FMOW", "IWildCam"):
        assert opened(name)[0].name == name
        return
    with pytest.raises((ImportError, UserError), match="wilds"):
        opened(name)


def test_list_tells_what_is_there(every_dataset, tmp_path):
    here = {row[0]: row[-1] for row in list_datasets(every_dataset.root)}
    assert here == {name: "yes" if name in ON_DISK else "embedded" for name in DATASETS}
    assert {row[-1] for row in list_datasets(tmp_path)} == {"no", "embedded"}


# -- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ON_DISK)
def test_a_missing_dataset_is_told(name, tmp_path, cli, world, no_network):
    root = tmp_path / "nothing"
    done = cli("--load", world.model, "--eval-only", "--eval-datasets", name, "--data-location", root, "--save",
               tmp_path / "out", "--workers", 0)
    assert done.status == 2 and len(done.err.splitlines()) == 1, done.err
    path = DATASETS[name].folder if DATASETS[name].folder not in ("fmow_v1.1", "iwildcam_v2.0") else name.lower()
    assert f"{root}/{path}" in done.err and f"--data-location {root}" in done.err
    section = re.search(r"see section (\S+) of datasets.md", done.err)[1]
    assert section == name
    assert re.search(f"^## {name}$", (ROOT / "datasets.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert not root.exists() or not list(root.rglob("*"))
    assert not (tmp_path / "out").exists()


def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(url, download_root, **_):
        put(Path(download_root) / "dtd" / "images" / "banded" / "1.jpg", 0)
        raise KeyboardInterrupt
    monkeypatch.setattr("torchvision.datasets.dtd.download_and_extract_archive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_task("DTD", str(tmp_path / "data"))
    assert list((tmp_path / "data").iterdir()) == []


def test_a_whole_download_takes_its_place(tmp_path, monkeypatch):
    def download(url, download_root, **_):
        assert not (tmp_path / "data" / "dtd").exists()  # beside its place, not in it
        write_dtd(Path(download_root).parent)
    monkeypatch.setattr("torchvision.datasets.dtd.download_and_extract_archive", download)
    assert len(open_task("DTD", str(tmp_path / "data")).split("train")) == 47
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["dtd"]


def test_a_download_that_fails_its_hash_leaves_nothing(tmp_path, monkeypatch):
    def download(url, root, *_, **__):
        put(Path(root) / "food-101.tar.gz", 0)
        raise RuntimeError("File not found or corrupted.")
    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    with pytest.raises(UserError, match="Food: .*food-101 .* could not be downloaded .*corrupted"):
        open_task("Food", str(tmp_path / "data"))
    assert list((tmp_path / "data").iterdir()) == []
