"""KeepLoRA+ (arXiv:2601.19659): KeepLoRA with a cosine classifier per task."""

import torch
import torch.nn.functional as F
from torch import nn

from src.errors import UserError
from src.models.helpers import similarity
from src.models.keeplora import KeepLoRA
from src.models.modeling import constant_text_features, image_features, in_eval_mode, tokens_of

HEAD_SCALE = 30.0


class KeepLoRAPlus(KeepLoRA):
    """KeepLoRA plus a head (C, D) per task, which adds 30 cos(f, w) to CLIP's scores of its classes. It
    trains together with B, starting at the mean features of the classes.

    A head is looked up by the class names of the image's task, so it acts in label space task only: where
    classes of several tasks compete, CLIP scores alone.
    """

    all_used = True
    averaged = True
    router = "none"

    def __init__(self, **options):
        super().__init__(**options)
        self.names = []  # the class names of each head

    def build(self, model):
        width = model.text_projection.shape[1]
        self.heads = nn.ParameterList(model.text_projection.new_zeros(len(names), width) for names in self.names)
        return self.heads

    def begin(self, state):
        if state.task.parts:
            raise UserError("--joint with --method keeplora-plus: a head belongs to the class names of one task; "
                            "leave --joint out, or give --method keeplora")
        super().begin(state)
        self.heads.requires_grad_(False)
        names, head = [*state.task.classnames], nn.Parameter(self.first_head(state))
        if names in self.names:
            self.heads[self.names.index(names)] = head
        else:
            self.names.append(names)
            self.heads.append(head)
        prompts, = self.classes.scores
        self.classes.scores = [lambda features: prompts(features) + cosines(features, head)]

    @torch.no_grad()
    def first_head(self, state):
        """Return (C, D), unit rows: the mean of the unit features of each class, or its text feature if the
        class has no image in the pass."""
        model, names = state.model, state.task.classnames
        sums = model.text_projection.new_zeros(len(names), model.text_projection.shape[1])
        with in_eval_mode(model):
            for batch in self.batches(state, "keeplora head"):
                members = F.one_hot(batch.labels, len(names)).to(sums)                           # (B, C)
                sums += members.T @ image_features(model, batch.images)
            sums = state.world.sum(sums)
            empty = ~sums.any(dim=1) & (not state.planned)
            if empty.any():
                print(f"note: KeepLoRA+: {int(empty.sum())} of {len(names)} classes of {state.task.name} have no image "
                      "in the full batches of the pass; their weights start at their text features")
                sums[empty] = constant_text_features(model, tokens_of(model, state.prompts(state.task)))[empty]
        return F.normalize(sums, dim=-1)

    def scores(self, state, images, spaces):
        heads = dict(zip(map(tuple, self.names), self.heads, strict=True))
        found = [(classes.weights.T, heads.get(tuple(classes.classnames))) for classes in spaces.get("task", ())]
        if all(head is None for _, head in found):
            return None
        features, scale = image_features(state.final_model, images), state.final_model.logit_scale.exp()
        scores = [similarity(features, texts, scale) + (0.0 if head is None else cosines(features, head))
                  for texts, head in found]
        return {"task": torch.cat(scores, dim=1)}

    def carry(self):
        return super().carry() | {"heads": self.names}

    def load_carry(self, content):
        super().load_carry(content)
        self.names = [[*names] for names in content.get("heads", ())]


def cosines(features, head):
    """Return 30 cos(f, w): (B, D) unit features, (C, D) -> (B, C)."""
    return similarity(features, F.normalize(head, dim=-1), HEAD_SCALE)
