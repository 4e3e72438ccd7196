"""ConDU, continual decoupling and unifying (Gao et al., 2025, arXiv:2503.10705).

All tasks train from the same weights and are stored as one delta plus a mask per task. Formulas:
docs/methods/condu.md.
"""

import hashlib

import torch
import torch.nn.functional as F

from src.errors import UserError
from src.models.algebra import wide
from src.models.batch_norms import has_norms
from src.models.classifiers import text_means
from src.models.condu_experts import Towers, Unified
from src.models.finetune import Finetune
from src.models.fingerprints import digests
from src.models.modeling import image_features


class ConDU(Finetune):
    """Fine-tunes each task from th0, the weights that the first task loaded; a checkpoint stores th0 as its
    CLIP. The expert of a task is th0 + l U m (``Unified``).

    In label space task, a trained dataset is scored by its expert, since the dataset is given there, unless
    ``condu_known`` is "vote". Everything else is a vote: the mean of the logits of th0 and of the
    ``condu_experts`` experts nearest to the image, by the highest cosine of its feature under th0 to a
    prototype of their classes. ``condu_prototypes``: "shots" builds them from the training images, "all"
    also from those that --shots leaves out.
    """

    all_used = True
    router = "sample"  # each image ranks the experts by itself; a given dataset's expert needs no router

    def __init__(self, ls=0.0, condu_experts=4, condu_prototypes="shots", condu_known="expert"):
        super().__init__(ls)
        self.most, self.of_all, self.known = condu_experts, condu_prototypes == "all", condu_known == "expert"
        self.task, self.names = None, []  # the current task's name; names of the tensors that train
        self.load_carry({})

    # -- training ------------------------------------------------------------------------------------------------------

    def begin(self, state):
        if state.settings.batch_norm == "train" and has_norms(state.model):
            raise UserError("--batch-norm train: an expert is a delta of weights, and holds no statistics of batch "
                            "norms; give --batch-norm eval")
        self.th0, self.scored = state.at_load, None
        self._require_th0(self.th0)
        self.free(state)
        self.task, self.current = name_of(state.task), self._expert(state)
        self._require_classes()
        super().begin(state)

    def free(self, state):
        """Choose the tensors that train, starting from th0, as ``names``."""
        self.name_all([name for name, value in state.model.named_parameters() if value.requires_grad])

    def name_all(self, names):
        """Set ``names``. Raise UserError if the experts so far are of other tensors."""
        if self.unified.values and self.unified.values.keys() != set(names):
            raise UserError("--train-mode: the experts in --load are of other weights than those that train here; give "
                            "the --train-mode and the rank they were trained with")
        self.names = names

    def deltas(self, state):
        """Yield (name, th - th0) of each tensor that trains."""
        trained, start = (dict(model.named_parameters()) for model in (state.final_model, self.th0))
        for name in self.names:
            yield name, trained[name].detach() - start[name]

    def after_step(self, state):
        self.scored = None

    def end(self, state):
        self.unified, self.experts = self._with_current(state)
        self.current = self.scored = None
        state.ensemble = self.th0  # the CLIP that is saved, and that the next task loads

    def _with_current(self, state):
        """Return (Unified, experts) as they would be if the task ended now."""
        if self.current is None:
            return self.unified, self.experts
        others = {task: expert for task, expert in self.experts.items() if task != self.task}
        return self.unified.with_task(self.task, self.deltas(state)), {**others, self.task: self.current}

    def _require_classes(self):
        """Raise UserError if the expert that this task would replace has other classes."""
        before = self.experts.get(self.task, self.current)["classes"]
        for name, classnames in self.current["classes"].items():
            if before.get(name) != classnames:
                raise other_classes(name)

    def _require_th0(self, model):
        """Raise UserError if a CLIP is not the th0 of the experts so far; without experts, record it as th0."""
        values = [value.detach().float().cpu() for value in model.parameters()]
        found = hashlib.blake2b(repr(digests(values)).encode(), digest_size=16).hexdigest()
        if self.digest not in (None, found):
            raise UserError("condu: these weights are not the ones that all its tasks start from: another method has "
                            "trained in between, or they were mixed with others. Give --load a checkpoint written by "
                            "--method condu, and no --wise-ft")
        self.digest = found

    # -- prototypes ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _expert(self, state):
        """Return what is known of a task before it trains: its classes, and their ``prototypes`` (C, D) under th0."""
        parts = state.task.parts or (state.task,)
        clip = self.at_start()
        with state.device.autocast():
            texts = torch.cat([text_means(clip, part.classnames, part.templates) for part in parts])     # (C, D)
        sums, counts = self._sums(state, clip, len(texts))
        means = torch.where(counts > 0, (sums / counts.clamp(min=1) + wide(texts)) / 2, wide(texts))
        return {"classes": {part.name: list(part.classnames) for part in (state.task, *parts)},
                "prototypes": F.normalize(means, dim=1).to(texts).cpu()}

    def _sums(self, state, clip, classes):
        """Sum unit features of the training crops: sums (C, D) and counts (C, 1) per class, in float64."""
        whole = state.task.drawn_from if self.of_all else None
        split = whole or state.task.split("train")
        total = wide(clip.logit_scale).new_zeros(classes, clip.text_projection.shape[1] + 1)
        for batch in state.once(split, "prototypes", state.settings.batch_size, train_transform=True):
            with state.device.autocast():
                features = image_features(clip, batch.images)                            # (B, D)
            total.index_add_(0, batch.labels.to(total.device), F.pad(wide(features), (0, 1), value=1.0))
        total = state.world.sum(total)
        return total[:, :-1], total[:, -1:]

    def at_start(self):
        """Return the CLIP that prototypes are computed with."""
        return self.th0

    # -- scores --------------------------------------------------------------------------------------------------------

    def scores(self, state, images, spaces):
        if self.scored is None:
            self.scored = self._opened(state)
        towers, experts = self.scored
        if not experts:
            return None
        given = {space: self._given(experts, space, joined) for space, joined in spaces.items()}
        found = {space: towers.logits(task, towers.features(task, images), spaces[space])
                 for space, task in given.items() if task is not None}
        asked = {space: spaces[space] for space, task in given.items() if task is None}
        if not asked:
            return found
        near = {task: expert["prototypes"] for task, expert in experts.items()}
        return found | towers.vote(near, self.most, images, asked)

    def _opened(self, state):
        """Return (Towers, {task: expert}) for scoring."""
        if self.current is None and not self.experts:
            return None, {}
        th0 = state.final_model if self.current is None else self.th0
        self._require_th0(th0)
        unified, experts = self._with_current(state)
        unified = unified.to(th0.logit_scale)
        experts = {task: {**expert, "prototypes": expert["prototypes"].to(th0.logit_scale)}
                   for task, expert in experts.items()}
        return Towers(th0, lambda task: self.weights(th0, unified, task)), experts

    def weights(self, th0, unified, task):
        """Yield (parameter name, value) of an expert; of th0 for None."""
        start = dict(th0.named_parameters())
        for name in unified.values:
            yield name, start[name] if task is None else start[name] + unified.delta(task, name)

    def _given(self, experts, space, joined):
        """Return the task whose expert scores a label space, if its only dataset is given and was trained;
        else None."""
        known = {task: expert["classes"][joined[0].name] for task, expert in experts.items()
                 if joined[0].name in expert["classes"]}
        if not self.known or space != "task" or not known:
            return None
        owners = [task for task, classnames in known.items() if classnames == list(joined[0].classnames)]
        if not owners:
            raise other_classes(joined[0].name)
        return owners[-1]

    # -- what is kept --------------------------------------------------------------------------------------------------

    def carry(self):
        return {"th0": self.digest, "experts": self.experts, **self.unified.carry()} if self.experts else {}

    def load_carry(self, content):
        self.digest, self.experts = content.get("th0"), dict(content.get("experts", {}))
        self.unified = Unified(*(dict(content.get(key, {})) for key in ("values", "masks", "factors")))
        self.th0 = self.current = self.scored = None

    def state_dict(self):
        return {"prototypes": self.current["prototypes"]}

    def load_state_dict(self, content):
        self.current["prototypes"] = content["prototypes"]

    def copies(self):
        return {"unified delta": self.unified.values}


def name_of(task):
    """Return the name of a Task's expert. Joint trainings, whose tasks share one name, are named after
    their datasets."""
    return "+".join(part.name for part in task.parts) or task.name


def other_classes(name):
    return UserError(f"{name}: --load was trained on a dataset of this name with other classes, or in another order; "
                     "give that data, or rename this dataset")
