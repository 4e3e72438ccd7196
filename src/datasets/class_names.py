"""Read the class names of ``--class-names``: names joined by commas, or a file in any common form.

One name per line, with or without a number or a WordNet id before it; a csv with a column of names; json, yaml or a
Python literal: a list, {number: name}, {name: number} or {number: [id, name]}.
"""

import ast
import csv
import os
import re
import reprlib
from collections import Counter
from pathlib import Path

import yaml

from clip.files.plain_yaml import PlainLoader
from src.datasets.common import some
from src.datasets.imagenet import NAMES_FILE, class_names
from src.datasets.rows import HALF, LABEL_COLUMNS, column_key
from src.datasets.texts import read_text
from src.errors import UserError
from src.machine.files import MOST_LETTERS, RepeatedKey, atomic_file, parse_json

WORDNET = re.compile(r"n\d{8}")
AFTER_ID = re.compile(r"n\d{8}[\s,:;]+(\d+\s+)?(.+)")
AFTER_NUMBER = re.compile(r"(\d+)\s*(?:\s-\s|[\s,:;.)=])\s*(.+)")
BEFORE_NUMBER = re.compile(r"(.+?)\s*[,:;=\t]\s*(\d+)")
QUOTED = re.compile(r"""(["'])(.+)\1,?""")
BULLET = re.compile(r"[-*\u2022]\s+(.+)")
MARKUP = re.compile(r"[{}]|^[\[\]],?$|^</?\w+>$")  # parts of a list or mapping in an unknown syntax
CODED = re.compile(r'%[0-9a-fA-F]{2}|^=".*"$|&\w+;')  # hot%20dog, ="red", black &amp; white
FILES = (".txt", ".json", ".csv", ".tsv", ".names", ".yaml", ".yml")  # endings of files, not class names
TABLES, YAML = (".csv", ".tsv"), (".yaml", ".yml")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
NAME_COLUMNS = ("name", "names", *LABEL_COLUMNS)
NUMBER_COLUMNS = ("id", "index", "number", "label_id", "class_id", "idx", "label")
HOLDERS = ("id2label", "names", "classes", "class_names", "labels", "categories")  # keys that hold the list
ASSIGNED = re.compile(r"\w+\s*=\s*(?=[\[{(])")
OPENS = re.compile(r"""[\[{(]\s*(["']|\d+\s*:)""")  # beginnings of a list or mapping
SHOWN = 3
WANTED = "a file with one class name per line, or names joined by commas, as in cat,dog"


def read_class_names(text):
    """Read ``a.txt`` or ``cat,dog``. -> list of names

    A missing ``imagenet_classes.txt`` is written first, from open_clip's names. A note names what is dropped
    from lines, and repeated names.
    """
    path = Path(text)
    try:
        if not os.path.exists(path) and path.name == NAMES_FILE:
            with atomic_file(path, "w") as file:
                file.write("\n".join(class_names()) + "\n")
        if not os.path.exists(path) and "," in str(text):
            return _noted(_joined(str(text)))
    except OSError as error:
        raise UserError(f"--class-names {text}: cannot be written ({error}); give {WANTED}") from None
    if os.path.isfile(path) and os.path.getsize(path) > MOST_LETTERS:
        raise UserError(f"--class-names {text}: holds more than {MOST_LETTERS:,} bytes; give {WANTED}")
    content = read_text(f"--class-names {text}", path, WANTED)
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"--class-names {text}: holds no names; one class name per line")
    found = _of_yaml(text, path) if path.suffix.lower() in YAML else _literal(text, path, "\n".join(lines))
    return _noted(_of_lines(text, path, lines) if found is None else _of_literal(text, found))


def _joined(text):
    if OPENS.match(text) and (found := _literal(text, Path(".json"), text)) is not None:
        return _of_literal(text, found)
    names = [name.strip() for name in next(csv.reader([text], skipinitialspace=True))]
    if not all(names):
        raise UserError(f"--class-names {text}: a name is empty; give names joined by commas, as in cat,dog")
    if file := next((name for name in names if name.lower().endswith(FILES)), None):
        raise UserError(f"--class-names {text}: no such file: {file}; give one file, or names joined by commas")
    return names


