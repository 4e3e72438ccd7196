"""Reading image files: the fast JPEG reader against Pillow, odd files, files that are not images."""

import io
import os
import struct
import zlib

import numpy
import pytest
import torch
from PIL import Image, ImageFilter

from src.datasets import open_task
from src.datasets.images import (
    SUFFIXES,
    class_folders,
    folder_split,
    list_images,
    named_images,
    open_image,
    open_upright,
    read_image,
    read_upright,
    rgb_of,
)
from src.datasets.listing import optional_formats
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
    assert pixels(open_image(tmp_path / "a.jpg")).shape == (40, 60, 3)


# How a stored image becomes what viewers show, by the definition of each value: which side the 0th row and the 0th
# column of the stored image are. (H, W) -> (H, W) or (W, H)
UPRIGHT = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: numpy.rot90(a, -1), 7: lambda a: numpy.rot90(a.swapaxes(0, 1), 2),
    8: lambda a: numpy.rot90(a, 1), 9: lambda a: a, 0: lambda a: a,
}


@pytest.mark.parametrize("value", UPRIGHT)
@pytest.mark.parametrize(("ending", "mode"), [("jpg", "RGB"), ("jpg", "L"), ("jpg", "CMYK"), ("png", "RGB"),
                                              ("png", "P"), ("webp", "RGB"), ("tif", "RGB")])
def test_the_users_images_are_turned_upright(tmp_path, value, ending, mode):
    path = tmp_path / f"a.{ending}"
    photo(60, 40).convert(mode).save(path, exif=with_orientation(value))
    plain = tmp_path / f"plain.{ending}"
    photo(60, 40).convert(mode).save(plain)
    expected = UPRIGHT[value](pixels(open_image(plain)))
    assert difference(pixels(open_upright(path)), expected).max() == 0
    fast = read_upright(path)
    assert isinstance(fast, torch.Tensor) == (ending == "jpg" and mode != "CMYK")
    assert difference(pixels(fast), expected).max() <= 1


