"""Open images with captions: coco, flickr30k, conceptual_captions and custom ``pairs:FILE``.

Their captions serve as reference sentences, their images as reference images. An image without a caption is skipped and
counted; an image that is listed but missing is an error that names it, or counted.
"""

import functools
import os
from pathlib import Path, PurePosixPath

from src.datasets.annotations import finds, placed, read_captions
from src.datasets.common import Split, Task, missing, own_path
from src.datasets.folder import place_of
from src.datasets.images import read_image, read_upright
from src.datasets.places import Places, leave_out
from src.datasets.rows import SPLITS
from src.errors import UserError

YEARS = ("2014", "2017")  # of COCO's official annotations, in search order
# Below flickr30k/: the file of captions and the folder of images, in search order.
FLICKR_FILES = ("dataset_flickr30k.json", "flickr30k/dataset_flickr30k.json", "results_20130124.token",
                "flickr30k/results_20130124.token", "results.csv", "flickr30k_images/results.csv",
                "flickr_annotations_30k.csv", "captions.txt")
FLICKR_IMAGES = ("flickr30k-images", "flickr30k_images/flickr30k_images", "flickr30k_images", "images")
# Tables of CC3M's validation part: made by open_clip's gather_cc.py, and published by Google.
MADE, GIVEN = "Validation_GCC-1.1.0-Validation_output.csv", "Validation_GCC-1.1.0-Validation.tsv"
WANTED = "pairs:FILE of a csv, tsv, jsonl or json with image and caption"


def open_conceptual_captions(name, root):
    """Open CC3M from its table, ``title`` and ``filepath`` with paths relative to it, in
    ``conceptual_captions/`` or beside it.

    Google's own table has sentences only.
    """
    path = _conceptual_table(name, Path(root))
    rows = read_captions(name, path, WANTED)
    sentences = [caption for row in rows if row.part in (None, "train") for caption in row.captions if caption]
    listed = [row for row in rows if row.file]
    places = Places(path.parent)
    there = [row for row in listed if places.find(row.file)]
    if len(there) < len(rows):
        print(f"note: {name}: {len(there)} of {len(rows)} rows of {path} have their image; the captions of the others "
              "serve as sentences only")
    return Task(name, [], [], _by_part(name, path.parent, there, read_image), sentences=sentences, pairs=True)


def _conceptual_table(name, root):
    folder = root / "conceptual_captions"
    known = [place / file for file in (MADE, GIVEN) for place in (folder, root) if os.path.isfile(place / file)]
    if known:
        return _first(name, known)
    tables = sorted([*folder.glob("*.csv"), *folder.glob("*.tsv")])
    if len(tables) > 1:
        raise UserError(f"{name}: {folder} has {', '.join(table.name for table in tables)} but no {MADE}; keep one "
                        "table there, or name it as pairs:FILE")
    if not tables:
        raise missing(name, folder / MADE, root)
    return tables[0]


def open_pairs(name, root, skip_missing=False):
    """Open csv, tsv, jsonl or json with an image and a caption column, or a file in the format of COCO,
    Karpathy or Flickr30K.

    Paths are relative to the file. ``skip_missing``: leave out any number of rows without their image.
    """
    path = own_path(name)
    rows = read_captions(name, path, WANTED)
    rows, noted = _usable(name, path, rows, path.parent, skip_missing)
    splits = _by_part(name, path.parent, rows, read_upright)
    if "train" not in splits:
        raise UserError(f"{name}: {path} has no row whose split is train")
    return Task(path.name.split(".")[0], [], [], splits, pairs=True, place=f"pairs_{place_of(path)}",
                sentences=[caption for row in rows if row.part in (None, "train") for caption in row.captions
                           if caption], findings=(*noted, *_leaks(name, rows)), noted=tuple(noted))


