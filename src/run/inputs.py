"""Compute digests of what a run reads: weights, data, class names, code. The same on every machine; hex (sha256)."""

import contextlib
import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from clip.errors import LoadError
from src.datasets import find_entry, phase_of
from src.datasets.pairs import JOINT
from src.errors import UserError
from src.machine.files import digest_of, reading_only
from src.run.datasets import Datasets
from src.run.plan.data import PlannedDatasets
from src.run.weights import starting_checkpoint

READERS = 8  # files read in parallel
REFERENCE = "reference"  # the role of reference data


@contextlib.contextmanager
def looking():
    """Suppress writing and printing while entered: the runs print the same again."""
    with reading_only(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


# -- what a run reads --------------------------------------------------------------------------------------------------


def roles_of(command):
    """Return {dataset: {split that is trained on or scored, or REFERENCE}} of a Command's run."""
    training, scoring = command.training, command.scoring
    trained = [] if scoring.evaluation else [JOINT] if training.joint else training.trained
    named = [*(training.trained if scoring.in_order else ()), *scoring.eval_datasets] or training.trained
    found = {}
    for name in trained:
        found.setdefault(name, set()).add("train")
    for name in named:
        found.setdefault(phase_of(name)[0], set()).add(scoring.eval_split)
    for name in _references(training):
        found.setdefault(name, set()).add(REFERENCE)
    return found


def _references(training):
    """Return the datasets that the method refers to; "random" sentences are not one."""
    named = {"ref_dataset": [training.ref_dataset], "ref_sentences": [training.ref_sentences],
             "text_datasets": training.text_datasets, "ddas_reference": [training.ddas_reference]}
    return [name for key in named if key in training.reads for name in named[key] if name not in (None, "random")]


def weights_of_roles(command):
    """Return {role: the settings of weights} that a Command's run reads."""
    found, training = {"start": command.weights}, command.training
    if "ref_model" in training.reads and training.ref_model:
        found["teacher"] = replace(command.weights, load=training.ref_model, loaded=(training.ref_model,), init="auto",
                                   model_chosen=False, model_config=None, model_name=None)
    return found


def missing(command):
    """List all weights and data that a Command's run reads and that are missing.

    Returns (names of datasets that an ordinary run would download, sentences).
    """
    with looking():
        datasets = PlannedDatasets(command.data)
        refused = dict(filter(None, (_refusal(datasets, name) for name in roles_of(command))))
    absent = [text for wanted in weights_of_roles(command).values() if (text := _absent(wanted))]
    here = [f"{name} is not at {Path(command.data.data_location) / find_entry(name).folder}"
            for name in datasets.fetched]
    return list(datasets.fetched), [*absent, *here, *(datasets.refused | refused).values()]


def _refusal(datasets, name):
    """Return (name, why a dataset cannot be opened); None if it can, or if the datasets report it themselves."""
    try:
        datasets.open(name)
    except UserError as error:
        return name, str(error)
    return None


def _absent(wanted):
    with looking():
        try:
            absent = starting_checkpoint(wanted, fetch=False, quiet=True).get("absent")
        except (UserError, LoadError) as error:
            return str(error)
    return absent and absent.replace("the run would download them", "an ordinary run downloads them")


# -- digests -----------------------------------------------------------------------------------------------------------


def digests_of(command):
    """Return {"weights": {role: ...}, "datasets": {name: ...}, "files": {flag: digest}} of everything that a
    Command's run reads, as json types."""
    with looking():
        weights = {role: _weights(wanted) for role, wanted in weights_of_roles(command).items()}
        datasets = Datasets(command.data)
        return {"weights": weights,
                "datasets": {name: dataset_digests(datasets.open(name), roles)
                             for name, roles in roles_of(command).items()},
                "files": {flag: digest_of(path) for flag, path in files_of(command).items()}}


def files_of(command):
    """Return {flag: path} of other files that change numbers: a custom method, hooks, an architecture, a basis."""
    method = command.scoring.method
    named = {"--method": method.rpartition(":")[0] if ".py:" in method else None,
             **{f"--hooks {row.target}": row.target.rpartition(":")[0] for row, _ in command.scoring.hooks},
             "--model-config": command.weights.model_config,
             "--orthogonal-gradients-path": command.training.orthogonal_gradients_path}
    return {flag: path for flag, path in named.items() if path}


def _weights(wanted):
    """Digest the tensors and the architecture of weights, and the file that a flag names, which may hold more."""
    checkpoint = starting_checkpoint(wanted, quiet=True)
    file = wanted.load or wanted.model
    architecture = sorted([key, repr(value)] for key, value in checkpoint["architecture"].items())
    return {"model": checkpoint.get("model"), "tensors": tensors_digest(checkpoint["state_dict"]),
            "architecture": _text_digest(architecture),
            **({"file": digest_of(file)} if file and Path(file).is_file() else {})}


def tensors_digest(tensors):
    """Return the digest of {name: tensor}: names, types, shapes and every bit, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def dataset_digests(task, roles):
    """Digest a Task: its class names, and for each split in ``roles`` the names, labels and content of its
    images.

    The content of reference data is left out: it may be all of ImageNet.
    """
    found = {"classes": _text_digest(list(task.classnames))}
    for role in sorted(roles - {REFERENCE}):
        split = task.split(role)
        found[role] = listing_digests(split) | {"content": content_digest(split)}
    if REFERENCE in roles:
        found[REFERENCE] = {"sentences": _text_digest(list(task.sentences))} | (
            listing_digests(task.reference_split) if task.splits else {})
    return found


def listing_digests(split):
    """Return the number of images in a Split, and the digest of their names, labels and captions."""
    captions = split.captions and [list(texts) for texts in split.captions]
    return {"images": len(split),
            "listing": _text_digest([list(split.listing()), list(map(int, split.labels)), captions])}


def content_digest(split):
    """Return the digest of a Split's images, in order: the bytes of files, the pixels of others."""
    if split.path is None:
        each = (_pixels_digest(split.image(index)) for index in range(len(split)))
    else:
        with ThreadPoolExecutor(READERS) as readers:
            each = list(readers.map(digest_of, map(split.path, range(len(split)))))
    return hashlib.sha256("\n".join(each).encode()).hexdigest()


def _pixels_digest(image):
    pixels = np.ascontiguousarray(np.asarray(image))
    return hashlib.sha256(f"{pixels.dtype} {pixels.shape}\n".encode() + pixels.tobytes()).hexdigest()


def _text_digest(content):
    """Return the digest of texts and numbers in lists."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def changes(before, now, place=()):
    """Return the paths, such as "zero-shot datasets DTD classes", at which two digest contents differ."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [" ".join(place)]
    return [text for key in dict.fromkeys([*before, *now])
            for text in changes(before.get(key), now.get(key), (*place, str(key)))]