def _of_lines(text, path, lines):
    if comments := [line for line in lines if line.startswith("# ")]:
        print(f"note: --class-names {text}: {comments[0]!r} and other lines that begin with # are not read as names")
        lines = [line for line in lines if not line.startswith("# ")]
    if not lines:
        raise UserError(f"--class-names {text}: holds no names; one class name per line")
    if odd := next((line for line in lines if MARKUP.search(line)), None):
        raise UserError(f"--class-names {text}: {odd!r} looks like part of a list in an unknown syntax; give one name "
                        "per line")
    ids = [AFTER_ID.fullmatch(line) for line in lines]
    if any(ids):
        if not all(ids):
            bare = lines[ids.index(None)]
            raise UserError(f"--class-names {text}: {bare!r} lacks the WordNet id that other lines have before the "
                            "name; give every line one, or none")
        keep_number = not all(match[1] for match in ids)
        names = [((match[1] or "") if keep_number else "") + match[2] for match in ids]
        return _without_ids(text, [name.strip().replace("_", " ") for name in names], "the WordNet id")
    separator = next((mark for mark in SEPARATORS if len(lines) == 1 and mark in lines[0]), None)
    if separator:
        names = [name.strip() for name in lines[0].split(separator) if name.strip()]
        print(f"note: --class-names {text}: the {SEPARATORS[separator]} of its only line separate {len(names)} names: "
              f"{some(names, SHOWN)}")
        return names
    if len(lines) > 1 and all(QUOTED.fullmatch(line) for line in lines):
        return _without_ids(text, [QUOTED.fullmatch(line)[2].strip() for line in lines], "the quotation mark")
    if len(lines) > 1 and all(BULLET.fullmatch(line) for line in lines):
        return _without_ids(text, [BULLET.fullmatch(line)[1] for line in lines], "the mark")
    if len(lines) > 1 and all(len(line) > 1 and line[-1] in ",;" for line in lines[:-1]):
        return _without_ids(text, [line.rstrip(" ,;") for line in lines], f"the {lines[0][-1]}", "after")
    return _numbered(text, lines) or _of_table(text, path, lines) or _as_they_are(text, lines)


def _numbered(text, lines):
    """Return the names of lines numbered before or after the name; None for other lines."""
    for pattern, number, name, where in ((AFTER_NUMBER, 1, 2, "before"), (BEFORE_NUMBER, 2, 1, "after")):
        found = [pattern.fullmatch(line) for line in lines]
        if len(lines) > 1 and all(found) and [int(match[number]) for match in found] in _counts(len(lines)):
            return _without_ids(text, [match[name].strip() for match in found], "the number", where)
    return None


def _of_table(text, path, lines):
    """Return the names of a csv or tsv with any separator, or of lines with tabs; None for other files.

    They come from the only column, or from the one that the first line calls name.
    """
    if path.suffix.lower() not in TABLES and not all("\t" in line for line in lines):
        return None
    separator = max(SEPARATORS, key=lambda mark: sum(mark in line for line in lines))
    try:
        header, *rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    except csv.Error as error:
        raise UserError(f"--class-names {text}: cannot be read as a table ({error})") from None
    keys = [column_key(column) for column in header]
    column = next((keys.index(name) for name in NAME_COLUMNS if name in keys), None)
    if column is None and len(header) == 1:
        return None
    if column is None or any(len(row) != len(header) for row in rows) or not rows:
        raise UserError(f"--class-names {text}: has several columns; title one of them name in the first line, or "
                        "give one name per line")
    number = next((keys.index(name) for name in NUMBER_COLUMNS if name in keys and keys.index(name) != column), None)
    if number is not None and all(re.fullmatch(r"\d{1,18}", row[number].strip()) for row in rows):
        rows.sort(key=lambda row: int(row[number]))
    names = [row[column].strip() for row in rows]
    print(f"note: --class-names {text}: {len(names)} names from the column {header[column]}: {some(names, SHOWN)}")
    return names


def _as_they_are(text, lines):
    if coded := [line for line in lines if CODED.search(line)]:
        print(f"note: --class-names {text}: {some(coded, SHOWN)} contains codes for signs, which are kept as part of "
              "the name")
    if len(lines) > 1 and column_key(lines[0]) in NAME_COLUMNS:
        print(f"note: --class-names {text}: the first line, {lines[0]!r}, is the name of a class; remove it if it is a "
              "heading")
    if len(lines) > 1 and any(WORDNET.search(line) for line in lines):
        print(f"note: --class-names {text}: contains WordNet ids, which are not words to CLIP")
    elif len(lines) > 1 and all(AFTER_NUMBER.fullmatch(line) for line in lines):
        print(f"note: --class-names {text}: the numbers before the names do not count from 0 or 1, so they are kept "
              f"as part of the names: {some(lines, SHOWN)}")
    return lines


