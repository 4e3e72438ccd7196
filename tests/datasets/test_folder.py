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
    again = opened(tmp_path / "pets", tmp_path / "two")  # drawn again under another root: the same
    assert pixels(again.split("test")) == pixels(test) and pixels(again.split("train")) == pixels(train)


@pytest.mark.parametrize(("count", "train"), [(2, 1), (3, 2), (4, 3), (5, 4), (12, 10)])
def test_small_classes_have_something_in_both(tmp_path, count, train):
    write_pictures(tmp_path / "pets", {"one": 0.0, "two": 0.5}, count)
    task = opened(tmp_path / "pets", tmp_path)
    assert list(task.split("train").labels).count(0) == train
    assert list(task.split("test").labels).count(1) == count - train


def test_single_images_are_not_held_out(tmp_path, capsys):
    """0 of 3 images would be no test split: the data are trained on without one, and the line says so."""
    write_pictures(tmp_path / "ones", COLOURS, 1)
    task = opened(tmp_path / "ones", tmp_path)
    assert list(task.splits) == ["train"] and len(task.split("train")) == 3
    assert capsys.readouterr().out == (f"folder:{tmp_path / 'ones'}: no test split, and no class has two images, so "
                                       "nothing is held out\n")
    write_pictures(tmp_path / "some", {"one": 0.1}, 5)
    write_pictures(tmp_path / "some", {"two": 0.5, "three": 0.8}, 1)
    assert list(opened(tmp_path / "some", tmp_path).split("test").labels) == [0]
    assert capsys.readouterr().out == (
        f"folder:{tmp_path / 'some'}: no test split: holding out 1 of 7 images (20 % of each class, at least one; 2 of "
        "3 classes have a single image, which stays in train)\n")


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


def files(root, *names):
    """Images that differ."""
    for index, name in enumerate(names):
        picture(root / name, index / len(names), index)


PARTS = [("Train", "Test"), ("training", "testing"), ("TRAINING", "Validation", "test"), ("train", "valid"),
         ("train_set", "eval", "Test-Set"), ("Trn", "dev"), ("train images", "test images"), ("train2014", "val2014")]


@pytest.mark.parametrize("names", PARTS)
def test_parts_under_other_names(tmp_path, names):
    for name in names:
        write_pictures(tmp_path / name, {"a": 0.1, "b": 0.5}, 2 if name == names[0] else 1)
    task = opened(tmp_path, tmp_path)
    others = ["val" if name.lower()[0] in "vde" else "test" for name in names[1:]]
    assert list(task.classnames) == ["a", "b"] and {*task.splits} == {"train", *others, "test"}
    assert list(task.split("train").labels) == [0, 0, 1, 1] and list(task.split("test").labels) == [0, 1]


def test_annotations_beside_parts_are_left_out(tmp_path):
    write_pictures(tmp_path / "train", {"a": 0.1, "b": 0.5}, 1)
    write_pictures(tmp_path / "test", {"a": 0.1, "b": 0.5}, 1)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "all.json").write_text("{}", encoding="utf-8")
    task = opened(tmp_path, tmp_path)
    assert {*task.splits} == {"train", "test"} and task.left_out == "1 .json" and task.findings == ()


