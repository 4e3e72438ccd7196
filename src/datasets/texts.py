"""Read the text of a user's file; encoding and byte order mark are detected."""

import codecs
import os

from src.errors import UserError

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
SHARDS = ("shards of WebDataset (.tar) are not read: unpack them (tar xf 00000.tar -C images) and list the images with "
          "their captions in a csv; section Your own pictures of datasets.md has the steps")
NO_TABLES = ((0, b"PK\x03\x04", "is a spreadsheet or a zip archive: save the sheet as csv, or unpack it"),
             (0, b"\xd0\xcf\x11\xe0", "is a spreadsheet: save the sheet as csv"),
             (0, b"PAR1", "is a parquet file: write it as csv, as pandas.read_parquet(FILE).to_csv(NEW) does"),
             (0, b"ARROW1", "is an arrow file: write it as csv"), (0, b"\x1f\x8b", "is compressed: unpack it first"),
             (0, b"BZh", "is compressed: unpack it first"), (0, b"\xfd7zXZ", "is compressed: unpack it first"),
             (0, b"version https://git-lfs", "is a pointer of Git LFS: fetch the table by git lfs pull"),
             (257, b"ustar", f"is a tar archive: {SHARDS}"))


def read_text(name, path, wanted):
    """Return the text of a file, without a byte order mark. ``wanted``: what to give instead, if the file is
    missing."""
    if ".tar" in path.name and not path.name.endswith((".csv", ".tsv", ".json", ".jsonl", ".txt")):
        raise UserError(f"{name}: {SHARDS}")
    if not os.path.isfile(path):
        what = f"{path} is a folder, not a file" if os.path.isdir(path) else f"no such file: {path}"
        raise UserError(f"{name}: {what}; give {wanted}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {path} cannot be read ({error.strerror or error})") from None
    for place, magic, what in NO_TABLES:
        if content.startswith(magic, place):
            raise UserError(f"{name}: {path} {what}")
    return _decoded(name, path, content)


def _decoded(name, path, content):
    encoding = next((encoding for mark, encoding in MARKS if content.startswith(mark)), None) or _unmarked(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        named = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise UserError(
            f"{name}: {path} cannot be read as {named} text (line {line} has the byte 0x{content[error.start]:02x}); "
            "if it is text in another encoding, such as Windows-1252 or GBK, save it as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{name}: {path} cannot be read as text (line {line} has a NUL byte); repair it")
    return text


def _unmarked(content):
    """Return the encoding of bytes without a mark: zero bytes in the first column name reveal UTF-16."""
    first = content[:8]
    if len(first) == 8 and not any(first[1::2]) and all(first[::2]):
        return "utf-16-le"
    if len(first) == 8 and not any(first[::2]) and all(first[1::2]):
        return "utf-16-be"
    return "utf-8"
