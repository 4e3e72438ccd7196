"""Read what --keep-features left in a run's folder: features, labels, predictions of each image. No torch.

    features/start/           for the weights that the run starts from
    features/after_<TASK>/    for those that a task leaves
        evaluation.json       what was scored, how, and the scores; written last
        <DATASET>.npz         arrays of one dataset, no pickles

For class data, an npz has ``features`` (N, D) in fp16, ``labels`` (N,), ``places`` (N,): the images' numbers in their
split, ``files`` where images are files, the ``classifier`` (C, D), of a trained head (C, D + 1) with the bias, and for
each label space of the run ``ranks_<space>`` (N,) of the true class, from 1, and ``best_<space>`` (N, k) classes. Of
image-text pairs: ``images`` (N, D), ``texts`` (M, D), ``owner`` (M,), ``places`` (N,).
"""

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.machine.files import read_json

FOLDER, DESCRIPTION, FORMAT = "features", "evaluation.json", 1
START = ""  # stands for the weights that a run starts from, instead of a trained task
CLASSES = {"features": 2, "labels": 1, "places": 1, "classifier": 2}  # {array: its dimensions}
PAIRS = {"images": 2, "texts": 2, "owner": 1, "places": 1}
FIELDS = {"task": str, "iteration": int, "history": list, "evaluation": bool, "flags": dict, "precision": str,
          "label_space": list, "logit_scale": float, "by_method": bool, "weights": dict, "datasets": dict,
          "spaces": dict, "scores": dict, "by": dict}


@dataclass(frozen=True)
class KeptPredictions:
    """Hold, for the scored images of a dataset in one label space, arrays of N rows.

    They are the image's number in the split, its class, the rank of this class from 1, and the (N, k) best
    classes, the predicted one first. Classes are numbered across everything that the space joins. ``files``
    names the images if they are files.
    """

    places: Any
    labels: Any
    ranks: Any
    best: Any
    files: list | None

    @property
    def hits(self):
        """Return (N,) whether the prediction is right."""
        return self.ranks == 1


def predictions(run, task, dataset, space, flag="--report"):
    """Return the KeptPredictions of a run folder after ``task`` (START: before training) on ``dataset``, by
    their names in files.

    Raises UserError, naming ``flag``, if the run has not kept them or a file is damaged.
    """
    import numpy
    described = read_description(run, task, flag)
    parts = described["spaces"].get(dataset, {}).get(space)
    if parts is None:
        raise UserError(f"{flag} {run}: has no predictions of {dataset} in label space {space} {when(task)}; it has "
                        f"{', '.join(described['label_space'])} of {', '.join(described['spaces'])}")
    arrays = read_arrays(run, task, dataset, flag)
    first = sum(len(described["datasets"][part]["classnames"]) for part in parts[:parts.index(dataset)])
    return KeptPredictions(arrays["places"], arrays["labels"].astype(numpy.int64) + first, arrays[f"ranks_{space}"],
                           arrays[f"best_{space}"], files_of(arrays))


def when(task):
    return f"after {task}" if task else "before training"


def folder_of(run, task):
    return Path(run) / FOLDER / (f"after_{task}" if task else "start")


def kept_tasks(run):
    """Return the tasks after which a run has kept features, START included, in no particular order."""
    names = [path.parent.name for path in (Path(run) / FOLDER).glob(f"*/{DESCRIPTION}")]
    return [START if name == "start" else name.removeprefix("after_") for name in names]


def read_description(run, task, flag):
    """Return the content of an evaluation.json. Raises UserError if it is missing or incomplete."""
    path = folder_of(run, task) / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{flag} {run}: no features {when(task)} ({path} is missing); a run keeps them with "
                        "--keep-features; finish an interrupted run with --resume")
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error, flag) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _damaged(path, f"it is not a description of kept features of format {FORMAT}", flag)
    if wrong := [key for key, kind in FIELDS.items() if not isinstance(content.get(key), kind)]:
        raise _damaged(path, f"it lacks {', '.join(wrong)}", flag)
    return content


def read_arrays(run, task, dataset, flag):
    """Return {name: array} of one dataset. Raises UserError if the file is missing, damaged or something else."""
    import numpy  # imported late: --report must not wait for it
    path = folder_of(run, task) / f"{dataset}.npz"
    try:
        with numpy.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}  # checks each array's checksum
    except (OSError, ValueError, TypeError, AttributeError, KeyError, EOFError, zipfile.BadZipFile,
            zlib.error) as error:
        raise _damaged(path, error, flag) from None
    if reason := _what_is_wrong(arrays):
        raise _damaged(path, reason, flag)
    return arrays


def _what_is_wrong(arrays):
    expected = PAIRS if "images" in arrays else CLASSES
    if missing := [name for name, dimensions in expected.items()
                   if name not in arrays or arrays[name].ndim != dimensions]:
        return f"it lacks {', '.join(missing)}"
    rows = len(arrays["places"])
    of_images = [name for name in arrays if name in ("features", "labels", "images") or name.startswith(
        ("ranks_", "best_"))]
    unequal = [name for name in of_images if len(arrays[name]) != rows]
    return f"{', '.join(unequal)} and places have different lengths" if unequal else None


def files_of(arrays):
    """Return the names of the images of ``read_arrays``; None if they are not files."""
    return json.loads(arrays["files"].tobytes()) if "files" in arrays else None


def _damaged(path, error, flag):
    return UserError(f"{flag}: {path} cannot be used ({error}); to keep the features again, remove {path.parent} and "
                     "rerun the command that kept them with --resume")
