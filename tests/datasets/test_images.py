"""Reading image files: the fast JPEG reader against Pillow, odd files, files that are no images."""

import io
import os

import numpy
import pytest
import torch
from PIL import Image, ImageFilter

from src.datasets.images import SUFFIXES, class_folders, folder_split, list_images, open_image, read_image
from src.datasets.transforms import EvalTransform, TrainTransform
from src.errors import UserError

ROTATED = 6  # of EXIF: the camera was held upright


def photo(width=97, height=61, seed=0):
    """Smooth noise, as a photograph has it."""
    noise = numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    smooth = numpy.array(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))).astype(float)
    return Image.fromarray((4 * smooth - 384).clip(0, 255).astype(numpy.uint8))


def pixels(image):
    """(H, W, 3) of either kind of image."""
    if isinstance(image, torch.Tensor):
        assert image.dtype == torch.uint8 and image.shape[0] == 3
        return image.permute(1, 2, 0).numpy().astype(int)
    assert image.mode == "RGB"
    return numpy.array(image).astype(int)


def difference(one, other):
    assert one.shape == other.shape
    return abs(one - other)


def with_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


JPEGS = {  # mode, options of Pillow
    "plain": ("RGB", {"quality": 90}), "best": ("RGB", {"quality": 100, "subsampling": 0}),
    "coarse": ("RGB", {"quality": 10}), "progressive": ("RGB", {"progressive": True}),
    "subsampled": ("RGB", {"subsampling": 2}), "grey": ("L", {}),
    "rotated": ("RGB", {"exif": with_orientation(ROTATED)}),
    "with a profile": ("RGB", {"icc_profile": b"no real profile"}),
}


@pytest.mark.parametrize("case", JPEGS)
@pytest.mark.parametrize("size", [(97, 61), (16, 16), (1, 1), (3, 200)])
def test_a_jpeg_is_what_pillow_reads(tmp_path, case, size):
    mode, options = JPEGS[case]
    photo(*size).convert(mode).save(tmp_path / "a.jpg", **options)
    image = read_image(tmp_path / "a.jpg")
    apart = difference(pixels(image), pixels(open_image(tmp_path / "a.jpg")))
    assert isinstance(image, torch.Tensor), "the slow reader read it"
    assert apart.max() <= 1 and apart.mean() < 0.02


def test_rotation_is_left_alone(tmp_path):
    """Published accuracies are those of images as they are stored."""
    photo(60, 40).save(tmp_path / "a.jpg", exif=with_orientation(ROTATED))
    assert pixels(read_image(tmp_path / "a.jpg")).shape == (40, 60, 3)


def test_cmyk_is_what_pillow_reads(tmp_path):
    photo().convert("CMYK").save(tmp_path / "a.jpg")
    assert difference(pixels(read_image(tmp_path / "a.jpg")), pixels(open_image(tmp_path / "a.jpg"))).max() == 0


PNGS = {
    "alpha": lambda: photo().convert("RGBA"), "palette": lambda: photo().convert("P"),
    "grey": lambda: photo().convert("L"),
    "grey with alpha": lambda: photo().convert("LA"), "black and white": lambda: photo().convert("1"), "rgb": photo,
}


@pytest.mark.parametrize("case", PNGS)
def test_a_png_becomes_rgb(tmp_path, case):
    image = PNGS[case]()
    image.save(tmp_path / "a.png")
    assert difference(pixels(read_image(tmp_path / "a.png")), pixels(image.convert("RGB"))).max() == 0


def test_a_palette_with_a_transparent_colour(tmp_path):
    photo().convert("P").save(tmp_path / "a.png", transparency=3)
    assert pixels(read_image(tmp_path / "a.png")).shape == (61, 97, 3)


@pytest.mark.parametrize(("name", "kind"), [
    ("a.png", "JPEG"), ("a.jpg", "PNG"), ("a.jpeg", "GIF"), ("a.JPG", "WEBP"), ("a.JPEG", "JPEG"), ("a.bmp", "BMP"),
    ("a.webp", "WEBP"), ("a.tif", "TIFF"), ("a.gif", "GIF")])
def test_the_content_counts_and_not_the_name(tmp_path, name, kind):
    photo().save(tmp_path / name, kind)
    with Image.open(tmp_path / name) as stored:
        assert stored.format == kind
        expected = pixels(stored.convert("RGB"))
    assert difference(pixels(read_image(tmp_path / name)), expected).max() <= 1


@pytest.mark.parametrize("name", ["größe 猫.jpg", b"\xff\xfe.jpg"])
def test_names_of_any_bytes(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    photo().save(path, "JPEG")
    assert pixels(read_image(path)).shape == (61, 97, 3)


def whole(kind="JPEG"):
    buffer = io.BytesIO()
    photo().save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"no image", whole()[:200], whole()[:len(whole()) // 2], whole()[:-40],
                                     whole("PNG")[:-300]],
                         ids=["empty", "text", "header only", "half", "nearly whole", "cut png"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_what_cannot_be_decoded_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_image(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name} cannot be decoded (") and len(message.splitlines()) == 1
    assert "repair or remove it" in message and message.count(str(tmp_path)) == 1


def test_a_file_that_went_away_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.jpg cannot be decoded"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (200, 50), (32, 32), (20, 24)])
@pytest.mark.parametrize("grey", [False, True])
def test_transforms_of_both_readers_agree(tmp_path, size, grey):
    photo(*size).convert("L" if grey else "RGB").save(tmp_path / "a.jpg")
    fast, slow = read_image(tmp_path / "a.jpg"), open_image(tmp_path / "a.jpg")
    for transform, seeds in ((EvalTransform(32), [None]), (TrainTransform(32), range(5))):
        for seed in seeds:
            one, other = (transform(image, seed) for image in (fast, slow))
            assert one.dtype == other.dtype == torch.uint8 and one.shape == other.shape == (3, 32, 32)
            assert one.is_contiguous() and (one.int() - other.int()).abs().float().mean() < 1


def test_hidden_folders_and_other_files_are_no_images(tmp_path):
    for name in ("b/2.jpg", "b/10.jpg", "a/x/1.PNG", ".hidden/1.jpg", "a/notes.txt", "a/1.jpg.part", "loose.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert class_folders(tmp_path) == ["a", "b"]
    assert list_images(tmp_path, ["b", "a"]) == (["b/10.jpg", "b/2.jpg", "a/x/1.PNG"], [0, 0, 1])
    assert len(SUFFIXES) == len(set(SUFFIXES)) and all(suffix == suffix.lower() for suffix in SUFFIXES)


def test_files_of_the_finder_are_no_images(tmp_path):
    """macOS leaves ``._1.jpg`` beside each file of an archive that was made there."""
    (tmp_path / "a").mkdir()
    photo().save(tmp_path / "a" / "1.jpg")
    (tmp_path / "a" / "._1.jpg").write_bytes(b"\0\5\x16\7")
    assert folder_split(tmp_path, ["a"]).files == ["a/1.jpg"]


def test_a_folder_named_like_an_image_is_none(tmp_path):
    (tmp_path / "a" / "folder.jpg").mkdir(parents=True)
    photo().save(tmp_path / "a" / "folder.jpg" / "1.png")
    assert folder_split(tmp_path, ["a"]).files == ["a/folder.jpg/1.png"]
