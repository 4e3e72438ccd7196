"""Images by any hand, or damaged: decoded, or named in one error, or with --skip-bad-images counted."""

import io
import os
import resource
import struct
import time
import warnings
import zlib

import numpy
import pytest
import torch
from cli_files import COLOURS, listing, rows, write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src.datasets.images import FORMATS, MOST_PIXELS, jpeg_header, read_image, read_upright
from src.datasets.transforms import LONGEST, AugmentTransform, EvalTransform, MarginTransform, TrainTransform
from src.errors import UserError

pytest_plugins = ["cli_fixtures"]


def noise(mode="RGB", width=17, height=13):
    pixels = numpy.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    return Image.fromarray(pixels).convert(mode)


def stored(kind, mode="RGB", image=None, **options):
    buffer = io.BytesIO()
    (image or noise(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


exif = Image.Exif()
exif[0x0112] = 3  # upside down
WHOLE = {
    "jpeg": stored("JPEG"), "progressive": stored("JPEG", progressive=True),
    "turned": stored("JPEG", exif=exif), "turned png": stored("PNG", exif=exif), "sixteen": stored("PNG", "I;16"),
    "float": stored("TIFF", "F"), "cmyk": stored("JPEG", "CMYK"),
    "grey": stored("JPEG", "L"), "png": stored("PNG"), "alpha": stored("PNG", "RGBA"), "palette": stored("PNG", "P"),
    "gif": stored("GIF", "P", save_all=True, append_images=[noise("L")]), "webp": stored("WEBP"), "bmp": stored("BMP"),
    "tiff": stored("TIFF"), "lzw": stored("TIFF", "P", compression="tiff_lzw"), "ppm": stored("PPM"),
}


@st.composite
def damaged(draw):
    """A file cut, with bytes overwritten, most of them in its header, or with others put between."""
    content = bytearray(WHOLE[draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(content), draw(st.sampled_from((60, 60, 100_000)))) - 1))
        way = draw(st.sampled_from(("cut", "byte", "byte", "byte", "bytes", "put")))
        if way == "cut":
            content = content[:place] or bytearray(b"x")
        elif way == "byte":
            content[place] = draw(st.sampled_from((0, 1, 127, 128, 255)) | st.integers(0, 255))
        else:
            put = draw(st.binary(min_size=1, max_size=8))
            content[place:place + (len(put) if way == "bytes" else 0)] = put
    return bytes(content)


def decoded_or_named(path):
    """What a file gives under the transforms of training and evaluation; None where it is refused by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd metadata
        try:
            image = read_upright(path)
            read_image(path)  # both readers refuse the same files
        except UserError as error:
            ways_out = "repair or remove it", "fetch it by git lfs pull"  # hypothesis takes the words of our source
            assert str(error).startswith(str(path)) and any(way in str(error) for way in ways_out)
            return None
        for transform in (EvalTransform(8), TrainTransform(8), MarginTransform(8), AugmentTransform(8)):
            result = transform(image, 0)
            assert result.shape == (3, 8, 8) and result.dtype == torch.uint8
    return result


@pytest.mark.parametrize("examples", [60, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_damaged_images(tmp_path, name, examples):
    results = []

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True)
    @given(damaged() | st.binary(max_size=80))
    def check(content):
        (tmp_path / name).write_bytes(content)
        results.append(decoded_or_named(tmp_path / name) is None)
    check()
    assert {*results} == {True, False}


# -- what asks for more than there is ----------------------------------------------------------------------------------


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height):
    """A png that claims a size, and has a few rows of it."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def jpeg(width, height, kind="jpeg"):
    content = bytearray(WHOLE[kind])
    frame = content.index(b"\xff\xc2" if kind == "progressive" else b"\xff\xc0")
    content[frame + 5:frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def bmp(width, height):
    content = bytearray(WHOLE["bmp"])
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def gif(width, height):
    content = bytearray(WHOLE["gif"])
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


BOMBS = {
    "png": png(60_000, 60_000), "jpeg": jpeg(60_000, 60_000), "progressive": jpeg(65_500, 65_500, "progressive"),
    "grey": jpeg(65_500, 65_500, "grey"), "cmyk": jpeg(65_500, 65_500, "cmyk"), "bmp": bmp(2 ** 30, 2 ** 30),
    "gif": gif(65_535, 65_535), "ppm": b"P6 60000 60000 255\n" + bytes(100),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_claim_of_many_pixels_is_refused_before_memory_is_taken(tmp_path, name, bomb):
    """A JPEG of 10 kB took 12.8 GB and three minutes."""
    (tmp_path / name).write_bytes(BOMBS[bomb])
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert decoded_or_named(tmp_path / name) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000 and time.process_time() - began < 5


def test_a_limit_that_another_package_has_lifted(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "a.jpg").write_bytes(BOMBS["jpeg"])
    with pytest.raises(UserError, match="a.jpg cannot be decoded .it claims 60000 x 60000 pixels"):
        read_image(tmp_path / "a.jpg")


def test_the_size_that_a_jpeg_claims():
    for kind in ("jpeg", "progressive", "cmyk", "grey"):
        assert jpeg_header(numpy.frombuffer(WHOLE[kind], dtype=numpy.uint8))[1] == 17 * 13
    assert jpeg_header(numpy.frombuffer(jpeg(60_000, 50_000), dtype=numpy.uint8))[1] == 3_000_000_000
    for content in (b"", b"\xff\xd8", WHOLE["png"], WHOLE["jpeg"][:20], b"\xff\xd8\xff\xe0" + b"\xff" * 40):
        assert jpeg_header(numpy.frombuffer(content, dtype=numpy.uint8))[1] == 0
    assert MOST_PIXELS == 2 * (2 ** 30 // 4 // 3)  # twice Pillow's own limit, which wilds lifts


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (2, 65_000), (30_000, 3)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_strip_is_not_enlarged_as_a_whole(tmp_path, kind, size):
    """Its short side to 336 pixels would be 336 x 6,720,000 of them."""
    path = tmp_path / ("a.png" if kind == "PNG" else "a.jpg")
    Image.new("RGB", size, (200, 100, 50)).save(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels = EvalTransform(336)(read_image(path))
    assert pixels.shape == (3, 336, 336) and (pixels[0].int() - 200).abs().max() < 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_the_middle_of_a_strip_is_what_the_cut_leaves():
    """The colours run along the strip; the part that is looked at is the one around its middle."""
    ramp = numpy.repeat(numpy.linspace(0, 255, 1001)[None, :, None], 3, 2).astype(numpy.uint8)
    strip = Image.fromarray(numpy.repeat(ramp, 3, 0))
    assert strip.size == (1001, 3) and 1001 > 3 * LONGEST
    short = Image.fromarray(numpy.array(strip)[:, 400:601])  # short enough to be enlarged as a whole
    one, other = EvalTransform(8)(strip).int(), EvalTransform(8)(short).int()
    assert (one - other).abs().max() <= 1 and abs(one.float().mean() - 127.5) < 2


# -- not a file, or another kind of file -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="not a regular file"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_device_is_no_image(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a regular file"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_no_program_is_started_for_a_file(tmp_path, name, monkeypatch):
    """Pillow hands EPS to Ghostscript, whatever the file is called."""
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / name).write_bytes(page)
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'canary'}\nexit 1\n", encoding="utf-8")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(UserError, match="cannot be decoded"):
        read_image(tmp_path / name)
    assert not (tmp_path / "canary").exists() and "EPS" not in FORMATS


# -- odd, but whole ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", "png"), ("I;16", "tif"), ("I", "tif")])
def test_grey_of_sixteen_bits_is_not_cut_at_white(tmp_path, mode, suffix):
    values = numpy.arange(0, 65_536, 257, dtype=numpy.uint16).reshape(16, 16)
    Image.fromarray(values).convert(mode).save(tmp_path / f"a.{suffix}")
    pixels = numpy.array(read_image(tmp_path / f"a.{suffix}")).astype(int)
    expected = numpy.arange(256).reshape(16, 16)
    assert (pixels[..., 0] == pixels[..., 2]).all() and abs(pixels[..., 0] - expected).max() <= 1


def test_the_first_picture_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getpixel((4, 4)) == (255, 0, 0)


# -- in a run ----------------------------------------------------------------------------------------------------------

BAD = {
    "empty": b"", "text": b"no image", "a header": WHOLE["jpeg"][:100], "a bomb": BOMBS["jpeg"],
    "a png bomb": BOMBS["png"], "half a png": WHOLE["png"][:200],
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
}
ODD = {
    "cmyk": WHOLE["cmyk"], "animated": WHOLE["gif"], "one pixel": stored("PNG", image=noise(width=1, height=1)),
    "sixteen bits": stored("PNG", image=noise("L").convert("I;16")), "one bit": stored("PNG", "1"),
    "transparent palette": stored("PNG", "P", transparency=bytes(range(256))), "alpha": stored("PNG", "LA"),
    "a strip": stored("PNG", image=noise(width=1, height=5000)), "another suffix": WHOLE["tiff"],
}


@pytest.fixture
def folder(tmp_path):
    """folder(content, name) -> "folder:..." of pictures, of which in training and in test one has this content."""
    root = tmp_path / "pictures"
    for part, number in (("train", 6), ("test", 4)):
        write_pictures(root / part, COLOURS, number)

    def put(content, name="0.jpg"):
        for part in ("train", "test"):
            (root / part / "green" / name).write_bytes(content)
        return f"folder:{root}"
    return put


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("case", ODD)
def test_odd_images_are_trained_on(train, folder, tmp_path, case):
    assert train(tmp_path / "out", "--train-dataset", folder(ODD[case]), "--epochs", 1).status == 0


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_ends_a_run_by_its_name(train, folder, tmp_path, case):
    done = train(tmp_path / "out", "--train-dataset", folder(BAD[case]), "--epochs", 1)
    assert done.status == 2 and done.err.startswith("error: ") and "\n" not in done.err
    assert "green/0.jpg cannot be decoded" in done.err
    assert not [name for name in listing(tmp_path / "out") if name.endswith(".pth")]


@pytest.mark.parametrize("case", BAD)
def test_a_bad_image_is_skipped_and_counted(train, folder, tmp_path, case):
    done = train(tmp_path / "out", "--train-dataset", folder(BAD[case]), "--epochs", 1, "--skip-bad-images")
    assert done.status == 0 and "1 images could not be decoded" in done.out
    assert {row["n"] for row in rows(tmp_path / "out" / "metrics_pictures.csv")} == {"12"}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("case", [*BAD, *ODD])
def test_one_image(cli, world, tmp_path, case):
    (tmp_path / "a.jpg").write_bytes((BAD | ODD)[case])
    (tmp_path / "names.txt").write_text("red\ngreen\n", encoding="utf-8")
    done = cli("--load", world.model, "--eval-single", tmp_path / "a.jpg", "--class-names", tmp_path / "names.txt")
    if case in ODD:
        assert done.status == 0
    else:
        assert done.status == 2 and f"{tmp_path / 'a.jpg'} cannot be decoded" in done.err and "\n" not in done.err


@pytest.mark.parametrize("case", BAD)
def test_check_data_tells_it(cli, folder, case):
    done = cli("--check-data", folder(BAD[case]))
    assert done.status == 1 and done.out.count("fault: ") == 2 and "green/0.jpg cannot be decoded" in done.out
