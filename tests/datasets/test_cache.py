"""``--cache-images``: the second evaluation decodes nothing, and the scores are the same."""

import shutil
from pathlib import Path

import numpy
import pytest
from cli_files import COLOURS, picture, rows, write_pictures
from PIL import Image

from src.datasets import cache, open_task
from src.datasets.cache import as_it_is, cached_split
from src.datasets.common import Split, Task
from src.datasets.images import class_folders, folder_split
from src.datasets.loading import evaluation_batches
from src.datasets.splits import with_classes
from src.datasets.transforms import EvalTransform
from src.errors import UserError
from src.machine.distributed import World
from src.models import evaluation

pytest_plugins = ["cli_fixtures"]


@pytest.fixture
def decoded(monkeypatch):
    """The files that were read."""
    from src.datasets import images
    files = []

    def read(path):
        files.append(Path(path).name)
        return images.open_upright(path)
    monkeypatch.setattr("src.datasets.folder.read_upright", read)
    return files


@pytest.fixture
def split(tmp_path):
    """-> split(): the test images of a folder, five of each class."""
    write_pictures(tmp_path / "pets" / "train", COLOURS, 1)
    write_pictures(tmp_path / "pets" / "test", COLOURS, 5)
    return lambda: open_task(f"folder:{tmp_path / 'pets'}", str(tmp_path)).split("test")


def images(split, transform=as_it_is):
    return numpy.concatenate([batch.images.numpy() for batch in evaluation_batches(split, transform, 4)])


def made(root):
    return sorted(path.name for path in (root / "cache").iterdir())


def test_the_second_time_decodes_nothing(split, tmp_path, decoded):
    plain = images(split(), EvalTransform(16))
    decoded.clear()
    first = images(cached_split(split(), "pets-test", EvalTransform(16), tmp_path))
    assert len(decoded) == 15
    again = cached_split(split(), "pets-test", EvalTransform(16), tmp_path)
    assert len(decoded) == 15 and again.labels == split().labels
    assert (first == plain).all() and (images(again) == plain).all() and len(decoded) == 15
    assert len(made(tmp_path)) == 1


@pytest.mark.parametrize("change", ["resolution", "listing", "name"])
def test_what_changes_makes_another_file(split, tmp_path, change):
    cached_split(split(), "pets-test", EvalTransform(16), tmp_path)
    if change == "listing":
        picture(tmp_path / "pets" / "test" / "blue" / "9.png", 0.9, 0)
    name, size = "pets-val" if change == "name" else "pets-test", 12 if change == "resolution" else 16
    other = images(cached_split(split(), name, EvalTransform(size), tmp_path))
    assert len(made(tmp_path)) == 2 and (other == images(split(), EvalTransform(size))).all()


def test_another_folder_of_the_same_name_has_a_file_of_its_own(split, tmp_path):
    cached_split(split(), "pets-test", EvalTransform(16), tmp_path)
    shutil.copytree(tmp_path / "pets", tmp_path / "other" / "pets")
    picture(tmp_path / "other" / "pets" / "test" / "blue" / "0.png", 0.9, 77)
    other = open_task(f"folder:{tmp_path / 'other' / 'pets'}", str(tmp_path)).split("test")
    found = images(cached_split(other, "pets-test", EvalTransform(16), tmp_path))
    assert (found == images(other, EvalTransform(16))).all()


def test_an_image_that_was_replaced_is_read_again(split, tmp_path):
    cached_split(split(), "pets-test", EvalTransform(16), tmp_path)
    picture(tmp_path / "pets" / "test" / "blue" / "0.png", 0.9, 77)
    found = images(cached_split(split(), "pets-test", EvalTransform(16), tmp_path))
    assert (found == images(split(), EvalTransform(16))).all()


def cached(task, root):
    """The test images of a task as an evaluation with --cache-images takes them."""
    found = evaluation._open_images(task, "test", 16, None, 0, root, World())
    return images(found.split, found.transform)


def test_the_folder_of_a_published_set_has_a_file_of_its_own(split, tmp_path):
    """Published sets are read as they are stored, the same files as folder: upright."""
    path = tmp_path / "pets" / "test" / "blue" / "0.png"
    stored = Image.fromarray(numpy.arange(20 * 20 * 3, dtype=numpy.uint8).reshape(20, 20, 3))
    exif = stored.getexif()
    exif[0x0112] = 3
    stored.save(path, exif=exif)
    folder = tmp_path / "pets" / "test"
    published = Task("pets", ["a", "b", "c"], [], {"test": folder_split(folder, class_folders(folder))})
    own = open_task(f"folder:{tmp_path / 'pets'}", str(tmp_path))
    assert published.split("test").files == own.split("test").files
    found = [cached(task, tmp_path) for task in (published, own, published)]
    assert (found[0] == images(published.split("test"), EvalTransform(16))).all()
    assert (found[1] == images(own.split("test"), EvalTransform(16))).all()
    assert (found[0] != found[1]).any() and (found[0] == found[2]).all() and len(made(tmp_path)) == 2


def test_class_splits_in_another_order_have_files_of_their_own(tmp_path):
    """Of images that are not files only labels are compared, and those are counted from 0 in each class split."""
    colours = [numpy.full((16, 16, 3), 60 * label, dtype=numpy.uint8) for label in range(4)]
    whole = Task("colours", ["a", "b", "c", "d"], [], {"test": Split(lambda index: Image.fromarray(colours[index]),
                                                                     [0, 1, 2, 3])})
    for seed in range(8):
        part = with_classes(whole, 1, 4, seed)
        assert (cached(part, tmp_path) == images(part.split("test"), EvalTransform(16))).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_an_interrupted_fill_leaves_no_file(split, tmp_path, monkeypatch, error):
    def stop(*_):
        yield next(evaluation_batches(split(), EvalTransform(16), 4))
        raise error("stopped")
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(cache, "evaluation_batches", stop)
        cached_split(split(), "pets-test", EvalTransform(16), tmp_path)
    assert made(tmp_path) == []
    filled = images(cached_split(split(), "pets-test", EvalTransform(16), tmp_path))
    assert (filled == images(split(), EvalTransform(16))).all()


def test_a_place_that_cannot_be_written(split, tmp_path):
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="--cache-images: .*cache"):
        cached_split(split(), "pets-test", EvalTransform(16), tmp_path)


def test_a_damaged_file_is_told(split, tmp_path):
    cached_split(split(), "pets-test", EvalTransform(16), tmp_path)
    path = tmp_path / "cache" / made(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match=f"{path.name}.*remove"):
        cached_split(split(), "pets-test", EvalTransform(16), tmp_path)


@pytest.mark.parametrize("words", [(), ("--max-evaluation-size", 5)])
def test_scores_are_the_same(split, tmp_path, cli, world, decoded, words):
    tables = []
    for number, more in enumerate([(), ("--cache-images",), ("--cache-images",)]):
        decoded.clear()
        done = cli("--load", world.model, "--eval-only", "--eval-datasets", f"folder:{tmp_path / 'pets'}", "--workers",
                   0, "--data-location", tmp_path, "--save", tmp_path / str(number), *words, *more)
        assert done.status == 0, done.err
        found = rows(tmp_path / str(number) / "metrics_pets.csv")[0]
        tables.append({key: value for key, value in found.items() if "time" not in key})
    assert tables[0] == tables[1] == tables[2] and decoded == []
