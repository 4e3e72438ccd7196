"""The smoke benchmark's data: fixed, balanced, disjoint, spread as MTIL's, and from another generator than what the
reference set and the weights of toy-vit saw."""

import ast
from pathlib import Path

import numpy as np
import pytest

from src.datasets import DATASETS, mini, open_task
from src.datasets.mini_names import CLASSES
from src.templates.mini import TEMPLATES

FAST = ("mini-digits",)


def test_sizes_spread_as_far_as_in_mtil():
    """Over a factor of 30 in training images; MTIL's are 1020 to 87,003. 1,000 to 2,000 test images."""
    trained = [task.size(name, "train") for name, task in mini.TASKS.items()]
    assert len(trained) == 11 and max(trained) / min(trained) > 30
    for name, task in mini.TASKS.items():
        assert 1000 <= task.size(name, "test") <= 2000
        sizes = {split: task.size(name, split) for split in mini.SPLITS}
        assert DATASETS[name].sizes == sizes and DATASETS[name].classes == len(CLASSES[name])


def check_splits(name):
    seen = set()
    for split in mini.SPLITS:
        images, labels = mini.images(name, split), mini.labels(name, split)
        assert images.shape == (mini.TASKS[name].size(name, split), 32, 32, 3) and images.dtype == np.uint8
        counts = np.bincount(labels, minlength=len(CLASSES[name]))
        assert len(counts) == len(CLASSES[name]) and len(set(counts)) == 1 and labels != sorted(labels)
        pictures = {image.tobytes() for image in images}
        assert not pictures & seen
        seen |= pictures
    mini.images.cache_clear()
    assert np.array_equal(images, mini.images(name, split)) and labels == mini.labels(name, split)


@pytest.mark.parametrize("name", FAST)
def test_splits_are_balanced_fixed_and_disjoint(name):
    check_splits(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in mini.TASKS if name not in FAST])
def test_splits_of_the_other_tasks(name):
    check_splits(name)


def test_digits_are_the_digits_of_scikit_learn():
    """The middle of a picture is nearest to its own original, enlarged by the nearest pixel."""
    originals, digits = mini.digit_images()
    images, labels = mini.images("mini-digits", "val"), mini.labels("mini-digits", "val")
    for image, label in zip(images[:20], labels[:20], strict=True):
        distance = ((originals[..., 0].astype(float) - image[..., 0]) ** 2).mean(axis=(1, 2))
        assert digits[distance.argmin()] == label


def test_pictures_are_drawn_when_the_first_is_asked_for(monkeypatch):
    monkeypatch.setattr(mini, "DRAWN", {})
    mini.images.cache_clear()
    task = open_task("mini-sizes", "/nowhere")
    assert task.classnames == list(CLASSES["mini-sizes"]) and task.templates == TEMPLATES["mini-sizes"]
    assert task.split("val").labels == mini.labels("mini-sizes", "val")
    with pytest.raises(KeyError):
        task.split("val").image(0)
    monkeypatch.undo()
    assert np.array_equal(np.asarray(task.split("val").image(3)), mini.images("mini-sizes", "val")[3])


def test_the_reference_set_is_fixed_and_grows_at_its_end():
    task = open_task("mini-reference", "/nowhere")
    assert len(task.split("train")) == mini.REFERENCE_IMAGES and len(set(task.sentences)) == mini.REFERENCE_SENTENCES
    assert task.sentences[:20] == mini.reference_sentences(20)
    assert np.array_equal(mini.reference_images(30), mini.reference_images(30))


def test_tasks_and_reference_set_are_drawn_by_other_code():
    """No module that draws a task imports one that draws the wide world; of that, only names are shared."""
    folder = Path(mini.__file__).parent
    for name in ("mini_drawn", "mini_paint", "mini_polygons", "mini_glyphs", "mini_surfaces"):
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [module for module in imported if "toy" in module], name


def test_unknown_names_are_told():
    with pytest.raises(ValueError, match="mini-digits"):
        mini.images("mini-digit", "train")
    with pytest.raises(ValueError, match="train, val, test"):
        mini.labels("mini-digits", "dev")
