"""The only loop. Methods and add-ons are hooks around it; it owns the optimiser and sums the named terms."""

import random
import sys

import torch
from torch import nn

from clip.model import CLIP
from src.datasets.seeds import seed_of
from src.errors import UserError
from src.models.batch_norms import StepNorms, share_statistics, training_norms
from src.models.guard import FiniteLosses
from src.models.hooks import promises
from src.models.modeling import compile_image_tower, recompute_blocks, set_training
from src.models.optimizers import Schedule, build_optimizer, groups_of
from src.models.resuming import WatchedWeights, restore


class Step(nn.Module):
    """All hooks' terms of one batch as one forward, so that DistributedDataParallel can wrap it: a method
    encodes several times per step, and gradients are averaged only around the forward of the wrapped
    module."""

    def __init__(self, state, hooks):
        super().__init__()
        self.trained = nn.ModuleList(state.modules())
        self._state, self._hooks = state, hooks

    def forward(self, batch):
        """Return {name: scalar} of a Batch."""
        losses, owners = {}, {}
        for hook in self._hooks:
            for name, value in hook.losses(self._state, batch).items():
                if (owner := owners.setdefault(name, hook)) is not hook:
                    raise UserError(f"two hooks give a loss term {name!r}: {type(owner).__name__} and "
                                    f"{type(hook).__name__}; rename one")
                losses[name] = value if name in hook.other_terms else weighed(value, batch.weight)
        return losses


def weighed(mean, weight):
    """Weight a mean over a process's rows so that the mean over processes is that over all rows. The mean
    over no rows is NaN; it counts as 0, with gradient 0."""
    if weight == 1:
        return mean
    return weight * (mean if weight else mean.nan_to_num())


def begin(state, hooks):
    """Run all of a task that precedes its optimiser and first step. Afterwards every copy of the weights exists."""
    state.forget_copies()
    seed_draws(state.seed_of("begin"))  # the same when an interrupted run resumes
    weights = WatchedWeights(state.model)
    for hook in hooks:
        hook.begin(state)
        weights.refuse_new(hook)
    state.changed = weights.changed()
    if any(hook.closed_form for hook in hooks[:1]):
        for module in state.modules():
            module.requires_grad_(False)
    state.share_copies()
    set_training(state.model, state.settings.batch_norm)
    for module in state.own.values():
        module.train()
    share_statistics(state)
    ready_towers(state)
    if state.settings.compile:
        for copy in _clips_of(state, hooks):
            compile_image_tower(copy)


def _clips_of(state, hooks):
    """Every CLIP that gives image features in the task: the live one, averages, teachers."""
    held = [copy for hook in hooks for value in hook.copies().values()
            for copy in (value if isinstance(value, list | tuple) else [value])]
    return [copy for copy in (*state.copies().values(), *held) if isinstance(copy, CLIP)]


def train(state, hooks, report=lambda state, losses: None, begun=lambda state, hooks: None, interrupted=None,
          resumed=lambda: None):
    """Run the task's steps from ``state.iteration`` on.

    ``hooks`` is the list [method, *add_ons]. ``begun(state, hooks)`` is called before the first step,
    ``report(state, losses)`` after each with the detached terms. ``interrupted`` is what ``state_of_run``
    returned; training then resumes there, bit for bit: hooks begin with the weights at load, as before, and
    get their state back; then ``resumed()`` is called.
    """
    settings, device = state.settings, state.device
    if interrupted:
        state.iteration = interrupted["iteration"]
    begin(state, hooks)
    begun(state, hooks)
    named = [(name, parameter) for name, parameter in state.named_parameters() if parameter.requires_grad]
    parameters = [parameter for _, parameter in named]
    state.optimizer = build_optimizer(groups_of(named, hooks, state), settings) if parameters else None
    schedule = Schedule(state.optimizer, settings) if parameters else None
    state.scaler = scaler = device.scaler()
    if interrupted:
        restore(state, hooks, interrupted)
        interrupted = None  # frees a second copy of all that was restored
        resumed()
    all_used = all(promises(hook, "all_used") for hook in hooks)
    step, finite = state.world.parallel(Step(state, hooks), all_used), FiniteLosses(state)
    norms = StepNorms(state.model, state.world.size)

    for batch in () if hooks[0].closed_form else state.training_stream():
        seed_step(state)
        state.rows = batch.rows
        if state.optimizer:
            schedule.set(state.iteration)
        with state.attached():
            with device.autocast(), state.world.uneven(batch.weight != 1), norms(batch.rows, batch.skipped):
                losses = step(batch)
            finite.watch(losses)
            if losses:  # a method may have no term, hence no backward and no step
                scaler.scale(sum(losses.values())).backward()
                scaler.unscale_(state.optimizer)
        for hook in hooks:
            hook.after_backward(state)
        if losses:
            if settings.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            scaler.step(state.optimizer)
            scaler.update()
            state.optimizer.zero_grad(set_to_none=True)
        state.iteration += 1
        for hook in hooks:
            hook.after_step(state)
        report(state, {name: value.detach() for name, value in losses.items()})
    finite.end()

    seed_draws(state.seed_of("end"))  # the same when an interrupted run ends again
    method, *add_ons = hooks
    for hook in (*add_ons, method):  # averages before merges; the method last, to see the weights that are saved
        hook.end(state)


def seed_step(state):
    """Seed adapters' dropout, and whatever a custom method draws, by the step's index, so that draws do not
    depend on how long the process has run. Each process gets its own seed."""
    rank = "" if state.world.first else f" of process {state.world.rank}"
    seed_draws(seed_of(state.seed_of(f"step{rank}"), state.iteration))


def seed_draws(seed):
    """Seed the global generators, from which code without its own generator draws."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2 ** 32)


def ready_towers(state):
    """Set how the towers of the live model run, without changing what they compute."""
    settings, model = state.settings, state.model
    trains_norms = bool(training_norms(model))
    for flag, on in (("--grad-checkpointing", settings.grad_checkpointing), ("--grad-accum", settings.grad_accum > 1)):
        if on and trains_norms:
            raise UserError(f"{flag} computes blocks a second time for backward: batch norms that train would count "
                            "each image twice; give --batch-norm eval, or leave it out")
    model.parts = settings.grad_accum
    if settings.grad_checkpointing:
        recompute_blocks(model)
