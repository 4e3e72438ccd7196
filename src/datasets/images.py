"""Decode image files, convert every kind of pixels, and find images in class folders.

Published sets are read as stored, by ``read_image``; custom images are turned by their EXIF orientation, by
``read_upright``. Everything else is the same for both; docs/protocol.md has the table.
"""

import functools
import os
import re
import sys
from collections import Counter
from pathlib import Path

from src.datasets.common import file_split
from src.datasets.listing import (
    JPEG,
    NO_ENDING,
    SUFFIXES,
    class_folders,
    ending_of,
    is_image,
    list_images,
    optional_formats,
    summary,
    why_skipped,
)
from src.errors import UserError
from src.machine.files import named_paths

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others of Pillow may start programs, as EPS does
MOST_PIXELS = 178_956_970  # above, Pillow treats an image as a decompression bomb
ORIENTATION = 0x0112  # EXIF tag
# Orientation -> how to turn a stored image upright: Pillow's transposition, and the same for a (3, H, W) tensor.
TURNS = {
    2: ("FLIP_LEFT_RIGHT", lambda image: image.flip(2)),
    3: ("ROTATE_180", lambda image: image.flip(1, 2)),
    4: ("FLIP_TOP_BOTTOM", lambda image: image.flip(1)),
    5: ("TRANSPOSE", lambda image: image.transpose(1, 2)),
    6: ("ROTATE_270", lambda image: image.transpose(1, 2).flip(2)),
    7: ("TRANSVERSE", lambda image: image.transpose(1, 2).flip(1, 2)),
    8: ("ROTATE_90", lambda image: image.transpose(1, 2).flip(1)),
}
DEPTHS = (255, 4095, 65_535)  # the white of 8, 12 and 16 bits
LEAST_OF_255 = 16  # below this maximum, a float image may be one of 0 to 1 that overshoots
WHITE_IS_ZERO = 0  # TIFF's photometric interpretation
SIGNED = 2  # TIFF's sample format
DEEP_COLOUR = re.compile(r"\b(R|G|B|LA|RGB[AaX]*);16")  # Pillow's names for 16 bits per channel
SHALLOW_GREY = re.compile(r"\bL;([24])\b")  # and grey of 2 or 4 bits
POINTER = b"version https://git-lfs"
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")

__all__ = ["FORMATS", "MOST_PIXELS", "SUFFIXES", "class_folders", "folder_split", "jpeg_header", "list_images",
           "named_images", "open_image", "open_upright", "read_image", "read_upright", "rgb_of"]


def open_image(path):
    """Open a path as an RGB PIL image as stored. Raises UserError with the name of a file that cannot be decoded."""
    return _open(path, upright=False)


def open_upright(path):
    """Open a path as an RGB PIL image, turned by its EXIF orientation; otherwise like open_image."""
    return _open(path, upright=True)


def read_image(path):
    """Read a path as uint8 (3, H, W) for a JPEG, decoded two to three times faster than by Pillow; else as an
    RGB PIL image.

    JPEGs in unusual colours, and those that the fast decoder rejects, go to Pillow, which also reports what is
    wrong.
    """
    return _read(path, upright=False)


def read_upright(path):
    """Read like read_image, turned by the EXIF orientation."""
    return _read(path, upright=True)


def _open(path, upright):
    from PIL import Image
    try:
        _reject_no_file(path)
        with Image.open(path, formats=_formats()) as image:
            _reject_pixel_bomb(image)
            stored = " ".join(str(tile[3]) for tile in image.tile)
            image.load()  # for a TIFF this applies the orientation
            turned = _turned(image) if upright else image
            return _as_rgb(turned, stored, image, path)
    except (OSError, SyntaxError, ValueError, OverflowError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), "the file")
        way_out = "fetch it by git lfs pull" if _is_pointer(path) else "repair or remove it"
        raise UserError(f"{path} cannot be decoded ({reason}); {way_out}") from None


