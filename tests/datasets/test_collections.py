"""The collections of torchvision, from small copies in their true formats that torchvision's own classes read."""

import hashlib
import pickle
import urllib.error

import dataset_files
import numpy
import pytest
from PIL import Image
from scipy.io import savemat

from src.datasets import open_task
from src.datasets.transforms import to_tensor
from src.errors import UserError

PER_CLASS = {"train": 2, "val": 1, "test": 1}


def shade(label, index):
    """A 32 x 32 RGB image that tells its label by its red, its place by its green."""
    return numpy.full((32, 32, 3), (2 * label, index % 256, 128), dtype=numpy.uint8)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar(root, monkeypatch, name, folder, batches, key, classes):
    """``batches``: {file: number of images}; each a pickle as in the published archive."""
    from torchvision import datasets
    kind, place, names = getattr(datasets, name), root / folder, [f"class_{index}" for index in range(classes)]
    place.mkdir(parents=True)
    for file, number in batches.items():
        labels = [index % classes for index in range(number)]
        rows = numpy.stack([shade(label, index).transpose(2, 0, 1).ravel() for index, label in enumerate(labels)])
        (place / file).write_bytes(pickle.dumps({"data": rows, key: labels}))
    meta = kind.meta["filename"]
    (place / meta).write_bytes(pickle.dumps({kind.meta["key"]: names}))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(place / meta)})
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(kind, part, [[file, md5(place / file)] for file, _ in getattr(kind, part)])


def write_cifar10(root, monkeypatch):
    cifar(root, monkeypatch, "CIFAR10", "cifar-10-batches-py",
          {**{f"data_batch_{index}": 20 for index in range(1, 6)}, "test_batch": 30}, "labels", 10)
    return ["class " + str(index) for index in range(10)], {"train": 100, "test": 30}


def write_cifar100(root, monkeypatch):
    cifar(root, monkeypatch, "CIFAR100", "cifar-100-python", {"train": 200, "test": 100}, "fine_labels", 100)
    return ["class " + str(index) for index in range(100)], {"train": 200, "test": 100}


def write_mnist(root, monkeypatch):
    copy = dataset_files.write_mnist(root)
    return list(copy.names.values()), copy.sizes