def open_coco(name, root, images=None, annotations=None):
    """Open COCO: train from ``annotations/captions_train2014.json`` (or 2017), val and test from Karpathy's
    ``dataset_coco.json``, else both from ``captions_val2014.json`` (or 2017).

    ``images`` and ``annotations``: other locations, from ``--image-dir`` and ``--annotations``.
    """
    folder = Path(root) / name
    official, own_images = _official_coco(folder, is_chosen=bool(annotations))
    if annotations or images:
        return _elsewhere(name, annotations or official, images or own_images)
    karpathy = folder / "dataset_coco.json"
    if not karpathy.is_file() and not official.is_file():
        raise missing(name, official, root)
    if not karpathy.is_file():
        return _caption_task(name, _annotated(name, official, own_images))
    rows = read_captions(name, karpathy, WANTED)
    if official.is_file():
        rows = [row for row in rows if row.part != "train"]
    splits = _by_part(name, folder, placed(folder, rows), read_image)
    if official.is_file():
        splits["train"] = _train_of(name, official, own_images)
    return _caption_task(name, splits)


def _official_coco(folder, is_chosen=False):
    """Return (the official file of captions, the folder of its images) of the first year that is there."""
    files = [folder / "annotations" / f"captions_train{year}.json" for year in YEARS]
    there = [file for file in files if file.is_file()] or files[:1]
    official = there[0] if is_chosen else _first(folder.name, there)
    part = official.stem.removeprefix("captions_")
    places = [folder / part, folder / "images" / part]
    return official, next(filter(os.path.isdir, places), places[0])


def _first(name, files):
    """Return the first of several usable files; a note names the others."""
    if len(files) > 1:
        others = ", ".join(map(str, files[1:]))
        print(f"note: {name}: the captions are read from {files[0]}, not from {others}")
    return files[0]


def open_flickr(name, root, images=None, annotations=None):
    """Open Flickr30K from ``flickr30k-images/`` and Karpathy's ``dataset_flickr30k.json`` or another file of
    captions.

    ``images`` and ``annotations``: other locations, from ``--image-dir`` and ``--annotations``.
    """
    folder = Path(root) / name
    known = [folder / file for file in FLICKR_FILES]
    there = [file for file in known if file.is_file()] or known[:1]
    file = there[0] if annotations else _first(name, there)
    own_images = next(filter(os.path.isdir, (folder / place for place in FLICKR_IMAGES)), folder / FLICKR_IMAGES[0])
    if annotations or images:
        return _elsewhere(name, annotations or file, images or own_images)
    if not file.is_file():
        raise missing(name, file, root)
    inside = own_images.relative_to(folder).as_posix()
    rows, _ = _usable(name, file, read_captions(name, file, WANTED))
    rows = [row.at(f"{inside}/{row.file.rpartition('/')[2]}") for row in rows]
    return _caption_task(name, _by_part(name, folder, placed(folder, rows), read_image))


def _elsewhere(name, annotations, images):
    """Read annotations in any known format, with image names relative to ``images``."""
    annotations, images = Path(annotations), Path(images)
    for flag, path, there in (("--annotations", annotations, os.path.isfile(annotations)),
                              ("--image-dir", images, os.path.isdir(images))):
        if not there:
            raise UserError(f"{flag} {name}={path}: there is no such {'file' if flag == '--annotations' else 'folder'}")
    return _caption_task(name, _annotated(name, annotations, images))


def _annotated(name, annotations, images):
    """Return the splits that a file of annotations names.

    Without any, all rows train, and files of the same name for val and test beside it provide those.
    """
    rows = _rows_at(name, annotations, images)
    splits = _by_part(name, images, rows, read_image)
    if all(row.part is None for row in rows):
        for part in ("val", "test"):
            splits |= _sibling(name, annotations, images, part)
    if "test" not in splits and "val" in splits:
        print(f"{name}: no test split, so its val split is used as test")
        splits["test"] = splits["val"]
    return splits


