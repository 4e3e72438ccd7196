"""The step of ``src.models.training`` on a given batch, so that it can be alternated with a peer. Needs
only torch if ``benchmarks.gpu`` replaces the text packages."""

import itertools

from src.datasets.common import Split, Task
from src.machine.batch import Batch
from src.models.finetune import ZSCL, Finetune
from src.models.modeling import frozen_copy, select_trainable, set_training
from src.models.optimizers import Schedule, build_optimizer
from src.models.state import Settings, TrainingState
from src.models.training import Step

TEMPLATE = "a photo of a {c}."


class OurStep:
    """Steps of ``Finetune``, with ``sentences`` of ``ZSCL``, or of ``method``, on one given Batch and one of reference
    images.

    The body of ``train()`` without its loader: rate, losses under autocast, backward, optimiser. ``lr`` is
    constant.
    """

    def __init__(self, model, device, names, batch, sentences=None, reference=None, lr=1e-5, method=None):
        self.device, self.batch = device, batch
        self.settings = Settings(iterations=1000, lr=lr, batch_size=len(batch.labels), warmup=0)
        default = Finetune() if sentences is None else ZSCL("reference", ref_sentences="reference")
        self.method = method or default
        select_trainable(model, "whole")
        self.state = self._state(model, names, sentences)
        self.method.begin(self.state)
        if sentences is not None:
            self.method.reference_images = itertools.repeat(reference)
        set_training(model, self.settings.batch_norm)
        self.state.optimizer = build_optimizer([value for value in model.parameters() if value.requires_grad],
                                               self.settings)
        self.schedule = Schedule(self.state.optimizer, self.settings)
        self.step, self.scaler = Step(self.state, [self.method]), device.scaler()

    def _state(self, model, names, sentences):
        images = Split(None, range(1_281_167))  # never opened; as many as ImageNet, so no cache
        task = Task("benchmark", names, [TEMPLATE], {"train": images})
        other = Task("reference", names, [TEMPLATE], {"train": images}, sentences or ())
        return TrainingState(model=model, task=task, device=self.device, settings=self.settings,
                             open_task=lambda name, trained=False: other,
                             open_zeroshot=lambda path=None: frozen_copy(model))

    def losses(self):
        with self.device.autocast():
            return self.step(self.batch)

    def __call__(self):
        """Take one optimiser step and return the loss before it."""
        self.schedule.set(self.state.iteration)
        loss = sum(self.losses().values())
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.state.optimizer)
        self.scaler.step(self.state.optimizer)
        self.scaler.update()
        self.state.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def batch_of(images, labels):
    return Batch(images, labels, labels_on_host=labels.cpu())
