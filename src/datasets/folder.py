"""Open custom images: a folder of class folders, ``folder:PATH``."""

import hashlib
import os
import re
import unicodedata
from collections import Counter

from src.datasets.common import Task, file_split, own_path, some
from src.datasets.images import read_upright
from src.datasets.listing import listing_of, oddities, summary
from src.datasets.seeds import balanced_halves
from src.datasets.splits import RANDOM_SEED, TRAIN_SHARE, stored_lists
from src.errors import UserError
from src.machine.files import read_lines
from src.templates.collections import SIMPLE

SPLITS = ("train", "val", "test")
PARTS = {"train": "train", "training": "train", "trn": "train", "val": "val", "valid": "val", "validation": "val",
         "validate": "val", "eval": "val", "evaluation": "val", "dev": "val", "development": "val", "test": "test",
         "testing": "test", "tst": "test"}
ADDED = re.compile(r"(set|data|dataset|images|imgs|split|part)$")  # as in "train_set", "TestImages"
NAMES_FILE, TEMPLATES_FILE = "classnames.txt", "templates.txt"
# Files probably meant as one of these, judging by their letters: also ``Class_Names.txt``.
MEANT = {"classnamestxt": NAMES_FILE, "classnametxt": NAMES_FILE, "classestxt": NAMES_FILE, "labelstxt": NAMES_FILE,
         "labelnamestxt": NAMES_FILE, "namestxt": NAMES_FILE, "templatestxt": TEMPLATES_FILE,
         "templatetxt": TEMPLATES_FILE, "promptstxt": TEMPLATES_FILE}
HOLDERS = [[name] for name in ("images", "image", "imgs", "img", "jpegimages", "frames", "photos", "pictures", "rgb")]
BESIDE = "images beside the class folders"
LAYOUT = "PATH/<class>/ or PATH/train/<class>/ and PATH/test/<class>/ is expected"


def open_folder(name, root):
    """Read PATH with class folders, or with train/ and test/ (and val/) that hold them, in any case and by
    common synonyms.

    Without a test split val serves as test too. Without either, 20 % of each class, drawn with a fixed seed
    from the sorted listing, are held out, and the lists are stored. Class names are the folders' names, or the
    lines of ``classnames.txt``; ``templates.txt`` may hold prompts. Raises UserError for an ambiguous layout.
    """
    path = own_path(name)
    if not os.path.isdir(path):
        what = f"{path} is a file, not a folder" if os.path.isfile(path) else f"no such folder: {path}"
        raise UserError(f"{name}: {what}; give folder:PATH of a folder that holds one folder per class (an archive "
                        "must be unpacked; a table is csv:FILE or pairs:FILE)")
    listing = listing_of(path)
    parts = _parts(name, path, listing)
    folders = {part: _children(listing.folders, base) for part, base in parts.items()}
    _require_classes(name, path, listing, parts["train"], folders["train"])
    filled = {part: _filled(listing, base) for part, base in parts.items()}
    findings = []
    for part, base in parts.items():
        _reject_deeper(name, path, base, filled[part])
        findings += _grouped(name, base, filled[part])
    for part in parts:
        folders[part] = _in_the_order_of_train(name, parts, folders, part)
    splits = {part: _split(path / base, filled[part], folders[part]) for part, base in parts.items()}
    _leave_out_the_rest(path, listing, parts, splits)
    findings += [*_copies(name, filled), *_names_not_read(name, path)]
    findings += [f"{name}: {text}" for text in oddities(listing)]
    if number := listing.left_out[BESIDE]:
        findings.append(f"{name}: {number} {BESIDE} belong to no class, such as {listing.examples[BESIDE]}")
    if "test" not in splits and "val" in splits:
        print(f"{name}: no test split, so its val split is used as test")
        splits["test"] = splits["val"]
    if "test" not in splits:
        splits |= stored_halves(name, path, root, splits["train"])
    return Task(path.name, _classnames(name, path, folders["train"]), _templates(name, path), splits,
                place=place_of(path), left_out=summary(listing.left_out), findings=tuple(findings))


def place_of(path):
    """Return a name that no other folder or table of the same name gets."""
    return f"{path.name}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"