def _train_of(name, annotations, images):
    return _by_part(name, images, _rows_at(name, annotations, images), read_image)["train"]


def _rows_at(name, annotations, images):
    rows, _ = _usable(name, annotations, read_captions(name, annotations, WANTED))
    return placed(images, rows, _ending(annotations))


def _sibling(name, annotations, images, part):
    """Return {part: Split} of ``captions_val2017.json`` beside ``captions_train2017.json``; {} without it or
    its images."""
    file = annotations.with_name(annotations.name.replace("train", part))
    if "train" not in annotations.name or not file.is_file():
        return {}
    rows, _ = _usable(name, file, read_captions(name, file, WANTED))
    for folder in (images.with_name(images.name.replace("train", part)), images.parent, images):
        found = placed(folder, rows, _ending(file))
        if finds(folder, found):
            print(f"{name}: its {part} split is {file}, images in {folder}")
            return {part: _caption_split(name, folder, found, read_image)}
    print(f"note: {name}: {file} is there but its images are not; it is not used")
    return {}


def _ending(path):
    """Return the name of the image folder: ``captions_train2017.json`` -> ``"train2017"``."""
    return path.stem.rpartition("_")[2]


def _caption_task(name, splits):
    trained = splits["train"].captions if "train" in splits else []
    return Task(name, [], [], splits, pairs=True, sentences=[caption for captions in trained for caption in captions])


# -- rows -> splits --------------------------------------------------------------------------------------------------


def _usable(name, path, rows, folder=None, skip=False):
    """Return (rows with an image and a caption, the printed sentence about the others). With a ``folder`` the
    images must exist."""
    places, kept, faults = folder and Places(folder), [], []
    for row in rows:
        file = places.find(row.file) if places and row.file else row.file
        if row.alone:
            kept.append(row)
        elif not row.file or None in row.captions:
            faults.append((row.place, f"it lacks its {'caption' if row.file else 'image'}"))
        elif file is None:
            faults.append((row.place or f"image {row.file}", f"{row.file} is not there"))
        else:
            kept.append(row.at(PurePosixPath(file).as_posix()))  # ./1.jpg is 1.jpg
    if rows and not kept:
        raise UserError(f"{name}: none of the {len(rows)} rows of {path} can be used; the first is {faults[0][0]}: "
                        f"{faults[0][1]}")
    return kept, leave_out(name, path, faults, len(rows), skip)


def _by_part(name, folder, rows, read):
    """Group [Captioned] as {part: Split}; train if the file does not state the part."""
    parts = {}
    for row in rows:
        parts.setdefault(row.part or "train", []).append(row)
    if not rows or all(row.alone for row in rows):
        parts = {"train": []}
    return {part: _caption_split(name, folder, parts[part], read) for part in SPLITS if part in parts}


def _caption_split(name, folder, rows, read):
    """Return the rows of one part as a Split of each image once, with all its captions."""
    captions = {}
    for row in rows:
        captions.setdefault(row.file, []).extend(filter(None, row.captions))
    files = [file for file, texts in captions.items() if texts]
    if len(files) < len(captions):
        print(f"{name}: {len(captions) - len(files)} of {len(captions)} images have no caption and are skipped")
    return Split(functools.partial(_present_image, name, folder, files, read), [0] * len(files), files,
                 captions=[captions[file] for file in files], path=lambda index: folder / files[index])


def _present_image(name, folder, files, read, index):
    path = folder / files[index]
    if not os.path.isfile(path):
        raise UserError(f"{name}: {path} is listed but missing")
    return read(path)


def _leaks(name, rows):
    """Yield a sentence about images that are in several splits."""
    parts = {}
    for row in rows:
        parts.setdefault(row.file, set()).add(row.part or "train")
    several = [file for file, found in parts.items() if len(found) > 1 and file]
    if several:
        yield f"{name}: {len(several)} images are in several splits, such as {several[0]}"
