"""Count the operations of a training step, each of which a GPU's host has to start: python -m
benchmarks.operations

A step starts the same operations at any model width, so they are counted on the CPU with a model as deep as
ViT-B/16 and a few values wide, and with prompts packed as on CUDA. An operation is one launch or more.
"""

import contextlib
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.our_step import OurStep, batch_of
from benchmarks.sizes import TEXT, class_names, random_images, sentences
from clip.model import CLIP
from src.machine.device import Device
from src.models import modeling
from src.models.penalties import L2
from src.models.training import Step

DEEP_AND_NARROW = {**TEXT, "embed_dim": 8, "image_resolution": 16, "vision_layers": 12, "vision_width": 8,
                   "vision_patch_size": 8, "vision_heads": 2, "transformer_width": 8, "transformer_heads": 2,
                   "transformer_layers": 12}
NO_KERNEL = ("empty", "new_empty", "detach", "lift", "alias", "_unsafe_view", "view", "_reshape_alias", "is_", "sym_",
             "resize")


class Operations(TorchDispatchMode):
    """Counts the operations inside ``with`` that do work on a device; {name: count} in ``found``."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation._schema.name.removeprefix("aten::")
        if not (name.startswith(NO_KERNEL) or _is_view(operation)):
            self.found[name] = self.found.get(name, 0) + 1
        return operation(*args, **(kwargs or {}))

    @property
    def total(self):
        return sum(self.found.values())


def _is_view(operation):
    returned = (value.alias_info for value in operation._schema.returns)
    return any(alias is not None and not alias.is_write for alias in returned)


@contextlib.contextmanager
def as_on_cuda():
    """Pack prompts inside the context as on CUDA."""
    with mock.patch.object(modeling, "WORTH_PACKING", {"cpu": modeling.WORTH_PACKING["cuda"]}):
        yield


def step_of(classes=100, references=20, l2=False, batch=2):
    """Return an OurStep in bf16 on the deep and narrow model; ``references`` 0 means plain fine-tuning."""
    device, model = Device("cpu", "bf16"), CLIP(**DEEP_AND_NARROW).eval()
    images, others = (random_images(batch, model.image_resolution, seed) for seed in (0, 1))
    labels = torch.arange(batch) % classes
    with as_on_cuda():
        step = OurStep(model, device, class_names(classes), batch_of(images, labels), sentences(references) or None,
                       batch_of(others, labels))
    if l2:
        penalty = L2(1.0)
        penalty.begin(step.state)
        step.step = Step(step.state, [step.method, penalty])
    return step


def count(step):
    """Return the Operations of one step, after a first step."""
    step()  # creates the optimiser's moments
    with Operations() as operations:
        step()
    return operations


STEPS = {"ZSCL": {}, "ZSCL with l2": {"l2": True}, "finetune": {"references": 0},
         "finetune, 397 classes": {"references": 0, "classes": 397}}


def main():
    from benchmarks.gpu import tokens_by_word
    tokens_by_word()
    for name, options in STEPS.items():
        operations = count(step_of(**options))
        most = sorted(operations.found.items(), key=lambda entry: -entry[1])[:12]
        print(f"{name}: {operations.total} operations;", ", ".join(f"{name} {number}" for name, number in most))


if __name__ == "__main__":
    main()