def stored_halves(name, path, root, everything):
    """Return a seeded, class-balanced train and test part of data without a test part; store and announce it.

    A class with a single image trains on it; if no class has two there is no test part.
    """
    lists = stored_lists(root, place_of(path), everything.files, lambda: dict(zip(
        ("train", "test"), balanced_halves(everything.labels, TRAIN_SHARE, RANDOM_SEED), strict=True)), RANDOM_SEED)
    if not lists["test"]:
        print(f"{name}: no test split, and no class has two images, so nothing is held out")
        return {"train": everything}
    sizes = Counter(everything.labels).values()
    alone = sum(size == 1 for size in sizes)
    kept = f"; {alone} of {len(sizes)} classes have a single image, which stays in train" if alone else ""
    print(f"{name}: no test split: holding out {len(lists['test'])} of {len(everything)} images "
          f"(20 % of each class, at least one{kept})")
    return {split: everything.subset(lists[split]) for split in ("train", "test")}


# -- parts ---------------------------------------------------------------------------------------------------------


def part_of(folder):
    """Return the part that a folder name stands for: ``"Training"``, ``"train_set"`` -> ``"train"``; None for
    other names."""
    letters = re.sub(r"[\W\d_]+", "", unicodedata.normalize("NFKC", folder).casefold())
    return PARTS.get(letters) or PARTS.get(ADDED.sub("", letters))


def _parts(name, path, listing):
    """Return {part: folder below PATH}; the folder is "" if PATH holds the classes itself."""
    top = _children(listing.folders, "")
    named = {}
    for folder in top:
        if part := part_of(folder):
            named.setdefault(part, []).append(folder)
    if not named:
        return {"train": ""}
    for part, folders in named.items():
        if len(folders) > 1:
            raise UserError(f"{name}: {' and '.join(folders)} both mean the {part} part; merge or rename one")
    strangers = sorted(folder for folder in _filled(listing, "") if not part_of(folder))
    if strangers:
        first = named.get("train", next(iter(named.values())))[0]
        hint = f"did you mean folder:{path / first}? " if _children(listing.folders, first) else ""
        raise UserError(
            f"{name}: {first} is the name of a split, but it lies beside {some(strangers)}; {hint}If {first} is a "
            f"class, rename its folder and put its name into {NAMES_FILE}; else move "
            f"{some(strangers)} away")
    if "train" not in named:
        raise UserError(f"{name}: has {', '.join(folders[0] for folders in named.values())} but no train folder")
    return {part: named[part][0] for part in SPLITS if part in named}


def _children(paths, base):
    """Return the names directly below ``base`` in relative POSIX folder paths, sorted."""
    depth = base.count("/") + 1 if base else 0
    inside = f"{base}/" if base else ""
    return sorted(path.rsplit("/", 1)[-1] for path in paths if path.startswith(inside) and path.count("/") == depth)


def _filled(listing, base):
    """Return {folder below ``base``: its images, relative to it}, for the folders that hold any."""
    inside = f"{base}/" if base else ""
    found = {}
    for file in listing.files:
        if file.startswith(inside):
            folder, slash, rest = file.removeprefix(inside).partition("/")
            if slash:
                found.setdefault(folder, []).append(rest)
    return found


# -- layouts that are refused --------------------------------------------------------------------------------------


def _require_classes(name, path, listing, base, folders):
    if not folders:
        loose = sum(1 for file in listing.files if file.startswith(f"{base}/" if base else ""))
        images = f" but {loose} images of no class" if loose else ""
        raise UserError(f"{name}: {path / base} holds no class folders{images}; {LAYOUT}")


def _reject_deeper(name, path, base, filled):
    """Refuse classes that hold splits or classes themselves: one level too many, or splits inside of classes."""
    inner = {folder: _first_levels(files) for folder, files in filled.items()}
    for folder, names in inner.items():
        if parts := sorted(child for child in names if part_of(child)):
            nested = any(file.count("/") > 1 for file in filled[folder] if file.startswith(f"{parts[0]}/"))
            hint = _meant(path, base, folder) if nested else f"splits are inside of classes; {LAYOUT}"
            raise UserError(f"{name}: {_joined(base, folder)} holds {some(parts)}: {hint}")
    bare = [folder for folder, files in filled.items() if all("/" in file for file in files)]
    if len(filled) == 1 and bare:
        folder, names = _down_to_the_classes(bare[0], filled[bare[0]])
        raise UserError(f"{name}: {_joined(base, bare[0])} would be the only class, and {_joined(base, folder)} holds "
                        f"the folders {some(names)}: {_meant(path, base, folder)}")
    _reject_same_classes(name, base, bare, inner)


