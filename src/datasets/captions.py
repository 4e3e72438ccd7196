"""Images with captions: coco, flickr30k, conceptual_captions and the user's own ``pairs:FILE``.

Their captions serve as reference sentences, their images as reference images. An image without caption is skipped and
counted; an image that is listed and not there is an error that names it.
"""

import csv
import functools
import os
import reprlib
from pathlib import Path

from src.datasets.common import Split, Task, own_path
from src.datasets.imagenet import missing
from src.datasets.images import read_image
from src.errors import UserError
from src.machine.files import parse_json, read_json

# Columns that hold the image and the caption of a table, in the order in which they are looked for.
IMAGE_COLUMNS = ("image", "filepath", "path", "file")
CAPTION_COLUMNS = ("caption", "title", "text", "sentence")

PARTS = ("train", "val", "test")
KARPATHY = {"coco": "dataset_coco.json", "flickr30k": "dataset_flickr30k.json"}
KARPATHY_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


def open_conceptual_captions(name, root):
    """``conceptual_captions/*.csv`` or ``.tsv``: tab-separated title and filepath, paths relative to the table."""
    folder = Path(root) / "conceptual_captions"
    tables = sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")])
    if not tables:
        raise missing(name, folder / "Validation_GCC-1.1.0-Validation_output.csv", root)
    return _table_task(name, name, tables[0], delimiter="\t")


def open_pairs(name, root):
    """csv, tsv or jsonl with an image and a caption column; paths relative to the file."""
    path = own_path(name)
    if not os.path.isfile(path):
        raise UserError(f"{name}: no such file: {path}; give pairs:FILE of a csv, tsv or jsonl with image and caption")
    return _table_task(name, path.name.split(".")[0], path, "\t" if path.suffix == ".tsv" else ",")


def open_coco(name, root, images=None, annotations=None):
    """Training from ``annotations/captions_train2014.json``, val and test from Karpathy's ``dataset_coco.json``.

    ``images`` and ``annotations``: where they lie instead, as ``--image-dir`` and ``--annotations`` say.
    """
    folder = Path(root) / name
    if annotations or images:
        return _elsewhere(name, annotations or folder / "annotations" / "captions_train2014.json",
                          images or folder / "train2014")
    karpathy = folder / KARPATHY[name]
    official = folder / "annotations" / "captions_train2014.json"
    if not karpathy.is_file() and not official.is_file():
        raise missing(name, official, root)
    splits = _karpathy_splits(name, karpathy, lambda row: f"{row['filepath']}/{row['filename']}", folder)
    if official.is_file():
        splits["train"] = functools.cache(lambda: _official_coco(name, official, folder / "train2014"))
    return _caption_task(name, splits)


def open_flickr(name, root, images=None, annotations=None):
    """``flickr30k-images/`` and Karpathy's ``dataset_flickr30k.json``, or where ``--image-dir`` and ``--annotations``
    say."""
    folder = Path(root) / name
    if annotations or images:
        return _elsewhere(name, annotations or folder / KARPATHY[name], images or folder / "flickr30k-images")
    if not (folder / KARPATHY[name]).is_file():
        raise missing(name, folder / KARPATHY[name], root)
    return _caption_task(name, _karpathy_splits(name, folder / KARPATHY[name],
                                                lambda row: f"flickr30k-images/{row['filename']}", folder))


def _elsewhere(name, annotations, images):
    """Annotations in COCO's format (training only) or Karpathy's (all splits), image names relative to ``images``."""
    annotations, images = Path(annotations), Path(images)
    for flag, path, there in (("--annotations", annotations, os.path.isfile(annotations)),
                              ("--image-dir", images, os.path.isdir(images))):
        if not there:
            raise UserError(f"{flag} {name}={path}: there is no such {'file' if flag == '--annotations' else 'folder'}")
    rows = _json(name, annotations)
    if isinstance(rows, dict) and "annotations" in rows:
        return _caption_task(name, {"train": _official_coco(name, annotations, images)})
    return _caption_task(name, _karpathy_splits(name, annotations, lambda row: row["filename"], images))


def _caption_task(name, splits):
    first = splits["train"]() if callable(splits["train"]) else splits["train"]
    return Task(name, [], [], splits, sentences=[caption for captions in first.captions for caption in captions],
                pairs=True)


