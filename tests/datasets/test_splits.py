"""Index lists: the published random splits, stored lists, validation parts, shots, split files."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from cli_files import BATCH, COLOURS, RATE, lines, listing, read_json, rows, same_weights, write_pictures
from dataset_files import label_of, write_caltech, write_dtd, write_eurosat, write_sun

from src.datasets import open_task
from src.datasets.common import Split, Task
from src.datasets.seeds import order_of_epoch, seed_of
from src.datasets.splits import (
    random_halves,
    stored_lists,
    with_classes,
    with_shots,
    with_split_file,
    with_validation,
)
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
        printed = capsys.readouterr().out
        assert printed.startswith("note: ") and str(tmp_path / "splits" / "x.json") in printed


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


def test_classes_with_fewer_images_than_shots_are_noted(pets, tmp_path, capsys):
    with_shots(pets, 10 ** 6, 0, tmp_path)
    assert "classes have fewer than 1000000 training images (--shots)" in capsys.readouterr().out
    with_shots(pets, 1, 0, tmp_path)
    assert "fewer" not in capsys.readouterr().out


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


def test_a_split_file_may_hold_names_alone_and_other_folders(dtd, tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text('{"train": ["/images/banded/banded_test.jpg", "polka-dotted_val.jpg"]}', encoding="utf-8")
    task = with_split_file(dtd, path)
    assert task.split("train").labels == [0, 1]
    assert {part: len(task.split(part)) for part in ("val", "test")} == {"val": 46, "test": 46}, "none is in two parts"
    assert not {*task.split("train").files} & {*task.split("val").files, *task.split("test").files}
    assert capsys.readouterr().out.count("images of ") == 2


def test_a_name_that_fits_several_images_is_refused(tmp_path):
    """Unless it is the whole path of one of them."""
    names = ["1.jpg", "a/1.jpg", "b/1.jpg", "b/2.jpg"]
    task = Task("pets", ["x", "y"], ["{c}"], {"train": Split(names.__getitem__, [0, 0, 1, 1], names)})
    path = tmp_path / "mine.json"
    path.write_text('{"train": ["1.jpg", "b/1.jpg", "2.jpg"]}', encoding="utf-8")
    assert with_split_file(task, path).split("train").listing() == ["1.jpg", "b/1.jpg", "b/2.jpg"]
    task = Task("pets", ["x", "y"], ["{c}"], {"train": task.split("train").subset([1, 2, 3])})
    with pytest.raises(UserError, match="names 1.jpg, which fits a/1.jpg and b/1.jpg; give more"):
        with_split_file(task, path)


SPLIT_FILES = {
    "an image twice": ('{"train": ["banded/banded_test.jpg", "banded/banded_test.jpg"]}',
                       ["banded/banded_test.jpg twice, in train and in train"]),
    "an image in two parts": ('{"train": ["banded/banded_test.jpg"], "test": ["banded_test.jpg"]}',
                              ["banded/banded_test.jpg twice, in train and in test"]),
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


# -- class splits ---------------------------------------------------------------------------------------------------


@pytest.fixture
def colours():
    return open_task("toy-colours", "")


def pixels(split, index):
    return split.image(index).tobytes()


@pytest.mark.parametrize("seed", [0, 42])
@pytest.mark.parametrize("parts", [2, 3, 5, 8])
def test_class_splits_are_disjoint_complete_and_even(colours, parts, seed):
    """Eight classes in the seeded order, cut at floor(8 k / parts)."""
    cut = [with_classes(colours, part, parts, seed) for part in range(1, parts + 1)]
    order = order_of_epoch(8, seed_of(seed, "toy-colours", "class order"), 0)
    assert [name for task in cut for name in task.classnames] == [colours.classnames[label] for label in order]
    assert sorted(order) == list(range(8)) and [len(task.classnames) for task in cut] == [
        8 * part // parts - 8 * (part - 1) // parts for part in range(1, parts + 1)]
    assert [task.name for task in cut] == [f"toy-colours-{part}of{parts}" for part in range(1, parts + 1)]
    for name in ("train", "val", "test"):
        assert sum(len(task.split(name)) for task in cut) == len(colours.split(name))


def test_the_order_of_classes_follows_the_seed(colours):
    orders = {tuple(open_task("toy-colours-1of2", "", seed).classnames) for seed in range(6)}
    assert len(orders) > 3
    assert open_task("toy-colours-1of2", "").classnames == with_classes(colours, 1, 2, 42).classnames


@pytest.mark.parametrize("part", [1, 3])
def test_images_of_a_class_split_keep_their_class(colours, part):
    cut = with_classes(colours, part, 3, 7)
    for name in ("train", "val", "test"):
        whole, kept = colours.split(name), cut.split(name)
        places = [index for index, label in enumerate(whole.labels) if colours.classnames[label] in cut.classnames]
        assert len(places) == len(kept) and set(kept.labels) == set(range(len(cut.classnames)))
        for index, place in list(enumerate(places))[:12]:
            assert pixels(kept, index) == pixels(whole, place)
            assert cut.classnames[kept.labels[index]] == colours.classnames[whole.labels[place]]
    assert cut.templates == colours.templates and cut.in_memory


def test_a_class_split_keeps_files_and_lists_nothing_early(tmp_path):
    write_pictures(tmp_path / "pets", COLOURS, 4)
    split, asked = open_task(f"folder:{tmp_path / 'pets'}", str(tmp_path)).split("train"), []
    task = with_classes(Task("pets", ["x", "y", "z"], ["{c}"], {"train": lambda: asked.append(1) or split}), 2, 3, 1)
    assert asked == []
    kept = task.split("train")
    assert asked == [1] and set(kept.labels) == {0} and len({file.rsplit("/", 2)[-2] for file in kept.files}) == 1
    assert [kept.path(index).name for index in range(len(kept))] == [Path(file).name for file in kept.files]
    folder = {"x": "blue", "y": "green", "z": "red_disc"}[task.classnames[0]]
    assert all(f"{folder}/" in file for file in kept.files)


def test_lists_of_class_splits_are_told_apart(colours, tmp_path):
    """Another order of the classes is other data under the same name."""
    drawn = {seed: with_shots(with_classes(colours, 1, 4, seed), 2, 0, tmp_path) for seed in (1, 2)}
    assert len(list((tmp_path / "splits").iterdir())) == 2
    for seed, task in drawn.items():
        again = with_shots(with_classes(colours, 1, 4, seed), 2, 0, tmp_path)
        assert [pixels(again.split("train"), index) for index in range(4)] == [
            pixels(task.split("train"), index) for index in range(4)]
        assert sorted(task.split("train").labels) == [0, 0, 1, 1]
    cut = with_validation(with_classes(colours, 1, 4, 1), 0.25, tmp_path)
    whole = with_classes(colours, 1, 4, 1).split("train")
    found = [{pixels(cut.split(name), index) for index in range(len(cut.split(name)))} for name in ("train", "val")]
    assert not found[0] & found[1] and len(cut.split("train")) + len(cut.split("val")) == len(whole)
    assert sorted(set(cut.split("val").labels)) == [0, 1]


TOY = ("--model", "toy", "--iterations", 1, "--batch-size", 4, "--lr", "1e-4", "--warmup-length", 0, "--workers", 0,
       "--max-evaluation-size", 12)
QUARTERS = [f"toy-colours-{part}of4" for part in range(1, 5)]


def history_of(path):
    return torch.load(path, weights_only=True)["history"]


@pytest.mark.slow
def test_a_sequence_of_class_splits(cli, tmp_path):
    done = cli(*TOY, "--dataset-order", "toy-colours/4", "--label-space", "task,all", "--seed", 7, "--lr",
               "1e-4,toy-colours=2e-4,toy-colours-3of4=3e-4", "--save", tmp_path, "--data-location", tmp_path)
    assert done.status == 0 and done.err == "", done.err
    assert {f"{pre}{name}{post}" for name in QUARTERS for pre, post in (
        ("", ".pth"), ("metrics_", ".csv"), ("log_", ".jsonl"), ("run_", ".json"))} <= listing(tmp_path)
    history = history_of(tmp_path / "toy-colours-4of4.pth")
    assert [entry["dataset"] for entry in history] == [entry["source"] for entry in history] == QUARTERS
    classes = [name for entry in history for name in entry["classnames"]]
    assert sorted(classes) == sorted(open_task("toy-colours", "").classnames)
    assert classes == [name for quarter in QUARTERS for name in open_task(quarter, "", 7).classnames]
    assert read_json(tmp_path / "summary.json")["datasets"] == QUARTERS and "after toy-colours-3of4" in done.out
    rates = [lines(tmp_path / f"log_{name}.jsonl")[0]["lr"] for name in QUARTERS]
    assert rates == pytest.approx([2e-4, 2e-4, 3e-4, 2e-4])
    found = rows(tmp_path / "metrics_toy-colours-2of4.csv")
    assert {(row["label_space"], row["k"], row["n"]) for row in found} == {("task", "2", "12"), ("all", "5", "12")}


def test_a_chain_of_class_splits_equals_one_process(cli, tmp_path):
    both = "toy-colours-1of4,toy-colours-2of4"
    assert cli(*TOY, "--dataset-order", both, "--label-space", "task,seen", "--save", tmp_path / "seq").status == 0
    start = ()
    for name in both.split(","):
        done = cli(*TOY, *start, "--train-dataset", name, "--eval-datasets", both, "--label-space", "task,seen",
                   "--save", tmp_path / "chain")
        assert done.status == 0, done.err
        start = ("--load", tmp_path / "chain" / f"{name}.pth")
    for name in both.split(","):
        one, two = (torch.load(tmp_path / way / f"{name}.pth", weights_only=True) for way in ("seq", "chain"))
        assert same_weights(one["state_dict"], two["state_dict"])
        found = [[row for row in rows(tmp_path / way / f"metrics_{name}.csv") if row["task"]]
                 for way in ("seq", "chain")]
        assert found[0] == found[1]


@pytest.fixture
def first_quarter(cli, tmp_path):
    """A checkpoint trained on the first quarter of the classes in the order of seed 7."""
    done = cli(*TOY, "--train-dataset", QUARTERS[0], "--seed", 7, "--save", tmp_path / "first")
    assert done.status == 0, done.err
    return tmp_path / "first" / f"{QUARTERS[0]}.pth"


def test_evaluation_alone_cuts_the_classes_as_training_did(cli, tmp_path, first_quarter):
    words = ("--load", first_quarter, "--eval-only", "--workers", 0, "--max-evaluation-size", 12)
    for number, datasets in enumerate(((), ("--eval-datasets", "toy-colours/4"))):
        done = cli(*words, *datasets, "--save", tmp_path / f"again{number}")
        assert done.status == 0, done.err
        name = f"metrics_{QUARTERS[0]}.csv"
        assert rows(tmp_path / f"again{number}" / name) == rows(first_quarter.parent / name)
    for seed in (7, 8):
        done = cli(*words, "--seed", seed, "--save", tmp_path / f"seed{seed}")
        assert done.status == (0 if seed == 7 else 2)
    assert "--seed" in done.err and len(done.err.splitlines()) == 1 and not (tmp_path / "seed8").exists()


@pytest.mark.parametrize("overlapping", [True, False])
def test_going_on_with_another_order_of_classes_is_refused(cli, tmp_path, first_quarter, overlapping):
    """Also where the next part happens to share no class with what was trained: later parts would."""
    known = set(open_task(QUARTERS[0], "", 7).classnames)
    seed = next(seed for seed in range(100) if bool(known & set(open_task(QUARTERS[1], "", seed).classnames))
                == overlapping and seed != 7)
    words = (*TOY, "--load", first_quarter, "--save", tmp_path / "out")
    for target in (("--train-dataset", QUARTERS[1]), ("--dataset-order", ",".join(QUARTERS[1:]))):
        done = cli(*words, *target, "--seed", seed)
        assert done.status == 2 and len(done.err.splitlines()) == 1, done.err
        assert QUARTERS[0] in done.err and "--seed" in done.err and not (tmp_path / "out").exists()
    assert cli(*words, "--train-dataset", QUARTERS[1], "--seed", 7).status == 0


def test_going_on_with_fewer_parts_would_meet_classes_again(cli, tmp_path, first_quarter):
    done = cli(*TOY, "--load", first_quarter, "--seed", 7, "--train-dataset", "toy-colours-1of2", "--save",
               tmp_path / "out")
    assert done.status == 2 and "number of splits" in done.err and not (tmp_path / "out").exists()
    done = cli(*TOY, "--load", first_quarter, "--seed", 8, "--train-dataset", "toy-colours", "--save", tmp_path / "out")
    assert done.status == 0, "all classes together have no order"


@pytest.mark.parametrize(("names", "fragments"), [
    ("nothing/4", ["no dataset 'nothing-1of4'"]), ("toy-color/4", ["no dataset"]), ("toy-colours/0", ["two or more"]),
    ("toy-colours/1", ["two or more"]), ("toy-colours/9", ["toy-colours", "8 classes"]),
    ("toy-colours/999999999999", ["8 classes"]),
    ("toy-colours-0of4", ["no such split"]), ("toy-colours-5of4", ["no such split"]),
    ("toy-colours-1of9", ["8 classes"]), ("toy-reference/2", ["no classes"]),
    ("toy-colours/2,toy-colours-1of2", ["toy-colours-1of2 twice"]), ("toy-colours-01of4", ["toy-colours-01of4"]),
])
def test_class_splits_that_cannot_be(cli, tmp_path, names, fragments):
    for words in (("--dataset-order", names), ("--dataset-order", "toy-sizes", "--eval-datasets", names)):
        done = cli(*TOY, *words, "--save", tmp_path / "out")
        assert done.status == 2 and len(done.err.splitlines()) == 1 and "Traceback" not in done.err, done.err
        assert words[-2] in done.err and all(fragment in done.err for fragment in fragments), done.err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "train_data", "size"), [
    (("--shots", 3), "3 shots seed 0", 6), (("--val-fraction", "0.5"), "val 0.5", 90),
    (("--val-fraction", "0.5", "--shots", 1, "--eval-split", "val"), "val 0.5, 1 shots seed 0", 2)])
def test_fewer_images_of_class_splits(cli, tmp_path, words, train_data, size):
    done = cli(*TOY[:2], *TOY[4:], "--epochs", 1, "--batch-size", 2, *words, "--dataset-order", ",".join(QUARTERS[:2]),
               "--data-location", tmp_path, "--save", tmp_path / "out")
    assert done.status == 0, done.err
    for name in QUARTERS[:2]:
        trained = [row for row in rows(tmp_path / "out" / f"metrics_{name}.csv") if row["task"]]
        assert {row["train_data"] for row in trained} == {train_data}
        assert {row["split"] for row in trained} == {"val" if "val" in words else "test"}
        assert lines(tmp_path / "out" / f"log_{name}.jsonl")[-1]["iteration"] == size // 2
    stored = sorted(path.name for path in (tmp_path / "splits").iterdir())
    assert len(stored) == 2 * len([word for word in words if word in ("--shots", "--val-fraction")])
    assert all(name.startswith(("toy-colours-1of4_order42", "toy-colours-2of4_order42")) for name in stored)
