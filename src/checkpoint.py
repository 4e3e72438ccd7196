"""Checkpoints and files that are either whole or not there."""

import contextlib
import os
import tempfile
from pathlib import Path

import torch

FORMAT = 1


@contextlib.contextmanager
def atomic_file(path, mode="wb"):
    """A temporary file beside ``path`` that takes its name, synced to disk, only if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"encoding": "utf-8", "newline": ""} if "b" not in mode else {}
    with tempfile.NamedTemporaryFile(mode, dir=path.parent, prefix=f".{path.name}.", delete=False, **options) as file:
        partial = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    umask = os.umask(0)
    os.umask(umask)
    partial.chmod(0o666 & ~umask)
    os.replace(partial, path)


def save_checkpoint(path, checkpoint):
    with atomic_file(path) as file:
        torch.save(checkpoint, file)


def finished_checkpoint(model, start, *, dataset, classnames, metrics, iteration, carry, config, name):
    """What a finished task leaves: tensors and plain types only, weights under plain CLIP names, on the host.

    ``start`` is the checkpoint that the task started from: its history, heads and carry go on.
    """
    return {
        "format": FORMAT,
        "state_dict": {key: value.detach().cpu().clone() for key, value in model.state_dict().items()},
        "architecture": model.architecture,
        "model": name,
        "dataset": dataset,
        "iteration": iteration,
        "history": [*start.get("history", []),
                    {"dataset": dataset, "classnames": list(classnames), "metrics": metrics}],
        "heads": dict(start.get("heads", {})),
        "carry": {**start.get("carry", {}), **carry},
        "config": config,
    }
