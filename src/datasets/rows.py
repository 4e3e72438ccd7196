"""Read the rows of a user's table: csv, tsv and the like, lines of json, or one json file.

Encoding, byte order mark, separator and quoting are detected, column names are matched in any case. A table
that fits in two ways, or in none, raises UserError with the columns and lines in question.
"""

import contextlib
import csv
import io
import itertools
import json
import re
import reprlib
import unicodedata
from dataclasses import dataclass

from src.datasets.common import some
from src.errors import UserError
from src.machine.files import parse_json

IMAGE_COLUMNS = ("image", "filepath", "path", "file", "file_name", "filename", "image_path", "image_name", "img",
                 "image_file", "image_filename", "image_filepath", "img_path", "img_name", "img_file", "file_path",
                 "filepaths", "image_paths", "images")
CAPTION_COLUMNS = ("caption", "title", "text", "sentence", "captions", "sentences", "texts", "caption_text",
                   "description", "comment", "raw")
LABEL_COLUMNS = ("label", "class", "classname", "class_name", "category", "label_name", "category_name", "labels",
                 "class_label", "categories", "classes", "species", "breed")
SPLIT_COLUMNS = ("split", "subset", "partition", "set", "data_set")
PARTS = {"train": "train", "training": "train", "restval": "train", "val": "val", "valid": "val", "validation": "val",
         "eval": "val", "evaluation": "val", "dev": "val", "test": "test", "testing": "test"}
SPLITS = ("train", "val", "test")
SHOWN = 8           # column names in a message

