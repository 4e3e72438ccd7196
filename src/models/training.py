"""The only loop. Methods and add-ons are hooks around it; it owns the optimiser and sums the named terms."""

import itertools
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from clip.model import CLIP
from src.datasets.common import Batch, SeededBatches, Task, first_visits, seed_of, training_batches
from src.datasets.transforms import EvalTransform, TrainTransform
from src.errors import UserError
from src.machine.device import Device
from src.machine.distributed import World
from src.models.batch_norms import StepNorms, require_statistics, share_statistics, training_norms
from src.models.evaluation import encode_split
from src.models.helpers import learning_rate
from src.models.lora_injection import is_adapted, merge_lora
from src.models.memory import lower_, resting_weights, share_, storage_of, tensors_of
from src.models.modeling import compile_towers, frozen_copy, recompute_blocks, set_training, trains


@dataclass(frozen=True)
class Settings:
    """The optimiser's and the stream's numbers; ``warmup`` in steps."""

    iterations: int
    lr: float
    batch_size: int = 8
    wd: float = 0.0
    beta2: float = 0.999
    eps: float = 1e-8
    warmup: int = 100
    max_grad_norm: float | None = None
    batch_norm: str = "eval"
    seed: int = 42
    workers: int = 0
    caption_choice: str = "random"
    compile: bool = False
    grad_checkpointing: bool = False
    grad_accum: int = 1

    @property
    def peak_rate(self):
        """The highest learning rate that a step has: ``lr`` unless the run ends within the warm-up."""
        return self.lr * min(1, self.iterations / max(1, self.warmup))


