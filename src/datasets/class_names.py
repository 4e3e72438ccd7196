"""The class names of ``--class-names``: names joined by commas, or a file in any of the forms that lists of them have.

One name per line, with or without a number or an id of WordNet before it; json or a Python literal of a list, of
{number: name}, of {name: number} or of {number: [id, name]}.
"""

import ast
import os
import re
from collections import Counter
from pathlib import Path

from src.datasets.common import some
from src.datasets.imagenet import NAMES_FILE, class_names
from src.errors import UserError
from src.machine.files import atomic_file, parse_json, read_lines

WORDNET = re.compile(r"n\d{8}")
AFTER_ID = re.compile(r"n\d{8}[\s,:;]+(\d+\s+)?(.+)")
AFTER_NUMBER = re.compile(r"(\d+)\s*[\s,:;.)]\s*(.+)")
FILES = (".txt", ".json", ".csv", ".tsv", ".names")  # endings of files, which are no class names
OPENS = re.compile(r"""[\[{]\s*(["']|\d+\s*:)""")  # of what can only be meant as a list or a mapping
SHOWN = 3


def read_class_names(text):
    """``a.txt`` or ``cat,dog`` -> list of names. A missing ``imagenet_classes.txt`` is written first, from open_clip's
    names. A note names what is dropped from lines, and names that come twice."""
    path = Path(text)
    try:
        if not os.path.exists(path) and path.name == NAMES_FILE:
            with atomic_file(path, "w") as file:
                file.write("\n".join(class_names()) + "\n")
        if not os.path.exists(path) and "," in str(text):
            return _note_repeated(_joined(str(text)))
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--class-names {text}: cannot be read ({error}); give a file with one class name per line, or "
                        "names joined by commas, as in cat,dog") from None
    if not lines:
        raise UserError(f"--class-names {text}: holds no names; one class name per line")
    found = _literal(text, path, "\n".join(lines))
    return _note_repeated(_of_lines(text, lines) if found is None else _of_literal(text, found))


def _joined(text):
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UserError(f"--class-names {text}: a name is empty; give names joined by commas, as in cat,dog")
    if file := next((name for name in names if name.lower().endswith(FILES)), None):
        raise UserError(f"--class-names {text}: no such file: {file}; give one file, or names joined by commas")
    return names


def _of_lines(text, lines):
    ids = [AFTER_ID.fullmatch(line) for line in lines]
    if any(ids):
        if not all(ids):
            bare = lines[ids.index(None)]
            raise UserError(f"--class-names {text}: {bare!r} has no id of WordNet before a name, as other lines have; "
                            "give each line one, or none")
        keep_number = not all(match[1] for match in ids)
        names = [((match[1] or "") if keep_number else "") + match[2] for match in ids]
        return _without_ids(text, [name.strip().replace("_", " ") for name in names], "the id of WordNet")
    if len(lines) == 1 and "," in lines[0]:
        names = [name.strip() for name in lines[0].split(",") if name.strip()]
        print(f"note: --class-names {text}: the commas of its only line separate {len(names)} names: "
              f"{some(names, SHOWN)}")
        return names
    numbers = [AFTER_NUMBER.fullmatch(line) for line in lines]
    if len(lines) > 1 and all(numbers) and [int(match[1]) for match in numbers] in _counts(len(lines)):
        return _without_ids(text, [match[2].strip() for match in numbers], "the number")
    if len(lines) > 1 and all(WORDNET.fullmatch(line) for line in lines):
        print(f"note: --class-names {text}: holds ids of WordNet, which CLIP does not know as words")
    return lines


def _counts(number):
    return list(range(number)), list(range(1, number + 1))


def _without_ids(text, names, what):
    print(f"note: --class-names {text}: {what} before each name is dropped: {some(names, SHOWN)}")
    return names


def _literal(text, path, content):
    """The list or mapping that a file holds in json, or as Python writes it; None where it is a list of lines."""
    if content[0] not in "[{":
        return None
    try:
        found = _parsed(content)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        if path.suffix.lower() == ".json" or OPENS.match(content):
            raise UserError(f"--class-names {text}: is neither json nor one name per line ({error})") from None
        return None
    return found if isinstance(found, list | dict) else None


def _parsed(content):
    try:
        return parse_json(content)
    except ValueError:
        return ast.literal_eval(content)


def _of_literal(text, found):
    """Names of a list or a mapping."""
    if isinstance(found, dict) and isinstance(found.get("id2label"), dict):  # a configuration of transformers
        found = found["id2label"]
    entries = _in_order(text, found) if isinstance(found, dict) else found
    names = [_name(text, entry) for entry in entries]
    if not names:
        raise UserError(f"--class-names {text}: holds no names")
    if isinstance(found, dict) or any(isinstance(entry, list | tuple) for entry in entries):
        print(f"note: --class-names {text}: {len(names)} names in the order of their numbers: {some(names, SHOWN)}")
    return names


def _in_order(text, mapping):
    """The names of {number: name} or {name: number} by their numbers; of {id: name} as they stand there."""
    if all(type(value) is int for value in mapping.values()):
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
    """A name, or the last of an id and a name, as ``["n01440764", "great_white_shark"]``."""
    if isinstance(entry, list | tuple) and len(entry) == 2 and WORDNET.fullmatch(str(entry[0])):
        entry = str(entry[1]).replace("_", " ")
    if not isinstance(entry, str) or not entry.strip():
        raise UserError(f"--class-names {text}: {entry!r} is no class name; give a list of texts")
    return entry.strip()


def _note_repeated(names):
    if twice := [name for name, number in Counter(names).items() if number > 1]:
        print(f"note: --class-names: {some(twice, SHOWN)} comes twice; such classes share one prompt")
    return names
