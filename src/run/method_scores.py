"""What a method scores in its own way, checked, and what files call it."""

import torch

from src.errors import UserError
from src.models.hooks import Hooks, scorer_among

LOGITS = "logits:"  # before the name of a method: what rows of 0.1 say, whose seam was called so


class MethodScores:
    """(images, {label space: [Classes]}) -> {label space: (B, sum of its classes)}: what that one of ``hooks`` gives
    that scores, the method or one of --hooks; {} where it leaves all to plain CLIP.

    Raises UserError where the scores do not fit, where only some batches of a dataset have scores, and where images of
    a batch choose together while several processes share them.
    """

    def __init__(self, state, hooks):
        self.state, self.method = state, scorer_among(hooks)
        acting = state.acting()
        self.plain = f"with:{','.join(acting)}" if acting else None  # CLIP with modules in its towers
        self.dataset, self.given = "the images", None  # label spaces that the method scores in it, once one batch is
        self.router = vars(self.method).get("router") if self.method else None  # of a method that can do either
        if getattr(self.method, "router", None) == "batch" and state.world.size > 1:
            raise UserError(f"--router batch: {type(self.method).__name__} lets consecutive images choose together, "
                            "and several processes share them; run one process, or give --router sample")

    @property
    def scores_alone(self):
        """Whether the method has ``scores``, which come before trained heads."""
        return self.method is not None and type(self.method).scores is not Hooks.scores

    def turn_to(self, dataset):
        """Expect images of another dataset from now on."""
        self.dataset, self.given = dataset, None

    def by(self, space):
        """Return what scored the dataset in a label space, as files name it; None for plain CLIP."""
        if space in (self.given or ()):
            return f"{LOGITS}{type(self.method).__name__}" + (f":{self.router}" if self.router else "")
        return self.plain

    def __call__(self, images, spaces):
        if self.method is None:
            return {}
        scores = self.method.scores(self.state, images, spaces)
        scores = {} if scores is None else scores
        self._require_spaces(scores, spaces)
        for space, found in scores.items():
            self._require_shape(space, found, (len(images), sum(len(part.classnames) for part in spaces[space])))
        self._require_as_before(set(scores))
        return scores

    def _require_spaces(self, scores, spaces):
        if not isinstance(scores, dict):
            raise self._refused(f"must return {{label space: scores}} or None, not {type(scores).__name__}")
        if unknown := [repr(space) for space in scores if space not in spaces]:
            raise self._refused(f"returns scores of {', '.join(unknown)}; the label spaces are {', '.join(spaces)}")

    def _require_shape(self, space, found, expected):
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        if shape != expected:
            raise self._refused(f"returns {shape} in label space {space}; {expected[0]} images and {expected[1]} "
                                f"classes need a tensor of shape {expected}")

    def _require_as_before(self, given):
        """Reject a row that would be half the method's and half plain CLIP's."""
        if self.given not in (None, given):
            raise self._refused(f"scores only some batches of {self.dataset} in label space "
                                f"{min(given ^ self.given)}; score all of them, or none")
        self.given = given

    def _refused(self, reason):
        return UserError(f"{type(self.method).__name__}.scores {reason}")