@dataclass
class TrainingState:
    """What hooks see of a run. ``model`` is the live CLIP, ``ensemble`` averaged weights where an add-on keeps some,
    ``final_model`` what is evaluated, saved and carried on.

    ``source`` is the task as the command line names it. ``open_task(name)`` opens another dataset (a reference set,
    say), with ``trained=True`` as it was trained on; ``open_zeroshot(path)`` gives a frozen CLIP with the weights of
    ``--init``, or of ``path``; ``open_teacher(path)`` the same for one who only asks it for features, under autocast,
    None where there is no other. ``history`` lists the earlier tasks of the sequence, ``heads`` the linear heads that
    they left, {dataset: (C, D + 1)}. ``iteration`` counts the steps that the optimiser has done. ``scored`` names the
    datasets whose heads ``Hooks.logits`` is given, while it is asked. ``world`` is the processes of the run: a batch
    has this one's rows of a global batch, which has ``rows`` in the step under way.
    """

    model: CLIP
    task: Task
    device: Device
    settings: Settings
    source: str = ""
    open_task: Callable[..., Task] | None = None
    open_zeroshot: Callable[..., CLIP] | None = None
    open_teacher: Callable[..., CLIP] | None = None
    history: list = field(default_factory=list)
    heads: dict = field(default_factory=dict)
    scored: tuple = ()
    iteration: int = 0
    rows: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    ensemble: CLIP | None = None
    optimizer: torch.optim.Optimizer | None = None
    scaler: torch.amp.GradScaler | None = None
    world: World = field(default_factory=World)
    _merged: tuple | None = None  # (iteration, plain CLIP), so that one evaluation merges once
    _at_load: CLIP | None = None
    _at_load_in_full: bool = False  # somebody reads its values, and not only its features under autocast
    _begun: bool = False
    _zeroshot: list = field(default_factory=list)  # handed out since the task began

    @property
    def final_model(self):
        """A plain CLIP: the ensemble where one is kept, else the live model, with its adapters merged."""
        if self.ensemble is None and is_adapted(self.model):
            if self._merged is None or self._merged[0] != self.iteration:
                self._merged = self.iteration, merge_lora(self.model)
            return self._merged[1]
        return self.model if self.ensemble is None else self.ensemble

    @property
    def head(self):
        """The ClassificationHead of the fc modes, else None."""
        return getattr(self.model, "head", None)

    @property
    def learning_rate(self):
        """That of the last step; 0 for a method that has nothing to optimise."""
        return self.optimizer.param_groups[0]["lr"] if self.optimizer else 0.0

    @property
    def scale(self):
        """s = exp(logit_scale), never trained on class data."""
        return self.model.logit_scale.detach().exp()

    def frozen(self):
        """The live model as it is now, its adapters merged, copied and frozen: for one who changes it."""
        return merge_lora(self.model) if is_adapted(self.model) else frozen_copy(self.model)

    @property
    def at_load(self):
        """The weights at load as a frozen plain CLIP, for ``begin``: one for all hooks, who leave it as it is. Hold the
        module or its parameters; tensors taken out of them would keep storage that sharing frees."""
        teacher, self._at_load_in_full = self.teacher, True
        return teacher

    @property
    def teacher(self):
        """As ``at_load``, for one who only asks it for features, under autocast: it may be kept in that type."""
        if self._begun:
            raise ValueError("state.at_load and state.teacher are there while hooks begin; weights have moved by now")
        if self._at_load is None:
            self._at_load = self.frozen()
        return self._at_load

    def zeroshot(self, path=None):
        """As ``open_zeroshot``; the weights at load share what they have in common with it."""
        self._zeroshot.append(self.open_zeroshot(path))
        return self._zeroshot[-1]

    def zeroshot_teacher(self, path=None):
        """As ``zeroshot``, for one who only asks it for features, under autocast."""
        self._zeroshot.append((self.open_teacher or self.open_zeroshot)(path))
        return self._zeroshot[-1]

    def lowered(self, copy):
        """A frozen copy of one's own that is only asked for features under autocast -> itself, in that type."""
        return copy if self.device.autocast_type is None else lower_(copy, self.device.autocast_type)

    def forget_copies(self):
        """The task begins anew."""
        self._at_load, self._at_load_in_full, self._zeroshot, self._begun = None, False, [], False

    def share_copies(self):
        """Once all hooks have begun: of the weights at load only what is neither at rest in the live model nor
        zero-shot stays a copy, in the autocast type where nobody reads it in full."""
        common = [resting_weights(self.model), *(dict(tensors_of(zeroshot)) for zeroshot in self._zeroshot)]
        self._zeroshot, self._begun = [], True
        if self._at_load is None:
            return
        for weights in common:
            share_(self._at_load, weights)
        if self.device.autocast_type is not None and not self._at_load_in_full:
            lower_(self._at_load, self.device.autocast_type,
                   {storage_of(value) for weights in common for value in weights.values()})

    def copies(self):
        """{holder: CLIP} of the copies of the weights that the state holds itself."""
        at_load = "weights at load" if self._at_load_in_full else "teacher"
        found = {"model": self.model, "ensemble": self.ensemble, at_load: self._at_load}
        return {holder: copy for holder, copy in found.items() if copy is not None}

    def stream(self, split, purpose, batch_size, train_transform=False, captions=None, rest=False):
        """Endless seeded batches of a split on the device, from the current step on. ``captions``: how one is chosen,
        whose number is then the label. Full batches, unless ``rest`` asks for what is left of an epoch too."""
        require_statistics(self, min(batch_size, len(split)))
        transform = (TrainTransform if train_transform else EvalTransform)(self.model.image_resolution)
        batches = training_batches(split, transform, batch_size, self.seed_of(purpose), self.iteration,
                                   self.settings.iterations, self.settings.workers, captions, self.world.part, rest)
        return self.device.batches(batches)

    def first_visits(self, split, purpose, batch_size):
        """Of the batches that such a stream had before the current step, those in which an image came for the first
        time; none at the first step. What a cache has to go through again after an interruption."""
        batches = first_visits(split, EvalTransform(self.model.image_resolution), batch_size, self.seed_of(purpose),
                               self.iteration, self.settings.workers, self.world.part)
        return self.device.batches(batches if self.iteration else ())

    def seed_of(self, purpose):
        """The seed of one purpose in this task: the same in a sequence and in a run of its own."""
        return seed_of(self.settings.seed, self.task.name, purpose)

    def training_stream(self):
        """The task's batches: crops drawn again at each visit; or, where only a head trains, features under the
        evaluation transform, which are constant and are encoded once. Of an epoch the last batch has what is left of
        the images. Pairs come under the evaluation transform, with captions drawn again, in full batches only."""
        split, settings = self.task.split("train"), self.settings
        if self.task.pairs:
            batches = self.stream(split, "train", settings.batch_size, captions=settings.caption_choice)
        elif self.head is None or trains(self.model, "image"):
            batches = self.stream(split, "train", settings.batch_size, train_transform=True, rest=True)
        else:
            batches = self._feature_batches(split)
        order = self._order(len(split), self.iteration)
        return map(self._weighed, map(order.rows, itertools.count(self.iteration)), batches)

    def _order(self, size, start):
        """The order of the task's images, from a step on."""
        return SeededBatches(size, self.settings.batch_size, self.seed_of("train"), start, self.settings.iterations,
                             self.world.part, rest=not self.task.pairs)

    def _weighed(self, rows, batch):
        """A batch of the task with what it is of the ``rows`` of all processes. Skipped images, which only one process
        alone may have, are none of them."""
        own, processes = len(batch.labels), self.world.size
        rows = rows if processes > 1 else own
        return batch._replace(rows=rows, weight=own * processes / rows if rows else 0.0)

    def _feature_batches(self, split):
        """An interrupted run encodes all that it did at first, in the same batches: others round in other ways."""
        every, left = (self._order(len(split), first) for first in (0, self.iteration))
        if not len(left):
            return
        visited = sorted({index for batch in every.whole() for _, index in batch})  # by any process: they share it
        positions, features = encode_split(self.model, split.subset(visited), self.device,
                                           workers=self.settings.workers, world=self.world)
        row_of = {visited[position]: row for row, position in enumerate(positions)}
        for batch in left:
            found = [index for _, index in batch if index in row_of]
            if not found and len(batch) >= left.full_share:
                raise UserError("none of the images of a batch could be decoded")
            labels, rows = (torch.tensor(numbers, dtype=torch.long).to(features.device, non_blocking=True)
                            for numbers in ([split.labels[index] for index in found],
                                            [row_of[index] for index in found]))
            yield Batch(None, labels, len(batch) - len(found), features[rows])


