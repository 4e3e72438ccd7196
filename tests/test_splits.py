"""Index lists: the published random splits, stored lists, validation parts, shots, split files."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest
from cli_files import BATCH, COLOURS, RATE, read_json, rows, write_pictures
from dataset_files import label_of, write_caltech, write_dtd, write_eurosat, write_sun

from src.datasets import open_task
from src.datasets.splits import random_halves, stored_lists, with_shots, with_split_file, with_validation
from src.errors import UserError

pytest_plugins = ["cli_fixtures", "dataset_fixtures"]

# Dataset, number of its images, of its training images, hash of both index lists.
PUBLISHED = [("Caltech101", 8677, 6941, "3b4daccf8cbce5c6"), ("EuroSAT", 27000, 21600, "33b5a5ba75bfac77"),
             ("SUN397", 108754, 87003, "4c9cd39bc6684a2c")]
RANDOM = {"Caltech101": write_caltech, "EuroSAT": write_eurosat, "SUN397": write_sun}


@pytest.fixture
def eurosat(tmp_path):
    """-> open(): the dataset of 40 images in 10 classes under tmp_path."""
    write_eurosat(tmp_path)
    return lambda: open_task("EuroSAT", str(tmp_path))


@pytest.fixture
def dtd(every_dataset):
    """47 images in each of train, val and test, one of each class."""
    return open_task("DTD", str(every_dataset.root))


def files(task):
    return {part: list(task.split(part).files) for part in task.splits}


@pytest.mark.parametrize(("name", "count", "train", "published"), PUBLISHED)
def test_published_halves(name, count, train, published):
    halves = random_halves(count)
    assert [len(half) for half in halves] == [train, count - train]
    assert sorted(halves[0] + halves[1]) == list(range(count))
    assert hashlib.sha256(json.dumps(halves).encode()).hexdigest()[:16] == published


@pytest.mark.parametrize("name", RANDOM)
def test_the_order_of_the_file_system_does_not_matter(tmp_path, monkeypatch, name):
    RANDOM[name](tmp_path)
    expected = files(open_task(name, str(tmp_path)))
    shutil.rmtree(tmp_path / "splits")
    for method in ("rglob", "iterdir"):
        listed = getattr(Path, method)
        monkeypatch.setattr(Path, method, lambda path, *words, listed=listed: iter(
            random.Random(1).sample(found := list(listed(path, *words)), len(found))))
    task = open_task(name, str(tmp_path))
    assert files(task) == expected
    assert all(label_of(task.split("test").image(index)) == task.split("test").labels[index] for index in range(5))


def test_the_split_is_that_of_the_sorted_paths(eurosat, tmp_path):
    listing = sorted(path.relative_to(tmp_path / "eurosat" / "2750").as_posix()
                     for path in (tmp_path / "eurosat" / "2750").rglob("*.jpg"))
    train, test = random_halves(40)
    assert files(eurosat()) == {part: [listing[index] for index in chosen]
                                for part, chosen in (("train", train), ("test", test))}


def test_the_stored_list_is_read_back(eurosat, tmp_path):
    first, place = files(eurosat()), tmp_path / "splits" / "EuroSAT.json"
    content = read_json(place)
    assert content["dataset"] == "EuroSAT" and content["seed"] == 42 and content["count"] == 40
    assert content["lists"] == dict(zip(("train", "test"), map(list, random_halves(40)), strict=True))
    content["lists"] = {"train": content["lists"]["test"], "test": content["lists"]["train"]}
    place.write_text(json.dumps(content), encoding="utf-8")
    assert files(eurosat()) == {"train": first["test"], "test": first["train"]}
    assert [path.name for path in place.parent.iterdir()] == ["EuroSAT.json"]


def remove(place):
    (place / "eurosat" / "2750" / "Forest" / "image_0002.jpg").unlink()


def rename(place):
    (place / "eurosat" / "2750" / "Forest" / "image_0002.jpg").rename(place / "eurosat/2750/Forest/image_0009.jpg")


def rewrite(change):
    def damage(place):
        stored = place / "splits" / "EuroSAT.json"
        stored.write_text(change(stored.read_text(encoding="utf-8")), encoding="utf-8")
    return damage


def outside(text):
    return json.dumps(json.loads(text) | {"lists": {"train": [0, 40], "test": [1]}})


def without_test(text):
    return json.dumps(json.loads(text) | {"lists": {"train": [0, 1]}})


@pytest.mark.parametrize(("damage", "fragment"), [
    (remove, "40 files then, 39 now"), (rename, "the files changed"), (rewrite(lambda text: text[:99]), "damaged"),
    (rewrite(lambda text: "[]"), "damaged"), (rewrite(lambda text: "{}"), "damaged"), (rewrite(outside), "outside"),
    (rewrite(without_test), "damaged"), (rewrite(lambda text: text.replace("[", "[\"a\",", 1)), "damaged"),
])
def test_another_listing_or_a_damaged_list_is_an_error(eurosat, tmp_path, damage, fragment, cli, world):
    eurosat()
    damage(tmp_path)
    done = cli("--load", world.model, "--eval-only", "--eval-datasets", "EuroSAT", "--data-location", tmp_path,
               "--workers", 0)
    assert done.status == 2 and len(done.err.splitlines()) == 1, done.err
    assert fragment in done.err and str(tmp_path / "splits" / "EuroSAT.json") in done.err and "remove" in done.err


def test_a_root_that_cannot_be_written_gives_the_same_split(tmp_path, capsys, monkeypatch):
    listing = [f"{index}.jpg" for index in range(20)]
    expected = stored_lists(tmp_path / "one", "x", listing, lambda: {"train": random_halves(20)[0]}, 42)
    assert capsys.readouterr().out == ""
    (tmp_path / "splits").write_text("a file where the folder should be", encoding="utf-8")
    for _ in range(2):
        assert stored_lists(tmp_path, "x", listing, lambda: {"train": random_halves(20)[0]}, 42) == expected
        told = capsys.readouterr().out
        assert told.startswith("note: ") and str(tmp_path / "splits" / "x.json") in told


# -- validation parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "each"), [(0.25, 1), (0.5, 2), (0.9, 3), (0.01, 1)])
def test_a_validation_part_is_balanced_and_disjoint(tmp_path, fraction, each):
    write_pictures(tmp_path / "pets" / "train", COLOURS, 4)
    write_pictures(tmp_path / "pets" / "test", COLOURS, 1)
    task = open_task(f"folder:{tmp_path / 'pets'}", str(tmp_path))
    cut = with_validation(task, fraction, tmp_path)
    train, val = cut.split("train"), cut.split("val")
    assert sorted(train.files + val.files) == task.split("train").files
    assert sorted(val.labels) == sorted([0, 1, 2] * each) and cut.train_data == f"val {fraction:g}"
    assert cut.split("test").files == task.split("test").files
    assert files(with_validation(task, fraction, tmp_path)) == files(cut)
    shutil.rmtree(tmp_path / "splits")
    assert files(with_validation(task, fraction, tmp_path)) == files(cut)


# -- shots ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path):
    write_pictures(tmp_path / "pets" / "train", COLOURS, 6)
    write_pictures(tmp_path / "pets" / "test", COLOURS, 1)
    (tmp_path / "pets" / "train" / "green" / "5.png").unlink()
    return open_task(f"folder:{tmp_path / 'pets'}", str(tmp_path))


@pytest.mark.parametrize(("shots", "labels"), [(1, [0, 1, 2]), (3, [0] * 3 + [1] * 3 + [2] * 3),
                                               (9, [0] * 6 + [1] * 5 + [2] * 6)])
def test_shots_of_each_class(pets, tmp_path, shots, labels):
    few = with_shots(pets, shots, 0, tmp_path)
    assert list(few.split("train").labels) == labels and few.train_data == f"{shots} shots seed 0"
    assert set(few.split("train").files) <= set(pets.split("train").files)
    assert few.split("test").files == pets.split("test").files


def test_shots_are_drawn_by_their_seed_and_stored(pets, tmp_path):
    drawn = {seed: with_shots(pets, 2, seed, tmp_path).split("train").files for seed in range(4)}
    assert len(set(map(tuple, drawn.values()))) > 1
    stored, = (tmp_path / "splits").glob("*2shot_seed1.json")
    content = read_json(stored)
    stored.write_text(json.dumps(content | {"lists": {"train": [0]}}), encoding="utf-8")
    assert with_shots(pets, 2, 1, tmp_path).split("train").files == pets.split("train").files[:1]
    stored.unlink()
    assert with_shots(pets, 2, 1, tmp_path).split("train").files == drawn[1]


def test_shots_with_and_without_a_validation_part(pets, tmp_path):
    """Both are drawn from what is left for training; one's list must not be taken for the other's."""
    plain = with_shots(pets, 2, 0, tmp_path)
    both = with_shots(with_validation(pets, 0.5, tmp_path), 2, 0, tmp_path)
    assert both.train_data == "val 0.5, 2 shots seed 0"
    assert not set(both.split("train").files) & set(both.split("val").files)
    assert files(with_shots(pets, 2, 0, tmp_path)) == files(plain)


def test_two_folders_of_one_name_have_lists_of_their_own(tmp_path):
    drawn = []
    for place, number in (("one", 4), ("two", 6)):
        write_pictures(tmp_path / place / "pets" / "train", COLOURS, number)
        write_pictures(tmp_path / place / "pets" / "test", COLOURS, 1)
        task = open_task(f"folder:{tmp_path / place / 'pets'}", str(tmp_path))
        drawn.append(len(with_shots(with_validation(task, 0.5, tmp_path), 1, 0, tmp_path).split("val")))
    assert drawn == [6, 9]


def test_shots_are_told_in_the_table_of_scores(train, tmp_path):
    done = train(tmp_path / "out", "--shots", 2, "--data-location", tmp_path)
    assert done.status == 0, done.err
    assert {row["train_data"] for row in rows(tmp_path / "out" / "metrics_colours.csv")} == {"2 shots seed 0"}


# -- other people's split files -------------------------------------------------------------------------------------


def few_shot(names):
    return [[name, 7, "some name"] for name in names]


def test_a_split_file_moves_images_between_the_parts(dtd, tmp_path):
    moved = {"train": ["banded/banded_test.jpg", "polka-dotted/polka-dotted_train.jpg"],
             "test": ["banded/banded_train.jpg"], "val": ["texture_44/texture_44_val.jpg"]}
    path = tmp_path / "split_zhou_DTD.json"
    path.write_text(json.dumps({part: few_shot(names) for part, names in moved.items()}), encoding="utf-8")
    task = with_split_file(dtd, path)
    for part, names in moved.items():
        split = task.split(part)
        assert [file.split("/", 2)[2] for file in split.files] == names
        assert [label_of(split.image(index)) for index in range(len(split))] == list(split.labels)
    assert task.split("train").labels == [0, 1] and task.train_data == "split file split_zhou_DTD.json"
    assert task.classnames == dtd.classnames


def test_a_split_file_may_hold_names_alone_and_other_folders(dtd, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"train": ["/images/banded/banded_test.jpg", "polka-dotted_val.jpg"]}', encoding="utf-8")
    task = with_split_file(dtd, path)
    assert task.split("train").labels == [0, 1] and len(task.split("test")) == 47


SPLIT_FILES = {
    "an unknown image": ('{"train": [["banded/nosuch.jpg", 0, "a"]]}', ["banded/nosuch.jpg"]),
    "another class's folder": ('{"train": [["dotted/banded_test.jpg", 0, "a"]]}', ["dotted/banded_test.jpg"]),
    "no json": ("train: 1", ["expected json"]), "no parts": ("[1, 2]", ["expected json"]),
    "no lists": ('{"train": 3}', ["expected json"]), "no rows": ('{"train": [[]]}', ["expected json"]),
    "dicts": ('{"train": [{"impath": "a.jpg"}]}', ["expected json"]),
    "numbers": ('{"train": [[1, 0, "a"]]}', ["expected json"]),
    "nothing to train on": ('{"train": []}', ["no images in its train split"]),
}


@pytest.mark.parametrize("case", SPLIT_FILES)
def test_faulty_split_files(every_dataset, tmp_path, cli, world, case):
    content, fragments = SPLIT_FILES[case]
    (tmp_path / "split.json").write_text(content, encoding="utf-8")
    done = cli("--load", world.model, "--train-dataset", "DTD", "--iterations", 1, "--lr", RATE, "--batch-size", BATCH,
               "--split-file", tmp_path / "split.json", "--data-location", every_dataset.root, "--workers", 0,
               "--save", tmp_path / "out")
    assert done.status == 2 and len(done.err.splitlines()) == 1 and "Traceback" not in done.err, done.err
    assert all(fragment in done.err for fragment in fragments), done.err
    assert not (tmp_path / "out").exists()


def test_a_stored_list_that_is_no_longer_needed_is_left_alone(tmp_path):
    write_dtd(tmp_path)
    assert set(files(open_task("DTD", str(tmp_path)))) == {"train", "val", "test"}
    assert not (tmp_path / "splits").exists()
    with pytest.raises(UserError, match="DTD has no ood_test split"):
        open_task("DTD", str(tmp_path)).split("ood_test")
