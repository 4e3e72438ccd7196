"""What a finished task leaves for the next one."""

import torch

from clip.loader import FORMAT
from src.files import atomic_file


def save_tensors(path, content):
    with atomic_file(path) as file:
        torch.save(content, file)


def finished_checkpoint(model, start, *, dataset, source, task, metrics, iteration, carry, config, name):
    """What a finished task leaves: tensors and plain types only, weights under plain CLIP names, on the host.

    ``start`` is the checkpoint that the task started from: its history, heads and carry go on. A linear head of the
    model's is kept apart, under the name of its dataset. ``source`` is the dataset as the command line names it.
    """
    head = getattr(model, "head", None)
    return {
        "format": FORMAT,
        "state_dict": {key: value.detach().cpu().clone() for key, value in model.state_dict().items()
                       if not key.startswith("head.")},
        "architecture": model.architecture,
        "model": name,
        "dataset": dataset,
        "iteration": iteration,
        "history": [*start.get("history", []),
                    {"dataset": dataset, "source": source, "classnames": list(task.classnames),
                     "train_data": task.train_data, "metrics": metrics}],
        "heads": {**start.get("heads", {}), **({} if head is None else {dataset: head.packed()})},
        "carry": {**start.get("carry", {}), **carry},
        "config": config,
    }