class Step(nn.Module):
    """All hooks' terms of one batch as one forward, so that DistributedDataParallel can stand around it: a method
    encodes several times a step, and gradients are only averaged around the forward of the wrapped module."""

    def __init__(self, state, hooks):
        super().__init__()
        self.model = state.model
        self._state, self._hooks = state, hooks

    def forward(self, batch):
        """Batch -> {name: scalar}."""
        losses = {}
        for hook in self._hooks:
            for name, value in hook.losses(self._state, batch).items():
                if name in losses:
                    raise ValueError(f"two hooks give a loss term {name!r}; the second is {type(hook).__name__}")
                losses[name] = value if name in hook.other_terms else weighed(value, batch.weight)
        return losses


def weighed(mean, weight):
    """A mean over a process's rows of a batch -> weighed, so that the mean over processes is that over all rows. The
    mean over no rows is NaN; it counts as 0, with gradient 0."""
    if weight == 1:
        return mean
    return weight * (mean if weight else mean.nan_to_num())


def begin(state, hooks):
    """All of a task that comes before its optimiser and its first step: after it every copy of the weights is there."""
    state.forget_copies()
    seed_draws(state.seed_of("begin"))  # the same where an interrupted run begins again
    for hook in hooks:
        hook.begin(state)
    state.share_copies()
    set_training(state.model, state.settings.batch_norm)
    share_statistics(state)
    ready_towers(state)


def train(state, hooks, report=lambda state, losses: None, begun=lambda state, hooks: None, interrupted=None,
          resumed=lambda: None):
    """Run the task's steps from ``state.iteration`` on. ``hooks`` is the list [method, *add_ons];
    ``begun(state, hooks)`` is called before the first step, ``report(state, losses)`` after each with the detached
    terms. ``interrupted`` is what ``state_of_run`` returned, of a run that resumes there with the same bits: hooks
    begin with the weights at load, as they did then, and get back what they had; then ``resumed()`` is called."""
    settings, device = state.settings, state.device
    if interrupted:
        state.iteration = interrupted["iteration"]
    begin(state, hooks)
    begun(state, hooks)
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    state.optimizer = build_optimizer(parameters, settings) if parameters else None
    state.scaler = scaler = device.scaler()
    if interrupted:
        restore(state, hooks, interrupted)
        interrupted = None  # as large as what it was taken back into
        resumed()
    # Ours leave no parameter out.
    step, finite = state.world.parallel(Step(state, hooks), all_used=all_ours(hooks)), FiniteLosses(state)
    norms = StepNorms(state.model, state.world.size)

    for batch in state.training_stream():
        seed_step(state)
        state.rows = batch.rows
        if state.optimizer:
            set_learning_rate(state.optimizer, settings, state.iteration)
        with device.autocast(), state.world.uneven(batch.weight != 1), norms(batch.rows, batch.skipped):
            losses = step(batch)
        finite.watch(losses)
        if losses:  # a closed-form method has no term, hence no backward and no step
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

    method, *add_ons = hooks
    for hook in (*add_ons, method):  # averages before merges, and the method last: it sees the weights that are saved
        hook.end(state)


def seed_step(state):
    """Of adapters' dropout, and of whatever a method of one's own draws: by the step's number, so that no draw tells
    how long a process has lived. Rows of different processes get their own."""
    rank = "" if state.world.first else f" of process {state.world.rank}"
    seed_draws(seed_of(state.seed_of(f"step{rank}"), state.iteration))


