"""Read caption files in the formats of COCO and Flickr30K: which image has which captions, and its split.

Karpathy's json, the official json of COCO, a list of images with captions in json, lines of json, Flickr's token file
(``1.jpg#0<tab>caption``), a table with any separator, and Google's table of captions and addresses.
"""

import ast
import os
import re
import reprlib
from dataclasses import dataclass, replace

from src.datasets.rows import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    MISSING,
    is_by_parts,
    is_json,
    json_table,
    parse_records,
    part_of,
    read_table,
    split_of,
)
from src.datasets.texts import read_text
from src.errors import UserError
from src.machine.files import parse_json

TOKEN = re.compile(r"([^\t]+)#\d+\t(.*)")
ADDRESS = re.compile(r"[^\t]+\thttps?://\S+\s*")
SAMPLE = 50  # images looked up to find the folder that names are relative to


@dataclass(frozen=True)
class Captioned:
    """Hold an image with its captions.

    It has the split (None if the file does not state it), its file as listed, and its position in the
    annotations. A row without image or caption has None there; ``alone`` marks captions of a format that names
    no files.
    """

    part: str | None
    file: str | None
    captions: list
    place: str = ""
    alone: bool = False

    def at(self, file):
        """Return the same with its file spelled as ``file``."""
        return replace(self, file=file)


def read_captions(name, path, wanted):
    """Read a caption file of any format. -> [Captioned], one for each entry or row

    ``wanted``: what to give instead, if the file is missing.
    """
    text = read_text(name, path, wanted)
    if is_json(path, text):
        return _json_captions(name, path, parse_records(name, path, text))
    first = next((line for line in text.splitlines() if line.strip()), "")
    if TOKEN.fullmatch(first):
        return [Captioned(None, match[1].strip(), [match[2].strip()], place)
                for place, match in _matches(name, path, text, TOKEN, "image.jpg#number, a tab, the caption")]
    if ADDRESS.fullmatch(first):
        return [Captioned(None, None, [match[0].split("\t")[0].strip()], place, alone=True)
                for place, match in _matches(name, path, text, ADDRESS, "the caption, a tab, the address")]
    return _of_table(name, path, read_table(name, path, text, image=IMAGE_COLUMNS, caption=CAPTION_COLUMNS))


