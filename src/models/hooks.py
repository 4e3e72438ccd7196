"""Hooks: what a method or an add-on may do, and when. A run is one visible list of them, ``[method, *add_ons]``."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for annotations: at run time a table of methods imports neither torch nor towers
    from torch import Tensor, nn

    from clip.model import CLIP
    from src.machine.batch import Batch
    from src.models.classifiers import Classes
    from src.models.state import TrainingState


# What a run calls of a hook; what only keeps or describes what these have made is none of them.
MOMENTS = ("build", "begin", "groups", "losses", "after_backward", "after_step", "end", "scores", "files")


class Hooks:
    """Five moments of a task, all no-ops by default, and the interfaces through which evaluation and the
    next task use a method.

    The loop owns the optimiser and sums the named terms; a hook never steps and never logs by itself
    (``state.metrics[name] = detached tensor`` is logged, never summed).

    ``data``: what it can train on, "classes", "pairs" (of images and texts) or "both". A run on other data
    is refused.

    ``other_terms``: names of terms that are not means over the rows of the task's batch, such as terms on
    reference images, penalties and sums.

    ``all_used`` promises that every trained parameter gets a gradient in every step, so that DDP need not
    search for unused ones. A subclass must repeat the promise.

    ``averaged`` promises that the module from ``build`` may be averaged and merged like the weights of
    CLIP; otherwise --we, --we-wise, --moving-avg and --wise-merge are refused with it. A subclass must
    repeat the promise.

    ``closed_form``: the method has no optimiser and takes no step. It passes over the data in ``begin`` and
    ``end`` (``state.once``); the other moments never come. After ``begin`` no parameter of the model
    requires a gradient; --iterations, --epochs and --lr are not needed.

    ``scores_features`` promises that ``scores`` reads images only through
    ``image_features(state.final_model, images)``, so that features can replace images later
    (--keep-features). A subclass with other ``scores`` must repeat the promise.
    """

    data: str = "classes"
    other_terms: Sequence[str] = ()
    all_used: bool = False
    averaged: bool = False
    closed_form: bool = False
    scores_features: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Make objects remember their arguments: one passed in from Python is rebuilt for each task."""
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)

    def build(self, model: CLIP) -> nn.Module | None:
        """Return the method's own module for the CLIP ``model`` (experts, routers, prompts), or None. The
        method may keep a reference to it.

        It trains, is saved and resumes beside the CLIP, and never becomes a part of it. If parts of it go
        into the towers, the module says where with ``places`` (``src.models.attached``). It is built from
        keywords and from what ``load_carry`` received, before ``begin`` and for every evaluation; tensors
        of the checkpoint are loaded into it afterwards.
        """
        return None

    def begin(self, state: TrainingState) -> None:
        """Prepare a task, before the optimiser is built: freeze parameters, grow the module from ``build``,
        create teachers, anchors and streams."""

    def groups(self, state: TrainingState) -> list[dict[str, Any]] | None:
        """Return the optimiser's groups, [{"params", "lr", "weight_decay"}], or None for one group of all
        that trains.

        Called after ``begin``. "lr" defaults to --lr, "weight_decay" to --wd. The schedule scales each
        group's rate. Several hooks may return groups; then each parameter that trains must be in exactly
        one.
        """
        return None

    def losses(self, state: TrainingState, batch: Batch) -> dict[str, Tensor]:
        """Return {name: scalar tensor}, already weighted. The same name from two hooks is an error. If only
        a head trains, a batch has features instead of images: ``modeling.batch_features`` accepts either.

        With several processes, each has its own rows of the batch, and the step uses the mean of their
        losses: a mean over rows needs no care, a sum must be multiplied by ``state.world.size``, and a term
        that couples rows uses ``state.world.gather(features)``, the features of all processes, with
        gradient.

        The last batch of an epoch has fewer rows, and some processes may then have one row more than
        others, or none. The loop weights each term by the process's share of the rows (``batch.weight``),
        unless ``other_terms`` names it; a mean over no rows counts as 0.
        """
        return {}

    def after_backward(self, state: TrainingState) -> None:
        """Use whole, unscaled gradients: snapshots and projections."""

    def after_step(self, state: TrainingState) -> None:
        """Act on the moved weights: projection of the update, then averages."""

    def end(self, state: TrainingState) -> None:
        """Finish a task after its last step: merges, bases, exemplars."""

    def scores(self, state: TrainingState, images: Tensor,
               spaces: dict[str, list[Classes]]) -> dict[str, Tensor] | None:
        """Score images (B, 3, R, R) in all label spaces of --label-space, so that one pass through a tower
        serves them all.

        ``spaces``: {"task": [Classes], "all": [Classes]}, for each label space the datasets whose classes
        it joins. Return {space: (B, sum of its classes)}; the highest score is the prediction. CLIP, with
        own modules in its towers, scores the spaces that are left out, or all of them for None; which ones
        must not change between the batches of a dataset.

        ``state.final_model`` is the CLIP to score with. Under --eval-only, ``state`` has only that, its
        device and own modules. One hook of a run may define this: the method, or one of --hooks beside a method
        that plain CLIP scores. Add-ons of flags must not: they are absent in an evaluation.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume inside the task needs."""
        return {}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""

    def copies(self) -> dict[str, Any]:
        """Return {description: modules, or {name: tensor}} of the copies of weights and other large tensors
        that the hook holds after ``begin``. The line "memory:" and the run's record count what is listed
        here."""
        return {}

    def files(self, finished: bool) -> dict[str, Any]:
        """Return {name with {task} in it: tensors and plain types} to keep in files beside the checkpoint;
        None deletes a file. ``finished`` is False after an interruption."""
        return {}

    def carry(self) -> dict[str, Any]:
        """Return what the next task or inference needs: tensors and plain types only."""
        return {}

    def load_carry(self, content: dict[str, Any]) -> None:
        """Restore what the previous task's ``carry`` returned."""


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def __init__(self: Hooks, *arguments: Any, **keywords: Any) -> None:
        vars(self).setdefault("made_with", (arguments, keywords))  # by the outermost class
        init(self, *arguments, **keywords)
    return __init__


