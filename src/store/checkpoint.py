"""Checkpoints, which a finished task leaves for the next one, and files that can verify themselves."""

import hashlib
import os
import re
import sys
from collections import OrderedDict
from pathlib import Path

import torch

from clip.errors import LoadError
from clip.files.archive import read
from clip.loader import FORMAT
from src.errors import UserError
from src.machine.files import atomic_file
from src.models.classifiers import other_classes

# Behind the zip archive, where torch.load ignores it: `head -c -88 FILE | sha256sum` gives the same.
SEAL = "\nclip-continual sha256 {}\n"
SEAL_SIZE = len(SEAL.format(64 * "0"))
SEAL_PATTERN = re.compile(re.escape(SEAL).replace(r"\{\}", "([0-9a-f]{64})").encode())
CHUNK = 1 << 24
LEFT_OUT = "carry_left_out"  # {name of a hook: the file that was finished when its carry was left out}


class CheckpointError(UserError):
    """A file that ``read_checked`` cannot use. ``damaged``: its bytes have changed since they were written,
    so an older file may help; otherwise it could not be opened or read, or was written by something else."""

    def __init__(self, message, damaged):
        super().__init__(message)
        self.damaged = damaged


def save_tensors(path, content):
    with atomic_file(path) as file:
        _save(content, file)


def write_checked(path, content):
    """Write like ``save_tensors``, followed by the content's sha256, so that ``read_checked`` detects any
    change or loss. ``torch.load(weights_only=True)`` reads the file too, unchecked."""
    with atomic_file(path) as file:
        file.write(SEAL.format(_save(content, file)).encode())


def read_checked(path):
    """Return the content of a file of ``write_checked``, tensors on the host. Raise CheckpointError for any
    other file."""
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size - SEAL_SIZE
            if size < 0 or not _is_sealed(file, size):
                raise CheckpointError(f"{path} is damaged: its bytes have changed since it was written", damaged=True)
            file.seek(0)
            return read(file, size, path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})", damaged=False) from None
    except LoadError as error:
        raise CheckpointError(str(error), damaged=False) from None


def _is_sealed(file, size):
    digest, left = hashlib.sha256(), size
    while chunk := file.read(min(CHUNK, left)):
        digest.update(chunk)
        left -= len(chunk)
    seal = SEAL_PATTERN.fullmatch(file.read())
    return left == 0 and seal is not None and seal[1].decode() == digest.hexdigest()


def _save(content, file):
    """Run torch.save and return the sha256 of what was written. torch hides a failed write behind its own
    error; re-raise the first failure."""
    target = _Digested(file)
    try:
        torch.save(_by_value(content), target)
    except Exception:
        if target.failure:
            raise target.failure from None
        raise
    return target.digest.hexdigest()


def _by_value(content):
    """Return equal nested content whose pickled bytes depend on values only. pickle writes an object that
    it meets again as a reference, so a resumed run would otherwise leave other bytes than an uninterrupted
    one."""
    if type(content) is str:
        return sys.intern(content)
    if type(content) in (dict, OrderedDict):
        return type(content)((_by_value(key), _by_value(value)) for key, value in content.items())
    return type(content)(map(_by_value, content)) if type(content) in (list, tuple) else content


class _Digested:
    """A file that tracks the sha256 of what is written to it, and the first failure."""

    def __init__(self, file):
        self.file, self.digest, self.failure, self.flush = file, hashlib.sha256(), None, file.flush

    def write(self, data):
        try:
            count = self.file.write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise
        self.digest.update(data)
        return count


def finished_checkpoint(model, start, *, dataset, source, task, metrics, iteration, carry, config, name, own=None,
                        scorer=None):
    """Return the checkpoint of a finished task: tensors and plain types only, weights under plain CLIP
    names, on the host.

    ``start`` is the checkpoint that the task started from: its history, heads, carry and own modules are
    kept; ``own`` {hook name: state dict} replaces those of current hooks. ``scorer``: what
    ``build.scorer_of`` returned. A linear head of the model is stored separately, under the name of its
    dataset. ``source`` is the dataset as given on the command line. A head of other classes under the same
    name is dropped, because this task's history entry would vouch for it.
    """
    weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()
               if not key.startswith("head.")}
    head = getattr(model, "head", None)
    return _finished(weights, model.architecture, None if head is None else head.packed(), start, dataset, source,
                     task, metrics, iteration, carry, config, name, own, scorer)


def maker_of(checkpoint):
    """Return what scores a checkpoint in its own way, as one would give it: "--method diki", "--hooks my.py:Router"."""
    scorer = checkpoint["scorer"]
    return f"{scorer.get('flag', '--method')} {scorer['method']}"


def finished_again(kept, start, *, dataset, source, task, metrics, config, name):
    """Return ``finished_checkpoint`` for a task that another run finished from the same ``start``, from its
    checkpoint ``kept``."""
    return _finished(kept["state_dict"], kept["architecture"], kept["heads"].get(dataset), start, dataset, source, task,
                     metrics, kept["iteration"], kept["carry"], config, name, kept.get("own"), kept.get("scorer"))


def _finished(weights, architecture, head, start, dataset, source, task, metrics, iteration, carry, config, name, own,
              scorer):
    """Assemble the checkpoint. ``weights`` {name: tensor} exclude the ``head`` (C, D + 1), which is None if
    none is trained."""
    heads = {file: packed for file, packed in start.get("heads", {}).items()
             if file != dataset or other_classes(start.get("history", []), file, task.classnames) is None}
    return {
        "format": FORMAT,
        "state_dict": weights,
        "architecture": architecture,
        "model": name,
        "dataset": dataset,
        "iteration": iteration,
        "history": [*start.get("history", []),
                    {"dataset": dataset, "source": source, "classnames": list(task.classnames),
                     "train_data": task.train_data, "lists": task.list_digests, "metrics": metrics}],
        "heads": {**heads, **({} if head is None else {dataset: head})},
        "carry": {**start.get("carry", {}), **carry},
        **({LEFT_OUT: left} if (left := _still_left_out(start, carry)) else {}),
        **({"own": kept} if (kept := {**start.get("own", {}), **(own or {})}) else {}),
        **({"scorer": scorer} if scorer else {}),
        "config": config,
    }


def _still_left_out(start, carry):
    """Return what the checkpoint ``start`` lacks of its hooks' carry, and a task with ``carry`` has not rebuilt."""
    return {name: file for name, file in start.get(LEFT_OUT, {}).items() if name not in carry}


def without_carry(checkpoint, later):
    """Return a task's checkpoint without its hooks' carry, the newest state of which is in the ``later`` file."""
    return {**checkpoint, "carry": {},
            LEFT_OUT: {**checkpoint.get(LEFT_OUT, {}), **dict.fromkeys(checkpoint["carry"], later)}}


def carry_bytes(checkpoint):
    """Return {hook name: bytes of the tensors in its carry} of a checkpoint, for hooks with any."""
    found = {name: _bytes_of(content) for name, content in checkpoint.get("carry", {}).items()}
    return {name: number for name, number in found.items() if number}


def _bytes_of(content):
    if isinstance(content, torch.Tensor):
        return content.nbytes
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, (list, tuple)) else ()
    return sum(map(_bytes_of, parts))


def in_words(sizes):
    """Describe {hook name: bytes} of carries as "640.0 MiB that EWC carries"."""
    return f"{sum(sizes.values()) / 2 ** 20:.1f} MiB that {' and '.join(sizes)} carr{'ies' if len(sizes) == 1 else 'y'}"
