"""Image files: finding them in class folders, decoding them by name."""

import os
from pathlib import Path

from src.datasets.common import file_split
from src.errors import UserError
from src.machine.files import named_paths

JPEG = (".jpg", ".jpeg")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others of Pillow's may start programs, as EPS does
MOST_PIXELS = 178_956_970  # above, Pillow takes an image for an attack on memory
SUFFIXES = (*JPEG, ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def open_image(path):
    """Path -> RGB PIL image; a file that cannot be decoded is named."""
    from PIL import Image
    try:
        _refuse_what_is_no_file(path)
        with Image.open(path, formats=FORMATS) as image:
            _refuse_what_claims_much(image)
            return _as_eight_bits(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), "the file")
        raise UserError(f"{path} cannot be decoded ({reason}); repair or remove it") from None


def _refuse_what_is_no_file(path):
    """Reading a pipe would wait, and reading a device never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is no regular file")


def _refuse_what_claims_much(image):
    """Pillow's own limit is off once the package wilds is imported."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"it claims {image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")


def _as_eight_bits(image):
    """Grey of 16 bits as grey of 8: Pillow would cut what is above 255."""
    if not image.mode.startswith("I"):
        return image
    return image.convert("I").point(lambda value: value / 257).convert("L")


def read_image(path):
    """Path -> uint8 (3, H, W) for a JPEG, decoded two to three times faster than by Pillow; else an RGB PIL image.

    JPEGs in unusual colours, and those that the fast decoder refuses, go to Pillow, which also says what is wrong.
    """
    if Path(path).suffix.lower() not in JPEG:
        return open_image(path)
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    try:
        _refuse_what_is_no_file(path)
        content = read_file(str(path))
        if not 0 < jpeg_pixels(content.numpy()) <= MOST_PIXELS:
            return open_image(path)
        image = decode_jpeg(content, mode=ImageReadMode.UNCHANGED)
    except (OSError, RuntimeError):
        return open_image(path)
    channels = image.shape[0]
    if channels not in (1, 3):
        return open_image(path)
    return image.expand(3, -1, -1)


def jpeg_pixels(content):
    """How many pixels the header of a JPEG claims, (N,) bytes -> a number; 0 where it has none. No decoder of
    torchvision's asks before it takes memory for them."""
    place = 2
    while place + 8 < len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int(content[place + 2]) << 8 | int(content[place + 3])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame: bits, height, width
            height, width = (int(content[at]) << 8 | int(content[at + 1]) for at in (place + 5, place + 7))
            return height * width
        place += 2 + length
    return 0


def class_folders(folder):
    """Names of the folders in a folder, sorted; hidden ones are not classes."""
    return sorted(entry.name for entry in Path(folder).iterdir() if entry.is_dir() and not entry.name.startswith("."))


def list_images(folder, classes):
    """(files relative to ``folder`` as POSIX paths, labels), sorted within each class."""
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(Path(place, file).relative_to(folder).as_posix()
                       for place, _, names in os.walk(Path(folder) / name) for file in names
                       if Path(file).suffix.lower() in SUFFIXES and not file.startswith("."))
        files += found
        labels += [label] * len(found)
    return files, labels


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
        files = [Path(entry.path) for entry in os.scandir(name) if entry.is_file()]
    except OSError as error:
        raise UserError(f"--eval-single {name}: cannot be read ({error.strerror})") from None
    found = sorted(path for path in files if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    if not found:
        raise UserError(f"--eval-single {name}: no images lie in this folder ({', '.join(SUFFIXES)}); folders in it "
                        "are not searched")
    return found


def folder_split(folder, classes, read=read_image):
    """The images of class folders as a Split, labels in the order of ``classes``."""
    return file_split(Path(folder), *list_images(folder, classes), read)
