"""RAIL, regression-based analytic incremental learning (Xu et al., 2024, arXiv:2406.18868), primal and dual."""

import torch
import torch.nn.functional as F
from torch import nn

from src.datasets.seeds import seed_of
from src.errors import UserError
from src.machine.device import no_tf32
from src.models.algebra import RidgeSums, ridge_, wide
from src.models.bounds import FrozenFeatures

RIDGES = {"primal": 0.1, "dual": 0.001}  # by --rail-form


class Rail(FrozenFeatures):
    """Scores (1 - beta) p + beta y if zero-shot CLIP's best class was trained, else p: see
    ``FrozenFeatures``.

    The answers y are a ridge regression from the unit features f of all tasks' training crops to one-hot
    labels: linear in relu(f P), P (D, H) drawn once ("primal"), or with the kernel exp(-gamma |a - b|^2) on
    stored features ("dual").
    """

    padding, crops = 0.0, True

    def __init__(self, rail_form="primal", rail_width=15000, rail_projection="seeded", rail_ridge=None, rail_gamma=0.1,
                 rail_beta=0.8):
        dual = rail_form == "dual"
        ridge = RIDGES[rail_form] if rail_ridge is None else rail_ridge
        super().__init__(Dual(ridge, rail_gamma) if dual else Primal(ridge, rail_width, rail_projection))
        self.beta, self.name = rail_beta, rail_form

    def begin(self, state):
        super().begin(state)
        if self.name == "primal":
            self.form.draw(state)

    def carry(self):
        content = super().carry()
        return {**content, "form": self.name} if content else {}

    def load_carry(self, content):
        if content.get("form", self.name) != self.name:
            raise UserError(f"--rail-form {self.name}: --load was trained by the {content['form']} form; give that")
        super().load_carry(content)


class Primal(RidgeSums):
    """y = relu(f P) W. ``drawn`` is a key of DRAWS; ``projection``, P (D, H), is drawn for the first task."""

    def __init__(self, strength, width, drawn):
        super().__init__(strength)
        self.width, self.drawn, self.projection = width, drawn, None

    def draw(self, state):
        if self.projection is None:
            self.projection = DRAWS[self.drawn](state.model.architecture, self.width, state.settings.seed)

    def collect(self, state, rows):
        P = self.projection.to(state.model.logit_scale)
        inputs = ((hidden(features, P), labels) for features, labels, _ in rows)
        self.add(state.task, state.world, P.new_zeros(self.width), inputs)

    def answers(self, features, names):
        solution = self.solution(features.device)
        x = hidden(features, self.projection.to(features))                                       # (B, H)
        return {name: x @ solution[name] for name in names}

    def carry(self):
        return {"projection": self.projection, "drawn": self.drawn, **super().carry()}

    def load_carry(self, content):
        self.projection = content.get("projection")
        width = self.width if self.projection is None else self.projection.shape[1]
        if (width, content.get("drawn", self.drawn)) != (self.width, self.drawn):
            raise UserError(f"--rail-width {self.width} with --rail-projection {self.drawn}: the sums in --load are of "
                            f"{width} with {content['drawn']}; give those")
        super().load_carry(content)


