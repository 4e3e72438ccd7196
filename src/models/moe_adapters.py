"""MoE-Adapters (Yu et al., 2024, arXiv:2403.11549): experts beside the MLPs of a frozen CLIP, shared by all
tasks, and a router per task, picked at test by DDAS. Formulas and sources: docs/methods/moe-adapters.md."""

import torch

from clip.model import run_block
from src.datasets.loading import share_of
from src.datasets.seeds import seed_of
from src.errors import UserError
from src.models.attached import attached
from src.models.classifiers import zeroshot_weights
from src.models.ddas import DDAS, PLAIN
from src.models.experts import Mixtures, disturb
from src.models.finetune import Finetune
from src.models.helpers import similarity
from src.models.modeling import image_features, unit
from src.models.optimizers import Untouched


class MoEAdapters(Finetune):
    """Trains experts and the router of the current task. After a task, the experts that it picked most are
    frozen.

    ``router``: at test each image picks a router by itself ("sample"), or a batch picks one together
    ("batch"). ``moe_frozen``: number of experts per block that a task freezes. ``moe_unchosen``: "skip"
    leaves experts unchanged that no sequence of a step picked; "zero" gives them a zero gradient, so that
    their moments still move them.
    """

    all_used = True

    def __init__(self, ls=0.0, router="sample", moe_experts=22, moe_rank=64, moe_dropout=0.1, moe_frozen=2,
                 moe_unchosen="skip", **ddas):
        super().__init__(ls)
        self.router, self.shape, self.ddas = router, (moe_experts, moe_rank, moe_dropout), ddas
        self.freezes, self.skips = moe_frozen, moe_unchosen == "skip"
        self.tasks, self.frozen, self.fitted_by = [], [], {}  # of earlier tasks
        self.texts = {}  # {(task index, class names, templates): (D, C)}, until weights move

    def build(self, model):
        ddas = DDAS(model, len(self.tasks), **self.ddas)
        for name, kept in self.fitted_by.items():
            if ddas.chosen[name] != kept and not isinstance(ddas.chosen[name], float):
                raise UserError(f"--ddas-{name} {ddas.chosen[name]}: --load was trained with {kept}; give that")
        self.own = Mixtures(model, ddas, *self.shape)
        for mixture, frozen in zip(self.own.all(), self.frozen or [()] * len(self.own.all()), strict=True):
            mixture.frozen = [*frozen]
            for _ in self.tasks:
                mixture.add_router()
        return self.own

    def begin(self, state):
        name, mixtures = state.task.name, self.own.all()
        if not self.own.images:
            print("note: moe-adapters: this image tower is a ResNet, which has no blocks for experts; only the text "
                  "tower gets them")
        state.model.requires_grad_(False)
        if name not in self.tasks:
            self.tasks.append(name)
            for mixture in mixtures:
                mixture.add_router()
        self.own.task = self.tasks.index(name)
        for mixture in mixtures:
            mixture.train_task(self.own.task)
        self.own.ddas.fit(state, self.own.task)
        self.kinds = [(number, mixture.free().to(state.device.device), parameters) for number, mixture in
                       enumerate(mixtures) for parameters in mixture.trained()]
        self.untouched = Untouched([parameters for _, _, parameters in self.kinds])
        super().begin(state)

    def losses(self, state, batch):
        parts, (images, texts) = state.model.parts, self.noise(state, batch)

        def encode(pixels, noise):
            disturb(self.own.images, noise)
            return state.model.visual(pixels)
        disturb(self.own.texts, texts)
        shares = zip(batch.images.chunk(parts), images.chunk(parts), strict=True)
        with self.own.counted() as self.chosen:
            features = torch.cat([run_block(encode, parts > 1, *share) for share in shares])
            features = unit(features, state.model.logit_scale)
            return {"task": self.classes.cross_entropy(batch, features, self.label_smoothing)}

    def noise(self, state, batch):
        """Draw (n, blocks, E) for this process's images and (C, blocks, E) for the class prompts.

        It draws for the images of all processes and on the host, so the noise depends neither on their
        number nor on the device.
        """
        generator = torch.Generator().manual_seed(seed_of(state.seed_of("router noise"), state.iteration))
        sizes = (batch.rows or len(batch.labels), self.own.images), (len(state.task.classnames), self.own.texts)
        images, texts = (torch.randn(rows, len(mixtures), self.shape[0], generator=generator,
                                     dtype=state.device.weight_type, pin_memory=torch.cuda.is_available())
                         for rows, mixtures in sizes)
        return [drawn.to(state.device.device, non_blocking=True)
                for drawn in (share_of(images, state.world.part), texts)]

    def after_backward(self, state):
        if self.skips:
            self.untouched.remember(state.optimizer)

    def after_step(self, state):
        images = len(self.own.images)  # each process has all class prompts, but only its share of the images
        chosen = torch.stack(self.chosen)                                                # (blocks, E)
        chosen[:images] = state.world.sum(chosen[:images])
        for mixture, counts in zip(self.own.all(), chosen, strict=True):
            mixture.counts += counts
        if self.skips:
            masks = [chosen[number][free] == 0 for number, free, _ in self.kinds]
            self.untouched.restore(state.optimizer, masks)
        self.texts.clear()

    def end(self, state):
        for mixture in self.own.all():
            mixture.frozen = sorted({*mixture.frozen, *mixture.most_chosen(self.freezes)})

    @torch.no_grad()
    def scores(self, state, images, spaces):
        model = state.final_model
        scores = {part: images.new_empty(len(images), len(part.classnames))
                  for joined in spaces.values() for part in joined}
        routes = self.own.ddas.routes(model, images, together=self.router == "batch")    # (B,)
        for route in routes.unique().tolist():
            rows = (routes == route).nonzero()[:, 0]
            for part, found in self._routed(state, model, images, rows, route, scores).items():
                scores[part][rows] = found
        return {space: torch.cat([scores[part] for part in joined], dim=1) for space, joined in spaces.items()}

    def _routed(self, state, model, images, rows, route, parts):
        """Return {Classes: scores (n, C) of some rows} under a router; without a router all rows are
        encoded, as CLIP does."""
        scale = model.logit_scale.exp()
        if route == PLAIN:
            features = image_features(model, images)
            return {part: similarity(features, part.weights.T, scale)[rows] for part in parts}
        with attached(model, [self.own.routed(route)]):
            features = image_features(model, images[rows])
            return {part: similarity(features, self._texts(state, model, part, route).T, scale) for part in parts}

    def _texts(self, state, model, part, route):
        """Return the class weights (D, C) of Classes under a task's router, encoded once."""
        key = route, tuple(part.classnames), tuple(part.templates)
        if key not in self.texts:
            self.texts[key] = zeroshot_weights(model, part.classnames, part.templates)
        return self.texts[key]

    def carry(self):
        return {"tasks": self.tasks, "frozen": [mixture.frozen for mixture in self.own.all()],
                "ddas": self.own.ddas.chosen}

    def load_carry(self, content):
        self.tasks, self.frozen = [*content.get("tasks", ())], content.get("frozen", [])
        self.fitted_by = content.get("ddas", {})

