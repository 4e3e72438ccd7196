"""ObjectNet: the classes that ImageNet has too, by the shipped mappings, without the red border."""

import json

import pytest
from dataset_files import SIDE, colour, errors_of, write_objectnet

from src.datasets import open_task
from src.errors import UserError

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]


def test_the_border_is_cut(every_dataset):
    split = open_task("ObjectNet", str(every_dataset.root)).split("test")
    for index in (0, 60, 112):
        image = split.image(index)
        assert image.mode == "RGB" and image.size == (SIDE - 4, SIDE - 6)
        assert image.getcolors() == [(image.width * image.height, colour(split.labels[index]))]


def test_folders_that_imagenet_lacks_are_left_out(every_dataset):
    split = open_task("ObjectNet", str(every_dataset.root)).split("test")
    assert len(split) == 113 and not any("other" in file for file in split.files)
    assert [file.split("/")[0] for file in split.files[:3]] == ["alarm_clock", "backpack", "t-shirt"]


@pytest.mark.parametrize(("file", "content", "fragment"), [
    ("mappings/folder_to_objectnet_label.json", None, "folder_to_objectnet_label.json"),
    ("mappings/folder_to_objectnet_label.json", "{", "folder_to_objectnet_label.json"),
    ("mappings/folder_to_objectnet_label.json", "[]", "folder_to_objectnet_label.json"),
    ("mappings/objectnet_to_imagenet_1k.json", b"\xff", "objectnet_to_imagenet_1k.json"),
    ("mappings/objectnet_to_imagenet_1k.json", "{}", "ObjectNet"),
    ("images/backpack/0a1b.png", b"", "0a1b.png"),
])
def test_damage_is_told(tmp_path, cli, world, file, content, fragment):
    write_objectnet(tmp_path)
    path = tmp_path / "objectnet-1.0" / file
    path.unlink() if content is None else path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = cli("--load", world.model, "--eval-only", "--eval-datasets", "ObjectNet", "--data-location", tmp_path,
               "--workers", 0)
    assert done.status == 2 and len(errors_of(done)) == 1, done.err
    assert fragment in done.err


def test_a_class_folder_that_is_not_there(tmp_path):
    write_objectnet(tmp_path)
    (tmp_path / "objectnet-1.0" / "images" / "t-shirt").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="ObjectNet is not at .*images/t-shirt .*section ObjectNet of datasets.md"):
        open_task("ObjectNet", str(tmp_path))


def test_other_mappings_give_another_number_of_classes(tmp_path, cli):
    """--check-data tells that it is not the published overlap."""
    write_objectnet(tmp_path)
    path = tmp_path / "objectnet-1.0" / "mappings" / "objectnet_to_imagenet_1k.json"
    shared = json.loads(path.read_text(encoding="utf-8"))
    shared.pop("Backpack")
    path.write_text(json.dumps(shared), encoding="utf-8")
    done = cli("--check-data", "ObjectNet", "--data-location", tmp_path)
    assert done.status == 1 and "112 classes, not 113" in done.out
