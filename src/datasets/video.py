"""Score video frames by the pm-k metric (Shankar et al., 2019, arXiv:1906.02168): YTBB-Robust, ImageNet-Vid-Robust.

A frame may show several of the classes; any of them counts as right. pm-k requires that the anchor frame **and** all of
its reviewed neighbours within k frames are right.
"""

import contextlib
import csv
from dataclasses import dataclass, replace
from pathlib import Path

from src.datasets.common import Task, file_split, missing
from src.datasets.imagenet import prompts
from src.datasets.images import read_image
from src.errors import UserError
from src.machine.files import read_json

BASE = "imagenet_vid_ytbb_robust"
YTBB_NAMES = [name.replace("_", " ") for name in (
    "person bird bicycle boat bus bear cow cat giraffe potted_plant horse motorcycle knife airplane skateboard train "
    "truck zebra toilet dog elephant umbrella none car").split()]
K = 10

# Marks of YTBB-Robust's reviewers that disqualify a pair (anchor, neighbour).
UNFIT = {"dissimilar", "problematic", "incorrect", "dont know", "deformation", "background-change",
         "occlusion-increased", "blur-increase", "bad-anchor"}


@dataclass(frozen=True)
class Frames:
    """Hold ``accepted[i]``: the classes that are right for frame i, and ``anchors``: {anchor: its neighbours
    within 10}."""

    accepted: list
    anchors: dict

    def scores(self, predictions):
        """Return (top-1 over frames, pm-0, pm-10) in percent, given one predicted class per frame."""
        right = [prediction in accepted for prediction, accepted in zip(predictions, self.accepted, strict=True)]
        whole = [right[anchor] and all(right[frame] for frame in neighbours)
                 for anchor, neighbours in self.anchors.items()]
        return (100 * sum(right) / len(right), 100 * sum(right[anchor] for anchor in self.anchors) / len(whole),
                100 * sum(whole) / len(whole))


def open_vid(name, root):
    """Open ImageNet-Vid-Robust: ``val/<video>/<frame>.JPEG``, ``metadata/{labels,pmsets}.json``, ``misc/``."""
    base = Path(root) / BASE / "imagenet-vid-robust"
    labels = _read(name, root, base / "metadata" / "labels.json")       # {"val/<video>/<frame>": [class, ...]}
    sets = _read(name, root, base / "metadata" / "pmsets.json")         # {anchor: [neighbour, ...]}
    index = _read(name, root, base / "misc" / "imagenet_vid_class_index.json")  # {"0": [wnid, name], ...}
    with _published_form(name, base):
        classes = [index[str(label)][1] for label in range(len(index))]
        return _task(name, root, base, classes, labels, sets)


def open_ytbb(name, root):
    """Open YTBB-Robust: ``ytbb_videos/<video>_<ms>/frame-<i>.jpg`` and its reviewers' annotations in
    ``metadata/``."""
    base = Path(root) / BASE / "ytbb-robust"
    with _published_form(name, base):
        return _task(name, root, base / "ytbb_videos", YTBB_NAMES, *_ytbb_frames(name, root, base))


def _ytbb_frames(name, root, base):
    """Return ({frame: its classes, the anchor's own first}, {anchor: neighbours that the reviewers found
    similar})."""
    anchors = _annotations(name, root, base / "metadata" / "anchor_labels.json")
    pairs = _annotations(name, root, base / "metadata" / "pmk_labels.json")
    spoilt = {_key(pair.split(",")[0]) for pair, marks in pairs.items() if "bad-anchor" in marks}
    first = _first_labels(name, root, base / "metadata" / "ytbb_robustness_test_anchors_full.csv")
    labels, sets = {}, {}
    for file, marks in anchors.items():
        anchor = _key(file)
        if "good" not in marks or {"bad", "unsure"} & marks or anchor in spoilt:
            continue
        labels[anchor] = sorted({first[anchor.split("/")[0]]} | {YTBB_NAMES.index(mark) for mark in marks
                                                                if mark in YTBB_NAMES})
        sets[anchor] = []
    for pair, marks in sorted(pairs.items()):
        anchor, neighbour = map(_key, pair.split(","))
        if anchor in sets and "similar" in marks and not UNFIT & marks and abs(_frame(neighbour) - _frame(anchor)) <= K:
            sets[anchor].append(neighbour)
            labels.setdefault(neighbour, labels[anchor])
    return labels, sets


@contextlib.contextmanager
def _published_form(name, folder):
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{name}: the annotations under {folder} are not in the published form "
                        f"({type(error).__name__}: {error}); see section {name} of datasets.md") from None


def _task(name, root, folder, classes, labels, sets):
    files = sorted({*sets, *(frame for frames in sets.values() for frame in frames)})
    if not files:
        raise UserError(f"{name}: the annotations under {folder} name no frame; see section {name} of datasets.md")
    for file in files:
        if not (folder / file).is_file():
            raise missing(name, folder / file, root)
    place = {file: index for index, file in enumerate(files)}
    frames = Frames([set(labels[file]) for file in files],
                    {place[anchor]: [place[frame] for frame in neighbours] for anchor, neighbours in sets.items()})
    split = file_split(folder, files, [labels[file][0] for file in files], read_image)
    return Task(name, list(classes), prompts(), {"test": replace(split, video=frames)})


def _annotations(name, root, path):
    """Return {key: set of marks} of a reviewers' file; the last of several rows with one key counts."""
    content = _read(name, root, path)
    return {row["key"]: {content["labels"][mark] for mark in row["labels"]} for row in content["annotations"]}


def _first_labels(name, root, path):
    """Return {"<video>_<ms>": class} from the csv of anchors, which swaps the last two classes (none and car)."""
    swapped = {22: 23, 23: 22}
    if not path.is_file():
        raise missing(name, path, root)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"{name}: {path} cannot be read as a table ({error}); see section {name} of "
                        "datasets.md") from None
    labels = {f"{row['ytid']}_{row['time_ms']}": int(row["label"]) for row in rows}
    return {video: swapped.get(label, label) for video, label in labels.items()}


def _key(path):
    return "/".join(Path(path).parts[-2:])


def _frame(key):
    return int(Path(key).stem.rsplit("-", 1)[-1])


def _read(name, root, path):
    if not path.is_file():
        raise missing(name, path, root)
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: {path} cannot be read as json ({error}); see section {name} of "
                        "datasets.md") from None