class Dual:
    """y = k(f, X) (K + strength I)^-1 Y, K = k(X, X) over the features X (N, D) of all training images."""

    def __init__(self, strength, gamma):
        self.strength, self.gamma, self.features, self.labels, self._solution = strength, gamma, {}, {}, None

    def collect(self, state, rows):
        """Store the features in the order of the split, for any number of processes."""
        split, like = state.task.split("train"), state.model.logit_scale
        table, read = like.new_zeros(len(split), state.model.text_projection.shape[1]), like.new_zeros(len(split))
        for features, _, numbers in rows:
            table[numbers], read[numbers] = features, 1
        positions = state.world.sum(read).nonzero()[:, 0].cpu()
        labels = F.one_hot(torch.tensor(split.labels)[positions], len(state.task.classnames))
        table, name = state.world.sum(table)[positions.to(like.device)], state.task.name
        for kept, found in ((self.features, table.cpu()), (self.labels, labels.to(torch.uint8))):
            kept[name] = torch.cat([kept.get(name, found[:0]).to(found), found])
        self._solution = None

    def answers(self, features, names):
        known, alpha = self._solved(features.device)
        kernel = gaussian(features, known, self.gamma)                                           # (B, N)
        return {name: kernel @ alpha[name] for name in names}

    def _solved(self, device):
        """Return X (N, D) and {task: alpha (N, C)}, in float64. K is the only tensor of its size."""
        if self._solution is None:
            known = torch.cat([wide(part).to(device) for part in self.features.values()])
            targets = torch.block_diag(*self.labels.values()).to(device)                         # (N, sum of C)
            alpha = ridge_(gaussian(known, known, self.gamma), targets, self.strength)
            parts = alpha.split([part.shape[1] for part in self.labels.values()], dim=1)
            self._solution = known, dict(zip(self.labels, parts, strict=True))
        return self._solution

    def carry(self):
        return {"features": self.features, "labels": self.labels}

    def load_carry(self, content):
        self.features, self.labels = dict(content.get("features", {})), dict(content.get("labels", {}))
        self._solution = None


@no_tf32()
def hidden(features, P):
    """Return relu(f P): (B, D) x (D, H) -> (B, H)."""
    return (features @ P).relu()


def gaussian(a, b, gamma):
    """Return exp(-gamma |a - b|^2), (B, D) x (N, D) -> (B, N)."""
    distances = (a @ b.T).mul_(-2).add_(a.square().sum(dim=1, keepdim=True)).add_(b.square().sum(dim=1))
    return distances.clamp_(min=0).mul_(-gamma).exp_()


def seeded_projection(architecture, width, seed):
    """Draw P (D, H) from U(-1/sqrt(D), 1/sqrt(D)), with a separate generator."""
    size = architecture["embed_dim"]
    drawn = torch.rand(size, width, generator=torch.Generator().manual_seed(seed_of(seed, "RAIL's projection")))
    return (2 * drawn - 1) / size ** 0.5


def published_projection(architecture, width, seed):
    """Draw P (D, H) as the published code does: what torch's own generator gives a linear layer after
    CLIP's published class has drawn its random weights. Raise UserError for a ResNet image tower."""
    if "vision_patch_size" not in architecture:
        raise UserError("--rail-projection published: the published draw is known only for ViT image towers; "
                        "give --rail-projection seeded")
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        _draw_clip(**architecture)
        return nn.Linear(architecture["embed_dim"], width, bias=False).weight.detach().T.contiguous()


def _draw_clip(*, embed_dim, image_resolution, vision_layers, vision_width, vision_patch_size, context_length,
               vocab_size, transformer_width, transformer_layers, **others):
    """Draw as many numbers, in the same calls, as the published CLIP: layers in order of construction, one
    tower after the other, then its own initialisation of the text tower."""
    nn.Conv2d(3, vision_width, vision_patch_size, bias=False)
    torch.randn(vision_width)
    torch.randn((image_resolution // vision_patch_size) ** 2 + 1, vision_width)
    _draw_blocks(vision_layers, vision_width)
    torch.randn(vision_width, embed_dim)
    _draw_blocks(transformer_layers, transformer_width)
    width = transformer_width
    nn.Embedding(vocab_size, width)
    block = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    for shape in [(vocab_size, width), (context_length, width), *transformer_layers * block, (width, embed_dim)]:
        nn.init.normal_(torch.empty(shape))


def _draw_blocks(layers, width):
    for _ in range(layers):
        nn.MultiheadAttention(width, 1)
        nn.Linear(width, 4 * width)
        nn.Linear(4 * width, width)


DRAWS = {"seeded": seeded_projection, "published": published_projection}
