"""Lists of shots: what a run writes is what another reads, and a changed list is an error."""

import json
import shutil

import pytest
from cli_files import COLOURS, read_json, rows, same_weights, weights, write_pictures

from src.datasets import open_task
from src.datasets.common import Split, Task
from src.datasets.shots import FILE, FORMAT, entry_of, file_of, with_entry, with_shots_file
from src.datasets.splits import with_shots
from src.errors import UserError

pytest_plugins = ["cli_fixtures"]


@pytest.fixture
def pets(tmp_path):
    """Six images per class to train on, five of green."""
    write_pictures(tmp_path / "pets" / "train", COLOURS, 6)
    write_pictures(tmp_path / "pets" / "test", COLOURS, 1)
    (tmp_path / "pets" / "train" / "green" / "5.png").unlink()
    return open_task(f"folder:{tmp_path / 'pets'}", str(tmp_path))


@pytest.fixture
def write(tmp_path):
    """write(entry, name="pets") -> the path of a file that lists it"""
    def call(entry, name="pets"):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(file_of({name: entry})), encoding="utf-8")
        return path
    return call


def test_the_form_of_a_file(pets, tmp_path):
    few = with_shots(pets, 2, 0, tmp_path)
    entry = few.shots
    assert [row["class"] for row in entry["train"]] == ["blue", "green", "red disc"]
    assert [len(row["images"]) for row in entry["train"]] == [2, 2, 2]
    assert [image for row in entry["train"] for image in row["images"]] == few.split("train").files
    assert entry["count"] == 17 and len(entry["listing_sha256"]) == len(entry["lists_sha256"]) == 64
    assert file_of({"pets": entry}) == {"format": FORMAT, "datasets": {"pets": entry}}


@pytest.mark.parametrize("shots", [1, 2, 5, 99])
def test_what_was_drawn_is_read(pets, write, tmp_path, shots):
    few = with_shots(pets, shots, 3, tmp_path)
    found = with_shots_file(pets, write(few.shots), shots)
    assert found.split("train").files == few.split("train").files
    assert found.split("train").labels == few.split("train").labels
    assert found.split("test").files == pets.split("test").files
    assert found.train_data == "shots file mine.json" and found.shots == few.shots
    assert found.drawn_from is few.drawn_from is pets.split("train") and pets.drawn_from is None


def test_images_that_are_not_files_are_known_by_their_number(write, tmp_path):
    task = open_task("toy-colours", "")
    few = with_shots(task, 2, 0, tmp_path)
    found = with_shots_file(task, write(few.shots, "toy-colours"))
    assert found.split("train").labels == few.split("train").labels
    assert [found.split("train").image(index).tobytes() for index in range(16)] == [
        few.split("train").image(index).tobytes() for index in range(16)]


def test_a_list_without_a_listing_finds_images_by_the_end_of_their_path(pets, write):
    rows_of = [("Blue", ["blue/1.png"]), ("GREEN", ["green/0.png", "green/4.png"]), ("disc", ["red_disc/3.png"])]
    found = with_shots_file(pets, write(entry_of({"train": rows_of})))
    listed = ["blue/1.png", "green/0.png", "green/4.png", "red_disc/3.png"]
    assert all(file.endswith(image) for file, image in zip(found.split("train").files, listed, strict=True))
    assert found.classnames == pets.classnames and list(found.split("train").labels) == [0, 1, 1, 2]


def test_a_list_may_have_a_val_part(write):
    split = Split(str, [0, 0, 1, 1], ["a/0", "a/1", "b/0", "b/1"])
    task = Task("pets", ["a", "b"], ["{c}"], {"train": split.subset([0, 2]), "val": split.subset([1, 3])})
    found = with_shots_file(task, write(entry_of({"train": [("a", ["a/0"])], "val": [("b", ["b/1"])]})))
    assert found.split("train").files == ["a/0"] and found.split("val").files == ["b/1"]
    with pytest.raises(UserError, match="lists a/1, which is not an image of train here"):
        with_shots_file(task, write(entry_of({"train": [("a", ["a/1"])]})))


def change(key, value):
    return lambda entry: entry.update({key: value})


def moved(entry):
    entry["train"][0]["images"][0] = "blue/5.png"


def valid_digest(change):
    """The change, and digests that fit it: what only the images can tell."""
    def apply(entry):
        change(entry)
        for key in ("count", "listing_sha256"):
            entry.pop(key)
        entry.update(entry_of({"train": [(row["class"], row["images"]) for row in entry["train"]]}))
    return apply


def of_another_class(entry):
    entry["train"][0]["images"].append(entry["train"][1]["images"].pop())


def twice(entry):
    entry["train"][0]["images"] *= 2


def unknown(entry):
    entry["train"][0]["images"][0] = "blue/77.png"


def test_image(entry):
    entry["train"][0]["images"][0] = "test/blue/0.png"


test_image.__test__ = False

