"""Baselines that training has to beat: class means and ridge regression on the features of the frozen CLIP."""

import contextlib
import math

import torch
import torch.nn.functional as F

from src.errors import UserError
from src.models.algebra import RidgeSums, added, wide
from src.models.helpers import similarity
from src.models.hooks import Hooks
from src.models.modeling import image_features, in_eval_mode

SCALE = 100.0  # s of CLIP's published weights; a constant in RAIL's published code


class FrozenFeatures(Hooks):
    """A closed form on the unit features f (D) of a frozen CLIP: one pass over each task's images, no step.

    In a label space with trained classes, zero-shot CLIP decides per image, with p = softmax(100 cos(f, t))
    over all classes t. If its best class was trained, the scores are (1 - beta) p + beta y, where y holds
    the answers for trained classes and ``padding`` for the others. Otherwise they are p. A label space
    without a trained class gets CLIP's logits, bit for bit. ``crops``: use training crops in the pass,
    instead of the evaluation transform.
    """

    closed_form = True
    scores_features = True
    router = "sample"
    beta, padding, crops = 1.0, -math.inf, False

    def __init__(self, form):
        """``form`` computes the answers.

        ``form.collect(state, rows)`` consumes a pass over a task's images: for each batch of this process,
        unit features (B, D), labels (B,) and indices in the split (B,) on the host.
        ``form.answers(features, names)`` maps unit features (B, D) to {trained task: (B, C)}, all in
        float64. It also has ``carry`` and ``load_carry``.
        """
        self.form, self.classes = form, {}  # {task: its class names}

    def begin(self, state):
        self._require_same_classes(state.task.name, state.task.classnames)

    def _require_same_classes(self, name, classnames):
        if self.classes.get(name, list(classnames)) != list(classnames):
            raise UserError(f"{name}: --load was trained on a dataset of this name with other classes, or in another "
                            "order; give that data, or rename this dataset")

    @torch.no_grad()
    def end(self, state):
        passed = state.once(state.task.split("train"), "features", state.settings.batch_size, self.crops)
        with in_eval_mode(state.model):
            self.form.collect(state, _encoded(state, passed))
        self.classes[state.task.name] = list(state.task.classnames)

    def scores(self, state, images, spaces):
        parts = {part.name: part for space in spaces.values() for part in space}
        trained = [name for name in parts if name in self.classes]
        for name in trained:
            self._require_same_classes(name, parts[name].classnames)
        if not trained:
            return None
        features, scale = image_features(state.final_model, images), state.final_model.logit_scale.exp()
        logits = {name: similarity(features, part.weights.T, scale) for name, part in parts.items()}
        with _positive_definite():
            answers = self.form.answers(wide(features), trained)
        return {space: self._joined([(logits[part.name], answers.get(part.name)) for part in joined], SCALE / scale)
                for space, joined in spaces.items()}

    def _joined(self, parts, sharper):
        """Join [(CLIP's logits (B, C) of a dataset, its answers (B, C) or None)] into scores (B, sum of C)."""
        logits = torch.cat([own for own, _ in parts], dim=1)
        if all(y is None for _, y in parts):
            return logits
        p = (wide(logits) * wide(sharper)).softmax(dim=1)
        y = torch.cat([torch.full_like(wide(own), self.padding) if y is None else y for own, y in parts], dim=1)
        seen = torch.cat([torch.full((own.shape[1],), y is not None) for own, y in parts]).to(p.device)  # (sum of C,)
        chosen = seen[p.argmax(dim=1), None]                                                             # (B, 1)
        scores = torch.where(chosen, (1 - self.beta) * p + self.beta * y, p)
        return scores if scores.device == logits.device else scores.float().to(logits.device)

    def carry(self):
        return {"classes": self.classes, **self.form.carry()} if self.classes else {}

    def load_carry(self, content):
        self.classes = dict(content.get("classes", {}))
        self.form.load_carry(content)

    def copies(self):
        return {f"what {type(self).__name__} carries": self.carry()}


class ClassMeans(FrozenFeatures):
    """The answer for a class is 100 cos(f, m), m the mean of the class's unit features; 0 for a class
    without images."""

    def __init__(self):
        super().__init__(Means())


class Means:
    """``sums`` {task: (C, D)} of the unit features per class, in float64."""

    def __init__(self):
        self.sums = {}

    def collect(self, state, rows):
        like, name = wide(state.model.logit_scale), state.task.name
        total = like.new_zeros(len(state.task.classnames), state.model.text_projection.shape[1])
        for features, labels, _ in rows:
            total.index_add_(0, labels.to(total.device), wide(features))
        self.sums[name] = added(self.sums.get(name), state.world.sum(total))

    def answers(self, features, names):
        means = {name: F.normalize(self.sums[name].to(features), dim=1) for name in names}
        return {name: SCALE * features @ mean.T for name, mean in means.items()}

    def carry(self):
        return {"sums": self.sums}

    def load_carry(self, content):
        self.sums = dict(content.get("sums", {}))


class FrozenRidge(FrozenFeatures):
    """The answers are f W, W the ridge regression from f to the one-hot labels of all tasks."""

    def __init__(self, rail_ridge=None):
        super().__init__(Linear(rail_ridge or 0.1))


class Linear(RidgeSums):
    """W (D, C), with sums in float64."""

    def collect(self, state, rows):
        like = wide(state.model.logit_scale).new_zeros(state.model.text_projection.shape[1])
        self.add(state.task, state.world, like, ((wide(features), labels) for features, labels, _ in rows))

    def answers(self, features, names):
        solution = self.solution(features.device)
        return {name: features @ solution[name] for name in names}


def _encoded(state, batches):
    for batch in batches:
        with state.device.autocast():
            features = image_features(state.model, batch.images)
        yield features, batch.labels, batch.indices


@contextlib.contextmanager
def _positive_definite():
    try:
        yield
    except torch.linalg.LinAlgError:
        raise UserError("--rail-ridge is too small for sums of this precision: the system is not positive definite; "
                        "give a larger one, or --precision fp64") from None
