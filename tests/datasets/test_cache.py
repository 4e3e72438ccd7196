"""Images that are kept decoded: the second pass decodes nothing, and the scores are the same."""

import errno
import importlib.metadata
import os
import shutil
import types
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from cli_files import COLOURS, picture, rows, weights, write_pictures
from PIL import Image

from src import args
from src.api.keywords import words_of
from src.datasets import collections, loading, open_task
from src.datasets.cache import ImageCache, Rows, _decoders, _kept_image, _marks_of
from src.datasets.common import Split, Task
from src.datasets.images import class_folders, folder_split
from src.datasets.loading import evaluation_batches
from src.datasets.splits import with_classes
from src.datasets.transforms import EvalTransform
from src.errors import UserError
from src.machine.files import reading_only
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


def images(split, workers=0, resolution=16):
    batches = evaluation_batches(split, EvalTransform(resolution), 4, workers)
    return numpy.concatenate([batch.images.numpy() for batch in batches])


def made(root):
    return sorted(path.name for path in (root / "cache").iterdir())


def passed(split, root, name="pets-test", resolution=16, workers=0, cache=None):
    """The images of a pass over a split that a run keeps."""
    cache = cache or ImageCache(root)
    found = images(cache.kept(split, name, EvalTransform(resolution)), workers, resolution)
    cache.settle(wait=True)
    return found


def test_the_second_time_decodes_nothing(split, tmp_path, decoded):
    plain = images(split())
    decoded.clear()
    first = passed(split(), tmp_path)
    assert len(decoded) == 15
    again = ImageCache(tmp_path).kept(split(), "pets-test", EvalTransform(16))
    assert len(decoded) == 15 and again.labels == split().labels
    assert (first == plain).all() and (images(again) == plain).all() and len(decoded) == 15
    assert (images(again.subset([7, 2, 9])) == plain[[7, 2, 9]]).all()
    assert (images(again.subset(range(1, 15, 3)).subset(range(0, 5, 2))) == plain[1:15:6]).all()
    assert len(made(tmp_path)) == 1 and made(tmp_path)[0].endswith(".npy")
    assert (numpy.load(tmp_path / "cache" / made(tmp_path)[0]) == plain).all(), "any numpy reads it"


def test_what_is_kept_is_read_in_slices_by_one_process(split, tmp_path, monkeypatch):
    """The bytes of a batch at once, without workers and without one image by itself."""
    passed(split(), tmp_path)
    reads, read = [], Rows.read

    def counted(rows, first, last):
        found = read(rows, first, last)
        reads.append(found.numel())
        return found
    monkeypatch.setattr(Rows, "read", counted)
    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter", None)  # whoever starts one fails
    kept = ImageCache(tmp_path).kept(split(), "pets-test", EvalTransform(16))
    assert len(images(kept, workers=2)) == 15
    assert reads == [4 * 768, 4 * 768, 4 * 768, 3 * 768]


def test_workers_fill_the_file_and_the_process_that_asks_decodes_nothing(split, tmp_path, decoded):
    """By pids: what this process decodes is listed, what workers decode is not."""
    plain = images(split())
    decoded.clear()
    assert (passed(split(), tmp_path, workers=2) == plain).all() and not decoded
    assert (passed(split(), tmp_path, workers=2) == plain).all() and not decoded
    assert [name for name in made(tmp_path) if name.endswith(".npy")] == made(tmp_path)


@pytest.mark.parametrize("change", ["resolution", "listing", "name", "decoder"])
def test_what_changes_makes_another_file(split, tmp_path, change, monkeypatch):
    passed(split(), tmp_path)
    if change == "listing":
        picture(tmp_path / "pets" / "test" / "blue" / "9.png", 0.9, 0)
    if change == "decoder":
        version = importlib.metadata.version
        _decoders.cache_clear()
        monkeypatch.setattr("importlib.metadata.version", lambda name: version(name) + ".1")
    name, size = "pets-val" if change == "name" else "pets-test", 12 if change == "resolution" else 16
    other = passed(split(), tmp_path, name, size)
    _decoders.cache_clear()
    assert len(made(tmp_path)) == 2 and (other == images(split(), resolution=size)).all()


def test_another_folder_of_the_same_name_has_a_file_of_its_own(split, tmp_path):
    passed(split(), tmp_path)
    shutil.copytree(tmp_path / "pets", tmp_path / "other" / "pets")
    picture(tmp_path / "other" / "pets" / "test" / "blue" / "0.png", 0.9, 77)
    other = open_task(f"folder:{tmp_path / 'other' / 'pets'}", str(tmp_path)).split("test")
    assert (passed(other, tmp_path) == images(other)).all()