CHANGED = {
    "an image": (moved, "was changed since it was written"), "its digest": (change("lists_sha256", "0"), "was changed"),
    "another number of images": (change("count", 16), "from 16 training images, but other images are here (17, all)"),
    "another listing": (change("listing_sha256", "0" * 64), "drawn from 17 training images"),
    "no train part": (lambda entry: entry.pop("train"), "no list of training images"),
    "no digest": (lambda entry: entry.pop("lists_sha256"), "is damaged ('lists_sha256')"),
    "texts": (change("train", "abc"), "is damaged"),
    "numbers": (change("train", [{"class": 1, "images": [2]}]), "damaged"),
    "an image of another class": (valid_digest(of_another_class), "restore the file"),
    "an image twice": (valid_digest(twice), "twice"), "an unknown image": (valid_digest(unknown), "blue/77.png"),
    "an image of test": (valid_digest(test_image), "is not an image of train here"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_changed_list_is_an_error(pets, write, tmp_path, case):
    damage, fragment = CHANGED[case]
    entry = json.loads(json.dumps(with_shots(pets, 2, 0, tmp_path).shots))
    damage(entry)
    path = write(entry)
    with pytest.raises(UserError) as caught:
        with_shots_file(pets, path)
    message = str(caught.value)
    assert fragment in message and message.startswith(f"--shots-file {path}: pets") and "\n" not in message, message


def test_images_that_changed_since_are_an_error(pets, write, tmp_path):
    path = write(with_shots(pets, 2, 0, tmp_path).shots)
    shutil.copy(tmp_path / "pets" / "train" / "blue" / "0.png", tmp_path / "pets" / "train" / "blue" / "9.png")
    with pytest.raises(UserError, match="drawn from 17 training images, but other images are here"):
        with_shots_file(open_task(f"folder:{tmp_path / 'pets'}", str(tmp_path)), path)


@pytest.mark.parametrize(("text", "fragment"), [
    ("", "cannot be read as json"), ("[]", "is not a list of shots"), ("{}", FILE),
    ('{"format": "clip-continual shots 2", "datasets": {}}', FORMAT),
    (json.dumps({"format": FORMAT, "datasets": {"cats": {}}}), "pets is not in it; it has cats"),
    (json.dumps({"format": FORMAT, "datasets": {}}), "it has no dataset")])
def test_a_file_that_is_not_a_list(pets, tmp_path, text, fragment):
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        with_shots_file(pets, path)
    assert fragment in str(caught.value) and str(path) in str(caught.value)


def test_a_pickle_names_the_converter(pets, tmp_path):
    (tmp_path / "shot_2-seed_1.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match="python convert_shots.py converts pickled ones"):
        with_shots_file(pets, tmp_path / "shot_2-seed_1.pkl")


def test_shots_beside_a_file_are_what_it_must_list(pets, write, tmp_path):
    path = write(with_shots(pets, 2, 0, tmp_path).shots)
    with pytest.raises(UserError, match=r"lists 2 images of 'blue', but 3 are expected \(--shots 3\)"):
        with_shots_file(pets, path, 3)
    everything = write(with_shots(pets, 6, 0, tmp_path).shots)
    assert len(with_shots_file(pets, everything, 6).split("train")) == 17, "green has five, which is all"


def test_a_file_takes_one_dataset_more(pets, tmp_path):
    one = with_shots(pets, 1, 0, tmp_path).shots
    both = with_entry(file_of({"cats": one}), "pets", one)
    assert [*both["datasets"]] == ["cats", "pets"]
    for other in ({}, [], None, {"format": "x", "datasets": {}}, {"format": FORMAT, "datasets": []}):
        assert with_entry(other, "pets", one) == file_of({"pets": one})


# -- in a run ---------------------------------------------------------------------------------------------------------


def test_a_run_writes_what_another_reads_with_the_same_bits(train, tmp_path):
    first = train(tmp_path / "out", "--shots", 2, "--data-location", tmp_path / "a")
    assert first.status == 0, first.err
    file = tmp_path / "out" / FILE
    assert [*read_json(file)["datasets"]] == ["colours"]
    done = train(tmp_path / "again", "--shots-file", file, "--data-location", tmp_path / "b")
    assert done.status == 0, done.err
    assert same_weights(*(weights(tmp_path / name / "colours.pth") for name in ("out", "again")))
    assert read_json(tmp_path / "again" / FILE) == read_json(file)
    assert {row["train_data"] for row in rows(tmp_path / "again" / "metrics_colours.csv")} == {"shots file shots.json"}


def test_a_list_that_was_changed_since_a_task_was_trained_on_it(train, tmp_path):
    """Valid as it is now, but not what the task was trained on."""
    for seed in (0, 1):
        drawn = train(tmp_path / f"seed{seed}", "--shots", 1, "--shot-seed", seed, "--data-location", tmp_path)
        assert drawn.status == 0, drawn.err
    file = tmp_path / "mine.json"
    shutil.copy(tmp_path / "seed0" / FILE, file)
    assert train(tmp_path / "out", "--shots-file", file).status == 0
    shutil.copy(tmp_path / "seed1" / FILE, file)
    done = train(tmp_path / "out", "--shots-file", file)
    assert done.status == 2 and "another content of --shots-file (colours)" in done.err, done.err
    assert read_json(tmp_path / "out" / FILE) == read_json(tmp_path / "seed0" / FILE), "what was trained on is kept"


def test_a_run_without_shots_writes_no_list(train, tmp_path):
    assert train(tmp_path / "out").status == 0 and not (tmp_path / "out" / FILE).exists()