def write_dtd(root, monkeypatch):
    folder, classes = root / "dtd" / "dtd", ["banded", "polka-dotted", *(f"texture_{index:02}" for index in range(45))]
    (folder / "labels").mkdir(parents=True)
    files = {part: [] for part in PER_CLASS}
    for label, name in enumerate(classes):
        (folder / "images" / name).mkdir(parents=True)
        for part, number in PER_CLASS.items():
            for index in range(number):
                file = f"{name}/{name}_{part}{index}.jpg"
                Image.fromarray(shade(label, index)).save(folder / "images" / file, quality=95)
                files[part].append(file)
    for part, names in files.items():
        (folder / "labels" / f"{part}1.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        (folder / "labels" / f"{part}2.txt").write_text(f"{names[0]}\n", encoding="utf-8")  # another partition
    return [name.replace("_", " ") for name in classes], {part: 47 * number for part, number in PER_CLASS.items()}


def write_flowers(root, monkeypatch):
    from torchvision.datasets import Flowers102
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    labels, ids = [], {part: [] for part in ("train", "val", "test")}
    for label in range(102):
        for part in ids:
            labels.append(label + 1)
            ids[part].append(len(labels))
            Image.fromarray(shade(label, 0)).save(folder / "jpg" / f"image_{len(labels):05}.jpg", quality=95)
    savemat(folder / "imagelabels.mat", {"labels": numpy.array([labels])})
    savemat(folder / "setid.mat", {"trnid": [ids["train"]], "valid": [ids["val"]], "tstid": [ids["test"]]})
    monkeypatch.setattr(Flowers102, "_file_dict", {**Flowers102._file_dict, **{
        key: (file, md5(folder / file)) for key, file in (("label", "imagelabels.mat"), ("setid", "setid.mat"))}})
    return None, dict.fromkeys(ids, 102)


WRITERS = {"CIFAR10": write_cifar10, "CIFAR100": write_cifar100, "MNIST": write_mnist, "DTD": write_dtd,
           "Flowers": write_flowers}
TEMPLATES = {  # number, the first, the last
    "CIFAR10": (18, "a photo of a {c}.", "a photo of the big {c}."),
    "CIFAR100": (18, "a photo of a {c}.", "a photo of the big {c}."),
    "DTD": (8, "a photo of a {c} texture.", "a photo of the {c} object."),
    "MNIST": (1, 'a photo of the number: "{c}".', 'a photo of the number: "{c}".'),
    "Flowers": (1, "a photo of a {c}, a type of flower.", "a photo of a {c}, a type of flower."),
}
CIFAR_TEMPLATES = """a photo of a {c}. / a blurry photo of a {c}. / a black and white photo of a {c}. /
a low contrast photo of a {c}. / a high contrast photo of a {c}. / a bad photo of a {c}. / a good photo of a {c}. /
a photo of a small {c}. / a photo of a big {c}. / a photo of the {c}. / a blurry photo of the {c}. /
a black and white photo of the {c}. / a low contrast photo of the {c}. / a high contrast photo of the {c}. /
a bad photo of the {c}. / a good photo of the {c}. / a photo of the small {c}. / a photo of the big {c}."""
DTD_TEMPLATES = """a photo of a {c} texture. / a photo of a {c} pattern. / a photo of a {c} thing. /
a photo of a {c} object. / a photo of the {c} texture. / a photo of the {c} pattern. / a photo of the {c} thing. /
a photo of the {c} object."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def unreachable(address, *_, **__):
        raise urllib.error.URLError("no network")
    monkeypatch.setattr("urllib.request.urlopen", unreachable)


@pytest.mark.parametrize("name", WRITERS)
def test_collection(tmp_path, monkeypatch, name):
    classnames, sizes = WRITERS[name](tmp_path, monkeypatch)
    task = open_task(name, str(tmp_path))
    assert task.name == name and classnames in (None, list(task.classnames))
    assert {part: len(task.split(part)) for part in task.splits} == sizes
    for part in sizes:
        split = task.split(part)
        assert set(split.labels) == set(range(len(task.classnames)))
        assert all(type(label) is int for label in split.labels)
        for index in (0, len(split) // 2, len(split) - 1):
            image = split.image(index)
            red = int(to_tensor(image)[0, 5, 5])
            expected = 20 * split.labels[index] if name == "MNIST" else 2 * split.labels[index]
            assert to_tensor(image).shape[0] == 3 and abs(red - expected) <= 3, "another image than the label says"


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(tmp_path, monkeypatch, name):
    WRITERS[name](tmp_path, monkeypatch)
    templates = list(open_task(name, str(tmp_path)).templates)
    assert (len(templates), templates[0], templates[-1]) == TEMPLATES[name]
    whole = {"CIFAR10": CIFAR_TEMPLATES, "CIFAR100": CIFAR_TEMPLATES, "DTD": DTD_TEMPLATES}.get(name)
    assert whole is None or templates == [" ".join(part.split()) for part in whole.split("/")]


def test_flower_names(tmp_path, monkeypatch):
    write_flowers(tmp_path, monkeypatch)
    task = open_task("Flowers", str(tmp_path))
    names = list(task.classnames)
    assert len(names) == len(set(names)) == 102
    assert (names[0], names[15], names[59], names[92], names[101]) == (
        "pink primrose", "globe-flower", "pink-yellow dahlia", "ball moss", "blackberry lily")
    assert task.prompts()[59] == "a photo of a pink-yellow dahlia, a type of flower."
    from torchvision.datasets import Flowers102
    published = getattr(Flowers102, "classes", names)
    changed = [index for index in range(102) if published[index] != names[index]]
    assert set(changed) <= {15, 59, 92}


def test_mnist_prompt(tmp_path, monkeypatch):
    write_mnist(tmp_path, monkeypatch)
    assert open_task("MNIST", str(tmp_path)).prompts()[3] == 'a photo of the number: "3 - three".'


@pytest.mark.parametrize(("name", "damage"), [
    ("CIFAR10", "cifar-10-batches-py/data_batch_3"), ("CIFAR100", "cifar-100-python/meta"),
    ("Flowers", "flowers-102/setid.mat"), ("DTD", "dtd/dtd/labels/val1.txt"),
    ("MNIST", "MNIST/raw/t10k-labels-idx1-ubyte")])
def test_a_missing_file_is_told_once(tmp_path, monkeypatch, name, damage):
    WRITERS[name](tmp_path, monkeypatch)
    (tmp_path / damage).unlink()
    with pytest.raises(UserError) as caught:
        open_task(name, str(tmp_path))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert all(fragment in message for fragment in (name, "--data-location", str(tmp_path), "datasets.md"))


def test_a_changed_pickle_is_not_executed(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    target = tmp_path / "executed"
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(
        b"cos\nsystem\n(S'touch " + str(target).encode() + b"'\ntR.")
    with pytest.raises(UserError):
        open_task("CIFAR10", str(tmp_path))
    assert not target.exists()
