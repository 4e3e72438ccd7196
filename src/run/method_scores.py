"""Check the scores that a method defines, and name them for files."""

import torch

from src.errors import UserError
from src.models.hooks import Hooks, scorer_among

LOGITS = "logits:"  # prefix of a method's name; files of 0.1 use it, after the name of its hook


class MethodScores:
    """Map (images, {label space: [Classes]}) to {label space: (B, total number of classes)}, the scores of the
    one of ``hooks`` that scores, the method or one of --hooks; {} if it leaves all to plain CLIP.

    Raises UserError if the scores do not fit, if only some batches of a dataset have scores, and if images of a
    batch choose together while several processes share them.
    """

    def __init__(self, state, hooks):
        self.state, self.method = state, scorer_among(hooks)
        acting = state.acting()
        self.plain = f"with:{','.join(acting)}" if acting else None  # CLIP with modules in its towers
        self.dataset, self.given = "the images", None  # label spaces that the method scores; set by the first batch
        self.router = vars(self.method).get("router") if self.method else None  # for methods that can do either
        if getattr(self.method, "router", None) == "batch" and state.world.size > 1:
            raise UserError(f"--router batch: {type(self.method).__name__} routes consecutive images together, but "
                            "several processes split them; run one process, or give "
                            "--router sample")

    @property
    def scores_alone(self):
        """Whether the method has ``scores``, which take precedence over trained heads."""
        return self.method is not None and type(self.method).scores is not Hooks.scores

    def turn_to(self, dataset):
        """Expect images of another dataset from now on."""
        self.dataset, self.given = dataset, None

    def by(self, space):
        """Return what scored the dataset in a label space, as named in files; None for plain CLIP."""
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
        """Reject a row that mixes the method's scores with plain CLIP's."""
        if self.given not in (None, given):
            raise self._refused(f"scores only some batches of {self.dataset} in label space "
                                f"{min(given ^ self.given)}; score all of them, or none")
        self.given = given

    def _refused(self, reason):
        return UserError(f"{type(self.method).__name__}.scores {reason}")