def moments_of(kind: type) -> list[str]:
    """Which of MOMENTS a class overrides."""
    return [name for name in MOMENTS if getattr(kind, name, None) not in (None, getattr(Hooks, name))]


def scores_by_itself(kind: type) -> bool:
    """Return whether a hook class changes what CLIP scores: by its own module, or by ``scores``."""
    return not {"build", "scores"}.isdisjoint(moments_of(kind))


def scorer_among(hooks: Sequence[Hooks]) -> Hooks | None:
    """The one of [method, *others] that changes what CLIP scores, else the method; None of no hooks."""
    return next((hook for hook in hooks if scores_by_itself(type(hook))), hooks[0] if hooks else None)


def scores_features(kind: type) -> bool:
    """Return whether the scores of a hook class can be reproduced from features: if plain CLIP scores, or
    if the class that defines ``scores`` promises it."""
    owner = next(base for base in kind.__mro__ if "scores" in vars(base))
    return owner is Hooks or bool(vars(owner).get("scores_features", False))


def named(hooks: Sequence[Hooks]) -> dict[str, Hooks]:
    """Return {name: hook}, the names under which resume points and checkpoints store a hook's content: its
    class name, with the module if two classes share one."""
    alike = Counter(type(hook).__name__ for hook in hooks)
    return {_name(type(hook), alike[type(hook).__name__] > 1): hook for hook in hooks}


def _name(kind: type[Hooks], qualified: bool) -> str:
    return f"{kind.__module__}.{kind.__name__}" if qualified else kind.__name__


def kept_for(content: Mapping[str, Any], name: str) -> Any:
    """Return what ``content`` {hook name: anything} holds for a hook, falling back to the bare class name;
    {} if nothing."""
    return content.get(name, content.get(name.rpartition(".")[2], {}))


def promises(hook: Hooks, name: str) -> bool:
    """Return whether a hook's own class says True: a subclass may break what a base class promises."""
    return bool(vars(type(hook)).get(name, False))
