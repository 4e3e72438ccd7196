"""Twenty steps with a global batch of 12, each case in float64 by AdamW and in fp32 by plain SGD. Run by torchrun,

    torchrun --nproc-per-node 3 tests/tools/torchrun_steps.py OUT

every process writes OUT/steps<RANK>.pt, {(case, precision): what ``run`` gives}."""

import hashlib
import os
import random
import sys
from pathlib import Path

import torch
from conftest import CLASSNAMES, SENTENCES, TEMPLATES, random_split, tiny_clip
from distributed_cases import EPS, scored
from this_machine import THREADS

from src.datasets.common import Split, Task
from src.machine.device import Device
from src.machine.distributed import World, this_world
from src.models import training
from src.models.averaging import WeightEnsemble
from src.models.finetune import ZSCL, Finetune
from src.models.gradients import GradientTracker
from src.models.modeling import select_trainable
from src.models.modx import ModX
from src.models.resuming import state_of_run
from src.models.state import Settings, TrainingState

BATCH, STEPS, OTHER = 12, 20, "other"
OPTIMIZERS = {  # fp32 with AdamW would compare signs: it divides gradients that are all rounding by their own size
    "fp64": training.build_optimizer,
    "fp32": lambda parameters, settings: torch.optim.SGD(parameters, settings.lr),
}


def tasks():
    images, reference = random_split(40, 4, 1), random_split(30, 3, 4)
    words = sorted({*" ".join(SENTENCES).split()})
    captions = [(" ".join(random.Random(index).sample(words, 4)),) for index in range(40)]
    assert len({*captions}) == 40  # of equal ones, rounding would tell which Mod-X ranks first
    pairs = Split(images.image, range(40), captions=captions)
    return {"task": Task("task", CLASSNAMES, TEMPLATES, {"train": images}, in_memory=True),
            OTHER: Task(OTHER, CLASSNAMES[:3], TEMPLATES, {"train": random_split(40, 3, 9)}, in_memory=True),
            "reference": Task("reference", CLASSNAMES[:3], TEMPLATES[1:], {"train": reference}, SENTENCES,
                              in_memory=True),
            "pairs": Task("pairs", (), (), {"train": pairs}, in_memory=True, pairs=True)}


TASKS = tasks()


def zscl():
    return ZSCL("reference", image_loss=True, text_loss=True)


def projected(basis):
    return GradientTracker(orthogonal_gradients=4, orthogonal_gradients_path=basis)


CASES = {  # {case: (task, hooks(basis))}
    "finetune": ("task", lambda basis: [Finetune()]),
    "finetune we": ("task", lambda basis: [Finetune(), WeightEnsemble(4)]),
    "zscl": ("task", lambda basis: [zscl()]),
    "zscl we": ("task", lambda basis: [zscl(), WeightEnsemble(4)]),
    "modx": ("pairs", lambda basis: [ModX()]),
    "modx we": ("pairs", lambda basis: [ModX(), WeightEnsemble(4)]),
    "projected": ("task", lambda basis: [Finetune(), projected(basis)]),
    "projected we": ("task", lambda basis: [Finetune(), projected(basis), WeightEnsemble(4)]),
}


def run(world, case, precision, basis=None):
    """-> the final weights in float64, and a digest of this process's every bit: weights, ensemble, moments."""
    task, hooks = CASES[case]
    state, hooks = state_of(world, task, precision), hooks(basis)
    training.build_optimizer, before = OPTIMIZERS[precision], training.build_optimizer
    try:
        training.train(state, hooks)
    finally:
        training.build_optimizer = before
    content = state_of_run(state, hooks)
    return {"weights": {name: value.double() for name, value in state.final_model.state_dict().items()},
            "digest": digest(content), "moments": len(tensors(content["optimizer"]["state"]))}


def state_of(world, task, precision):
    model = tiny_clip("vit", dtype=torch.float64 if precision == "fp64" else torch.float32)
    select_trainable(model, "whole")
    return TrainingState(
        model=model, task=TASKS[task], source=task, device=Device("cpu", precision), world=world,
        open_task=lambda name, trained=False: TASKS[name],
        open_zeroshot=lambda path=None: tiny_clip("vit", seed=5, dtype=model.logit_scale.dtype).requires_grad_(False),
        settings=Settings(STEPS, lr=1e-3, batch_size=BATCH, warmup=2, wd=0.1, eps=EPS))


def write_basis(path):
    """A basis of another task's gradients, from one process."""
    tracker = GradientTracker(orthogonal_gradients=3)
    training.train(state_of(World(), OTHER, "fp64"), [Finetune(), tracker])
    torch.save(tracker.files(finished=True)["grad_{task}.pth"], path)


def tensors(content):
    """All tensors of nested dicts and lists, in their order."""
    if isinstance(content, torch.Tensor):
        return [content]
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def digest(content):
    found = hashlib.blake2b()
    for tensor in tensors(content):
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def own_rows(world):
    """The numbers of the images that this process trains on, a list a step."""
    return [batch.indices.tolist() for batch in state_of(world, "task", "fp64").training_stream()]


def main(rank, out, cases):
    torch.set_num_threads(THREADS)
    world = this_world()
    world.start(torch.device("cpu"))
    found = {(case, precision): run(world, case, precision, out / "basis.pth")
             for case in cases for precision in OPTIMIZERS}
    torch.save({**found, "rows": own_rows(world), "scores": scored(world)}, out / f"steps{rank}.pt")
    world.stop()


if __name__ == "__main__":
    main(int(os.environ["RANK"]), Path(sys.argv[1]), CASES)
