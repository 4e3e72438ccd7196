"""Tiny ImageNet: the order of its classes, and what is missing or does not agree."""

import pytest
from dataset_files import put_text, write_tiny_imagenet

from src.datasets import open_task
from src.errors import UserError


def edit(name, old, new):
    def apply(folder):
        text = (folder / name).read_text(encoding="utf-8")
        put_text(folder / name, text.replace(old, new, 1))
    return apply


def test_classes_are_numbered_as_wnids_txt_has_them(tmp_path):
    """Not by the order of the folders: the published orders of classes count so."""
    write_tiny_imagenet(tmp_path)
    task = open_task("TinyImageNet", str(tmp_path))
    wnids = (tmp_path / "tiny-imagenet-200" / "wnids.txt").read_text(encoding="utf-8").split()
    assert wnids != sorted(wnids)
    assert [file.split("/")[1] for file in task.split("train").files] == wnids
    assert task.classnames[:2] == ["thing 0", "thing 1"], "the first of the words"


@pytest.mark.parametrize(("damage", "fragment"), [
    (lambda folder: (folder / "wnids.txt").unlink(), "wnids.txt cannot be read"),
    (lambda folder: (folder / "val" / "val_annotations.txt").unlink(), "val_annotations.txt cannot be read"),
    (edit("wnids.txt", "n0144", "n0944"), "has no name for n0944"),
    (edit("val/val_annotations.txt", "n0144", "n0944"), "has the line"),
    (edit("val/val_annotations.txt", "\t", " "), "has the line"),
    (lambda folder: (folder / "train" / "n01440000").rename(folder / "train" / "other"), "images is missing")])
def test_what_does_not_agree(tmp_path, damage, fragment):
    write_tiny_imagenet(tmp_path)
    damage(tmp_path / "tiny-imagenet-200")
    with pytest.raises(UserError) as caught:
        open_task("TinyImageNet", str(tmp_path))
    assert fragment in str(caught.value) and "see section TinyImageNet of datasets.md" in str(caught.value)
