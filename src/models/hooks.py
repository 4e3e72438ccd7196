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
    """Five moments of a task, all no-ops, and the seams through which evaluation and the next task see a method.

    The loop owns the optimiser and sums the named terms; a hook never steps and never logs by itself
    (``state.metrics[name] = detached tensor`` is logged, never summed).

    ``data``: what it can train on, "classes", "pairs" (of images and texts) or "both". A run on other data is refused.

    ``other_terms``: the names of terms that are not means over the rows of the task's batch, such as those of reference
    images, penalties and sums. ``all_used`` promises that every trained parameter has a gradient in every step, so that
    several processes need not search for those without; a subclass has to promise it again.

    ``averaged`` promises that the module of ``build`` may be averaged and merged like the weights of CLIP; else --we,
    --we-wise, --moving-avg and --wise-merge are refused beside it. A subclass has to promise it again.

    ``closed_form``: the method has no optimiser and takes no step. It passes over the data in ``begin`` and ``end``
    (``state.once``), and of the other moments none comes. Once hooks have begun, no parameter of the model asks for a
    gradient; --iterations, --epochs and --lr are not needed.

    ``scores_features`` promises that ``scores`` looks at images through ``image_features(state.final_model, images)``
    alone, so that features stand in for images later (--keep-features). A subclass with other ``scores`` has to promise
    it again.
    """

    data: str = "classes"
    other_terms: Sequence[str] = ()
    all_used: bool = False
    averaged: bool = False
    closed_form: bool = False
    scores_features: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Let objects remember what they are made with: one that Python gives as a method, or beside one, is made
        again for each task."""
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _remembering(cls.__init__)

    def build(self, model: CLIP) -> nn.Module | None:
        """Return a module of the method's own for the CLIP ``model`` (experts, routers, prompts), or None. The method
        may hold it as well.

        It trains, is saved and resumes beside the CLIP, and never becomes a part of it. Where parts of it go into the
        towers, it says so by ``places`` (``src.models.attached``). Built from keywords and from what ``load_carry``
        gave, before ``begin`` and for every evaluation; its tensors of the checkpoint come after.
        """
        return None

    def begin(self, state: TrainingState) -> None:
        """Before the optimiser is built: may freeze parameters, let the module of ``build`` grow, make teachers,
        anchors and streams."""

    def groups(self, state: TrainingState) -> list[dict[str, Any]] | None:
        """Groups of the optimiser, [{"params", "lr", "weight_decay"}], or None for one group of all that trains; called
        after ``begin``. Without "lr" a group has --lr, without "weight_decay" --wd. The schedule scales each group's
        rate. Several hooks may give some; then each parameter that trains must be in exactly one group."""
        return None

    def losses(self, state: TrainingState, batch: Batch) -> dict[str, Tensor]:
        """{name: scalar tensor}, already weighted. The same name from two hooks is an error. Where only a head trains a
        batch has features instead of images: ``modeling.batch_features`` takes either.

        Of several processes each has its own rows of the batch, and the step is the mean of their losses: a mean over
        rows needs no care, a sum is to be multiplied by ``state.world.size``, and what couples rows takes
        ``state.world.gather(features)``, those of all processes, with gradient.

        The last batch of an epoch has fewer rows, and of several processes some may have one row more than others, or
        none. The loop weighs each term by the process's share of the rows (``batch.weight``), unless ``other_terms``
        names it; a mean over no rows counts as 0."""
        return {}

    def after_backward(self, state: TrainingState) -> None:
        """Gradients are whole and unscaled here: snapshots and projections."""

    def after_step(self, state: TrainingState) -> None:
        """The optimiser has moved the weights: projection of the update, then averages."""

    def end(self, state: TrainingState) -> None:
        """The last step is done: merges, bases, exemplars."""

    def scores(self, state: TrainingState, images: Tensor,
               spaces: dict[str, list[Classes]]) -> dict[str, Tensor] | None:
        """Score images (B, 3, R, R) in all label spaces of --label-space, so that one pass through a tower serves them.

        ``spaces``: {"task": [Classes], "all": [Classes]}, for each label space the datasets whose classes it joins.
        Return {space: (B, sum of its classes)}; the highest score is the prediction. CLIP, with own modules in its
        towers, scores the spaces that are left out, and all of them for None; which ones they are must not differ
        between the batches of a dataset.

        ``state.final_model`` is the CLIP that is scored. Under --eval-only a state has only that, its device and own
        modules. One hook of a run may define it: the method, or one of --hooks beside a method that CLIP scores.
        Add-ons of flags must not: they are not there in an evaluation."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume inside the task needs."""
        return {}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""

    def copies(self) -> dict[str, Any]:
        """{what they are: modules, or {name: tensor}} of the copies of weights, and of other large tensors, that the
        hook holds once it has begun: for the line "memory:" and the record of a run, which count what is named here."""
        return {}

    def files(self, finished: bool) -> dict[str, Any]:
        """{name with {task} in it: tensors and plain types} to keep in files beside the checkpoint, None for one that
        goes; ``finished`` is False after an interruption."""
        return {}

    def carry(self) -> dict[str, Any]:
        """What the next task or inference needs: tensors and plain types only."""
        return {}

    def load_carry(self, content: dict[str, Any]) -> None:
        """Takes over what the previous task's ``carry`` returned."""


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
    """Whether a class of hooks changes what CLIP scores: by a module of its own, or by ``scores``."""
    return not {"build", "scores"}.isdisjoint(moments_of(kind))


def scorer_among(hooks: Sequence[Hooks]) -> Hooks | None:
    """The one of [method, *others] that changes what CLIP scores, else the method; None of no hooks."""
    return next((hook for hook in hooks if scores_by_itself(type(hook))), hooks[0] if hooks else None)


def scores_features(kind: type) -> bool:
    """Whether what a class of hooks scores can be had again from features: by plain CLIP, or by promise of the class
    that defines ``scores``."""
    owner = next(base for base in kind.__mro__ if "scores" in vars(base))
    return owner is Hooks or bool(vars(owner).get("scores_features", False))


def named(hooks: Sequence[Hooks]) -> dict[str, Hooks]:
    """{name: hook}, under which resume points and checkpoints keep what is theirs: that of the class, with its module
    where two are called alike."""
    alike = Counter(type(hook).__name__ for hook in hooks)
    return {_name(type(hook), alike[type(hook).__name__] > 1): hook for hook in hooks}


def _name(kind: type[Hooks], qualified: bool) -> str:
    return f"{kind.__module__}.{kind.__name__}" if qualified else kind.__name__


def kept_for(content: Mapping[str, Any], name: str) -> Any:
    """What ``content`` {name of a hook: anything} has for the hook of a name, by the bare name of its class where the
    full one is missing; {} without."""
    return content.get(name, content.get(name.rpartition(".")[2], {}))


def promises(hook: Hooks, name: str) -> bool:
    """Whether a hook's very class says True: what a class promises, a subclass may break."""
    return bool(vars(type(hook)).get(name, False))