def _down_to_the_classes(folder, files):
    """Return (the lowest folder that leads to all ``files``, its folders); ``files`` are relative to ``folder``."""
    names = sorted(_first_levels(files))
    inside = [file.partition("/")[2] for file in files]
    if len(names) > 1 or part_of(names[0]) or not all("/" in file for file in inside):
        return folder, names
    return _down_to_the_classes(f"{folder}/{names[0]}", inside)


def _reject_same_classes(name, base, bare, inner):
    """Refuse folders that look like splits with unknown names: they hold the same folders and no images
    themselves."""
    owners = {}
    for folder in bare:
        owners.setdefault(frozenset(inner[folder]), []).append(folder)
    for names, folders in owners.items():
        if len(folders) > 1 and len(names) > 1:
            raise UserError(f"{name}: {some([_joined(base, folder) for folder in folders])} hold folders of the same "
                            f"names ({some(sorted(names))}); if they are splits, name them train, val and test; if "
                            "they are classes, list the images in a table and "
                            "give csv:FILE")


def _grouped(name, base, filled):
    """Return [a sentence about classes that hold folders instead of images]: they may be one level too high."""
    inner = {folder: sorted(_first_levels(files)) for folder, files in filled.items()
             if all("/" in file for file in files)}
    groups = [folder for folder, names in inner.items() if [child.casefold() for child in names] not in HOLDERS]
    if not groups:
        return []
    first = f"{_joined(base, groups[0])} ({some(inner[groups[0]])})"
    return [f"{name}: {len(groups)} of {len(filled)} classes hold folders and no images, such as {first}; each is read "
            "as one class"]


def _copies(name, filled):
    """Yield a sentence about images below a folder with an image of the same name, as thumbnails and masks are."""
    images = [(folder, file) for classes in filled.values() for folder, files in classes.items() for file in files]
    stems = {(folder, file.rpartition(".")[0]) for folder, file in images}
    below = [(folder, file) for folder, file in images if _above(folder, file) & stems]
    if below:
        yield (f"{name}: {len(below)} images lie below an image of the same name, such as {'/'.join(below[0])}; move "
               "them away if they are thumbnails, masks or copies")


def _above(folder, file):
    """Return {(class folder, name without ending)} of an image in the folders above its own."""
    *inside, last = file.split("/")
    stem = last.rpartition(".")[0]
    return {(folder, "/".join([*inside[:depth], stem])) for depth in range(len(inside))}


def _names_not_read(name, path):
    """Yield sentences about files that look like names or templates but are called differently."""
    entries = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
    for entry in entries:
        wanted = MEANT.get(re.sub(r"[\W_]+", "", entry.casefold()))
        if wanted and wanted not in entries:
            yield f"{name}: {entry} is not read; rename it to {wanted} if that is what it holds"


def _meant(path, base, folder):
    return f"take that level away in {base}" if base else f"did you mean folder:{path / folder}?"


def _first_levels(files):
    return {file.partition("/")[0] for file in files if "/" in file}


def _joined(base, folder):
    return f"{base}/{folder}" if base else folder


# -- classes -------------------------------------------------------------------------------------------------------


def _in_the_order_of_train(name, parts, folders, part):
    """Return the class folders of a part, as spelled there, in train's order; names are compared after Unicode
    normalisation.

    Raises UserError with the names that differ.
    """
    wanted, found = folders["train"], folders[part]
    if wanted == found:
        return found
    spelled = {_normal(folder): folder for folder in found}
    keys = [_normal(folder) for folder in wanted]
    lacking = [folder for folder, key in zip(wanted, keys, strict=True) if key not in spelled]
    extra = [folder for folder in found if _normal(folder) not in keys]
    if lacking or extra:
        raise UserError(f"{name}: {_difference(parts, part, lacking, extra)}; all parts need the same class folders")
    if len(wanted) != len(found) or len(set(keys)) != len(keys):
        twice = next(key for key, number in Counter([*map(_normal, found), *keys]).items() if number != 2)
        raise UserError(f"{name}: two class folders have the name {twice} after Unicode normalisation; merge them")
    return [spelled[key] for key in keys]


