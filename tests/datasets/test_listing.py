"""What lies in a folder of images: what is read, and every other file with its reason."""

import os
import sys
import types

import pytest
from PIL import Image

from src.datasets import listing
from src.datasets.listing import class_folders, is_image, list_images, listing_of, oddities, optional_formats, summary
from src.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_every_file_is_read_or_counted(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/2.PNG", "a/deep/er/3.jfif", "b/4.jpe", "b/5.JIF", "5.webp",                     # read
          "a/.ipynb_checkpoints/1-checkpoint.jpg", "a/deep/.git/x/y.png", ".cache/1.jpg",     # in hidden folders
          "a/._1.jpg", ".DS_Store",                                                           # hidden
          "__MACOSX/a/1.jpg", "b/@eaDir/4.jpg/thumb.jpg",                                     # in folders of systems
          "b/Thumbs.db", "DESKTOP.INI",                                                       # of the system
          "README", "a/notes.txt", "b/1.svg", "b/2.SVG", "b/no ending")
    found = listing_of(tmp_path)
    assert found.files == ["5.webp", "a/1.jpg", "a/2.PNG", "a/deep/er/3.jfif", "b/4.jpe", "b/5.JIF"]
    assert found.folders == ["a", "a/deep", "a/deep/er", "b"]
    assert found.left_out == {"in hidden folders": 3, "hidden": 2, "in system folders": 2, "of the system": 2,
                              "documents": 1, ".txt": 1, ".svg": 2, "without an ending": 1}
    assert summary(found.left_out) == ("3 in hidden folders, 2 .svg, 2 hidden, 2 in system folders, 2 of the system, "
                                       "1 .txt, 1 documents, 1 without an ending")
    assert [sentence.split(",")[0] for sentence in oddities(found)] == [
        ".svg: 2 left out", "without an ending: 1 left out"]
    assert class_folders(tmp_path) == ["a", "b"]
    assert list_images(tmp_path, ["b", "a"]) == (["b/4.jpe", "b/5.JIF", "a/1.jpg", "a/2.PNG", "a/deep/er/3.jfif"],
                                                 [0, 0, 1, 1, 1])


def test_links_are_followed(tmp_path):
    touch(tmp_path, "elsewhere/x/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "3.jpg").symlink_to(tmp_path / "elsewhere" / "2.jpg")
    found = listing_of(tmp_path / "here")
    assert found.files == ["3.jpg", "a/2.jpg", "a/x/1.jpg"] and not found.left_out


def test_links_that_lead_nowhere_or_back_are_named(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "a" / "self.jpg").symlink_to(tmp_path / "a" / "self.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "same").symlink_to(tmp_path / "b")
    found = listing_of(tmp_path)
    assert found.files == ["a/1.jpg", "b/1.jpg"]
    assert oddities(found) == ["broken links: 2 left out, such as a/gone.jpg; repair or remove them",
                               "links back to a folder above: 2 left out, such as a/up"]


def test_a_folder_is_looked_up_once_and_a_file_never(tmp_path, monkeypatch):
    """A listing of a million files takes as many calls as it has folders."""
    touch(tmp_path, *(f"{folder}/{number}.jpg" for folder in "abc" for number in range(5)))
    (tmp_path / "a" / "link.jpg").symlink_to(tmp_path / "b" / "1.jpg")
    looked_up, real = [], os.stat

    def stat(path, **options):
        looked_up.append(os.path.relpath(path, tmp_path))
        return real(path, **options)
    monkeypatch.setattr(listing.os, "stat", stat)
    assert len(listing_of(tmp_path).files) == 16 and sorted(looked_up) == [".", "a", "b", "c"]


def test_two_ways_to_one_folder_are_no_loop(tmp_path):
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert listing_of(tmp_path).files == ["a/1.jpg", "b/1.jpg"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a/b/1.jpg")
    real = listing.os.scandir

    def refusing(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return real(path)
    monkeypatch.setattr(listing.os, "scandir", refusing)
    with pytest.raises(UserError, match="a/b cannot be read .Permission denied.; make it readable or remove it"):
        listing_of(tmp_path)


@pytest.fixture
def formats():
    """The formats are asked for again."""
    optional_formats.cache_clear()
    yield optional_formats
    optional_formats.cache_clear()


def test_heic_where_its_package_is_installed(formats, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert not is_image("a.HEIC") and "HEIF" not in formats()
    formats.cache_clear()
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    package = types.SimpleNamespace(register_heif_opener=lambda: Image.OPEN.update(HEIF=(None, None)))
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    assert is_image("a.HEIC") and is_image("a.heif")


@pytest.mark.parametrize("reads", [True, False])
def test_avif_where_pillow_reads_it(formats, monkeypatch, reads):
    from PIL import features
    monkeypatch.setitem(features.modules, "avif", features.modules.get("avif"))
    monkeypatch.setattr(features, "check", lambda name: reads)
    assert is_image("a.avif") == reads


def test_pillow_is_not_asked_about_plain_endings(formats, monkeypatch):
    monkeypatch.setattr(listing, "optional_formats", None)
    assert is_image("a.jpg") and is_image("a.JPE") and not is_image("a.txt") and not is_image("jpg")