def _is_pointer(path):
    """Return whether a clone without Git LFS left a pointer instead of the file."""
    try:
        _reject_no_file(path)
        with open(path, "rb") as file:
            return file.read(len(POINTER)) == POINTER
    except OSError:
        return False


@functools.cache
def _formats():
    return (*FORMATS, *sorted(optional_formats()))


def _reject_no_file(path):
    """Reject pipes, which would block, and devices, which never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is not a regular file")


def _reject_pixel_bomb(image):
    """Reject huge images; importing the package wilds disables Pillow's own limit."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"it claims {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")


def _turned(image):
    from PIL import Image
    turn = TURNS.get(_orientation(image))
    return image.transpose(getattr(Image.Transpose, turn[0])) if turn else image


def _orientation(image):
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # damaged metadata raise anything in Pillow's parser; viewers show the image as stored
        return None


# -- pixels --------------------------------------------------------------------------------------------------------


def rgb_of(image, what):
    """Convert a PIL image made in Python to an RGB PIL image with the pixels that its file would give.

    Raises UserError, which begins with ``what``, if it cannot be decoded.
    """
    stored = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    try:
        image.load()
        return _as_rgb(image, stored, image, what)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{what} cannot be decoded ({error})") from None

def _as_rgb(image, stored, opened, path):
    """Convert any kind of pixels to 8-bit RGB, transparency on white.

    ``stored``: Pillow's name for the pixels of the file. ``opened``: holds its tags.
    """
    from PIL import Image
    deep = DEEP_COLOUR.search(stored)
    _reject_signed_bytes(image, opened)
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image, opened, path)).convert("RGB")
    if deep:
        _reject_shallow_values(image)
    if image.mode not in WITH_ALPHA and "transparency" not in image.info:
        return image.convert("RGB")
    if deep and isinstance(image.info.get("transparency"), tuple):  # given in 16 bits, the pixels in 8
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    if (shallow := SHALLOW_GREY.search(stored)) and type(image.info.get("transparency")) is int:
        white = 2 ** int(shallow[1]) - 1  # Pillow scales the pixels to 8 bits, but not the transparent value
        image.info["transparency"] = (image.info["transparency"] & white) * 255 // white
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")


def _eight_bits(image, opened, path):
    """Convert grey of floats or of more than 8 bits to uint8 (H, W)."""
    import numpy
    values = numpy.asarray(image)                                                        # (H, W)
    tags = getattr(opened, "tag_v2", {})
    white = _white_of_floats(values) if image.mode == "F" else _white_of_integers(values, tags.get(258), path)
    grey = numpy.rint(values * (255 / white)).astype(numpy.uint8)
    if tags.get(262) == WHITE_IS_ZERO:
        grey = 255 - grey
    if type(opened.info.get("transparency")) is int:
        grey[values == opened.info["transparency"]] = 255
    return grey


def _white_of_floats(values):
    import numpy
    low, high = float(values.min()), float(values.max())
    if not numpy.isfinite(values).all():
        raise ValueError("it holds numbers that are not finite")
    if low >= 0 and high <= 1:
        return 1
    if low >= 0 and LEAST_OF_255 <= high <= 255:
        return 255
    raise ValueError(f"its numbers run from {low:g} to {high:g}, but 0 to 1 or 0 to 255 is expected")