def test_orientation_in_xmp_alone(tmp_path):
    """Pillow reads it there, and both readers follow it."""
    photo(60, 40).save(tmp_path / "a.jpg", xmp=b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')
    assert pixels(read_upright(tmp_path / "a.jpg")).shape == pixels(open_upright(tmp_path / "a.jpg")).shape


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage",
                                  b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"])
def test_damaged_metadata_turn_nothing(tmp_path, exif):
    photo(60, 40).save(tmp_path / "a.jpg", exif=exif)
    assert pixels(read_upright(tmp_path / "a.jpg")).shape == (40, 60, 3)
    assert pixels(open_upright(tmp_path / "a.jpg")).shape == (40, 60, 3)


def test_an_upright_jpeg_takes_the_fast_path_alone(tmp_path, monkeypatch):
    """Published sets never ask for metadata, and nothing does where the header has none."""
    photo(60, 40).save(tmp_path / "plain.jpg")
    photo(60, 40).save(tmp_path / "turned.jpg", exif=with_orientation(ROTATED))
    monkeypatch.setattr(Image, "open", None)
    assert pixels(read_upright(tmp_path / "plain.jpg")).shape == (40, 60, 3)
    assert pixels(read_image(tmp_path / "turned.jpg")).shape == (40, 60, 3)


# -- kinds of pixels: hand-made values and what becomes of them, the table of docs/protocol.md -------------------------

CLEAR = 0  # alpha


def saved(path, values, mode=None, **options):
    """A file of hand-made values: an array, or a list of pixels in one row."""
    if isinstance(values, list):
        image = Image.new(mode, (len(values), 1))
        image.putdata(values)
    else:
        image = Image.fromarray(values)
    image.save(path, **options)
    return path


def row(values, kind):
    return numpy.array([values], dtype=kind)


GREYS = {  # file, values, what its grey is
    "16 bits": ("a.png", row([0, 257, 25_700, 65_535], "uint16"), [0, 1, 100, 255]),
    "16 bits, tiff": ("a.tif", row([0, 257, 25_700, 65_535], "uint16"), [0, 1, 100, 255]),
    "16 bits, big-endian tiff": ("a.tif", row([0, 257, 25_700, 65_535], ">u2"), [0, 1, 100, 255]),
    "12 bits in 16": ("a.png", row([0, 819, 2048, 4095], "uint16"), [0, 51, 128, 255]),
    "12 bits in 16, tiff": ("a.tif", row([0, 819, 2048, 4095], "uint16"), [0, 51, 128, 255]),
    "8 bits in 16": ("a.png", row([0, 5, 100, 255], "uint16"), [0, 5, 100, 255]),
    "dark, of 16 bits": ("a.png", row([0, 4096, 4370, 0], "uint16"), [0, 16, 17, 0]),
    "black, of 16 bits": ("a.png", row([0, 0], "uint16"), [0, 0]),
    "32 bits": ("a.tif", row([0, 257, 65_535], "int32"), [0, 1, 255]),
    "float, 0 to 1": ("a.tif", row([0, 0.2, 0.5, 1], "float32"), [0, 51, 128, 255]),
    "float, 0 to 1, dim": ("a.tif", row([0, 0.2, 0.4], "float32"), [0, 51, 102]),
    "float, 0 to 255": ("a.tif", row([0, 51, 127.6, 254], "float32"), [0, 51, 128, 254]),
}


@pytest.mark.parametrize("case", GREYS)
def test_grey_of_other_numbers(tmp_path, case):
    name, values, expected = GREYS[case]
    path = saved(tmp_path / name, values)
    for read in (read_image, open_image, read_upright, open_upright):
        assert pixels(read(path)).tolist() == [[[value] * 3 for value in expected]]


REFUSED = {
    "float below 0": ([-0.5, 0.5], "float32", "its numbers run from -0.5 to 0.5"),
    "float that overshoots 1": ([0, 1.2], "float32", "its numbers run from 0 to 1.2"),
    "float of 16 bits": ([0, 65_535], "float32", "its numbers run from 0 to 65535"),
    "nan": ([0, numpy.nan], "float32", "it holds numbers that are not finite"),
    "infinite": ([0, numpy.inf], "float32", "it holds numbers that are not finite"),
    "below 0": ([-3, 100], "int32", "its numbers run from -3 to 100"),
    "above 16 bits": ([0, 70_000], "int32", "its numbers run from 0 to 70000"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_numbers_of_no_known_range_are_refused(tmp_path, case):
    values, kind, message = REFUSED[case]
    path = saved(tmp_path / "a.tif", row(values, kind))
    with pytest.raises(UserError, match="a.tif cannot be decoded ") as caught:
        read_upright(path)
    assert message in str(caught.value)


def test_tiff_whose_white_is_zero(tmp_path):
    path = saved(tmp_path / "a.tif", row([0, 25_700, 65_535], "uint16"), tiffinfo={262: 0})
    assert pixels(read_image(path))[0, :, 0].tolist() == [255, 155, 0]


def test_twelve_bits_that_the_file_states(tmp_path):
    """Two values of 12 bits in three bytes; no value says that the white is 4095."""
    path = tmp_path / "a.tif"
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 128), (277, 1), (278, 1), (279, 3)]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    head += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + struct.pack("<I", 0)
    path.write_bytes(head.ljust(128, b"\0") + bytes([0x08, 0x01, 0x00]))  # 0x080 and 0x100
    assert pixels(read_image(path))[0, :, 0].tolist() == [round(128 * 255 / 4095), round(256 * 255 / 4095)]


def test_bits_that_no_file_states_are_announced_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("src.datasets.images._announced", set())
    for name in ("a.png", "b.png"):
        read_image(saved(tmp_path / name, row([0, 4095], "uint16")))
    read_image(saved(tmp_path / "c.png", row([0, 65_535], "uint16")))
    line, = capsys.readouterr().err.splitlines()
    assert line == (f"note: {tmp_path / 'a.png'} has 16 bits and no value above 4095: such images are read with 4095 "
                    "as white")


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def colour_png(path, values):
    """RGB of 16 bits, which Pillow does not write. ``values``: (H, W, 3)"""
    height, width, _ = numpy.shape(values)
    rows = b"".join(b"\0" + numpy.array(line, dtype=">u2").tobytes() for line in values)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey_of_few_bits(tmp_path, bits):
    """All greys of a PNG in one row, of which the second is transparent: put on white, and no other one."""
    values = range(min(16, 2 ** bits)) if bits < 8 else (0, 1, 2, 255)
    packed = int("".join(f"{value:0{bits}b}" for value in values).ljust(128, "0"), 2).to_bytes(16, "big")
    row_of_bytes = packed[:-(-len(values) * bits // 8)]
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0))
                     + chunk(b"tRNS", struct.pack(">H", 1)) + chunk(b"IDAT", zlib.compress(b"\0" + row_of_bytes))
                     + chunk(b"IEND", b""))
    expected = [255 if value == 1 else value * 255 // (2 ** bits - 1) for value in values]
    assert pixels(read_image(path))[0, :, 0].tolist() == expected


def test_signed_bytes_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.new("L", (2, 1), 200).save(path, tiffinfo={339: 2})
    with pytest.raises(UserError, match="a.tif cannot be decoded .its numbers are signed"):
        read_image(path)


def test_colours_of_sixteen_bits(tmp_path):
    path = colour_png(tmp_path / "a.png", [[(65_535, 25_700, 0), (257, 514, 771)]])
    assert pixels(read_image(path)).tolist() == [[[255, 100, 0], [1, 2, 3]]]
    with pytest.raises(UserError, match="channels of 16 bits hold no value above 4095, so it would be black"):
        read_image(colour_png(tmp_path / "a.png", [[(4095, 100, 0), (257, 514, 771)]]))


TRANSPARENT = {  # file, mode, pixels, options of saving, RGB
    "rgba": ("a.png", "RGBA", [(9, 8, 7, 255), (9, 8, 7, CLEAR), (0, 0, 0, 51)], {},
             [(9, 8, 7), (255, 255, 255), (204, 204, 204)]),
    "webp": ("a.webp", "RGBA", [(0, 0, 0, CLEAR)] * 2, {"lossless": True}, [(255, 255, 255)] * 2),
    "tiff": ("a.tif", "RGBA", [(9, 8, 7, 255), (9, 8, 7, CLEAR)], {}, [(9, 8, 7), (255, 255, 255)]),
    "grey with alpha": ("a.png", "LA", [(70, 255), (70, CLEAR)], {}, [(70, 70, 70), (255, 255, 255)]),
    "colour of a palette": ("a.png", "P", [0, 1, 2], {"transparency": 1},
                            [(10, 20, 30), (255, 255, 255), (70, 80, 90)]),
    "alpha of a palette": ("a.png", "P", [0, 1, 2], {"transparency": b"\xff\x00\xff"},
                           [(10, 20, 30), (255, 255, 255), (70, 80, 90)]),
    "colour of a gif": ("a.gif", "P", [0, 1, 2], {"transparency": 1}, [(10, 20, 30), (255, 255, 255), (70, 80, 90)]),
    "one grey": ("a.png", "L", [7, 8], {"transparency": 7}, [(255, 255, 255), (8, 8, 8)]),
    "one colour": ("a.png", "RGB", [(1, 2, 3), (1, 2, 4)], {"transparency": (1, 2, 3)}, [(255, 255, 255), (1, 2, 4)]),
    "one grey of 16 bits": ("a.png", "I;16", [257, 65_535, 514], {"transparency": 514},
                            [(1, 1, 1), (255, 255, 255), (255, 255, 255)]),
}


@pytest.mark.parametrize("case", TRANSPARENT)
def test_transparency_is_put_on_white(tmp_path, case):
    name, mode, values, options, expected = TRANSPARENT[case]
    image = Image.new(mode, (len(values), 1))
    for index, value in enumerate(values):
        image.putpixel((index, 0), value)
    if mode == "P":
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / name, **options)
    for read in (read_image, read_upright):
        assert pixels(read(tmp_path / name))[0].tolist() == [list(colour) for colour in expected]


