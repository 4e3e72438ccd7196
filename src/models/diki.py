"""DIKI (Tang et al., 2024, arXiv:2407.05342): each task trains its own keys and values beside a frozen
CLIP, and an image uses those of the task that its zero-shot feature fits best. Formulas:
docs/methods/diki.md."""

import contextlib

import torch
import torch.nn.functional as F

from src.errors import UserError
from src.machine.notices import warn
from src.models.algebra import log_density, wide
from src.models.classifiers import zeroshot_weights
from src.models.finetune import Finetune
from src.models.helpers import similarity, similarity_between
from src.models.modeling import image_features, in_eval_mode
from src.models.prefixes import Prefixes, attentions
from src.models.selected_epoch import SelectsEpoch
from src.models.wrapped import towers_in_words

GRID = 16  # for images scored alone, class prompts are encoded with a task's prefixes at weights k / GRID
LEAST_VARIANCE = 1e-7  # added to the diagonal of a task's covariance


class DIKI(SelectsEpoch, Finetune):
    """Cross-entropy with the prefixes of the current task. At test the zero-shot feature f of an image
    picks the task with the highest log N(f; m, S), the Gaussian of its training images, and prefixes are
    weighted by w = sigmoid(log N / D - 1).

    ``diki_length``: keys per prefix; ``diki_blocks``: blocks of each tower that have one. ``router``:
    "sample", each image by itself, or "batch", all by the task that most of them picked. ``select_epoch``:
    "last", or "val", the best on val images.
    """

    all_used = True

    def __init__(self, ls=0.0, diki_length=8, diki_blocks=8, router="sample", select_epoch="last"):
        super().__init__(ls)
        self.length, self.blocks, self.router, self.select_epoch = diki_length, diki_blocks, router, select_epoch
        self.tasks, self.means, self.covariances = [], [], []  # per task: name, m (D), S (D, D)
        self.gaussians, self.texts, self.encoded_after = [], {}, None  # caches for scoring

    def build(self, model):
        self.prefixes = Prefixes(model, self.blocks, self.length, len(self.tasks))
        return self.prefixes

    def begin(self, state):
        towers = towers_in_words(attentions(state.model, self.blocks))
        print(f"diki puts prefixes of {self.length} keys and values into {towers}")
        state.model.requires_grad_(False)
        self.prefixes.grow(state.model, state.seed_of("prefixes"))
        super().begin(state)
        mean, covariance = self.statistics(state)
        self.tasks.append(state.task.name)
        self.means.append(mean)
        self.covariances.append(covariance)

    @torch.no_grad()
    def statistics(self, state):
        """Return m (D) and S (D, D) of the task's unit features, zero-shot and uncropped, on the host in float64."""
        split, size = state.task.split("train"), state.model.text_projection.shape[1]
        if len(split) < 2 * size:
            warn(f"{state.task.name} has {len(split)} training images, fewer than twice the {size} values of a "
                 "feature: new images of the task do not fit their covariance, and DIKI scores most of them almost "
                 "like zero-shot CLIP")
        sums = wide(state.model.logit_scale).new_zeros(size + 1, size + 1)                   # of (f, 1) (f, 1)^T
        with in_eval_mode(state.model):
            for batch in state.once(split, "statistics", state.settings.batch_size):
                with state.device.autocast():
                    rows = F.pad(wide(image_features(state.model, batch.images)), (0, 1), value=1)
                sums += rows.T @ rows
        sums = state.world.sum(sums).cpu()
        count, mean = sums[-1, -1], sums[-1, :-1] / sums[-1, -1]
        if count < 2 and not state.planned:
            raise UserError(f"--method diki: {state.task.name} has a single training image, which has no covariance; "
                            "give more")
        covariance = (sums[:-1, :-1] - count * mean.outer(mean)) / (count - 1)
        return mean, covariance + LEAST_VARIANCE * torch.eye(size).to(covariance)

    # -- scores --------------------------------------------------------------------------------------------------------

    def scores(self, state, images, spaces):
        if not self.tasks:  # the zero-shot row of a sequence
            return None
        parts = {part.name: part for joined in spaces.values() for part in joined}
        features = image_features(state.final_model, images)                                 # (B, D), zero-shot
        logits = ROUTERS[self.router](self, state, images, parts.values(), features, *self.routes(features))
        return {space: torch.cat([logits[part.name] for part in joined], dim=1) for space, joined in spaces.items()}

    def routes(self, features):
        """Route zero-shot features (B, D) -> (the task that each image fits best (B,), the weight w of its
        prefixes (B,))."""
        wider = wide(features)
        for mean, covariance in list(zip(self.means, self.covariances, strict=True))[len(self.gaussians):]:
            self.gaussians.append((mean.to(wider), torch.linalg.cholesky(covariance.to(wider))))
        densities = torch.stack([log_density(wider, *gaussian) for gaussian in self.gaussians], dim=1)  # (B, T)
        best, last = densities.flip(1).max(dim=1)  # ties go to the later task: a dataset that was trained again
        tasks = len(self.gaussians) - 1 - last.to(features.device)
        return tasks, (best / features.shape[1] - 1).sigmoid().to(features)

    def alone(self, state, images, parts, features, tasks, weights):
        """Return {dataset: (B, C)}, each image scored by its own task and w.

        Its class features are interpolated between the neighbours of w on the grid. If w is 0, logits are
        zero-shot.
        """
        scale = state.final_model.logit_scale.exp()
        logits = {part.name: similarity(features, self.classes_at(state, part).T, scale) for part in parts}
        routed = weights.nonzero()[:, 0]
        if not len(routed):
            return logits
        tasks, weights = tasks[routed], weights[routed]
        with self.prefixes.acting(state.final_model, tasks, weights):
            features = image_features(state.final_model, images[routed])
        steps = (GRID * weights).floor().clamp(max=GRID - 1)
        shares, routes = (GRID * weights - steps)[:, None], torch.stack([tasks, steps.long()], dim=1)
        for task, step in sorted({*map(tuple, routes.tolist())}):
            here = (routes == routes.new_tensor([task, step])).all(dim=1)                    # (B,)
            for part in parts:
                ends = [self.classes_at(state, part, task, end) for end in (step, step + 1)]
                logits[part.name][routed[here]] = similarity_between(features[here], *ends, shares[here], scale)
        return logits

    def together(self, state, images, parts, features, tasks, weights):
        """Return {dataset: (B, C)}, all images scored by the task that most of them picked, the first in a
        tie. Prefixes act on each image by its own w, on class prompts by the mean w."""
        model, task = state.final_model, tasks.bincount().argmax()[None]
        with self.prefixes.acting(model, task, weights):
            features = image_features(model, images)
        with self.prefixes.acting(model, task, weights.mean()[None]):
            texts = {part.name: zeroshot_weights(model, part.classnames, part.templates) for part in parts}
        return {name: similarity(features, weights.T, model.logit_scale.exp()) for name, weights in texts.items()}

    def classes_at(self, state, part, task=0, step=0):
        """Return the weights (D, C) of Classes with a task's prefixes at step / GRID, cached until the
        current task trains on."""
        if self.encoded_after != state.iteration:
            self.texts, self.encoded_after = {}, state.iteration
        key = tuple(part.classnames), tuple(part.templates), task if step else None, step
        if key not in self.texts:
            model, scale = state.final_model, state.final_model.logit_scale
            route = scale.new_tensor([task]).long(), scale.new_tensor([step / GRID])
            with self.prefixes.acting(model, *route) if step else contextlib.nullcontext():
                self.texts[key] = zeroshot_weights(model, part.classnames, part.templates)
        return self.texts[key]

    def carry(self):
        kept = {"tasks": self.tasks, "means": self.means, "covariances": self.covariances}
        return kept if self.tasks else {}

    def load_carry(self, content):
        self.tasks, self.means, self.covariances = (
            [*content.get(name, ())] for name in ("tasks", "means", "covariances"))

    def copies(self):
        return {"covariances of tasks": dict(enumerate(self.covariances))}


ROUTERS = {"sample": DIKI.alone, "batch": DIKI.together}
