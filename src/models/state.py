"""What hooks see of a run: its settings, and the model, streams and copies of one task."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from clip.model import CLIP
from clip.packing import PackedTexts
from src.datasets.cache import ImageCache
from src.datasets.common import Split, Task
from src.datasets.loading import (
    SeededBatches,
    batches_of_pass,
    first_visits,
    keeps_rest,
    pass_batches,
    training_batches,
    worker_count,
)
from src.datasets.seeds import seed_of
from src.datasets.transforms import EvalTransform, TrainTransform
from src.errors import UserError
from src.machine.batch import Batch
from src.machine.device import Device
from src.machine.distributed import World
from src.machine.interruption import Interrupted, Signals
from src.models.attached import acting, attached, holding, prompted, rows_alone, trains_in
from src.models.batch_norms import require_statistics
from src.models.features import encode_split
from src.models.memory import lower_, resting_weights, share_, storage_of, tensors_of
from src.models.modeling import (
    ClassificationHead,
    encodes_rows_alone,
    frozen_copy,
    in_eval_mode,
    packed_where_shorter,
    trains,
)
from src.models.optimizers import rate_at
from src.models.wrapped import is_wrapped, merge, plain_name


@dataclass(frozen=True)
class Settings:
    """The optimiser's and the stream's numbers; ``warmup`` in steps, ``workers`` a value of --workers. ``epoch_steps``:
    the steps of an epoch, which only the schedule ``late-cosine`` needs."""

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
    workers: int | str = 0
    caption_choice: str = "random"
    compile: bool = False
    grad_checkpointing: bool = False
    grad_accum: int = 1
    optimizer: str = "adamw"
    schedule: str = "cosine"
    lr_floor: float = 0.0
    crops: str = "random"
    last_batch: str = "keep"
    epoch_steps: int | None = None

    @property
    def peak_rate(self) -> float:
        """The highest learning rate of any step: ``lr`` unless the run ends within the warm-up, or no step
        of ``onecycle`` falls on its peak."""
        if self.schedule == "onecycle":
            return max(rate_at(step, self, self.lr) for step in range(self.iterations))
        return self.lr * min(1, self.iterations / max(1, self.warmup))


@dataclass
class TrainingState:
    """What hooks see of a run. ``model`` is the live CLIP, ``ensemble`` averaged weights if an add-on keeps
    some, ``final_model`` what is evaluated, saved and carried on.

    ``source``: the task as given on the command line.
    ``open_task(name)`` opens another dataset (e.g. a reference set), with ``trained=True`` as it was
    trained on.
    ``open_zeroshot(path)`` returns a frozen CLIP with the weights of ``--init``, or of ``path``.
    ``open_teacher(path)`` is like it, but possibly in the autocast dtype: for features only; None if there
    is no other.
    ``history`` lists the earlier tasks of the sequence, ``heads`` the linear heads they left, {dataset: (C,
    D + 1)}.
    ``iteration`` counts the optimiser's steps.
    ``world``: the processes of the run. A batch holds this process's rows of a global batch, which has
    ``rows`` rows in the current step.
    ``own``: modules that hooks built beside the CLIP, {hook name: module}; ``own_average``: their averages
    {hook name: {name: tensor}} while an add-on keeps some.
    ``signals`` may end a pass over data.
    ``planned``: a dry run, in which hooks begin and a pass over data yields nothing. ``images``: what the run keeps of
    decoded images.
    """

    model: CLIP
    task: Task
    device: Device
    settings: Settings
    source: str = ""
    open_task: Callable[..., Task] | None = None
    open_zeroshot: Callable[..., CLIP] | None = None
    open_teacher: Callable[..., CLIP] | None = None
    history: list[dict] = field(default_factory=list)
    heads: dict[str, Tensor] = field(default_factory=dict)
    iteration: int = 0
    rows: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    ensemble: CLIP | None = None
    optimizer: torch.optim.Optimizer | None = None
    scaler: torch.amp.GradScaler | None = None
    world: World = field(default_factory=World)
    own: dict[str, nn.Module] = field(default_factory=dict)
    own_average: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)  # names of the CLIP's tensors that hooks changed in ``begin``
    signals: Signals = field(default_factory=Signals)
    planned: bool = False
    images: ImageCache = field(default_factory=ImageCache)
    _merged: tuple | None = None  # (iteration, plain CLIP), so that one evaluation merges once
    _at_load: CLIP | None = None
    _at_load_in_full: bool = False  # a hook reads its values, not only its features under autocast
    _begun: bool = False
    _zeroshot: list = field(default_factory=list)  # returned to hooks since the task began

    def modules(self) -> list[nn.Module]:
        """Return all that trains: the live CLIP, and the hooks' own modules beside it."""
        return [self.model, *self.own.values()]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield (name, parameter) of ``modules()``; names in own modules start with own.<hook>."""
        yield from self.model.named_parameters()
        for name, module in self.own.items():
            yield from ((f"own.{name}.{key}", parameter) for key, parameter in module.named_parameters())

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that require a gradient."""
        return [parameter for _, parameter in self.named_parameters() if parameter.requires_grad]

    def attached(self, model: CLIP | None = None) -> AbstractContextManager:
        """Attach own modules to the towers of a CLIP inside the context, by default to the live one."""
        return attached(model or self.model, self.own.values())

    @contextlib.contextmanager
    def in_place(self, model: CLIP) -> Iterator[None]:
        """Attach own modules, in eval mode, to a CLIP that is scored; inside the context they hold their
        averages if an add-on keeps some."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._averages_held())
            for module in self.own.values():
                stack.enter_context(in_eval_mode(module))
            stack.enter_context(self.attached(model))
            yield

    def acting(self) -> list[str]:
        """Return the names of the own modules that change CLIP's scores."""
        with contextlib.ExitStack() as stack:
            for module in self.own.values():
                stack.enter_context(in_eval_mode(module))
            return acting(self.model, self.own)

    @contextlib.contextmanager
    def _averages_held(self) -> Iterator[None]:
        average, self.own_average = self.own_average, {}  # so that a nested entry does not swap back
        try:
            with holding(self.own, average):
                yield
        finally:
            self.own_average = average

    def trains(self, tower: str) -> bool:
        """Return whether training changes the output of the ``"image"`` or ``"text"`` tower."""
        return trains(self.model, tower) or trains_in(self.model, self.own.values(), tower)

    def encodes_rows_alone(self) -> bool:
        """Return whether the image tower encodes each image independently of the rest of the batch."""
        return encodes_rows_alone(self.model) and rows_alone(self.model, self.own.values(), "image")

    def prompts(self, task: Task) -> list[str]:
        """Return one prompt per class of a Task, with own modules' template if they define one."""
        return prompted(task, self.own.values()).prompts()

    def packed(self, tokens: Tensor) -> PackedTexts | Tensor:
        """Return PackedTexts of texts (N, L) that the live towers will encode often, or the tokens if
        packing saves too little or an own module needs each text by itself."""
        if not rows_alone(self.model, self.own.values(), "text"):
            return tokens
        return packed_where_shorter(self.model, tokens)

    @property
    def final_model(self) -> CLIP:
        """A plain CLIP: the ensemble if one is kept, else the live model, with wrapped layers merged."""
        if self.ensemble is None and is_wrapped(self.model):
            if self._merged is None or self._merged[0] != self.iteration:
                self._merged = self.iteration, merge(self.model)
            return self._merged[1]
        return self.model if self.ensemble is None else self.ensemble

    @property
    def head(self) -> ClassificationHead | None:
        """The ClassificationHead of the fc modes, else None."""
        return getattr(self.model, "head", None)

    @property
    def learning_rate(self) -> float:
        """The rate of the last step; 0 for a method with nothing to optimise."""
        return self.optimizer.param_groups[0]["lr"] if self.optimizer else 0.0

    @property
    def scale(self) -> Tensor:
        """s = exp(logit_scale), never trained on class data."""
        return self.model.logit_scale.detach().exp()

    def frozen(self) -> CLIP:
        """Return a frozen copy of the live model with wrapped layers merged; the caller may modify it."""
        return merge(self.model) if is_wrapped(self.model) else frozen_copy(self.model)

    def forget_merged(self) -> None:
        """Drop the merged model of ``final_model``, since weights changed between two steps."""
        self._merged = None

    @property
    def at_load(self) -> CLIP:
        """The weights at load as a frozen plain CLIP, for ``begin``. All hooks share it and must not change
        it. Hold the module or its parameters: tensors taken out of them would keep storage that sharing
        frees."""
        teacher, self._at_load_in_full = self.teacher, True
        return teacher

    @property
    def teacher(self) -> CLIP:
        """Like ``at_load``, but possibly in the autocast dtype: for features only."""
        if self._begun:
            raise ValueError("state.at_load and state.teacher are available only in begin; weights have moved since")
        if self._at_load is None:
            self._at_load = self.frozen()
        return self._at_load

    def at_load_changed(self) -> dict[str, Tensor]:
        """Return {plain name: tensor} of the weights at load that hooks changed in ``begin``, as the copy
        holds them: if a hook changed them before the copy was made, with its changes."""
        changed = {plain_name(name) for name in self.changed}
        return {name: value for name, value in tensors_of(self._at_load or nn.Module()) if name in changed}

    def zeroshot(self, path: str | None = None) -> CLIP:
        """Return ``open_zeroshot(path)``; the weights at load share what they have in common with it."""
        self._zeroshot.append(self.open_zeroshot(path))
        return self._zeroshot[-1]

    def zeroshot_teacher(self, path: str | None = None) -> CLIP:
        """Like ``zeroshot``, but possibly in the autocast dtype: for features only."""
        self._zeroshot.append((self.open_teacher or self.open_zeroshot)(path))
        return self._zeroshot[-1]

    def lowered(self, copy: CLIP) -> CLIP:
        """Cast a frozen copy that only gives features under autocast to the autocast dtype, in place, and return it."""
        return copy if self.device.autocast_type is None else lower_(copy, self.device.autocast_type)

    def forget_copies(self) -> None:
        """Drop the copies of the weights, because the task starts again."""
        self._at_load, self._at_load_in_full, self._zeroshot, self._begun = None, False, [], False
        self.forget_merged()

    def share_copies(self) -> None:
        """Release duplicate weights after all hooks have begun.

        Of the weights at load, only what is neither at rest in the live model nor zero-shot stays a copy,
        in the autocast dtype unless a hook reads it in full.
        """
        common = [resting_weights(self.model), *(dict(tensors_of(zeroshot)) for zeroshot in self._zeroshot)]
        self._zeroshot, self._begun = [], True
        self.forget_merged()
        if self._at_load is None:
            return
        for weights in common:
            share_(self._at_load, weights)
        if self.device.autocast_type is not None and not self._at_load_in_full:
            lower_(self._at_load, self.device.autocast_type,
                   {storage_of(value) for weights in common for value in weights.values()})

    def copies(self) -> dict[str, CLIP]:
        """Return {holder: CLIP} of the copies of the weights that the state itself holds."""
        at_load = "weights at load" if self._at_load_in_full else "teacher"
        found = {"model": self.model, "ensemble": self.ensemble, at_load: self._at_load}
        return {holder: copy for holder, copy in found.items() if copy is not None}

    def stream(self, split: Split, purpose: str, batch_size: int, train_transform: bool = False,
               captions: str | None = None, rest: bool = False) -> Iterator[Batch]:
        """Return an endless iterator of seeded batches of a split on the device, from the current step on.

        ``captions``: how one is chosen; the label is then its index. Batches are full unless ``rest`` also
        asks for the remainder of each epoch.
        """
        require_statistics(self, min(batch_size, len(split)))
        transform = self._transform(train_transform)
        batches = training_batches(split, transform, batch_size, self.seed_of(purpose), self.iteration,
                                   self.settings.iterations, self.workers(split), captions, self.world.part, rest)
        return self.device.batches(batches)

    def first_visits(self, split: Split, purpose: str, batch_size: int) -> Iterator[Batch]:
        """Return those batches of such a stream before the current step in which an image came for the
        first time; none at the first step. A cache must go through them again after an interruption."""
        batches = first_visits(split, EvalTransform(self.model.image_resolution), batch_size, self.seed_of(purpose),
                               self.iteration, self.workers(split), self.world.part)
        return self.device.batches(batches if self.iteration else ())

    def once(self, split: Split, purpose: str, batch_size: int, train_transform: bool = False, shuffle: bool = False,
             drop_last: bool = False, captions: str | None = None) -> Iterator[Batch]:
        """Pass over a Split in ``begin`` or ``end``: return an iterator over Batches that contains every
        image exactly once.

        Gradients are allowed, and the model stays in its mode: training batch norms would count these
        images, so most passes run inside ``modeling.in_eval_mode(state.model)``. Images come under the
        evaluation transform, or with ``train_transform`` as crops drawn by ``purpose``; in the order of the
        split, or with ``shuffle`` in one drawn by ``purpose``. The last batch holds the remaining images,
        unless ``drop_last``. Labels are the split's, or with ``captions`` ("random", "first") the indices
        of an image's captions, drawn by ``purpose``; ``batch.indices`` (B,) are positions in the split.

        Processes share the images: each gets its rows of every batch, and all get the same number of
        batches, the last of which may have 0 rows. ``state.world.sum`` turns per-process statistics into
        those of all images; weight a mean over a batch by ``batch.weight``, as the loop does.

        A signal ends the run between two batches, and the pass is repeated on resume. In a dry run it
        yields nothing. Raises UserError if the split is too small.
        """
        whole = batches_of_pass(len(split), batch_size, self.seed_of(purpose), shuffle, drop_last)
        if not whole:
            least = f"a full batch of {batch_size}" if len(split) else "at least one"
            raise UserError(f"{self._words_for(split)} has {len(split)} images, and the pass {purpose!r} over it needs "
                            f"{least}; give more images, or smaller batches")
        if self.planned:
            return iter(())
        transform = self._transform(train_transform)
        batches = pass_batches(split, transform, whole, self.seed_of(purpose), self.workers(split), self.world.part,
                               captions)
        return self._until_asked(map(len, whole), self.device.batches(batches))

    def kept(self, task: Task, split: Split, name: str) -> Split:
        """A Split of a Task that is only read under the transform of evaluation, as the run keeps its images; ``name``
        tells it from the task's other splits."""
        if task.from_code:
            return split
        return self.images.kept(split, f"{task.place or task.name}-{name}", EvalTransform(self.model.image_resolution))

    def workers(self, split: Split) -> int:
        """The number of processes that read a Split."""
        return worker_count(self.settings.workers, split)

    def _transform(self, train: bool) -> TrainTransform | EvalTransform:
        """Return the evaluation transform, or random crops if the pass wants ``train`` images and --crops
        allows it."""
        cropped = train and self.settings.crops == "random"
        return (TrainTransform if cropped else EvalTransform)(self.model.image_resolution)

    def _until_asked(self, rows: Iterator[int], batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches of a pass, weighted by their share of the ``rows`` of all processes, until a
        signal to this or another process ends the run."""
        with contextlib.closing(batches):
            for batch in batches:
                if reason := self.signals.reason or self.world.reason_to_stop():
                    raise Interrupted(reason)
                yield self._weighed(next(rows), batch)

    def _words_for(self, split: Split) -> str:
        """Return "the train split of DTD" if the current task has the split."""
        own = (name for name in self.task.splits if self.task.split(name).listing() == split.listing())
        name = next(own, None)
        return f"the {name} split of {self.task.name}" if name else f"a split that {self.task.name} does not have"

    def seed_of(self, purpose: str) -> int:
        """Return the seed of one purpose in this task: the same in a sequence and in a single run."""
        return seed_of(self.settings.seed, self.task.name, purpose)

    def training_stream(self) -> Iterator[Batch]:
        """Return the task's batches: crops redrawn at each visit; or, if only a head trains, features under
        the evaluation transform, which are constant and encoded once.

        The last batch of an epoch holds the remaining images, unless --last-batch drops it. Pairs come
        under the evaluation transform, with captions redrawn, in full batches only.
        """
        split, settings = self.task.split("train"), self.settings
        if self.task.pairs:
            batches = self.stream(split, "train", settings.batch_size, captions=settings.caption_choice)
        elif self.head is None or self.trains("image"):
            batches = self.stream(split, "train", settings.batch_size, train_transform=True, rest=self._keeps_rest)
        else:
            batches = self._feature_batches(split)
        order = self._order(len(split), self.iteration)
        return map(self._weighed, map(order.rows, itertools.count(self.iteration)), batches)

    def _order(self, size: int, start: int) -> SeededBatches:
        """Return the order of the task's images, from a step on."""
        return SeededBatches(size, self.settings.batch_size, self.seed_of("train"), start, self.settings.iterations,
                             self.world.part, self._keeps_rest)

    @property
    def _keeps_rest(self) -> bool:
        """Whether the last batch of an epoch holds the remaining images."""
        return keeps_rest(self.task, self.settings.batch_size, self.settings.last_batch)

    def _weighed(self, rows: int, batch: Batch) -> Batch:
        """Return a batch of the task with its share of the ``rows`` of all processes. Skipped images, which
        occur only with a single process, do not count."""
        own, processes = len(batch.labels), self.world.size
        rows = rows if processes > 1 else own
        return batch._replace(rows=rows, weight=own * processes / rows if rows else 0.0)

    def _feature_batches(self, split: Split) -> Iterator[Batch]:
        """Yield batches of features. An interrupted run encodes all it did at first, in the same batches,
        because others round differently."""
        every, left = (self._order(len(split), first) for first in (0, self.iteration))
        if not len(left):
            return
        visited = sorted({index for batch in every.whole() for _, index in batch})  # by any process
        positions, features = encode_split(self.model, split.subset(visited), self.device,
                                           workers=self.workers(split), world=self.world)
        row_of = {visited[position]: row for row, position in enumerate(positions)}
        for batch in left:
            found = [index for _, index in batch if index in row_of]
            if not found and len(batch) >= left.full_share:
                raise UserError("none of the images of a batch could be decoded")
            labels, rows = (torch.tensor(numbers, dtype=torch.long).to(features.device, non_blocking=True)
                            for numbers in ([split.labels[index] for index in found],
                                            [row_of[index] for index in found]))
            yield Batch(None, labels, len(batch) - len(found), features[rows])