def _counts(number):
    return list(range(number)), list(range(1, number + 1))


def _without_ids(text, names, what, where="before"):
    print(f"note: --class-names {text}: {what} {where} each name is dropped: {some(names, SHOWN)}")
    return names


def _literal(text, path, content):
    """Return the list or mapping that a file has in json or Python; None for a list of lines."""
    content = ASSIGNED.sub("", content, count=1) if ASSIGNED.match(content) else content
    if content[0] not in "[{(":
        return None
    try:
        found = _parsed(content)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        if path.suffix.lower() == ".json" or OPENS.match(content):
            raise UserError(f"--class-names {text}: is neither json nor one name per line ({error})") from None
        return None
    found = list(found) if isinstance(found, tuple) else found
    return found if isinstance(found, list | dict) else None


def _of_yaml(text, path):
    """Return the list or mapping of a yaml file, such as the ``names:`` of a detection dataset."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=PlainLoader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--class-names {text}: cannot be read as yaml ({reason})") from None
    if not isinstance(found, list | dict):
        raise UserError(f"--class-names {text}: has no list of names; put - before each, or one per line in a .txt")
    return found


def _parsed(content):
    try:
        return parse_json(content)
    except RepeatedKey:
        raise
    except ValueError:
        return ast.literal_eval(content)


def _of_literal(text, found):
    """Return the names of a list or a mapping."""
    holder = next((key for key in HOLDERS if isinstance(found, dict) and isinstance(found.get(key), list | dict)), None)
    found = found[holder] if holder else found
    if isinstance(found, list) and found and all(isinstance(entry, dict) for entry in found):  # like COCO's categories
        found = _of_objects(text, found)
    entries = _in_order(text, found) if isinstance(found, dict) else found
    names = [_name(text, entry) for entry in entries]
    if not names:
        raise UserError(f"--class-names {text}: holds no names")
    if isinstance(found, dict) or holder or any(isinstance(entry, list | tuple) for entry in entries):
        print(f"note: --class-names {text}: {len(names)} names in the order of their numbers: {some(names, SHOWN)}")
    return names


def _of_objects(text, objects):
    """Convert [{"id": 3, "name": "cat"}, ...] to {id: name}."""
    if not all("name" in entry and type(entry.get("id")) is int for entry in objects):
        raise UserError(f"--class-names {text}: {reprlib.repr(objects[0])} is not a class name; give a list of texts, "
                        "or of objects with id and name")
    mapping = {entry["id"]: entry["name"] for entry in objects}
    if len(mapping) < len(objects):
        raise UserError(f"--class-names {text}: two names have the same id")
    return mapping


def _in_order(text, mapping):
    """Return the names of {number: name} or {name: number} by number; of {id: name} in file order."""
    if all(type(value) is int for value in mapping.values()):
        if len(set(mapping.values())) < len(mapping):
            raise UserError(f"--class-names {text}: two names have the same number; give each its own")
        mapping = {number: name for name, number in mapping.items()}
    keys = [str(key) for key in mapping]
    if all(re.fullmatch(r"\d{1,18}", key) for key in keys):
        return [value for _, value in sorted(zip(map(int, keys), mapping.values(), strict=True),
                                             key=lambda pair: pair[0])]
    if all(WORDNET.fullmatch(key) for key in keys):
        return list(mapping.values())
    raise UserError(f"--class-names {text}: expected a list of names, or a mapping of numbers to names; it has the key "
                    f"{keys[0]!r}")


def _name(text, entry):
    """Return a name, or the name in a pair of id and name such as ``["n01440764", "great_white_shark"]``."""
    if isinstance(entry, list | tuple) and len(entry) == 2 and WORDNET.fullmatch(str(entry[0])):
        entry = str(entry[1]).replace("_", " ")
    if not isinstance(entry, str) or not entry.strip() or HALF.search(entry):
        raise UserError(f"--class-names {text}: {entry!r} is not a class name; give a list of texts")
    return entry.strip()


def _noted(names):
    """Return the names, after notes on what may be unintended."""
    if len(names) == 1:
        print(f"note: --class-names: {names[0]!r} is the only class, so every image gets it")
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        print(f"note: --class-names: {some(twice, SHOWN)} comes twice; such classes share one prompt")
    return names