JSON_LINES = (".jsonl", ".ndjson")
STATED = re.compile(r"sep=(.)\s*")  # a first line written by spreadsheets
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "pipes"}
DOUBLED, ESCAPED, BARE = ({"doublequote": True}, {"doublequote": False, "escapechar": "\\"},
                          {"quoting": csv.QUOTE_NONE})
ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # may be half of a character, as in texts cut inside an emoji
HALF = re.compile("[\ud800-\udfff]")             # cannot be encoded
# What programs write for an empty value.
MISSING = frozenset({"nan", "NaN", "None", "null", "NULL", "<NA>", "NA", "N/A", "n/a", "#N/A"})
PICTURE = re.compile(r".+\.(jpe?g|png|gif|bmp|webp|tiff?|jfif|heic|avif)$", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """Hold a row of a table: its position, such as ``"line 3"``, and {column: text}; json may have other
    values.

    A cell that the row lacks is None.
    """

    place: str
    cells: dict


@dataclass(frozen=True)
class Table:
    """Hold rows, and for each wanted kind of column (``"image"``, ...) the name of the column."""

    rows: list
    columns: dict

    def of(self, row, kind):
        """Return the cell of a row; None if the table has no such column."""
        return row.cells.get(self.columns[kind]) if kind in self.columns else None


# -- text -> rows ----------------------------------------------------------------------------------------------------


def is_json(path, text):
    return path.suffix.lower() in (".json", *JSON_LINES) or text.lstrip()[:1] in ("{", "[")


def read_table(name, path, text, **wanted):
    """Parse a text as a Table. ``wanted``: kind -> its column names, as ``image=IMAGE_COLUMNS``; each must
    exist.

    A column of splits is found too.
    """
    if is_json(path, text):
        return json_table(name, path, parse_records(name, path, text), **wanted)
    if not text.strip():
        raise UserError(f"{name}: {path} holds no rows")
    with _cells_of_any_length():
        separator = _separator(name, path, text, wanted)
        header, rows = _split(name, path, text, separator)
    keys = [column_key(column) for column in header]
    columns = _columns(name, path, header, wanted, f"separated by {SEPARATORS.get(separator, repr(separator))}")
    found = [Row(f"line {line}", dict(itertools.zip_longest(keys, cells))) for line, cells in rows]
    return _table(name, path, found, columns)


@contextlib.contextmanager
def _cells_of_any_length():
    """Lift the csv module's limit on cells while entered: the text is in memory already, and a caption may fill
    a page."""
    before = csv.field_size_limit(2 ** 31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def column_key(column):
    """Normalise a column name for comparison: ``"Image Path "`` -> ``"image_path"``."""
    return re.sub(r"[\s-]+", "_", unicodedata.normalize("NFKC", str(column)).strip().casefold())


def _separator(name, path, text, wanted):
    """Return the separator of the line that names the columns."""
    lines = [line for line in io.StringIO(text, newline="") if line.strip()][:2]
    stated = STATED.fullmatch(lines[0])
    if stated and len(lines) > 1:
        return stated[1]
    headers = {separator: _first_cells(lines[0], separator) for separator in SEPARATORS}
    fitting = [separator for separator, header in headers.items()
               if all(any(column in map(column_key, header) for column in names) for names in wanted.values())]
    if len(fitting) > 1:
        raise UserError(f"{name}: {path} could be separated by {' or by '.join(SEPARATORS[one] for one in fitting)}; "
                        "use only one of them in the line that names the columns")
    if not fitting:
        best = max(SEPARATORS, key=lambda one: len(headers[one]))
        _columns(name, path, headers[best], wanted, f"separated by {SEPARATORS[best]}")
    return fitting[0]


def _first_cells(line, separator):
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]
    except csv.Error:
        return [line.strip()]


def _split(name, path, text, separator):
    """Return (header, [(line, cells)]) by the first quoting style that gives no row more cells than there are
    columns."""
    failures = []
    for way in (DOUBLED, ESCAPED, BARE) if '\\"' in text else (DOUBLED, BARE):
        try:
            header, rows = _lines(name, path, text, separator, way)
        except csv.Error as error:
            failures.append(f"{name}: {path} cannot be read as a table ({error}); is a quotation mark missing, or not "
                            "doubled within quotation marks?")
            continue
        fault = _too_long(name, path, header, rows, separator)
        if way is BARE and not fault:
            fault = _quoted(name, path, rows)
        if not fault:
            return header, _unswallowed(name, path, text, separator, header, rows)
        failures.append(fault)
    raise UserError(failures[0])


def _lines(name, path, text, separator, way):
    """Return (names of the columns, [(line, stripped cells)] of every other nonempty row)."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True, **way)
    rows, line = [], 1
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if any(cells) and not (not rows and STATED.fullmatch(separator.join(cells))):
            rows.append((line, cells))
        line = reader.line_num + 1
    if len(rows) < 2:
        raise UserError(f"{name}: {path} holds no rows")
    return rows[0][1], rows[1:]


def _unswallowed(name, path, text, separator, header, rows):
    """Return the rows, checking for line breaks swallowed by a quote.

    If a cell holds a line break although every line has all its cells, and none is quoted as a whole, quotation
    marks are part of the texts.
    """
    if not any("\n" in cell or "\r" in cell for _, cells in rows for cell in cells):
        return rows
    _, bare = _lines(name, path, text, separator, BARE)
    whole = all(len(cells) == len(header) for _, cells in bare)
    return bare if whole and not _quoted(name, path, bare) and _as_many_pictures(header, rows, bare) else rows


def _as_many_pictures(header, rows, bare):
    """Return whether the lines inside a quoted cell name images like the other rows, where those do by an ending."""
    images = [index for index, column in enumerate(header) if column_key(column) in IMAGE_COLUMNS]
    return all(all(PICTURE.match(cells[index]) for _, cells in bare) for index in images
               if all(PICTURE.match(cells[index]) for _, cells in rows if index < len(cells)))


def _too_long(name, path, header, rows, separator):
    """Return a sentence about the first row with more cells than the header names; None if there is none.

    Unnamed columns at the end do not count: spreadsheets write them, with empty cells below.
    """
    named = len(_without_last_blanks(header))
    what = "a comma" if separator == "," else f"the separator ({SEPARATORS.get(separator, separator)})"
    for line, cells in rows:
        if len(cells) > len(header) or len(_without_last_blanks(cells)) > named:
            return (f"{name}: line {line} of {path} has {len(cells)} cells, its header names {named} columns "
                    f"({_shown(header[:named])}); put a text that contains {what} in "
                    "quotation marks")
    return None


def _without_last_blanks(cells):
    last = max((index for index, cell in enumerate(cells) if cell), default=-1)
    return cells[:last + 1]


def _quoted(name, path, rows):
    for line, cells in rows:
        if any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells):
            return f"{name}: line {line} of {path} is quoted but other lines have single quotation marks; double those"
    return None


# -- json ------------------------------------------------------------------------------------------------------------


def parse_records(name, path, text):
    """Parse a json file; a file with one json value per line gives a list of ``Row``."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if path.suffix.lower() not in JSON_LINES:
        try:
            return _without_halves(text)
        except ValueError as error:
            if len(lines) < 2 or not lines[0][1].rstrip().endswith("}"):
                raise UserError(f"{name}: {path} cannot be read as json ({error})") from None
    return [Row(f"line {number}", _parsed(name, path, line, f"line {number}: ")) for number, line in lines]


def _parsed(name, path, text, where):
    try:
        return _without_halves(text)
    except ValueError as error:
        raise UserError(f"{name}: {path} cannot be read as json ({where}{error})") from None


def _without_halves(text):
    """Parse like parse_json; raises ValueError for text that no file could hold."""
    content = parse_json(text)
    if ESCAPED_HALF.search(text):
        written = json.dumps(content, ensure_ascii=False)
        if half := HALF.search(written):
            raise ValueError(f"half of a character follows {written[max(0, half.start() - 30):half.start()]!r}; "
                             "remove it")
    return content


def json_table(name, path, records, **wanted):
    """Convert a list of objects (or of ``Row``) to a Table; if some objects have other keys, the common ones
    are kept."""
    rows = [record if isinstance(record, Row) else Row(f"entry {number}", record)
            for number, record in enumerate(_by_parts(records), 1)]
    if not rows:
        raise UserError(f"{name}: {path} holds no rows")
    for row in rows:
        if not isinstance(row.cells, dict):
            raise UserError(f"{name}: {path} cannot be read as a table ({row.place} is {reprlib.repr(row.cells)}, "
                            "not an object with an image)")
    header = list(dict.fromkeys(key for row in rows for key in row.cells))
    columns = _columns(name, path, header, wanted, "json")
    rows = [Row(row.place, {column_key(key): value.strip() if isinstance(value, str) else "" if value is None else value
                           for key, value in row.cells.items()}) for row in rows]
    return _table(name, path, rows, columns)


def _by_parts(records):
    """Return the objects of ``{"train": [...], "test": [...]}``, each with its key as its split."""
    if not is_by_parts(records):
        return records
    return [{"split": part, **record} if isinstance(record, dict) else record
            for part, objects in records.items() for record in objects]


def is_by_parts(content):
    """Return whether the keys of a json object are names of splits, each with a list."""
    return isinstance(content, dict) and bool(content) and all(
        part_of(part) and isinstance(objects, list) for part, objects in content.items())


# -- columns ---------------------------------------------------------------------------------------------------------


def _columns(name, path, header, wanted, how):
    """Return {kind: [the columns that may hold it, first choice first]}. Raises UserError for a missing or
    repeated one."""
    keys = [column_key(column) for column in header]
    found = {}
    for kind, names in {**wanted, "split": SPLIT_COLUMNS}.items():
        found[kind] = [column for column in names if column in keys]
        twice = next((column for column in found[kind] if keys.count(column) > 1), None)
        if twice:
            same = [shown for shown, key in zip(header, keys, strict=True) if key == twice]
            raise UserError(f"{name}: {path} has the column {' and the column '.join(same)}; rename all but one")
        if not found[kind] and kind in wanted:
            first = ("; its first line has to name the columns, as in image," + kind.replace("image", "label")
                     if len(header) == 1 or any(PICTURE.match(str(cell)) for cell in header) else "")
            raise UserError(f"{name}: {path} has no column {' or '.join(names[:4])}; it has {_shown(header)} ({how})"
                            f"{first}")
    return found


def _table(name, path, rows, columns):
    chosen = {kind: names[0] for kind, names in columns.items() if names}
    if len(columns.get("label", ())) > 1:  # class names are more informative than numbers
        chosen["label"] = min(columns["label"], key=lambda column: _all_numbers(rows, column))
    if "split" in chosen and chosen["split"] != "split":
        chosen["split"] = next((column for column in columns["split"] if _any_part(rows, column)), None)
    _find_split(name, path, rows, chosen)
    _note_unread(name, rows, columns, chosen)
    for kind, names in columns.items():
        if kind != "split" and len(names) > 1:
            others = ", ".join(column for column in names if column != chosen[kind])
            print(f"note: {name}: the {kind} is read from the column {chosen[kind]}, not from {others}")
    return Table(rows, {kind: column for kind, column in chosen.items() if column})


def _find_split(name, path, rows, chosen):
    """Use a differently named column for splits if all its cells name splits, and not all the same."""
    if chosen.get("split"):
        return
    others = dict.fromkeys(column for row in rows for column in row.cells)
    found = [column for column in others if column not in chosen.values() and _all_parts(rows, column)]
    if len(found) > 1:
        raise UserError(f"{name}: {path} has several columns that name splits, {' and '.join(map(str, found))}; "
                        "rename one of them to split")
    if found:
        chosen["split"] = found[0]
        print(f"note: {name}: the split is read from the column {found[0]}")


def _note_unread(name, rows, columns, chosen):
    """Name the columns that are not read if none of them says which rows are for training."""
    known = {column for names in columns.values() for column in names}
    others = [column for column in dict.fromkeys(column for row in rows for column in row.cells)
              if column and column not in known]
    if others and not chosen.get("split"):
        print(f"note: {name}: no column says which rows are for training ({', '.join(SPLITS)} in a column called "
              f"split); columns that are not read: {_shown(others)}")


def _all_parts(rows, column):
    return len({part_of(row.cells.get(column)) for row in rows} - {None}) > 1 and all(
        part_of(row.cells.get(column)) for row in rows)


def _all_numbers(rows, column):
    return all(re.fullmatch(r"[\d.]+", str(row.cells.get(column) or "0")) for row in rows)


def _any_part(rows, column):
    return any(part_of(row.cells.get(column)) for row in rows)


def part_of(text):
    """Return the split that a text names, ``"Validation"`` -> ``"val"``; None for other texts."""
    return PARTS.get(text.strip().casefold()) if isinstance(text, str) else None


def split_of(name, path, table, row):
    """Return the split of a row; train if the table has no such column."""
    if "split" not in table.columns:
        return "train"
    stated = table.of(row, "split")
    if part_of(stated) is None:
        raise UserError(f"{name}: {row.place} of {path} has split {stated or ''!r}, not {', '.join(SPLITS)}")
    return part_of(stated)


def _shown(columns):
    return some((str(column) or "(without a name)" for column in columns), SHOWN)
