"""InfLoRA (Liang and Li, 2024, arXiv:2404.00228): W + s B A with a frozen A, so that a task moves k and v
only along those of its inputs that no earlier task needs. Formulas and sources: docs/methods/inflora.md."""

import math

import torch
from torch import nn

from src.errors import UserError
from src.models.algebra import ROUNDING, complement, directions, grow, leading, shrink, svd, without
from src.models.finetune import Finetune
from src.models.taps import Moments, is_of_images, uncut_tokens
from src.models.wrapped import Pair, attention_sites, note_few, towers_in_words, wrap

ALPHA = 2.0  # the port to CLIP scales by ALPHA / sqrt(rank)
PROTECTED = ("k", "v")  # projections whose A is computed from their inputs; that of q and o is drawn


class InfLoRA(Finetune):
    """Trains B (out, r) of W + s B A. At k and v of a block, A (r, in) holds the leading directions of the
    task's inputs outside those that earlier tasks need; at q and o it is drawn.

    ``inflora_sites``: some of q, k, v, o. ``inflora_memory``: "gpm" keeps a basis of the protected
    directions; "dualgpm" switches to a basis of the allowed ones once half of the width is protected.
    ``inflora_energy``: share of the inputs' energy that is protected by the first task; each later task
    protects ``inflora_energy_step`` more. ``inflora_statistics``: "code" also counts the inputs of the
    training steps, under dropout.
    """

    all_used = True

    def __init__(self, ls=0.0, inflora_rank=128, inflora_sites=("q", "k", "v", "o"), inflora_scale=None,
                 inflora_dropout=0.25, inflora_memory="gpm", inflora_energy=0.95, inflora_energy_step=0.0,
                 inflora_statistics="clean"):
        super().__init__(ls)
        self.rank, self.sites, self.dropout = inflora_rank, inflora_sites, inflora_dropout
        self.scale = ALPHA / math.sqrt(inflora_rank) if inflora_scale is None else inflora_scale
        self.dual, self.energy, self.energy_step = inflora_memory == "dualgpm", inflora_energy, inflora_energy_step
        self.counts_steps, self.step, self.steps = inflora_statistics == "code", None, {}
        self.tasks, self.bases, self.allowed = 0, {}, set()  # {attention: (d, m)}; whose basis is of what is allowed

    def begin(self, state):
        weights = attention_sites(state.model, "inflora", self.sites)
        if self.counts_steps and state.settings.compile:
            raise UserError("--inflora-statistics code with --compile: it looks into the towers at every step; leave "
                            "one of them out")
        print(f"inflora adapts {', '.join(self.sites)} of {towers_in_words(weights)}")
        self.widths = {_attention(site): weight.shape[1] for site, weight in weights.items()
                       if _projection(site) in PROTECTED}
        self.tokens = uncut_tokens(state)
        if self.counts_steps:
            self.step, self.steps = self._moments(state), self._moments(state).sums
        if state.planned:
            found = {name: torch.zeros(self.rank, width) for name, width in self.widths.items()}
        else:
            found = self._directions(state)
        factors = {}
        for site, weight in weights.items():
            A = found[_attention(site)] if _projection(site) in PROTECTED else self._drawn(state, site, weight)
            B = nn.Parameter(weight.new_zeros(len(weight), self.rank))
            factors[site] = Pair(A.to(weight), B, self.scale, self.dropout)
        wrap(state.model, factors)
        super().begin(state)

    def losses(self, state, batch):
        if self.counts_steps:
            self.step.clear()
            self.step.add(state.model, batch.images, self.tokens)
        return super().losses(state, batch)

    def after_step(self, state):
        for name, moment in self.step.of_all(state.world).items() if self.counts_steps else ():
            self.steps[name] += moment

    def end(self, state):
        model = state.model if self.counts_steps else state.final_model  # the live model is under dropout
        share = min(1.0, self.energy + self.tasks * self.energy_step)
        for name, moment in self._inputs(state, model, "inputs after").items():
            if self.counts_steps:
                moment = moment + self.steps[name].to(moment)
            self.remember(name, moment, share)
            basis = self.bases[name].to(state.model.logit_scale.dtype)
            self.bases[name] = basis.clone(memory_format=torch.contiguous_format)  # not a view of a larger tensor
        self.tasks += 1

    # -- factors -------------------------------------------------------------------------------------------------------

    def _directions(self, state):
        """Return {attention: A (r, d)} for k and v. Print a note if fewer than r directions are left."""
        found, like = {}, state.model.logit_scale
        for name, moment in self._inputs(state, state.model, "inputs before").items():
            found[name] = state.world.of_first(self.directions(name, moment).to(like))
        left = {name: int(A.any(dim=1).sum()) for name, A in found.items()}
        note_few(left, self.widths, self.rank,
                 f"attentions have fewer than {self.rank} directions (--inflora-rank) that no earlier task protects")
        return found

    def directions(self, name, moment):
        """Return A (r, d) of an attention from C (d, d): the leading left singular vectors of the free part
        of C, over sqrt(3). Rows beyond the available directions are zero; their columns of B get no
        gradient and stay zero."""
        vectors, values, _ = svd(self.free(name, moment))
        rows = vectors[:, values > ROUNDING * values[0]][:, :self.rank].mT
        A = moment.new_zeros(self.rank, len(moment))
        A[:len(rows)] = rows / math.sqrt(3)
        return A

    def free(self, name, moment):
        """Return the part of an attention's C (d, d) that no earlier task protects."""
        if name not in self.bases:
            return moment
        basis = self.bases[name].to(moment)
        return basis @ (basis.mT @ moment) if name in self.allowed else without(basis, moment)

    def _drawn(self, state, site, weight):
        """Draw A (r, in) as LoRA does, on the host, so that a seed means the same on every device."""
        A = torch.empty(self.rank, weight.shape[1], dtype=torch.float32)
        generator = torch.Generator().manual_seed(state.seed_of(f"factor of {site}"))
        return nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator)

    # -- memory --------------------------------------------------------------------------------------------------------

    def _moments(self, state):
        return Moments(self.widths, state.model.logit_scale)

    def _inputs(self, state, model, purpose):
        """Return {attention: C (d, d)} up to a factor, on the host in float64: of the task's images under
        training crops, and of one prompt per class."""
        moments, passed = self._moments(state), ()
        if self.counts_steps or any(map(is_of_images, self.widths)):
            passed = state.once(state.task.split("train"), purpose, state.settings.batch_size, train_transform=True)
        if not self.counts_steps:
            moments.add(model, tokens=self.tokens)
        for batch in passed:  # the published loop encodes the prompts again with each batch
            moments.add(model, batch.images, self.tokens if self.counts_steps else None)
        return {name: moment.cpu().double() for name, moment in moments.of_all(state.world).items()}

    def remember(self, name, moment, share):
        """Protect, of an attention's C (d, d), as many directions as hold ``share`` of its squared singular
        values together with those protected before; in its first task, as many as stay below that share, at
        least one."""
        gram, first = moment @ moment.mT, name not in self.bases
        if first:
            energies, vectors = directions(gram)
            basis = vectors[:, :max(1, leading(energies, share))]
        else:
            basis = (shrink if name in self.allowed else grow)(self.bases[name], gram, share)
        half, count = len(moment) / 2, basis.shape[1]
        if self.dual and name not in self.allowed and (count > half or first and count == half):
            basis = complement(basis)
            self.allowed.add(name)
        self.bases[name] = basis

    def carry(self):
        return {"tasks": self.tasks, "bases": self.bases, "allowed": sorted(self.allowed)}

    def load_carry(self, content):
        self.tasks, self.bases = content.get("tasks", 0), dict(content.get("bases", {}))
        self.allowed = set(content.get("allowed", ()))

    def state_dict(self):
        return {"steps": self.steps} if self.counts_steps else {}

    def load_state_dict(self, content):
        for name, moment in content["steps"].items():
            self.steps[name].copy_(moment)

    def copies(self):
        return {"protected bases": self.bases, "inputs of the steps": self.steps}


def _attention(site):
    return site.rpartition(".")[0]


def _projection(site):
    return site.rpartition(".")[2]