def _karpathy_splits(name, path, file_of, folder):
    if not path.is_file():
        return {}
    content = _json(name, path)
    try:
        rows = [(row["split"], _text(file_of(row)), [_text(sentence["raw"]) for sentence in row["sentences"]])
                for row in content["images"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{name}: {path} is not Karpathy's format ({_misfit(error)})") from None
    return {split: _caption_split(name, folder, [(file, captions) for part, file, captions in rows if part in parts])
            for split, parts in KARPATHY_SPLITS.items()}


def _official_coco(name, path, folder):
    content = _json(name, path)
    try:
        captions = {row["id"]: [] for row in content["images"]}
        for row in content["annotations"]:
            captions[row["image_id"]].append(str(row["caption"] or ""))
        rows = [(_text(row["file_name"]), captions[row["id"]]) for row in content["images"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{name}: {path} is not COCO's caption format ({_misfit(error)})") from None
    return _caption_split(name, folder, rows)


def _text(value):
    if not isinstance(value, str):
        raise TypeError(f"{reprlib.repr(value)} is no text")
    return value


def _misfit(error):
    return f"{error} is missing" if isinstance(error, KeyError) else error


def _table_task(name, stem, path, delimiter):
    parts = {}
    for part, image, caption in _table_rows(name, path, delimiter):
        parts.setdefault(part, {}).setdefault(image, []).append(caption)
    splits = {part: _caption_split(name, path.parent, list(parts[part].items()), must_exist=False)
              for part in PARTS if part in parts}
    if "train" not in splits:
        raise UserError(f"{name}: {path} has no row whose split is train")
    return Task(stem, [], [], splits, pairs=True, sentences=[
        caption.strip() for captions in parts["train"].values() for caption in captions if caption.strip()])


def _table_rows(name, path, delimiter):
    """(split, image path, caption) of each row; without a column split all is train."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".jsonl":
                rows = [dict(parse_json(line).items()) for line in file if line.strip()]
            else:
                rows = list(csv.DictReader(file, delimiter=delimiter))
    except (OSError, ValueError, AttributeError, csv.Error) as error:
        raise UserError(f"{name}: {path} cannot be read as a table ({error})") from None
    if not rows:
        raise UserError(f"{name}: {path} holds no rows")
    image, caption = (column_of(name, path, rows[0], wanted) for wanted in (IMAGE_COLUMNS, CAPTION_COLUMNS))
    if any(caption not in row for row in rows):
        raise UserError(f"{name}: {path} has rows without {caption}")
    if strangers := [part for row in rows if (part := row.get("split", "train")) not in PARTS]:
        raise UserError(f"{name}: {path} has split {sorted(map(str, strangers))[0]!r}, not {', '.join(PARTS)}")
    if lists := [row[key] for row in rows for key in (image, caption) if isinstance(row.get(key), list | dict)]:
        raise UserError(f"{name}: {path} has {reprlib.repr(lists[0])} where a text belongs; a row has one image and "
                        "one caption")
    return [(row.get("split", "train"), str(row[image]), str(row[caption] or "")) for row in rows if row.get(image)]


def column_of(name, path, row, wanted):
    """The first of ``wanted`` that is a column of a table, or an error with the columns it has."""
    found = next((column for column in wanted if column in row), None)
    if found is None:
        raise UserError(f"{name}: {path} has no column {' or '.join(wanted)}; it has {', '.join(map(str, row))}")
    return found


def _caption_split(name, folder, rows, must_exist=True):
    """``rows``: (file, captions). Where images may be absent, those that are there make the split."""
    captioned = [(file, [text.strip() for text in captions if text.strip()]) for file, captions in rows]
    kept = [(file, captions) for file, captions in captioned if captions]
    if len(kept) < len(rows):
        print(f"{name}: {len(rows) - len(kept)} of {len(rows)} images have no caption and are skipped")
    present = [(file, captions) for file, captions in kept if must_exist or os.path.isfile(folder / file)]
    files = [file for file, _ in present]
    return Split(lambda index: _present_image(name, folder / files[index]), [0] * len(files), files,
                 captions=[captions for _, captions in present])


def _present_image(name, path):
    if not os.path.isfile(path):
        raise UserError(f"{name}: {path} is listed and not there")
    return read_image(path)


def _json(name, path):
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: {path} cannot be read ({error})") from None