def drawn_by_process(state, hooks):
    """Why a run depends on the number of its processes by more than rounding, None where it does not."""
    if any(isinstance(module, nn.Dropout) and module.p for module in state.model.modules()):
        return "each process draws the dropout of its own rows"
    return None if all_ours(hooks) else "a method of one's own may draw in each process"


def all_ours(hooks):
    return all(type(hook).__module__.startswith("src.models.") for hook in hooks)


def seed_draws(seed):
    """All generators that code without one of its own draws from."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2 ** 32)


def state_of_run(state, hooks):
    """After a step: all that ``restore`` needs and the weights at load do not tell; tensors, not copied, and plain
    types."""
    return {
        "iteration": state.iteration,
        "moving": {name: value.detach() for name, value in moving_tensors(state.model).items()},
        "optimizer": state.optimizer.state_dict() if state.optimizer else None,
        "scaler": state.scaler.state_dict(),
        "ensemble": None if state.ensemble is None else state.ensemble.state_dict(),
        "hooks": {type(hook).__name__: kept for hook in hooks if (kept := hook.state_dict())},
    }


@torch.no_grad()
def restore(state, hooks, content):
    """Restore what ``state_of_run`` returned, after ``begin`` with the weights at load and with a new optimiser."""
    found = moving_tensors(state.model)
    wrong = sorted(content["moving"].keys() ^ found.keys())
    if wrong:
        raise UserError(f"--resume: other tensors move than when the task was interrupted, such as {wrong[0]}")
    for name, value in content["moving"].items():
        found[name].copy_(value)
    if state.optimizer:
        state.optimizer.load_state_dict(content["optimizer"])
    state.scaler.load_state_dict(content["scaler"])
    if state.ensemble is not None:
        state.ensemble.load_state_dict(content["ensemble"])
    for hook in hooks:
        if type(hook).__name__ in content["hooks"]:
            hook.load_state_dict(content["hooks"][type(hook).__name__])


def moving_tensors(model):
    """{name: what training changes}: the parameters that require a gradient, and the statistics of batch norms."""
    kept = {*(name for name, value in model.named_parameters() if not value.requires_grad), "token_rows"}
    return {name: value for name, value in (*model.named_parameters(), *model.named_buffers()) if name not in kept}


class FiniteLosses:
    """Stops a run on a non-finite loss, before it reaches the weights.

    Where reading a value waits for the device, the fused optimiser is told there to skip the step, and the value is
    read a step later.
    """

    def __init__(self, state):
        self.state, self.waits, self.before = state, state.device.waits, None

    def watch(self, losses):
        """The named terms of the step under way."""
        if not losses:
            return
        values = torch.stack([value.detach().float() for value in losses.values()])
        now = self.state.iteration, tuple(losses), self.state.device.read(values)
        if not self.waits:
            return self._check(*now)
        if self.before:
            self._check(*self.before)
        self.before = now
        if self.state.optimizer.defaults["fused"]:
            self.state.optimizer.found_inf = (~values.isfinite().all()).float()

    def end(self):
        """Of the last step."""
        if self.before:
            self._check(*self.before)

    def _check(self, step, names, values):
        numbers = values()
        if not all(map(math.isfinite, numbers)):
            terms = ", ".join(f"{name} {number:g}" for name, number in zip(names, numbers, strict=True))
            raise UserError(f"step {step + 1} of {self.state.settings.iterations}: the loss is no finite number "
                            f"({terms}); what was saved before is untouched. Lower --lr, give --max-grad-norm or "
                            "--precision fp32")


def ready_towers(state):
    """What changes how the towers of the live model run, not what they compute."""
    settings, model = state.settings, state.model
    trains_norms = bool(training_norms(model))
    for flag, on in (("--grad-checkpointing", settings.grad_checkpointing), ("--grad-accum", settings.grad_accum > 1)):
        if on and trains_norms:
            raise UserError(f"{flag} computes blocks a second time for backward: batch norms that train would count "
                            "each image twice; give --batch-norm eval, or leave it out")
    model.parts = settings.grad_accum
    if settings.grad_checkpointing:
        recompute_blocks(model)
    if settings.compile:
        compile_towers(model)


def build_optimizer(parameters, settings):
    """AdamW in one group, fused where torch has it."""
    return torch.optim.AdamW(parameters, lr=settings.lr, betas=(0.9, settings.beta2), eps=settings.eps,
                             weight_decay=settings.wd, fused=parameters[0].device.type in ("cpu", "cuda"))


def set_learning_rate(optimizer, settings, step):
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, settings.iterations, settings.warmup, settings.lr)
