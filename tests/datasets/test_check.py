"""``--check-data``, ``--list-datasets``, and what damaged data make of a run: one message, exit status 2."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cli_files import BATCH, COLOURS, RATE, picture, rows, write_pictures
from dataset_files import WRITERS, encoded, errors_of, write_cars
from this_machine import is_instant

from src.datasets import DATASETS
from src.datasets.check import findings_of, structural_faults
from src.datasets.common import Split, Task

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sized(monkeypatch):
    """sized(name, train=..., test=...): the counts that --check-data expects."""
    return lambda name, **sizes: monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], sizes=sizes))


# -- --list-datasets ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_list_is_quick_and_whole(tmp_path):
    done, instant = is_instant("-m", "src.main", "--list-datasets", "--data-location", tmp_path)
    assert done.returncode == 0 and instant
    assert all(f"| {name} " in done.stdout for name in DATASETS)


def test_the_list_needs_no_torch(tmp_path):
    code = ("import sys\nfrom src.main import main\nassert main(sys.argv[1:]) == 0\n"
            "assert not {'torch', 'numpy', 'PIL', 'torchvision'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code, "--list-datasets", "--data-location", tmp_path], cwd=ROOT, check=True,
                   capture_output=True)


# -- --check-data -------------------------------------------------------------------------------------------------


def test_a_good_copy(tmp_path, cli, sized):
    write_cars(tmp_path)
    sized("StanfordCars", train=196, test=196)
    done = cli("--check-data", "StanfordCars,toy-sizes", "--data-location", tmp_path)
    assert done.status == 0 and done.err == "" and "fault" not in done.out
    assert done.out.splitlines() == ["StanfordCars: 196 classes, train 196, test 196 images: as expected",
                                     "toy-sizes: 3 classes, train 720, val 216, test 504 images: as expected"]


CLEANER = {  # as the shared copies, with enough images per class for each drawn half to have all, and nothing odd
    "Caltech101": {"number": 15}, "EuroSAT": {"number": 9}, "SUN397": {"number": 26},
    "coco": {"odd": False}, "conceptual_captions": {"odd": False}}


def test_clean_copies_of_all_datasets_say_nothing_but_counts(every_dataset, tmp_path, cli, sized, unverified,
                                                             no_network):
    copies = every_dataset.copies | {name: WRITERS[name](tmp_path, **words) for name, words in CLEANER.items()}
    assert len(copies) == 27
    for name, copy in copies.items():
        if DATASETS[name].sizes:
            sized(name, **copy.sizes)
    for root, names in ((every_dataset.root, [name for name in copies if name not in CLEANER]), (tmp_path, CLEANER)):
        done = cli("--check-data", ",".join(names), "--data-location", root)
        lines = done.out.splitlines()
        assert done.status == 0 and done.err == "" and done.warnings == [], done.out
        assert [line.partition(":")[0] for line in lines] == list(names)
        assert all(line.endswith(" images: as expected") for line in lines)


def test_all_faults_at_once(tmp_path, cli, sized):
    """A class without images, a wrong count, an empty file, half a file, a label that no class has."""
    write_cars(tmp_path, [*range(195), 196, 3])
    sized("StanfordCars", train=198, test=197)
    folder = tmp_path / "stanford_cars"
    (folder / "cars_train" / "00010.jpg").write_bytes(b"")
    (folder / "cars_test" / "00020.jpg").write_bytes(encoded(20)[:-60])
    done = cli("--check-data", "toy-sizes,StanfordCars", "--data-location", tmp_path)
    assert done.status == 1 and done.err == ""
    faults = [line for line in done.out.splitlines() if line.startswith("  fault: ")]
    for fragments in (["no image of Car 193 2012 in the train split"], ["no image of Car 193 2012 in the test split"],
                      ["197 images in the train split, not 198"], ["cars_train/00010.jpg cannot be decoded"],
                      ["cars_test/00020.jpg cannot be decoded"], ["train split has label 196, outside the 196 classes"],
                      ["test split has label 196, outside the 196 classes"]):
        assert sum(all(fragment in line for fragment in fragments) for line in faults) == 1, (fragments, faults)
    assert len(faults) == 7


def test_a_large_split_is_sampled(tmp_path, cli, sized):
    write_cars(tmp_path, list(range(196)) * 3)
    sized("StanfordCars", train=588, test=588)
    for index in range(588):
        (tmp_path / "stanford_cars" / "cars_test" / f"{index:05}.jpg").write_bytes(b"")
    done = cli("--check-data", "StanfordCars", "--data-location", tmp_path)
    assert done.status == 1 and 190 <= done.out.count("cannot be decoded") <= 300


@pytest.mark.parametrize("name", ["DTD", "StanfordCars", "coco", "IWildCam"])
def test_what_is_not_there_is_the_only_fault(tmp_path, cli, no_network, name):
    done = cli("--check-data", name, "--data-location", tmp_path / "none")
    assert done.status == 1 and done.out.count("fault:") == 1 and f"{name}: cannot be opened" in done.out
    assert f"section {name} of datasets.md" in done.out


def test_captions_and_the_users_own_are_checked_too(every_dataset, tmp_path, cli):
    assert cli("--check-data", "coco,flickr30k", "--data-location", every_dataset.root).status == 0
    write_pictures(tmp_path / "pets", COLOURS, 3)
    words = ("--check-data", f"folder:{tmp_path / 'pets'}", "--data-location", tmp_path)
    assert cli(*words).status == 0
    (tmp_path / "pets" / "green" / "1.png").write_bytes(b"")
    done = cli(*words)
    assert done.status == 1 and "green/1.png" in done.out


def checked(cli, folder):
    """(exit status, printed lines without the one about the held-out images) of --check-data."""
    done = cli("--check-data", f"folder:{folder}", "--data-location", folder.parent / "data")
    return done.status, [line for line in done.out.splitlines() if "holding out" not in line]


def test_a_folder_is_described(tmp_path, cli):
    """Names, counts per class and what is left out, by hand: of 5, 10 and 15 images 4, 8 and 12 are to train on."""
    for row, (name, number) in enumerate((("ant", 5), ("bee", 10), ("cat", 15))):
        write_pictures(tmp_path / "pets", {name: row / 3}, number)
        (tmp_path / "pets" / name).rename(tmp_path / "pets" / f"{name}_x")
    for index in range(3):
        for name in ("ant", "bee", "cat"):
            (tmp_path / "pets" / f"{name}_x" / f"{index}.txt").write_text("x", encoding="utf-8")
    for path in (tmp_path / "pets").rglob("*.png"):  # write_pictures draws each class by the same seeds
        path.write_bytes(path.read_bytes() + path.parent.name.encode())
    (tmp_path / "pets" / "ant_x" / ".hidden").mkdir()
    (tmp_path / "pets" / "ant_x" / ".hidden" / "1.png").write_bytes(b"x")
    status, lines = checked(cli, tmp_path / "pets")
    assert (status, lines) == (0, [
        f"folder:{tmp_path / 'pets'}: 3 classes, train 24, test 6 images: nothing odd found",
        "  classes: ant x, bee x, cat x",
        "  train images per class: least 4 (ant x), median 8, most 12 (cat x)",
        "  test images per class: least 1 (ant x), median 2, most 3 (cat x)",
        "  left out: 9 .txt, 1 in hidden folders"])


def test_only_some_of_many_class_names_are_printed(tmp_path, cli):
    write_pictures(tmp_path / "many", {f"c{index:02}": index / 13 for index in range(13)}, 2)
    _, lines = checked(cli, tmp_path / "many")
    assert f"  classes: {', '.join(f'c{index:02}' for index in range(10))} and 3 more" in lines


def findings(lines):
    return [line.removeprefix("  finding: ") for line in lines if line.startswith("  finding: ")]


def test_the_same_image_in_two_parts(tmp_path, cli):
    write_pictures(tmp_path / "pets" / "train", COLOURS, 6)
    for name in COLOURS:
        picture(tmp_path / "pets" / "test" / name / "new.png", COLOURS[name], 1000)
    assert checked(cli, tmp_path / "pets")[0] == 0
    copies = [(tmp_path / "pets" / "train" / "blue" / f"{index}.png", tmp_path / "pets" / "test" / "blue" /
               f"copy {index}.png") for index in (2, 4)]
    for path, copy in copies:
        copy.write_bytes(path.read_bytes())
    status, lines = checked(cli, tmp_path / "pets")
    assert (status, findings(lines)) == (1, [
        f"pets: the same image is in train and test: 2 such images, the first is {copies[0][0]} and {copies[0][1]}"])


def test_the_same_image_under_two_labels(tmp_path, cli):
    write_pictures(tmp_path / "pets" / "train", COLOURS, 3)
    picture(tmp_path / "pets" / "val" / "blue" / "x.png", 0.6, 1000)
    for name in ("green", "red_disc"):
        picture(tmp_path / "pets" / "val" / name / "x.png", 0.1, 2000 + len(name))
    twin = tmp_path / "pets" / "train" / "green" / "twin.png"
    twin.symlink_to(tmp_path / "pets" / "train" / "blue" / "1.png")
    status, lines = checked(cli, tmp_path / "pets")
    assert (status, findings(lines)) == (1, [
        f"pets: the same image has two labels: 1 such images, the first is {twin.parents[1] / 'blue' / '1.png'} and "
        f"{twin} ('blue' and 'green')"])


def test_val_that_serves_as_test_is_no_copy(tmp_path, cli):
    write_pictures(tmp_path / "pets" / "train", {"a": 0.1, "b": 0.5}, 2)
    for row, name in enumerate("ab"):
        picture(tmp_path / "pets" / "val" / name / "x.png", 0.1, 1000 + row)
    assert checked(cli, tmp_path / "pets")[0] == 0


ALIKE = [
    (("hot_dog", "hot dog"), "2 classes have the same name 'hot dog', so one of them can never win (hot dog/0.png, "
                             "hot_dog/0.png)"),
    (("Cat", "cat"), "2 classes differ by case or spaces only: 'Cat', 'cat' (Cat/0.png, cat/0.png)"),
    (("hotdog", "hot dog"), "2 classes differ by case or spaces only: 'hot dog', 'hotdog' (hot dog/0.png, "
                            "hotdog/0.png)"),
    (("cafe\u0301", "caf\u00e9"), "2 classes have the same name 'caf\u00e9', so one of them can never win "
                                  "(cafe\u0301/0.png, caf\u00e9/0.png)"),
    (("red", "red\u200b"), "2 classes differ by hidden characters or forms of letters only: 'red', 'red\\u200b' "
                           "(red/0.png, red\u200b/0.png)"),
    (("red", "\uff52\uff45\uff44"), "2 classes differ by hidden characters or forms of letters only: 'red', "
                                   "'\uff52\uff45\uff44' (red/0.png, \uff52\uff45\uff44/0.png)"),
    (("cat", "cat (1)"), "2 classes differ by the mark of a copy only: 'cat', 'cat (1)' (cat/0.png, cat (1)/0.png)"),
    (("cat", "cat - Copy"), "2 classes differ by the mark of a copy only: 'cat', 'cat - Copy' (cat/0.png, "
                            "cat - Copy/0.png)"),
]


@pytest.mark.parametrize(("names", "expected"), ALIKE)
def test_class_names_that_are_alike(tmp_path, cli, world, names, expected):
    """--check-data finds it, and a run warns of it."""
    for row, name in enumerate((*names, "other")):
        for index in range(2):
            picture(tmp_path / "pets" / name / f"{index}.png", row / 3, 10 * row + index)
    status, lines = checked(cli, tmp_path / "pets")
    assert (status, findings(lines)) == (1, [f"pets: {expected}"])
    done = cli("--load", world.model, "--eval-only", "--eval-datasets", f"folder:{tmp_path / 'pets'}",
               "--data-location", tmp_path, "--workers", 0)
    assert done.status == 0 and done.warnings.count(f"warning: pets: {expected}") == 1


@pytest.mark.parametrize("names", [("0", "1", "2"), ("n01440764", "n01443537"), ("1.0", "2.0"),
                                   ("True", "False"), ("no", "yes"), ("class_0", "class_1"), ("label7", "Label 8")])
def test_class_names_without_a_word_are_a_finding(tmp_path, cli, names):
    for row, name in enumerate(names):
        write_pictures(tmp_path / "pets", {name: row / 3}, 3)
    status, lines = checked(cli, tmp_path / "pets")
    assert status == 1 and any("all class names are numbers, ids or yes and no" in line for line in lines)
    (tmp_path / "pets" / "classnames.txt").write_text("ant\nbee\ncat\n"[:4 * len(names)], encoding="utf-8")
    assert checked(cli, tmp_path / "pets")[0] == 0


@pytest.mark.parametrize(("names", "expected"), [
    (("001.Black_footed_Albatross", "002.Laysan_Albatross"), ["all class names begin with a number or an id"]),
    (("n02085620-Chihuahua", "n02085782-Japanese_spaniel"), ["all class names begin with a number or an id"]),
    (("0_cat", "1_dog"), ["all class names begin with a number or an id"]), (("7 up", "cola"), []),
    (("2 doors", "2 wheels"), []), (("hot%20dog", "cat"), ["1 of 2 class names hold codes of signs"]),
    (('="red"', "blue"), ["1 of 2 class names hold codes of signs"]), (("100% wool", "r&b"), []),
    (("black &amp; white", "grey"), ["look like lists", "1 of 2 class names hold codes of signs"]),
    (("copy", "photocopy"), [])])
def test_class_names_with_more_than_words_are_a_finding(names, expected):
    split = Split(None, [*range(len(names))])
    found = findings_of("folder:pets", Task("pets", [name.replace("_", " ") for name in names], (), {"train": split}))
    assert len(found) == len(expected) and all(text in line for text, line in zip(expected, found, strict=True)), found


@pytest.mark.parametrize(("labels", "number"), [
    (("['red']", "['blue']"), 2), (("red|blue", "blue"), 1), (("red; blue", "blue"), 1), (('{"a": 1}', "blue"), 1),
    (("red, a colour", "blue (light)"), 0)])
def test_class_names_that_are_lists_are_a_finding(tmp_path, cli, labels, number):
    """Labels that an image has side by side, as tables of several labels write them."""
    lines = ['image,label', *(f'"{row}/{index}.png","{label}"'.replace('{"a"', '{""a""') for row, label in
                              enumerate(labels) for index in range(3))]
    for row in range(2):
        for index in range(3):
            picture(tmp_path / str(row) / f"{index}.png", row / 2, 10 * row + index)
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    done = cli("--check-data", f"csv:{tmp_path / 'a.csv'}", "--data-location", tmp_path)
    found = [line for line in done.out.splitlines() if "class names look like lists" in line]
    assert done.status == (number > 0) and len(found) == (number > 0), done.out
    assert all(f"a: {number} of 2 class names look like lists" in line for line in found)


def test_one_class_is_a_finding(tmp_path, cli, train):
    write_pictures(tmp_path / "pets", {"cat": 0.1}, 5)
    expected = "pets: has one class, 'cat': there is nothing to classify"
    status, lines = checked(cli, tmp_path / "pets")
    assert (status, findings(lines)) == (1, [expected])
    done = train(tmp_path / "out", "--train-dataset", f"folder:{tmp_path / 'pets'}", "--data-location", tmp_path)
    assert done.status == 0 and f"warning: {expected}" in done.warnings


def test_a_run_tells_what_is_left_out_and_warns_of_images_among_it(tmp_path, cli, train):
    write_pictures(tmp_path / "pets", COLOURS, 5)
    (tmp_path / "pets" / "green" / "x.svg").write_text("<svg/>", encoding="utf-8")
    (tmp_path / "pets" / "green" / "notes.txt").write_text("x", encoding="utf-8")
    status, lines = checked(cli, tmp_path / "pets")
    found, = findings(lines)
    assert status == 1 and ".svg: 1 left out, such as green/x.svg" in found
    done = train(tmp_path / "out", "--train-dataset", f"folder:{tmp_path / 'pets'}", "--data-location", tmp_path)
    assert done.status == 0 and done.out.count("left out: 1 .svg, 1 .txt") == 1
    assert f"warning: {found}" in done.warnings


def test_a_table_of_single_images_is_trained_and_not_scored(tmp_path, cli, world, train):
    write_pictures(tmp_path / "ones", COLOURS, 1)
    (tmp_path / "a.csv").write_text("image,label\n" + "".join(f"ones/{name}/0.png,{name}\n" for name in COLOURS))
    name, place = f"csv:{tmp_path / 'a.csv'}", ("--data-location", tmp_path, "--workers", 0)
    done = train(tmp_path / "out", "--train-dataset", name, *place)
    assert done.status == 0 and "no class has two images, so nothing is held out" in done.out, done.err
    assert "it is trained on but not scored" in done.out and (tmp_path / "out" / "a.pth").exists()
    for words, message in ((("--eval-datasets", name), f"--eval-split test: {name} has no such split; it has train"),
                           (("--linear-eval", name), f"--linear-eval {name}: has no test split to score the layer on")):
        done = cli("--load", world.model, "--eval-only", *words, *place)
        assert done.status == 2 and done.err.startswith(f"error: {message}"), done.err


def test_a_linear_layer_warns_of_findings_too(tmp_path, cli, world):
    write_pictures(tmp_path / "pets", COLOURS, 5)
    (tmp_path / "pets" / "green" / "x.svg").write_text("<svg/>", encoding="utf-8")
    done = cli("--load", world.model, "--eval-only", "--linear-eval", f"folder:{tmp_path / 'pets'}", "--linear-epochs",
               1, "--data-location", tmp_path, "--workers", 0, "--save", tmp_path / "out")
    assert done.status == 0, done.err
    assert done.out.count("left out: 1 .svg") == 1
    assert sum(".svg: 1 left out, such as green/x.svg" in line for line in done.warnings) == 1


def test_labels_and_classes_of_each_split():
    task = Task("t", ["a", "b", "c"], [], {"train": Split(None, [0, 1, 2, 2]), "test": Split(None, [0, 0, 3, -1])})
    assert structural_faults(task, ["train"]) == []
    assert structural_faults(task, ["train", "test"]) == [
        "t: the test split has label -1, outside the 3 classes", "t: no image of b, c in the test split"]


# -- damaged data in a run ----------------------------------------------------------------------------------------


def empty(path):
    path.write_bytes(b"")


def half(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def text(content):
    return lambda path: path.write_text(content, encoding="utf-8")


def without_files(path):
    for file in path.iterdir():
        file.unlink()


def one_more(path):
    (path / "one_more_class").mkdir()
    (path / "one_more_class" / "sun_1.jpg").write_bytes(encoded(0))


DAMAGE = {  # dataset, file or folder, what happens to it, what the message holds
    "aircraft without variants": ("Aircraft", "fgvc-aircraft-2013b/data/variants.txt", Path.unlink, []),
    "aircraft of no variant": ("Aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt",
                               text("0000001 Zeppelin\n"), ["Zeppelin"]),
    "aircraft half a line": ("Aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", text("0000001\n"), []),
    "caltech of too few classes": ("Caltech101", "caltech101/101_ObjectCategories/ant", without_files, ["100", "101"]),
    "caltech of too many classes": ("Caltech101", "caltech101/101_ObjectCategories", one_more, ["102", "101"]),
    "cifar cut short": ("CIFAR10", "cifar-10-batches-py/data_batch_3", half, []),
    "cifar without names": ("CIFAR100", "cifar-100-python/meta", empty, []),
    "textures without a folder": ("DTD", "dtd/dtd/labels/test1.txt", text("banded_0002.jpg\n"), []),
    "satellites without a class": ("EuroSAT", "eurosat/2750/Forest", without_files, ["Forest"]),
    "flowers cut short": ("Flowers", "flowers-102/imagelabels.mat", half, []),
    "flowers empty": ("Flowers", "flowers-102/setid.mat", empty, []),
    "food no json": ("Food", "food-101/meta/test.json", half, []),
    "food another json": ("Food", "food-101/meta/train.json", text("[1]"), []),
    "digits cut short": ("MNIST", "MNIST/raw/t10k-images-idx3-ubyte", half, []),
    "digits empty": ("MNIST", "MNIST/raw/train-labels-idx1-ubyte", empty, []),
    "pets half a line": ("OxfordPet", "oxford-iiit-pet/annotations/test.txt", text("Abyssinian_1 1\n"), []),
    "cars cut short": ("StanfordCars", "stanford_cars/devkit/cars_meta.mat", half, []),
    "cars empty": ("StanfordCars", "stanford_cars/cars_test_annos_withlabels.mat", empty, []),
    "cars no mat": ("StanfordCars", "stanford_cars/devkit/cars_train_annos.mat", text("<html>not found</html>" * 20),
                    []),
    "scenes of no class": ("SUN397", "SUN397/a", one_more, ["one_more_class"]),
    "scenes without names": ("SUN397", "SUN397/ClassName.txt", Path.unlink, []),
    "half an image": ("DTD", "dtd/dtd/images/banded/banded_test.jpg", half, ["banded_test.jpg", "decoded"]),
    "no image": ("Food", "food-101/images/apple_pie/1000.jpg", Path.unlink, ["apple_pie/1000.jpg", "decoded"]),
    "an empty image": ("Flowers", "flowers-102/jpg/image_00003.jpg", empty, ["image_00003.jpg", "decoded"]),
    "a class too few": ("ImageNetA", "imagenet-a/n01440770", lambda path: path.rename(path.parent / ".gone"),
                        ["199 class folders, not 200"]),
}
FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python", "MNIST": "MNIST"}


def score(cli, world, name, root):
    return cli("--load", world.model, "--eval-only", "--eval-datasets", name, "--data-location", root, "--workers", 0)


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told(tmp_path, cli, world, unverified, no_network, case):
    name, place, damage, fragments = DAMAGE[case]
    WRITERS[name](tmp_path)
    if name == "ImageNetA":
        place = f"imagenet-a/{sorted(os.listdir(tmp_path / 'imagenet-a'))[-1]}"
    assert (tmp_path / place).exists()
    damage(tmp_path / place)
    done = score(cli, world, name, tmp_path)
    assert done.status == 2 and len(errors_of(done)) == 1 and "Traceback" not in done.err, done.err
    assert all(fragment in done.err for fragment in fragments) and str(tmp_path) in done.err, done.err
    assert fragments and fragments[-1] == "decoded" or f"section {name} of datasets.md" in done.err


@pytest.mark.parametrize("label", [-1, 196])
@pytest.mark.parametrize("words", [("--eval-only", "--eval-datasets", "StanfordCars"),
                                   ("--train-dataset", "StanfordCars", "--iterations", 1, "--lr", RATE, "--batch-size",
                                    BATCH)])
def test_a_label_that_no_class_has(tmp_path, cli, world, words, label):
    write_cars(tmp_path, [*range(196), label])
    done = cli("--load", world.model, *words, "--data-location", tmp_path, "--workers", 0, "--save", tmp_path / "out")
    assert done.status == 2 and f"label {label}, outside the 196 classes" in done.err, done.err
    assert not (tmp_path / "out").exists()


def test_bad_images_are_skipped_and_counted_where_that_is_asked_for(tmp_path, cli, world):
    write_pictures(tmp_path / "pets" / "train", COLOURS, 4)
    write_pictures(tmp_path / "pets" / "test", COLOURS, 4)
    empty(tmp_path / "pets" / "test" / "blue" / "1.png")
    half(tmp_path / "pets" / "test" / "green" / "2.png")
    words = ("--load", world.model, "--eval-only", "--eval-datasets", f"folder:{tmp_path / 'pets'}", "--workers", 0,
             "--data-location", tmp_path, "--save", tmp_path / "out")
    assert cli(*words).status == 2
    done = cli(*words, "--skip-bad-images")
    assert done.status == 0 and "2 images could not be decoded and were skipped" in done.out
    assert rows(tmp_path / "out" / "metrics_pets.csv")[0]["n"] == "10"
    half(tmp_path / "pets" / "train" / "blue" / "1.png")
    done = cli("--load", world.model, "--train-dataset", f"folder:{tmp_path / 'pets'}", "--iterations", 3,
               "--batch-size", 4, "--lr", RATE, "--workers", 0, "--save", tmp_path / "trained", "--skip-bad-images")
    assert done.status == 0 and "1 images could not be decoded" in done.out
