"""``folder:PATH``: the user's own pictures."""

import pytest
from cli_files import COLOURS, picture, write_pictures

from src.datasets import open_task
from src.errors import UserError
from src.templates.collections import SIMPLE

pytest_plugins = ["cli_fixtures"]

SEPARATE = {"red_disc": 0.0, "green": 0.33, "a_b_c": 0.66}


def opened(path, root):
    return open_task(f"folder:{path}", str(root))


def hue(image):
    red, green, blue = image.resize((1, 1)).getpixel((0, 0))
    return max((("red", red), ("green", green), ("blue", blue)), key=lambda pair: pair[1])[0]


def pixels(split):
    return [split.image(index).tobytes() for index in range(len(split))]


def test_with_train_and_test(tmp_path, capsys):
    write_pictures(tmp_path / "pets" / "train", SEPARATE, 3)
    write_pictures(tmp_path / "pets" / "test", SEPARATE, 2)
    task = opened(tmp_path / "pets", tmp_path)
    assert task.name == "pets" and task.templates == SIMPLE and not task.sentences
    assert list(task.classnames) == ["a b c", "green", "red disc"]  # in the order of the sorted folders
    assert task.prompts()[2] == "a photo of a red disc."
    assert list(task.split("train").labels) == [0] * 3 + [1] * 3 + [2] * 3
    assert list(task.split("test").labels) == [0, 0, 1, 1, 2, 2]
    assert [hue(task.split("test").image(index)) for index in range(6)] == [*["blue"] * 2, *["green"] * 2, *["red"] * 2]
    assert set(task.splits) == {"train", "test"} and capsys.readouterr().out == ""


def test_with_val(tmp_path):
    for part, number in (("train", 3), ("val", 1), ("test", 2)):
        write_pictures(tmp_path / part, SEPARATE, number)
    assert {part: len(opened(tmp_path, tmp_path).split(part)) for part in ("train", "val", "test")} == {
        "train": 9, "val": 3, "test": 6}


@pytest.mark.parametrize("below", [".", "train"])
def test_without_a_test_part_a_fifth_of_each_class_is_it(tmp_path, capsys, below):
    write_pictures(tmp_path / "pets" / below, COLOURS, 10)
    first = opened(tmp_path / "pets", tmp_path / "one")
    assert "20 %" in capsys.readouterr().out
    train, test = first.split("train"), first.split("test")
    assert sorted(train.labels) == [0] * 8 + [1] * 8 + [2] * 8 and sorted(test.labels) == [0, 0, 1, 1, 2, 2]
    assert not set(pixels(train)) & set(pixels(test))
    assert len(set(pixels(train)) | set(pixels(test))) == 30
    again = opened(tmp_path / "pets", tmp_path / "two")  # drawn anew under another root: the same
    assert pixels(again.split("test")) == pixels(test) and pixels(again.split("train")) == pixels(train)


@pytest.mark.parametrize(("count", "train"), [(2, 1), (3, 2), (4, 3), (5, 4), (12, 10)])
def test_small_classes_have_something_in_both(tmp_path, count, train):
    write_pictures(tmp_path / "pets", {"one": 0.0, "two": 0.5}, count)
    task = opened(tmp_path / "pets", tmp_path)
    assert list(task.split("train").labels).count(0) == train
    assert list(task.split("test").labels).count(1) == count - train


def test_pictures_in_deeper_folders_and_other_files(tmp_path):
    picture(tmp_path / "train" / "cat" / "deep" / "er" / "1.PNG", 0.0, 0)
    picture(tmp_path / "train" / "cat" / "2.png", 0.0, 1)
    picture(tmp_path / "test" / "cat" / "3.png", 0.0, 2)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("x", encoding="utf-8")
    (tmp_path / "train" / "notes.txt").write_text("x", encoding="utf-8")
    assert len(opened(tmp_path, tmp_path).split("train")) == 2


def test_images_become_rgb(tmp_path):
    from PIL import Image
    for part in ("train", "test"):
        for mode in ("L", "P", "RGBA", "CMYK", "1"):
            (tmp_path / part / mode).mkdir(parents=True)
            Image.new(mode, (4, 4)).save(tmp_path / part / mode / ("x.jpg" if mode == "CMYK" else "x.png"))
    split = opened(tmp_path, tmp_path).split("train")
    assert {split.image(index).mode for index in range(len(split))} == {"RGB"}


def test_an_undecodable_file_is_named(tmp_path):
    write_pictures(tmp_path / "train", COLOURS, 1)
    write_pictures(tmp_path / "test", COLOURS, 1)
    (tmp_path / "test" / "green" / "0.png").write_bytes(b"no picture")
    split = opened(tmp_path, tmp_path).split("test")
    split.image(0)
    with pytest.raises(UserError, match="test/green/0.png cannot be decoded .*; repair or remove it"):
        split.image(1)


def test_a_cut_file_is_named(tmp_path):
    write_pictures(tmp_path / "train", COLOURS, 1)
    write_pictures(tmp_path / "test", COLOURS, 1)
    whole = (tmp_path / "test" / "blue" / "0.png").read_bytes()
    (tmp_path / "test" / "blue" / "0.png").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError, match="test/blue/0.png cannot be decoded"):
        opened(tmp_path, tmp_path).split("test").image(0)


@pytest.mark.parametrize(("make", "fragments"), [
    ([], ["class folders"]),
    (["test/a/1.png"], ["test", "no train"]),
    (["train/a/1.png", "train/b/", "test/a/1.png", "test/b/2.png"], None),  # a class without a picture
    (["train/a/1.png", "train/b/1.png", "test/a/1.png"], None),             # a class that is not tested
])
def test_faulty_folders(tmp_path, make, fragments, cli):
    for name in make:
        if name.endswith("/"):
            (tmp_path / "pets" / name).mkdir(parents=True)
        else:
            picture(tmp_path / "pets" / name, 0.0, 0)
    (tmp_path / "pets").mkdir(exist_ok=True)
    done = cli("--train-dataset", f"folder:{tmp_path / 'pets'}", "--iterations", 1, "--init", "scratch", "--model",
               "tiny-vit", "--save", tmp_path / "out", "--data-location", tmp_path, "--workers", 0)
    assert done.status == 2 and len(done.err.splitlines()) == 1
    assert all(fragment in done.err for fragment in fragments or ["pets"]), done.err
    assert not (tmp_path / "out").exists()


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_pictures(tmp_path / "pets" / "train", COLOURS, 1)
    write_pictures(tmp_path / "pets" / "test", COLOURS, 1)
    assert len(open_task("folder:~/pets", str(tmp_path)).split("test")) == 3