def test_an_image_that_was_replaced_is_read_again(split, tmp_path):
    passed(split(), tmp_path)
    picture(tmp_path / "pets" / "test" / "blue" / "0.png", 0.9, 77)
    assert (passed(split(), tmp_path) == images(split())).all()


def test_files_are_looked_at_once_a_run(split, tmp_path, monkeypatch):
    """Four passes of a run, each over a Split that was opened again."""
    stats, stat = [], os.stat
    cache = ImageCache(tmp_path)
    monkeypatch.setattr("src.datasets.cache.os.stat", lambda path, **options: stats.append(
        path) or stat(path, **options))
    for _ in range(4):
        passed(split(), tmp_path, cache=cache)
    assert len([path for path in stats if isinstance(path, str) and path.endswith(".png")]) == 15


def cached(task, root):
    """The test images of a task as an evaluation with --cache-images takes them."""
    cache = ImageCache(root)
    found = images(evaluation._open_images(task, "test", 16, None, 0, cache).split)
    cache.settle()
    return found


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
    assert (found[0] == images(published.split("test"))).all()
    assert (found[1] == images(own.split("test"))).all()
    assert (found[0] != found[1]).any() and (found[0] == found[2]).all() and len(made(tmp_path)) == 2


def test_arrays_are_known_by_their_content(tmp_path):
    """Of images that are not files; class splits in another order have the same labels."""
    colours = [numpy.full((16, 16, 3), 60 * label, dtype=numpy.uint8) for label in range(4)]

    def whole(more=0):
        return Task("colours", ["a", "b", "c", "d"], [], {"test": Split(
            lambda index: Image.fromarray(colours[index] + numpy.uint8(more)), [0, 1, 2, 3],
            content=lambda: f"content {more}")})
    for seed in range(8):
        part = with_classes(whole(), 1, 4, seed)
        assert (cached(part, tmp_path) == images(part.split("test"))).all()
    assert (cached(whole(), tmp_path) == images(whole().split("test"))).all()
    assert (cached(whole(5), tmp_path) == images(whole(5).split("test"))).all()
    contents = {name.split(".")[0].rpartition("-")[2] for name in made(tmp_path)}
    assert len(contents) == 4 + 2, "of four classes and of two wholes"


def test_collections_of_arrays_say_what_they_hold():
    arrays = numpy.arange(2 * 12, dtype=numpy.uint8).reshape(2, 2, 2, 3)
    one, two, other = (collections._array_split(types.SimpleNamespace(data=data, targets=[0, 1]))
                       for data in (arrays, arrays.copy(), arrays + 1))
    assert one.content() == two.content() != other.content() and not one.in_memory
    assert one.subset([0]).content() == two.subset([0]).content() != one.subset([1]).content()


# -- files that fill ---------------------------------------------------------------------------------------------------


def test_an_interrupted_fill_is_taken_up(split, tmp_path, decoded):
    """What it has is not decoded again, except what a loss of power took although its mark is there."""
    plain = images(split())
    kept = ImageCache(tmp_path).kept(split(), "pets-test", EvalTransform(16))
    for index in (0, 3, 4, 9):
        kept.image(index)
    [partial] = (tmp_path / "cache").iterdir()
    content = bytearray(partial.read_bytes())
    start = len(content) - 15 * (768 + 8)
    content[start + 3 * 768:start + 3 * 768 + 400] = bytes(400)
    partial.write_bytes(content)
    decoded.clear()
    assert (passed(split(), tmp_path) == plain).all() and len(decoded) == 12
    assert made(tmp_path) == [partial.name.removesuffix(".partial")]
    assert (passed(split(), tmp_path) == plain).all() and len(decoded) == 12


def test_a_row_that_is_not_what_its_mark_says_keeps_the_file_from_being_whole(split, tmp_path, decoded):
    plain = images(split())
    cache = ImageCache(tmp_path)
    images(cache.kept(split(), "pets-test", EvalTransform(16)))
    [partial] = (tmp_path / "cache").iterdir()
    content = bytearray(partial.read_bytes())
    content[-15 * (768 + 8) + 5 * 768] ^= 1
    partial.write_bytes(content)
    cache.settle()
    cache.kept(split(), "pets-test", EvalTransform(16))
    assert made(tmp_path) == [partial.name]
    decoded.clear()
    assert (passed(split(), tmp_path) == plain).all() and len(decoded) == 1 and made(tmp_path) != [partial.name]


