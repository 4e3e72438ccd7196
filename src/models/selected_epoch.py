"""Selection of the epoch that a task's own modules are kept from: the last one, or the best on val images."""

import torch

from src.datasets.loading import steps_per_epoch
from src.errors import UserError
from src.machine.notices import warn
from src.models.attached import copied, tensors_kept
from src.models.classifiers import Classes, Classifier
from src.models.evaluation import evaluate
from src.models.hooks import Hooks
from src.models.modeling import in_eval_mode


class SelectsEpoch(Hooks):
    """A base for subclasses of ``Finetune`` with own modules.

    With ``select_epoch`` "val", the modules end as they were after the epoch with the highest accuracy on
    the task's val images (the first in a tie), measured with the classifier and modules that train. With
    "last" nothing is done.
    """

    select_epoch = "last"
    best = None  # {"top1", "iteration", "tensors": {hook: {name: tensor}}} of the best epoch so far

    def begin(self, state):
        if self.select_epoch == "val":
            _require_val(state.task)
            settings = state.settings
            self.epoch_steps = steps_per_epoch(state.task, settings.batch_size, settings.last_batch)
        super().begin(state)

    def after_step(self, state):
        super().after_step(state)
        if self.select_epoch != "val" or state.iteration % self.epoch_steps and (
                state.iteration < state.settings.iterations):
            return
        top1 = self.top1(state)
        if self.best is None or top1 > self.best["top1"]:
            self.best = {"top1": top1, "iteration": state.iteration, "tensors": copied(state.own)}

    @torch.no_grad()
    def top1(self, state):
        """Return the accuracy in percent on the val images, with the task known."""
        task = state.task
        with state.attached():
            with in_eval_mode(state.model), state.device.autocast():
                texts, = self.classes.scores
                weights = texts.features().T                                                 # (D, C)
            known = Classifier(Classes(task.name, state.source, task.classnames, task.templates, weights))
            return evaluate(state.model, task, state.device, "val", state.settings.batch_size,
                            workers=state.workers(task.split("val")), classifiers={task.name: known},
                            world=state.world)["task"].top1

    @torch.no_grad()
    def end(self, state):
        super().end(state)
        if self.best:
            for name, tensors in self.best["tensors"].items():
                kept = tensors_kept(state.own[name])
                for key, value in tensors.items():
                    kept[key].copy_(value)
            print(f"{state.task.name}: --select-epoch val keeps the modules of step {self.best['iteration']} of "
                  f"{state.iteration}, {self.best['top1']:.1f} % on val images")

    def state_dict(self):
        return {**super().state_dict(), "best": self.best}

    def load_state_dict(self, content):
        super().load_state_dict(content)
        self.best = content.get("best")


def _require_val(task):
    """Refuse a task without val images or with several classifiers. Warn if val images are also train or
    test images."""
    if task.parts:
        raise UserError("--select-epoch val with --joint: the val images of several datasets have no common classes; "
                        "leave one of them out")
    if "val" not in task.splits:
        raise UserError(f"--select-epoch val: {task.name} has no val images; give --val-fraction 0.1, or leave it out")
    val = task.split("val")
    for name in [name for name in ("train", "test") if name in task.splits]:
        other = task.split(name)
        if shared := len(val) if other is val else len(_paths(val) & _paths(other)):
            warn(f"{task.name}: {shared} of the {len(val)} val images that select the epoch are also {name} images")


def _paths(split):
    return {str(split.path(index)) for index in range(len(split))} if split.path else set()
