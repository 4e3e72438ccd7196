"""ConDU with low-rank factors (Gao et al., 2025, arXiv:2503.10705): the factors of a task are what is unified."""

import math

import torch
from torch import nn

from src.datasets.seeds import seed_of
from src.errors import UserError
from src.machine.device import no_tf32
from src.models.condu import ConDU
from src.models.condu_experts import fill
from src.models.modeling import frozen_copy
from src.models.wrapped import Pair, sites, towers_in_words, wrap

DRAWN = 0.01  # standard deviation of the factors of th0
SITES = (".mlp.c_fc", ".mlp.c_proj")
DRAWS = {"stored": ("th0",), "code": ("th0", "start", "prototypes")}  # of --condu-init


class ConDULoRA(ConDU):
    """ConDU with low-rank factors beside both layers of every MLP: W + B A / sqrt(r).

    th0 has factors too, drawn in its first task, A and B from N(0, 0.01^2); a checkpoint stores th0 without
    them. A and B are unified, not their product.

    ``condu_rank``: r. ``condu_init``: "stored" starts from the factors of th0 and computes prototypes with
    them; "code" redraws both, so that every delta contains the difference of two draws, as in the authors'
    code.
    """

    all_used = True

    def __init__(self, ls=0.0, condu_experts=4, condu_prototypes="shots", condu_known="expert", condu_rank=64,
                 condu_init="stored"):
        self.rank, self.scale = condu_rank, 1 / math.sqrt(condu_rank)
        self.found = {}  # {site: weight} of the current task
        self.draws, self.form = DRAWS[condu_init], {"rank": condu_rank, "init": condu_init}
        super().__init__(ls, condu_experts, condu_prototypes, condu_known)

    def free(self, state):
        self.found = {site: weight for site, weight in sites(state.model).items() if site.endswith(SITES)}
        if not self.found:
            raise UserError("--method condu-lora: it adapts the MLPs of transformer blocks, and the tower that trains "
                            "is a ResNet, which has none; give --train-mode whole or text, or a --model with a ViT")
        print(f"condu-lora adapts the MLPs of {towers_in_words(self.found)}")
        self.name_all([f"{site}.{factor}" for site in self.found for factor in "AB"])
        if not self.drawn:
            self.drawn = {draw: self._drawn(state, draw) for draw in self.draws}
        start = self._factors("start")
        wrap(state.model, {site: Pair(*(nn.Parameter(start[f"{site}.{factor}"].to(weight, copy=True))
                                        for factor in "AB"), self.scale) for site, weight in self.found.items()})

    def _drawn(self, state, draw):
        """Draw {name: factor} on the host, so that a seed means the same on every device."""
        generator = torch.Generator().manual_seed(seed_of(state.settings.seed, f"ConDU's factors, {draw}"))
        shapes = {f"{site}.{factor}": (self.rank, weight.shape[1]) if factor == "A" else (len(weight), self.rank)
                  for site, weight in self.found.items() for factor in "AB"}
        return {name: DRAWN * torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    def _factors(self, draw):
        return self.drawn.get(draw, self.drawn["th0"])

    def deltas(self, state):
        start = self._factors("th0")
        for site in self.found:
            pair = state.model.get_submodule(site).lora_pair
            for name, value in ((f"{site}.A", pair.A.detach()), (f"{site}.B", pair.B.detach())):
                yield name, value - start[name].to(value)

    def at_start(self):
        return fill(frozen_copy(self.th0), self._merged(self.th0, self._factors("prototypes"), lambda name: 0))

    def weights(self, th0, unified, task):
        return self._merged(th0, self._factors("th0"),
                            lambda name: 0 if task is None else unified.delta(task, name))

    def _merged(self, th0, start, delta):
        """Yield (name, W + s B A) of each site, with A and B from ``start`` plus ``delta(name)``."""
        parameters = dict(th0.named_parameters())
        for site in [name.removesuffix(".A") for name in start if name.endswith(".A")]:
            W = parameters[f"{site}.weight"]                                             # (out, in)
            A, B = (start[f"{site}.{factor}"].to(W) + delta(f"{site}.{factor}") for factor in "AB")
            with no_tf32(), torch.autocast(W.device.type, enabled=False):
                merged = torch.addmm(W, B, A, alpha=self.scale)                          # (out, r) x (r, in)
            yield f"{site}.weight", merged

    def carry(self):
        content = super().carry()
        return {**content, "form": self.form, "factors of th0": self.drawn} if content else {}

    def load_carry(self, content):
        if content.get("form", self.form) != self.form:
            raise UserError(f"{_in_words(self.form)}: --load was trained with {_in_words(content['form'])}; give those")
        super().load_carry(content)
        self.drawn = dict(content.get("factors of th0", {}))


def _in_words(form):
    return " and ".join(f"--condu-{name} {value}" for name, value in form.items())
