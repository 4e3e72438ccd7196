"""Image files: decoding them by name, what each kind of pixels becomes, finding them in class folders.

Published sets are read by ``read_image`` as they are stored, the user's own images by ``read_upright``, turned as their
EXIF orientation says. All else is the same for both; docs/protocol.md has the table.
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

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others of Pillow's may start programs, as EPS does
MOST_PIXELS = 178_956_970  # above, Pillow takes an image for an attack on memory
ORIENTATION = 0x0112  # of EXIF
# Orientation -> what turns a stored image upright: Pillow's transposition, and the same of a (3, H, W) tensor.
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
LEAST_OF_255 = 16  # a float image of 0 to 255 whose largest value is lower could be one of 0 to 1 that overshoots
WHITE_IS_ZERO = 0  # TIFF's photometric interpretation
SIGNED = 2  # TIFF's sample format
DEEP_COLOUR = re.compile(r"\b(R|G|B|LA|RGB[AaX]*);16")  # how Pillow calls 16 bits per channel
SHALLOW_GREY = re.compile(r"\bL;([24])\b")  # and grey of 2 or 4 bits
POINTER = b"version https://git-lfs"
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")

__all__ = ["FORMATS", "MOST_PIXELS", "SUFFIXES", "class_folders", "folder_split", "jpeg_header", "list_images",
           "named_images", "open_image", "open_upright", "read_image", "read_upright", "rgb_of"]


def open_image(path):
    """Path -> RGB PIL image as it is stored. Raises UserError with the name of a file that cannot be decoded."""
    return _open(path, upright=False)


def open_upright(path):
    """Path -> RGB PIL image, turned as its EXIF orientation says; otherwise as open_image."""
    return _open(path, upright=True)


def read_image(path):
    """Path -> uint8 (3, H, W) for a JPEG, decoded two to three times faster than by Pillow; else an RGB PIL image.

    JPEGs in unusual colours, and those that the fast decoder refuses, go to Pillow, which also says what is wrong.
    """
    return _read(path, upright=False)


def read_upright(path):
    """As read_image, turned as the EXIF orientation says."""
    return _read(path, upright=True)


def _open(path, upright):
    from PIL import Image
    try:
        _reject_no_file(path)
        with Image.open(path, formats=_formats()) as image:
            _reject_pixel_bomb(image)
            stored = " ".join(str(tile[3]) for tile in image.tile)
            image.load()  # of a TIFF this applies the orientation
            turned = _turned(image) if upright else image
            return _as_rgb(turned, stored, image, path)
    except (OSError, SyntaxError, ValueError, OverflowError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), "the file")
        way_out = "fetch it by git lfs pull" if _is_pointer(path) else "repair or remove it"
        raise UserError(f"{path} cannot be decoded ({reason}); {way_out}") from None


def _is_pointer(path):
    """Whether a clone without Git LFS left its note in the place of the file."""
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
    """Reading a pipe would wait, and reading a device never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is no regular file")


def _reject_pixel_bomb(image):
    """Pillow's own limit is off once the package wilds is imported."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"it claims {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")


def _turned(image):
    from PIL import Image
    turn = TURNS.get(_orientation(image))
    return image.transpose(getattr(Image.Transpose, turn[0])) if turn else image


def _orientation(image):
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # Pillow's parser raises whatever damaged metadata make of it; viewers show the image as stored
        return None


# -- pixels --------------------------------------------------------------------------------------------------------


def rgb_of(image, what):
    """PIL image of Python -> RGB PIL image as it stands, of the pixels that a file of it would have. Raises UserError
    that begins with ``what`` where it cannot be decoded."""
    stored = " ".join(str(tile[3]) for tile in getattr(image, "tile", ()))
    try:
        image.load()
        return _as_rgb(image, stored, image, what)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{what} cannot be decoded ({error})") from None

def _as_rgb(image, stored, opened, path):
    """Any kind of pixels -> RGB of 8 bits, transparency on white. ``stored``: what Pillow calls the pixels of the file;
    ``opened`` has its tags."""
    from PIL import Image
    deep = DEEP_COLOUR.search(stored)
    _reject_signed_bytes(image, opened)
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image, opened, path)).convert("RGB")
    if deep:
        _reject_shallow_values(image)
    if image.mode not in WITH_ALPHA and "transparency" not in image.info:
        return image.convert("RGB")
    if deep and isinstance(image.info.get("transparency"), tuple):  # stands in 16 bits, the pixels in 8
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    if (shallow := SHALLOW_GREY.search(stored)) and type(image.info.get("transparency")) is int:
        white = 2 ** int(shallow[1]) - 1  # Pillow scales the pixels to 8 bits, and not the transparent one
        image.info["transparency"] = (image.info["transparency"] & white) * 255 // white
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")


def _eight_bits(image, opened, path):
    """Grey of floats or of more than 8 bits -> uint8 (H, W)."""
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
    raise ValueError(f"its numbers run from {low:g} to {high:g}, where 0 to 1 or 0 to 255 is expected")


def _white_of_integers(values, bits, path):
    """Return the white that the file states by its bits, else the least of DEPTHS that holds every value."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > DEPTHS[-1]:
        raise ValueError(f"its numbers run from {low} to {high}, where 0 to {DEPTHS[-1]} is expected")
    stated = bits[0] if isinstance(bits, tuple) else bits
    if isinstance(stated, int) and 8 < stated < 16:
        return 2 ** stated - 1
    white = next(depth for depth in DEPTHS if high <= depth)
    if 0 < high and white < DEPTHS[-1]:
        _announce_depth(white, path)
    return white


_announced = set()  # kinds of pixels, once per process


def _announce_depth(white, path):
    if white not in _announced:
        _announced.add(white)
        print(f"note: {path} has 16 bits and no value above {white}: such images are read with {white} as white",
              file=sys.stderr)


def _reject_signed_bytes(image, opened):
    """Pillow reads the signed bytes of a TIFF as if they had no sign, so that -1 would be white."""
    if image.mode == "L" and SIGNED in getattr(opened, "tag_v2", {}).get(339, ()):
        raise ValueError("its numbers have a sign, where 0 to 255 is expected")


def _reject_shallow_values(image):
    """Pillow keeps the upper 8 of 16 bits per channel: of colours of 12 bits hardly anything would be left."""
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
    """Read it by Pillow, so that both readers agree, but only where the header has metadata that could hold it."""
    if b"Exif" not in header and b"Orientation" not in header:
        return None
    from PIL import Image
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            return _orientation(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def jpeg_header(content):
    """Return (bytes before the frame of a JPEG, pixels that the frame claims) of (N,) bytes; b"" and 0 where there is
    none. The decoders of torchvision take memory for the pixels unchecked."""
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
    """What --eval-single names, ``A.jpg``, ``A.jpg,B.jpg`` or a folder -> paths, each once, those in a folder sorted. A
    name with commas that is there is taken as it is. Raises UserError for what is not there, and for a folder without
    images."""
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
        raise UserError(f"--eval-single {name}: no images lie in this folder ({', '.join(SUFFIXES)}); folders in it "
                        "are not searched")
    if left_out := Counter(reason for reason in reasons.values() if reason):
        print(f"note: --eval-single {name}: left out: {summary(left_out)}")
    return found


def _why_left_out(name):
    reason = why_skipped(name, is_folder=False)
    return reason or (None if is_image(name) else ending_of(name) or NO_ENDING)


def folder_split(folder, classes, read=read_image):
    """The images of class folders as a Split, labels in the order of ``classes``."""
    return file_split(Path(folder), *list_images(folder, classes), read)
