"""A prototype: a step in which autocast casts no weight, because one operation casts all of them."""

import contextlib

import torch
from torch import nn

from benchmarks.one_gpu.changes import prepared, turns, unchanged
from benchmarks.one_gpu.setting import rows
from benchmarks.one_gpu.steps import furthest, kernels_of, sizes

AS_IT_IS, ONE_COPY = "as it is", "casts by one copy"
OF_PRODUCTS = (nn.Linear, nn.Conv2d)
BY_NAME = ("in_proj_weight", "in_proj_bias", "proj", "text_projection")  # of products, but not in such a layer
STEPS = 3


class Twins:
    """bf16 copies of all weights that a model multiplies by, which replace them within ``in_place``."""

    def __init__(self, model):
        places = [(module, name) for module in model.modules() for name, value in module.named_parameters(recurse=False)
                  if isinstance(module, OF_PRODUCTS) or name in BY_NAME]
        self.places = [(module, name, getattr(module, name)) for module, name in places]
        self.weights = [weight for *_, weight in self.places]
        self.copies = [weight.detach().to(torch.bfloat16).requires_grad_() for weight in self.weights]

    @contextlib.contextmanager
    def in_place(self):
        """Copy the weights, let the model compute with the copies, and restore the weights."""
        with torch.no_grad():
            torch._foreach_copy_(self.copies, self.weights)
        self._put(self.copies)
        try:
            yield
        finally:
            self._put(self.weights)

    def _put(self, values):
        for (module, name, _), value in zip(self.places, values, strict=True):
            module._parameters[name] = value

    def give_gradients(self):
        """Copy each copy's gradient to its weight."""
        for weight in self.weights:
            weight.grad = torch.empty_like(weight)
        torch._foreach_copy_([weight.grad for weight in self.weights], [copy.grad for copy in self.copies])
        for copy in self.copies:
            copy.grad = None


def by_one_copy(twins):
    """Return a change: losses use the copies, and the optimiser gets their gradients."""
    @contextlib.contextmanager
    def change(step):
        inner, optimiser = step.losses, step.state.optimizer.step

        def losses():
            with twins.in_place():
                return inner()

        def optimise(*words, **more):
            twins.give_gradients()
            return optimiser(*words, **more)
        step.losses, step.state.optimizer.step = losses, optimise
        try:
            yield
        finally:
            del step.losses, step.state.optimizer.step
    return change


def casts(setting, found):
    """Alternate a ZSCL step with one that uses ``Twins``; measure launches, busy seconds and how far their
    losses differ."""
    use = sizes(setting)
    step = prepared(setting, 100, use["sentences"])
    variants = {AS_IT_IS: unchanged, ONE_COPY: by_one_copy(Twins(step.state.model))}
    rows(setting, found, {
        "in turns": lambda: turns(setting, step, variants),
        **{f"kernels, {name}": lambda change=change: kernels(setting, step, change)
           for name, change in variants.items()},
        "losses": lambda: losses_apart(setting),
    })


def kernels(setting, step, change):
    """Return the launches of a step and the seconds that the device is busy."""
    if not setting.cuda:
        return {"skipped": "needs CUDA"}
    with change(step):
        return kernels_of(setting, step)[0]


def losses_apart(setting):
    """Return the largest relative difference in losses of steps from equal weights."""
    found = []
    for name in (AS_IT_IS, ONE_COPY):
        step = prepared(setting, 10, 30, 8, model="tiny-vit")
        change = by_one_copy(Twins(step.state.model)) if name == ONE_COPY else unchanged
        with change(step):
            found.append([step().item() for _ in range(STEPS)])
    return {"loss": furthest(*found), "last_losses": [side[-1] for side in found]}
