"""What a finished task leaves for the next one."""

import torch

from clip.loader import FORMAT
from src.files import atomic_file


def save_checkpoint(path, checkpoint):
    with atomic_file(path) as file:
        torch.save(checkpoint, file)


def finished_checkpoint(model, start, *, dataset, task, metrics, iteration, carry, config, name):
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
                    {"dataset": dataset, "classnames": list(task.classnames), "train_data": task.train_data,
                     "metrics": metrics}],
        "heads": dict(start.get("heads", {})),
        "carry": {**start.get("carry", {}), **carry},
        "config": config,
    }