def test_shares_of_several_processes_fill_one_file(split, tmp_path, decoded):
    """Each its rows, in any order; the last one to have passed gives the file its name."""
    caches = [ImageCache(tmp_path) for _ in range(3)]
    decoded.clear()
    for rank, cache in enumerate(caches):
        assert all(name.endswith(".partial") for name in made(tmp_path)) if rank else True
        images(cache.kept(split(), "pets-test", EvalTransform(16)).subset(range(rank, 15, 3)))
        cache.settle()
    caches[2].kept(split(), "pets-test", EvalTransform(16))
    assert len(decoded) == 15 and len(made(tmp_path)) == 1 and made(tmp_path)[0].endswith(".npy")
    assert (images(caches[0].kept(split(), "pets-test", EvalTransform(16))) == images(split())).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_an_interrupted_pass_leaves_no_file_that_looks_whole(split, tmp_path, monkeypatch, error):
    def stop(rows):
        if len(rows) < 4:
            raise error("stopped")
        return collate(rows)
    collate = loading._collate
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(loading, "_collate", stop)
        passed(split(), tmp_path)
    (tmp_path / "pets" / "test" / "blue" / "0.png").touch()
    assert (passed(split(), tmp_path) == images(split())).all()


def test_a_folder_that_cannot_be_written_is_one_note(split, tmp_path, decoded, capsys):
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    cache, plain = ImageCache(tmp_path), images(split())
    for name in ("pets-test", "pets-val"):
        assert (images(cache.kept(split(), name, EvalTransform(16))) == plain).all()
    printed = capsys.readouterr().out
    assert printed.count("note: decoded images are not kept") == 1 and f"{tmp_path / 'cache'} cannot be" in printed


def test_whole_files_serve_where_nothing_may_be_written(split, tmp_path, decoded, capsys):
    passed(split(), tmp_path)
    decoded.clear()
    with reading_only():
        images(ImageCache(tmp_path).kept(split(), "pets-test", EvalTransform(16)))
        assert not decoded
        images(ImageCache(tmp_path).kept(split(), "pets-val", EvalTransform(16)))
    assert len(decoded) == 15 and len(made(tmp_path)) == 1


def test_a_disk_that_becomes_full_costs_no_image(split, tmp_path, monkeypatch):
    """Writing to a mapped file would end the process."""
    plain, write, calls = images(split()), os.pwrite, []

    def full(*words):
        calls.append(1)
        if len(calls) > 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*words)
    monkeypatch.setattr("src.datasets.cache.os.pwrite", full)
    assert (passed(split(), tmp_path) == plain).all() and len(calls) == 10, "it is tried once"
    assert made(tmp_path)[0].endswith(".partial")


def test_a_damaged_file_is_told_and_made_again(split, tmp_path, decoded, capsys):
    plain = passed(split(), tmp_path)
    path = tmp_path / "cache" / made(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:500])
    decoded.clear()
    assert (passed(split(), tmp_path) == plain).all() and len(decoded) == 15
    assert f"warning: {path} is damaged" in capsys.readouterr().err
    assert (passed(split(), tmp_path) == plain).all() and len(decoded) == 15


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "free", "kept"), [
    ("auto", 1_000_000, True), ("auto", 20_000, False), ("disk", 20_000, True), ("disk", 10_000, False),
    ("off", 1_000_000, False)])