REFUSED = {
    "one level too many": (["data/train/a/1.png", "data/train/b/1.png", "data/test/a/1.png", "data/test/b/1.png"],
                           ["data holds test, train", "did you mean folder:{path}/data?"]),
    "two levels too many": (["x/data/train/a/1.png", "x/data/test/a/1.png"], ["did you mean folder:{path}/x/data?"]),
    "classes one level down": (["data/a/1.png", "data/b/1.png"],
                               ["data would be the only class", "holds the folders a, b: did you mean "
                                "folder:{path}/data?"]),
    "one class one level down": (["data/a/1.png", "data/a/2.png"], ["did you mean folder:{path}/data?"]),
    "beside something else": (["data/train/a/1.png", "data/test/a/1.png", "code/figures/1.png"],
                              ["did you mean folder:{path}/data?"]),
    "one level too many in a part": (["train/all/a/1.png", "train/all/b/1.png", "test/all/a/1.png"],
                                     ["train/all holds the folders a, b", "take that level away in train"]),
    "parts in classes": (["a/train/1.png", "a/test/1.png", "b/train/1.png", "b/test/1.png"],
                         ["a holds test, train: splits are inside of classes"]),
    "parts of unknown names": (["lernen/a/1.png", "lernen/b/1.png", "probe/a/1.png", "probe/b/1.png"],
                               ["lernen, probe hold folders of the same names (a, b)",
                                "if they are splits, name them train, val and test"]),
    "a part twice": (["train/a/1.png", "Training/a/2.png", "test/a/1.png"], ["Training and train both mean the train"]),
    "val twice": (["train/a/1.png", "val/a/2.png", "eval/a/1.png"], ["eval and val both mean the val part"]),
    "a class called train": (["train/1.png", "bus/1.png", "car/1.png"],
                             ["train is the name of a split, but it lies beside bus, car", "classnames.txt"]),
    "more beside the parts": (["train/a/1.png", "test/a/1.png", "unlabelled/1.png"],
                              ["lies beside unlabelled; did you mean folder:{path}/train?"]),
    "a class that test lacks": (["train/a/1.png", "train/b/1.png", "test/a/1.png"],
                                ["test lacks the class b that train has"]),
    "a class that train lacks": (["train/a/1.png", "test/a/1.png", "test/x/1.png"],
                                 ["test has the class x that train lacks"]),
    "another spelling": (["train/red fox/1.png", "train/a/1.png", "test/Red_Fox/1.png", "test/a/1.png"],
                         ["test lacks the class red fox that train has, and test has the class Red_Fox that train "
                          "lacks (red fox and Red_Fox differ only by case or spaces)"]),
    "no classes": (["1.png", "2.png"], ["holds no class folders but 2 images of no class"]),
    "no classes in a part": (["train/1.png", "test/2.png"], ["train holds no class folders but 1 images of no class"]),
    "a part without train": (["Test/a/1.png", "Val/a/1.png"], ["has Test, Val but no train folder"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_layout_that_can_be_read_in_two_ways_is_refused(tmp_path, case):
    names, fragments = REFUSED[case]
    files(tmp_path / "pets", *names)
    with pytest.raises(UserError) as caught:
        opened(tmp_path / "pets", tmp_path)
    message = str(caught.value)
    assert message.startswith(f"folder:{tmp_path / 'pets'}: ") and "\n" not in message
    for fragment in fragments:
        assert fragment.format(path=tmp_path / "pets") in message


def test_a_file_where_a_folder_is_expected(tmp_path):
    (tmp_path / "pets.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="pets.zip is a file, not a folder; give folder:PATH .*must be unpacked"):
        opened(tmp_path / "pets.zip", tmp_path)


def test_classes_of_folders_are_warned_of(tmp_path):
    files(tmp_path, *(f"{kind}/{name}/{index}.png" for kind, names in (("birds", "owl crow"), ("fish", "cod eel"))
                      for name in names.split() for index in (1, 2)))
    task = opened(tmp_path, tmp_path)
    assert list(task.classnames) == ["birds", "fish"] and task.findings == (
        f"folder:{tmp_path}: 2 of 2 classes hold folders and no images, such as birds (crow, owl); each is read as one "
        "class",)


def test_a_folder_called_images_in_each_class_is_usual(tmp_path):
    files(tmp_path, *(f"{name}/images/{index}.png" for name in "ab" for index in (1, 2)))
    assert opened(tmp_path, tmp_path).findings == ()


@pytest.mark.parametrize(("below", "number"), [("thumbs/1.png", 1), ("old/more/2.jpg", 1), ("thumbs/3.png", 0),
                                               ("a/4.png b/4.png", 0)])
def test_copies_below_their_images_are_a_finding(tmp_path, below, number):
    """By their names, whatever their folder is called; the same name in two folders side by side is usual."""
    files(tmp_path, *(f"{name}/{index}.png" for name in "xy" for index in (1, 2)))
    files(tmp_path, *(f"x/{file}" for file in below.split()))
    findings = opened(tmp_path, tmp_path).findings
    assert len(findings) == number
    assert all(f"1 images lie below an image of the same name, such as x/{below}; move" in text for text in findings)


@pytest.mark.parametrize(("written", "wanted"), [
    ("ClassNames.txt", "classnames.txt"), ("class_names.txt", "classnames.txt"), ("classes.txt", "classnames.txt"),
    ("Templates.txt", "templates.txt"), ("notes.txt", None)])
def test_names_in_a_file_of_another_name_are_a_finding(tmp_path, written, wanted):
    files(tmp_path, *(f"{name}/{index}.png" for name in "xy" for index in (1, 2)))
    (tmp_path / written).write_text("one\ntwo\n", encoding="utf-8")
    task = opened(tmp_path, tmp_path)
    assert list(task.classnames) == ["x", "y"]
    found = [f"{written} is not read; rename it to {wanted}" in text for text in task.findings]
    assert found == ([True] if wanted else [])


def test_the_bytes_of_a_class_folder_must_be_text(tmp_path):
    """Latin-1, as old archives unpack; a name in classnames.txt serves."""
    pets = tmp_path / "pets"
    files(pets, *(f"{name}/{index}.png" for name in ("cat", "K\udce4fer") for index in (1, 2)))
    with pytest.raises(UserError, match=r"class folder 'K\\udce4fer' is not UTF-8 text; rename the folder"):
        opened(pets, tmp_path)
    (pets / "classnames.txt").write_text("beetle\ncat\n", encoding="utf-8")
    assert list(opened(pets, tmp_path).classnames) == ["beetle", "cat"]


def test_names_are_compared_after_unicode_normalisation(tmp_path):
    """macOS writes the accent as a separate letter. Labels and names are the same in both parts."""
    names = {"train": ["caf\u00e9", "cafz"], "test": ["cafe\u0301", "cafz"]}  # sort in two ways
    assert sorted(names["train"]) != names["train"] and sorted(names["test"]) == names["test"]
    for part, folders in names.items():
        for row, folder in enumerate(folders):
            picture(tmp_path / part / folder / "1.png", row / 3, row)
    task = opened(tmp_path, tmp_path)
    assert list(task.classnames) == ["cafz", "caf\u00e9"]
    for part in ("train", "test"):
        assert [hue(task.split(part).image(index)) for index in (0, 1)] == ["green", "red"]
        assert list(task.split(part).labels) == [0, 1]


def numbered(root, folders, lines):
    """{folder: class name} as they are opened."""
    files(root, *(f"{folder}/{index}.png" for folder in folders for index in (1, 2)))
    (root / "classnames.txt").write_text("\n".join(lines), encoding="utf-8")
    task = opened(root, root.parent)
    split = task.split("train")
    return {file.split("/")[0]: task.classnames[label] for file, label in zip(split.files, split.labels, strict=True)}


TWELVE = "zero one two three four five six seven eight nine ten eleven".split()


@pytest.mark.parametrize("pattern", ["{}", "{:03}", "class_{}", "{}. thing", "c{}x"])
@pytest.mark.parametrize("first", [0, 1])
def test_numbered_folders_go_with_their_names_by_number(tmp_path, capsys, pattern, first):
    folders = [pattern.format(first + index) for index in range(12)]
    assert numbered(tmp_path / "pets", folders, TWELVE) == dict(zip(folders, TWELVE, strict=True))
    line = f"classnames.txt names the folders by number: {folders[0]} is zero, {folders[1]} is one"
    assert line in capsys.readouterr().out


def test_other_folders_go_with_their_names_in_sorted_order(tmp_path, capsys):
    assert numbered(tmp_path / "pets", ["b2", "a10", "c1"], ["x", "y", "z"]) == {"a10": "x", "b2": "y", "c1": "z"}
    assert "names the folders in sorted order: a10 is x, b2 is y, c1 is z" in capsys.readouterr().out


def test_names_that_are_those_of_folders_go_with_them(tmp_path, capsys):
    """In the order of the labels elsewhere, perhaps, and nicer spelled."""
    folders = ["big_cat", "dog", "eel"]
    found = numbered(tmp_path / "pets", folders, ["Eel", "Big cat", "Dog"])
    assert found == {"big_cat": "Big cat", "dog": "Dog", "eel": "Eel"}
    assert "names the folders by their own names: eel is Eel, big_cat is Big cat" in capsys.readouterr().out


def test_names_that_begin_with_their_folder_are_found_by_it(tmp_path, capsys):
    lines = ["n02 great white shark", "n01 tench"]
    assert numbered(tmp_path / "pets", ["n01", "n02"], lines) == {"n01": "tench", "n02": "great white shark"}
    assert "n01 is tench, n02 is great white shark" in capsys.readouterr().out


def test_the_order_of_files_is_that_of_before(tmp_path):
    """Numbers change names only: a stored split stays what it was."""
    numbered(tmp_path / "pets", [str(index) for index in range(12)], TWELVE)
    task = opened(tmp_path / "pets", tmp_path)
    listed = sorted(file for part in task.splits for file in task.split(part).files)
    folders = list(dict.fromkeys(file.split("/")[0] for file in listed))
    assert folders == sorted(map(str, range(12))) and list(task.classnames)[:3] == ["zero", "one", "ten"]


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_pictures(tmp_path / "pets" / "train", COLOURS, 1)
    write_pictures(tmp_path / "pets" / "test", COLOURS, 1)
    assert len(open_task("folder:~/pets", str(tmp_path)).split("test")) == 3
