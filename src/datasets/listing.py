"""List a folder of images: the files to read, and every other file counted by the reason why it is left out.

Links are followed. Nothing is decoded, and Pillow is imported only if a file ends in ``.avif`` or ``.heic``.
"""

import functools
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from src.errors import UserError

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp")
SUFFIXES = (*JPEG, ".png", ".apng", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
OPTIONAL = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF"}  # read if Pillow can
# Endings of other files: left out and counted, without a warning.
NO_IMAGE = frozenset(
    ".cfg .csv .doc .docx .db .gz .h5 .html .ini .ipynb .json .jsonl .log .mat .md .npy .npz .parquet .pdf .pickle "
    ".pkl .pt .pth .py .rar .rst .sh .tar .tgz .toml .tsv .txt .url .xls .xlsx .xml .yaml .yml .zip".split())
SYSTEM_FOLDERS = frozenset({"__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "$recycle.bin", "lost+found",
                            "system volume information", "__pycache__"})
DOCUMENTS = frozenset({"authors", "changelog", "citation", "copying", "license", "licence", "makefile", "notice",
                       "readme", "sha256sums", "md5sums"})
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "albumart.db"})
HIDDEN_FOLDER, SYSTEM_FOLDER = "in hidden folders", "in system folders"
HIDDEN_FILE, SYSTEM_FILE = "hidden", "of the system"
DOCUMENT = "documents"
NO_ENDING = "without an ending"
BROKEN, LOOP = "broken links", "links back to a folder above"


@dataclass
class Listing:
    """Hold the listing of a folder.

    ``files``: images as sorted POSIX paths relative to the folder. ``folders``: every visible folder below it,
    likewise. ``left_out``: {reason: number}. ``examples``: {reason: the first such file}.
    """

    files: list = field(default_factory=list)
    folders: list = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)
    examples: dict = field(default_factory=dict)

    def leave_out(self, reason, path, number=1):
        """Count a file that is not read; ``path`` is relative."""
        if number:
            self.left_out[reason] += number
            self.examples.setdefault(reason, path)


def is_image(name):
    """Return whether a file of this name is read as an image, by its ending."""
    ending = ending_of(name)
    return ending in SUFFIXES or (ending in OPTIONAL and OPTIONAL[ending] in optional_formats())


def ending_of(name):
    """Return the lower-case ending: ``"A.JPG"`` -> ``".jpg"``."""
    return os.path.splitext(name)[1].lower()


def why_skipped(name, is_folder):
    """Return why a file or folder of this name is not user data; None if it is."""
    if name.startswith("."):
        return HIDDEN_FOLDER if is_folder else HIDDEN_FILE
    if name.lower() in (SYSTEM_FOLDERS if is_folder else SYSTEM_FILES):
        return SYSTEM_FOLDER if is_folder else SYSTEM_FILE
    return DOCUMENT if not is_folder and name.lower() in DOCUMENTS else None


@functools.cache
def optional_formats():
    """Return which of AVIF and HEIF the installed Pillow decodes; HEIF needs the package pillow-heif."""
    from PIL import Image, features
    found = set()
    if "avif" in features.modules and features.check("avif"):
        found.add("AVIF")
    try:
        import pillow_heif
        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    Image.init()
    return frozenset(found | ({"HEIF"} & set(Image.OPEN)))


def class_folders(folder):
    """Return the names of the folders in a folder, sorted; hidden and system folders are not classes."""
    return sorted(entry.name for entry in Path(folder).iterdir()
                  if entry.is_dir() and not why_skipped(entry.name, is_folder=True))


def list_images(folder, classes):
    """Return (files relative to ``folder`` as POSIX paths, labels), sorted within each class."""
    files, labels = [], []
    for label, name in enumerate(classes):
        found = listing_of(folder, name).files
        files += found
        labels += [label] * len(found)
    return files, labels


def listing_of(folder, below=""):
    """Return the Listing of everything in ``folder/below``, paths relative to ``folder``. Raises UserError for
    unreadable folders."""
    listing = Listing()
    top = os.path.join(folder, below)
    _walk(top, below, (_identity(top),), listing)
    listing.files.sort()
    listing.folders.sort()
    return listing


def _walk(path, below, above, listing):
    """Add the contents of ``path``. ``above``: identities of the folders on the way here and of this one, to
    detect a link back."""
    for entry in _entries(path):
        name = f"{below}/{entry.name}" if below else entry.name
        is_folder = _is_folder(entry)
        reason = why_skipped(entry.name, is_folder)
        if reason:
            listing.leave_out(reason, name, _count(entry.path) if is_folder else 1)
        elif is_folder:
            identity = _identity(entry.path)
            if identity in above:
                listing.leave_out(LOOP, name)
                continue
            listing.folders.append(name)
            _walk(entry.path, name, (*above, identity), listing)
        elif entry.is_symlink() and _is_broken(entry):
            listing.leave_out(BROKEN, name)
        elif is_image(entry.name):
            listing.files.append(name)
        else:
            listing.leave_out(ending_of(entry.name) or NO_ENDING, name)


def _entries(path):
    try:
        with os.scandir(path) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(path, error) from None


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_broken(entry):
    try:
        entry.stat()  # for a link to a file, ``is_dir`` has cached it
    except OSError:
        return True
    return False


def _identity(path):
    """Return the device and inode of a folder."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    return found.st_dev, found.st_ino


def _unreadable(path, error):
    return UserError(f"{path} cannot be read ({error.strerror}); make it readable or remove it")


def _count(folder):
    return sum(len(names) for _, _, names in os.walk(folder))


def summary(left_out):
    """Format a Counter of reasons: ``"10 in hidden folders, 20 .avif"``, the largest number first."""
    rows = sorted(left_out.items(), key=lambda row: (-row[1], row[0]))
    return ", ".join(f"{number} {reason}" for reason, number in rows)


def oddities(listing):
    """Return sentences about left-out files that may be images."""
    return [f"{reason}: {number} left out, such as {listing.examples[reason]}{_way_out(reason)}"
            for reason, number in sorted(listing.left_out.items())
            if reason in (BROKEN, LOOP, NO_ENDING) or reason.startswith(".") and reason not in NO_IMAGE]


def _way_out(reason):
    if reason == BROKEN:
        return "; repair or remove them"
    if reason == LOOP:
        return ""
    kind = OPTIONAL.get(reason)
    if kind:
        return "; pip install pillow-heif to read them" if kind == "HEIF" else "; a newer Pillow reads them"
    return f"; images end in {', '.join(SUFFIXES)}"