def _white_of_integers(values, bits, path):
    """Return the white that the file's bit depth states, else the lowest of DEPTHS that holds every value."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > DEPTHS[-1]:
        raise ValueError(f"its numbers run from {low} to {high}, but 0 to {DEPTHS[-1]} is expected")
    stated = bits[0] if isinstance(bits, tuple) else bits
    if isinstance(stated, int) and 8 < stated < 16:
        return 2 ** stated - 1
    white = next(depth for depth in DEPTHS if high <= depth)
    if 0 < high and white < DEPTHS[-1]:
        _announce_depth(white, path)
    return white


_announced = set()  # kinds of pixels already announced by this process


def _announce_depth(white, path):
    if white not in _announced:
        _announced.add(white)
        print(f"note: {path} has 16 bits and no value above {white}: such images are read with {white} as white",
              file=sys.stderr)


def _reject_signed_bytes(image, opened):
    """Reject signed bytes of a TIFF: Pillow reads them as unsigned, so that -1 would be white."""
    if image.mode == "L" and SIGNED in getattr(opened, "tag_v2", {}).get(339, ()):
        raise ValueError("its numbers are signed, but 0 to 255 is expected")


def _reject_shallow_values(image):
    """Reject 12-bit colours stored in 16 bits: Pillow keeps the upper 8 bits, so hardly anything would be left."""
    bands = image.getextrema()
    if max(high for _, high in bands[:3]) <= DEPTHS[1] >> 8:
        raise ValueError(f"its channels of 16 bits hold no value above {DEPTHS[1]}, so it would be black; store it "
                         "with 8 bits, or scaled to 16")


# -- the fast reader of JPEGs --------------------------------------------------------------------------------------


def _read(path, upright):
    if ending_of(path) not in JPEG:
        return _open(path, upright)
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    try:
        _reject_no_file(path)
        content = read_file(str(path))
        header, pixels = jpeg_header(content.numpy())
        if not 0 < pixels <= MOST_PIXELS:
            return _open(path, upright)
        image = decode_jpeg(content, mode=ImageReadMode.UNCHANGED)
    except (OSError, RuntimeError):
        return _open(path, upright)
    if image.shape[0] not in (1, 3):
        return _open(path, upright)
    turn = TURNS.get(_orientation_of_jpeg(path, header)) if upright else None
    image = image.expand(3, -1, -1)
    return turn[1](image) if turn else image


def _orientation_of_jpeg(path, header):
    """Read the orientation with Pillow, so that both readers agree, but only if the header has metadata that
    could hold it."""
    if b"Exif" not in header and b"Orientation" not in header:
        return None
    from PIL import Image
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            return _orientation(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def jpeg_header(content):
    """Return (bytes before the frame of a JPEG, pixels that the frame claims) of (N,) bytes; b"" and 0 without
    a frame.

    torchvision's decoders allocate memory for the pixels unchecked.
    """
    at = 2
    while at + 8 < len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int(content[at + 2]) << 8 | int(content[at + 3])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame: bits, height, width
            height, width = (int(content[index]) << 8 | int(content[index + 1]) for index in (at + 5, at + 7))
            return content[:at].tobytes(), height * width
        at += 2 + length
    return b"", 0


# -- files ---------------------------------------------------------------------------------------------------------


def named_images(text):
    """Return the paths that --eval-single names (``A.jpg``, ``A.jpg,B.jpg`` or a folder), without repeats, a
    folder's sorted.

    An existing name with commas is one file. Raises UserError for a missing file, and for a folder without
    images.
    """
    return list(dict.fromkeys(path for name in named_paths(text) for path in _images_at(name, text)))


def _images_at(name, text):
    if not os.path.exists(name):
        raise UserError(f"--eval-single {name or text}: no such file or folder")
    if os.path.isfile(name):
        return [Path(name)]
    try:
        files = sorted(Path(entry.path) for entry in os.scandir(name) if entry.is_file())
    except OSError as error:
        raise UserError(f"--eval-single {name}: cannot be read ({error.strerror})") from None
    reasons = {path: _why_left_out(path.name) for path in files}
    found = [path for path, reason in reasons.items() if reason is None]
    if not found:
        raise UserError(f"--eval-single {name}: no images in this folder ({', '.join(SUFFIXES)}); its subfolders are "
                        "not searched")
    if left_out := Counter(reason for reason in reasons.values() if reason):
        print(f"note: --eval-single {name}: left out: {summary(left_out)}")
    return found


def _why_left_out(name):
    reason = why_skipped(name, is_folder=False)
    return reason or (None if is_image(name) else ending_of(name) or NO_ENDING)


def folder_split(folder, classes, read=read_image):
    """Return the images of class folders as a Split, labels in the order of ``classes``."""
    return file_split(Path(folder), *list_images(folder, classes), read)