def _difference(parts, part, lacking, extra):
    sentences = []
    if lacking:
        sentences.append(f"{parts[part]} lacks the class {some(lacking)} that {parts['train']} has")
    if extra:
        sentences.append(f"{parts[part]} has the class {some(extra)} that {parts['train']} lacks")
    text = ", and ".join(sentences)
    spelled = {_loosely(folder): folder for folder in extra}
    near = [(folder, spelled[_loosely(folder)]) for folder in lacking if _loosely(folder) in spelled]
    return text + (f" ({' and '.join(near[0])} differ only by case or spaces)" if near else "")


def _loosely(text):
    return re.sub(r"[\s_]+", "", _normal(text).casefold())


def _normal(text):
    return unicodedata.normalize("NFC", text)


def _split(base, filled, folders):
    """Return the images of class folders as a Split, labels in the order of ``folders``."""
    files, labels = [], []
    for label, folder in enumerate(folders):
        found = [f"{folder}/{file}" for file in filled.get(folder, ())]
        files += sorted(found)
        labels += [label] * len(found)
    return file_split(base, files, labels, read_upright)


def _leave_out_the_rest(path, listing, parts, splits):
    """Count what lies beside the class folders and the files that this reader knows."""
    if len(listing.files) > sum(map(len, splits.values())):
        taken = {_joined(parts[part], file) for part, split in splits.items() for file in split.files}
        for file in listing.files:
            if file not in taken:
                listing.leave_out(BESIDE, file)
    for file in (NAMES_FILE, TEMPLATES_FILE):
        if os.path.isfile(path / file):
            listing.left_out[".txt"] -= 1
    listing.left_out = +listing.left_out


def _classnames(name, path, folders):
    lines = _lines(path / NAMES_FILE)
    if not lines:
        return [_normal(_text_of(name, folder).replace("_", " ")) for folder in folders]
    if named := _named_lines(lines, folders):
        print(f"{name}: {NAMES_FILE} names the folders: {_pairs(folders, named)}")
        return named
    if len(lines) != len(folders):
        raise UserError(f"{name}: {NAMES_FILE} has {len(lines)} lines for {len(folders)} class folders; give "
                        "one line with the name of each")
    order = _by_their_names(lines, folders)
    how = "by their own names" if order else "by number" if (order := _numbered(folders)) else "in sorted order"
    order = order or folders
    print(f"{name}: {NAMES_FILE} names the folders {how}: {_pairs(order, lines)}")
    return [lines[order.index(folder)] for folder in folders]


def _text_of(name, folder):
    """Return the name of a class folder, which a prompt needs as text."""
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name}: the name of the class folder {folder!r} is not UTF-8 text; rename the folder, or "
                        f"put its class name into {NAMES_FILE}") from None
    return folder


def _by_their_names(lines, folders):
    """Return the folders in the order of lines that equal their names but for case and spaces; None for other
    lines."""
    spelled = {_loosely(folder): folder for folder in folders}
    keys = [_loosely(line) for line in lines]
    return [spelled[key] for key in keys] if sorted(keys) == sorted(spelled) and len(spelled) == len(folders) else None


def _numbered(folders):
    """Return folders such as 0 to 11, class_1 to class_20 or "3. dog" in the order of their numbers; None for
    others."""
    found = {folder: re.fullmatch(r"(\D*)([0-9]{1,18})(.*)", folder, re.DOTALL) for folder in folders}
    if not all(found.values()) or len({match[1] for match in found.values()}) > 1:
        return None
    return sorted(folders, key=lambda folder: (int(found[folder][2]), folder))


def _named_lines(lines, folders):
    """Return the class names of lines that begin with their folder's name, ``n01440764 tench``; None for other
    lines."""
    pairs = [re.split(r"[\s,;:]+", line, maxsplit=1) for line in lines]
    if any(len(pair) < 2 or not pair[1] for pair in pairs) or sorted(pair[0] for pair in pairs) != folders:
        return None
    names = dict(pairs)
    return [names[folder] for folder in folders]


def _pairs(folders, names):
    return some(f"{folder} is {name}" for folder, name in zip(folders, names, strict=True))


def _templates(name, path):
    lines = _lines(path / TEMPLATES_FILE)
    if wrong := [line for line in lines if "{c}" not in line]:
        raise UserError(f"{name}: {TEMPLATES_FILE} has {wrong[0]!r}, which lacks {{c}} for the class name")
    return lines or SIMPLE


def _lines(file):
    if not os.path.isfile(file):
        return []
    try:
        return read_lines(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as UTF-8 text ({error}); repair or remove it") from None