def test_where_there_is_room(split, tmp_path, mode, free, kept, monkeypatch, capsys):
    """15 images of 768 bytes: auto takes at most half of what is free."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=free))
    root = tmp_path / "new" / "place" if mode == "disk" else tmp_path
    found = ImageCache(root, mode).kept(split(), "pets-test", EvalTransform(16))
    assert (getattr(found.image, "func", None) is _kept_image) == kept == (root / "cache").exists()
    printed = capsys.readouterr().out
    assert ("decoded images are kept in" in printed) == kept
    assert ("0.0 GB, and" in printed) == (not kept and mode != "off")


def test_no_folder_of_data_is_made_unless_asked(split, tmp_path):
    for mode, made_it in (("auto", False), ("disk", True)):
        images(ImageCache(tmp_path / "data", mode).kept(split(), "pets-test", EvalTransform(16)))
        assert (tmp_path / "data").exists() == made_it


def test_of_large_splits_nothing_is_asked_unless_they_are_to_be_kept(split, tmp_path, monkeypatch):
    monkeypatch.setattr("src.datasets.cache.MOST", 15 * 768 - 1)
    monkeypatch.setattr("src.datasets.cache._state", lambda split: pytest.fail("stats each file"))
    assert ImageCache(tmp_path, "auto").kept(split(), "a", EvalTransform(16)).files
    monkeypatch.undo()
    assert passed(split(), tmp_path).shape[0] == 15


def test_what_costs_nothing_and_what_no_file_tells_is_not_kept(split, tmp_path):
    cache = ImageCache(tmp_path)
    for found in (Split(lambda index: None, [0], in_memory=True, path=lambda index: "a"), Split(None, []),
                  Split(lambda index: None, [0])):
        assert cache.kept(found, "a", EvalTransform(16)) is found
    task = Task("mine", ["a"], [], {"test": split()})
    assert cache.of_task(task, "test", EvalTransform(16)) is not task.split("test")
    code = replace(task, from_code=True)
    assert cache.of_task(code, "test", EvalTransform(16)) is code.split("test")
    assert not (tmp_path / "cache").exists() or len(made(tmp_path)) == 1


def test_a_device_holds_whole_files(split, tmp_path, decoded):
    plain, device = images(split()), torch.device("cpu")
    passed(split(), tmp_path)
    cache = ImageCache(tmp_path, "device", device)
    first, second = (cache.kept(split(), "pets-test", EvalTransform(16)) for _ in range(2))
    assert torch.is_tensor(first.rows.pixels) and first.rows.pixels is second.rows.pixels
    assert (images(first) == plain).all() and (images(first.subset([4, 1])) == plain[[4, 1]]).all()
    assert (images(first.subset(range(1, 15, 4))) == plain[1::4]).all()


def test_a_device_without_room_leaves_the_file_on_the_disk(split, tmp_path, monkeypatch, capsys):
    passed(split(), tmp_path)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * 15 * 768 - 1, 0))
    cache = ImageCache(tmp_path, "device", torch.device("cuda"))
    for _ in range(2):
        assert not torch.is_tensor(cache.kept(split(), "pets-test", EvalTransform(16)).rows.pixels)
    assert capsys.readouterr().out.count("read from the disk") == 1


def test_a_mark_is_never_none_and_follows_every_byte():
    for side in (1, 15, 16):
        places = range(0, 3 * side ** 2, max(1, 3 * side ** 2 // 50))
        rows = numpy.zeros((1 + len(places), 3, side, side), dtype=numpy.uint8)
        for number, place in enumerate(places):
            rows[number + 1:].reshape(len(places) - number, -1)[:, place] = 200
        marks = set(_marks_of(rows).tolist())
        assert 0 not in marks and len(marks) == len(rows)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "means"), [((), "auto"), (("--cache-images",), "disk"),
                                              (("--cache-images", "true"), "disk"), (("--cache-images=off",), "off"),
                                              (("--cache-images", "Device"), "device")])
def test_the_bare_switch_means_disk(words, means):
    assert args.parse(["--eval-only", "--eval-datasets", "DTD", *words]).cache_images == means


def test_in_python_it_may_be_true_or_false():
    assert words_of({"cache_images": True}) == ["--cache-images"]
    assert words_of({"cache_images": False}) == ["--cache-images=off"]
    assert words_of({"cache_images": "device"}) == ["--cache-images=device"]


@pytest.mark.parametrize("words", [(), ("--max-evaluation-size", 5)])
def test_scores_are_the_same(split, tmp_path, cli, world, decoded, words):
    """Without a cache, by default, which fills it, from it, and from the device."""
    tables, counts = [], []
    for number, more in enumerate([("--cache-images", "off"), (), (), ("--cache-images", "device")]):
        decoded.clear()
        done = cli("--load", world.model, "--eval-only", "--eval-datasets", f"folder:{tmp_path / 'pets'}", "--workers",
                   0, "--data-location", tmp_path, "--save", tmp_path / str(number), *words, *more)
        assert done.status == 0, done.err
        found = rows(tmp_path / str(number) / "metrics_pets.csv")[0]
        tables.append({key: value for key, value in found.items() if "time" not in key})
        counts.append(len(decoded))
    assert tables[0] == tables[1] == tables[2] == tables[3]
    assert counts == [len(range(15 if not words else 5)), counts[0], 0, 0]


def test_reference_images_are_kept_too(split, tmp_path, cli, world, decoded):
    """Two runs of a task: the second decodes the 12 images that it trains on; the weights are the same."""
    def run(name, *more):
        decoded.clear()
        done = cli("--load", world.model, "--method", "ZSCL", "--ref-model", world.model, "--train-dataset",
                   world.colours, "--ref-dataset", f"folder:{tmp_path / 'pets'}", "--iterations", 3, "--batch-size", 4,
                   "--workers", 0, "--data-location", tmp_path, "--save", tmp_path / name, "--eval-datasets",
                   world.colours, *more)
        assert done.status == 0, done.err
        return sorted(decoded), weights(tmp_path / name / "colours.pth")
    plain, expected = run("plain", "--cache-images", "off")
    first, found = run("first", "--cache-images")
    again, others = run("again", "--cache-images")
    assert len(plain) >= len(first) > len(again) == 3 * 4
    assert all(torch.equal(value, found[key]) and torch.equal(value, others[key]) for key, value in expected.items())