def _matches(name, path, text, pattern, form):
    """Return (place, match) of each nonempty line; raises UserError for a line of another form."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        if line.strip():
            match = pattern.fullmatch(line)
            if match is None:
                raise UserError(f"{name}: line {number} of {path} is not of the form of its first line ({form}): "
                                f"{reprlib.repr(line)}")
            yield f"line {number}", match


# -- json ------------------------------------------------------------------------------------------------------------


def _json_captions(name, path, content):
    if isinstance(content, dict) and "annotations" in content:
        return _official(name, path, content)
    if isinstance(content, dict) and "images" in content:
        return _karpathy(name, path, content)
    if isinstance(content, dict) and len(content) == 1 and not is_by_parts(content):  # {"data": [...]}
        content, = content.values()
    if not isinstance(content, list) and not is_by_parts(content):
        raise UserError(f"{name}: {path} has no captions: expected Karpathy's json (images with sentences), COCO's "
                        "(images and annotations), or a list of objects with image and caption")
    return _of_table(name, path, json_table(name, path, content, image=IMAGE_COLUMNS, caption=CAPTION_COLUMNS))


def _official(name, path, content):
    try:
        captions = {str(row["id"]): [] for row in content["images"]}
        if len(captions) < len(content["images"]):
            raise TypeError("two images have the same id")
        for row in content["annotations"]:
            if str(row["image_id"]) not in captions:
                raise TypeError(f"an annotation names the image {reprlib.repr(row['image_id'])}, which is not listed")
            captions[str(row["image_id"])].append(str(row["caption"] or "").strip())
        return [Captioned(None, _string(row["file_name"]), captions[str(row["id"])]) for row in content["images"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{name}: {path} is not COCO's caption format ({_misfit(error)})") from None


def _karpathy(name, path, content):
    try:
        return [Captioned(_part(row), _with_folder(row), [_string(one["raw"]).strip() for one in row["sentences"]])
                for row in content["images"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{name}: {path} is not Karpathy's format ({_misfit(error)})") from None


def _part(row):
    part = part_of(_string(row["split"]))
    if part is None:
        raise TypeError(f"split {row['split']!r} is not one of train, restval, val, test")
    return part


def _with_folder(row):
    folder, file = row.get("filepath") or "", _string(row["filename"])
    return f"{_string(folder)}/{file}" if folder else file


def _string(value):
    if not isinstance(value, str):
        raise TypeError(f"{reprlib.repr(value)} is not a text")
    return value


def _misfit(error):
    return f"{error} is missing" if isinstance(error, KeyError) else error


# -- tables ----------------------------------------------------------------------------------------------------------


def _of_table(name, path, table):
    cells = [table.of(row, "caption") for row in table.rows]
    lists = all(_listed(cell) for cell in cells)  # such as ["a dog", "a brown dog"]
    if not lists and all(isinstance(cell, str) and cell[:1] == "[" and cell[-1:] == "]" for cell in cells):
        print(f"note: {name}: the captions of {path} are in brackets but are not lists in json or Python, so each is "
              f"read as one text, such as {reprlib.repr(cells[0])}")
    if missing := [cell for cell in cells if isinstance(cell, str) and cell in MISSING]:
        print(f"note: {name}: {len(missing)} captions of {path} are {missing[0]!r}, which is read as text")
    found, has_split = [], "split" in table.columns
    for row in table.rows:
        image, caption = table.of(row, "image"), table.of(row, "caption")
        if isinstance(image, list | dict):
            raise UserError(f"{name}: {row.place} of {path} has {reprlib.repr(image)} where a text belongs; an image "
                            "is the path of its file")
        captions = _listed(caption) if lists else caption if isinstance(caption, list) else [caption]
        if wrong := [one for one in captions if isinstance(one, list | dict)]:
            raise UserError(f"{name}: {row.place} of {path} has {reprlib.repr(wrong[0])} where a text belongs; a "
                            "caption is a text, or a list of texts")
        part = split_of(name, path, table, row) if has_split else None
        found.append(Captioned(part, str(image) if image not in (None, "") else None,
                               [None if one is None else str(one).strip() for one in captions], row.place))
    return found


def _listed(cell):
    """Return the texts of a cell that is a list in json or Python; None for any other cell."""
    if not isinstance(cell, str) or not cell.startswith("["):
        return None
    content = _list_of_json(cell) or _list_of_python(cell)
    return content if isinstance(content, list) and all(isinstance(one, str) for one in content) else None


def _list_of_json(cell):
    try:
        return parse_json(cell)
    except ValueError:
        return None


def _list_of_python(cell):
    """Return the list if Python would print it so: numpy arrays, ``['a' 'b']``, would be read as one text."""
    try:
        content = ast.literal_eval(cell)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return content if repr(content) == cell else None


# -- where the images lie --------------------------------------------------------------------------------------------


def placed(folder, rows, *subfolders):
    """Return the rows with their files relative to ``folder``: as listed, by the last part of the path, or that
    in one of ``subfolders``, whichever finds most of the first images."""
    ways = [lambda file: file, lambda file: file.rsplit("/", 1)[-1],
            *(lambda file, inside=inside: f"{inside}/{file.rsplit('/', 1)[-1]}" for inside in subfolders)]
    sample = [row.file for row in rows[:SAMPLE] if row.file]
    way = max(ways, key=lambda way: sum(os.path.isfile(folder / way(file)) for file in sample))
    return [row.at(row.file and way(row.file)) for row in rows]


def finds(folder, rows):
    """Return whether any of the first images exists."""
    return any(os.path.isfile(folder / row.file) for row in rows[:SAMPLE] if row.file)