def test_palettes_and_two_colours_are_converted_before_they_are_resized(tmp_path):
    """A board of black and white squares of one pixel becomes grey: a resize of palette indices would pick either."""
    board = (numpy.indices((64, 64)).sum(0) % 2 * 255).astype(numpy.uint8)
    for mode in ("L", "P", "1"):
        Image.fromarray(board).convert(mode).save(tmp_path / f"{mode}.png")
        shown = EvalTransform(8)(read_upright(tmp_path / f"{mode}.png")).float()
        assert shown.shape == (3, 8, 8) and (shown[:, 2:6, 2:6] - 127.5).abs().max() < 4


@pytest.mark.skipif(not optional_formats() & {"AVIF"}, reason="this Pillow reads no AVIF")
def test_avif_where_pillow_reads_it(tmp_path):
    (tmp_path / "a").mkdir()
    photo(60, 40).save(tmp_path / "a" / "1.avif", quality=95, exif=with_orientation(ROTATED))
    split = folder_split(tmp_path, ["a"], read_upright)
    assert split.files == ["a/1.avif"]
    assert difference(pixels(split.image(0)), numpy.rot90(pixels(photo(60, 40)), -1)).mean() < 4


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


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_what_a_clone_without_git_lfs_leaves_is_named(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(UserError, match="cannot be decoded .*git lfs pull"):
        read_image(tmp_path / name)


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


def test_what_is_left_out_of_a_folder_to_classify_is_told(tmp_path, capsys):
    for name in ("b.jpg", "a.JFIF", ".hidden.jpg", "Thumbs.db", "x.svg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in named_images(str(tmp_path))] == ["a.JFIF", "b.jpg"]
    assert capsys.readouterr().out == (f"note: --eval-single {tmp_path}: left out: 1 .svg, 1 .txt, 1 hidden, "
                                       "1 of the system\n")


@pytest.mark.parametrize("kind", ["folder", "csv", "pairs"])
def test_each_kind_of_the_users_own_data_is_turned_upright(tmp_path, kind):
    for part in ("train", "test"):
        for label in ("one", "two"):
            (tmp_path / part / label).mkdir(parents=True)
            photo(60, 40).save(tmp_path / part / label / "a.jpg", exif=with_orientation(ROTATED))
    rows = "".join(f"{part}/{label}/a.jpg,{label},{label},{part}\n" for part in ("train", "test")
                   for label in ("one", "two"))
    (tmp_path / "table.csv").write_text(f"image,label,caption,split\n{rows}", encoding="utf-8")
    name = f"{kind}:{tmp_path if kind == 'folder' else tmp_path / 'table.csv'}"
    task = open_task(name, str(tmp_path / "data"))
    assert [pixels(task.split(part).image(index)).shape for part in ("train", "test") for index in (0, 1)] == [
        (60, 40, 3)] * 4


def test_a_picture_of_python_is_read_like_its_file(tmp_path):
    """It stands as it is: what turns files is left alone."""
    deep = numpy.linspace(0, 65535, 12).astype(numpy.uint16).reshape(3, 4)
    clear = numpy.dstack([numpy.full((3, 4, 3), 7, numpy.uint8), numpy.arange(12, dtype=numpy.uint8).reshape(3, 4)])
    for array in (deep, clear, clear[..., :3]):
        picture = Image.fromarray(array)
        picture.save(tmp_path / "a.png")
        assert (numpy.asarray(rgb_of(picture, "it")) == numpy.asarray(open_upright(tmp_path / "a.png"))).all()
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    photo().save(tmp_path / "b.jpg", exif=exif)
    with Image.open(tmp_path / "b.jpg") as opened:
        assert rgb_of(opened, "it").size == (97, 61)
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    with Image.open(tmp_path / "c.png") as opened, pytest.raises(UserError, match="^it cannot be decoded"):
        rgb_of(opened, "it")
