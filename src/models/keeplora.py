"""KeepLoRA (arXiv:2601.19659): low-rank updates outside the directions that earlier tasks use.

For each weight W (out, in) of q, k, v and o a basis M (in, m) spans the protected directions: leading
directions of the weight at first, then those of each task's inputs too. A task projects the gradient G at W
off M, G - G M M^T = U S V^T, and trains B of W - s B_0 A + s B A, starting at B_0 = U_r S_r; A = V_r^T is
frozen.
"""

import torch
from torch import nn

from src.errors import UserError
from src.machine.device import no_tf32
from src.models import algebra
from src.models.finetune import Finetune
from src.models.modeling import image_features, in_eval_mode, recompute_blocks
from src.models.taps import TEXTS_AT_ONCE, tapped, uncut_tokens
from src.models.wrapped import PROJECTIONS, Pair, attention_sites, note_few, place_of, towers_in_words, wrap


class KeepLoRA(Finetune):
    """Fine-tuning of B in W + s B A, for q, k, v and o of both towers; with a ResNet, of the text tower
    only.

    ``keeplora_rank`` r; ``keeplora_alpha``: s = alpha / r. ``keeplora_image_energy``,
    ``keeplora_text_energy``: before the first task, a weight's leading directions are protected as long as
    they hold less than this share of its squared singular values, at least one; ``keeplora_weight_side``:
    directions of its "input" or "output". ``keeplora_feature_energy``: the least share of a task's inputs
    that is protected after it.
    """

    all_used = True
    router = "none"

    def __init__(self, ls=0.0, keeplora_rank=16, keeplora_alpha=1.0, keeplora_image_energy=0.85,
                 keeplora_text_energy=0.2, keeplora_feature_energy=0.99, keeplora_weight_side="input"):
        super().__init__(ls)
        self.rank, self.scale = keeplora_rank, keeplora_alpha / keeplora_rank
        self.energies = {True: keeplora_image_energy, False: keeplora_text_energy}
        self.feature_energy, self.side = keeplora_feature_energy, keeplora_weight_side
        self.bases, self.first = {}, []  # {site: (in, m)}, on the host; sites whose basis starts in this task

    @torch.no_grad()
    def begin(self, state):
        weights = attention_sites(state.model, "keeplora")                                 # {site: (out, in)}
        print(f"keeplora adapts q, k, v and o of {towers_in_words(weights)}")
        super().begin(state)
        factors, gradients = {}, self.gradients(state, weights)
        for site, weight in weights.items():
            factors[site] = self.factors(site, weight, gradients.get(site))
            for factor in (factors[site].A, factors[site].B):
                factor.copy_(state.world.of_first(factor))
            weight.addmm_(factors[site].B, factors[site].A, alpha=-self.scale)
        wrap(state.model, factors)
        left = {site: int(factors[site].A.any(dim=1).sum()) for site in gradients}
        note_few(left, {site: min(weight.shape) for site, weight in weights.items()}, self.rank,
                 f"weights have fewer than {self.rank} directions (--keeplora-rank) that {state.task.name} would "
                 "change and that are not protected")

    def batches(self, state, purpose):
        """Pass once over the training images in a drawn order, in full batches; if there are fewer images
        than one batch, they form one."""
        split, size = state.task.split("train"), state.settings.batch_size
        return state.once(split, purpose, size, shuffle=True, drop_last=len(split) >= size)

    def gradients(self, state, weights):
        """Return {site: dCE/dW (out, in)}, the mean over the batches of one pass, without autocast and
        label smoothing; {} in a dry run, which has no batches."""
        model, batches = state.model, 0
        for name, parameter in model.named_parameters():  # freezes all others for the task
            wanted = name.startswith("head.") or ".attn." in name and name.endswith("weight")
            parameter.requires_grad_(parameter.requires_grad and wanted)
        model.parts = state.settings.grad_accum  # limits the pass to the memory of a step
        if state.settings.grad_checkpointing:
            recompute_blocks(model)
        with torch.enable_grad(), in_eval_mode(model), no_tf32():
            for batch in self.batches(state, "keeplora gradient"):
                batches += 1
                if len(batch.labels):
                    loss = self.classes.cross_entropy(batch, image_features(model, batch.images))
                    (batch.weight * loss).backward()
        share = batches * state.world.size
        found = {site: state.world.sum(gradient_at(model, site)) / share for site in weights if share}
        model.zero_grad(set_to_none=True)
        return found

    def factors(self, site, weight, gradient):
        """Return the Pair of a weight (out, in). Rank beyond the gradient's directions outside the basis is
        zero, and stays zero: a decomposition returns arbitrary directions there, protected ones included."""
        A, B = weight.new_zeros(self.rank, weight.shape[1]), weight.new_zeros(len(weight), self.rank)
        if gradient is not None:
            if not gradient.isfinite().all():
                raise UserError(f"KeepLoRA: the gradient of {site} before the first step is not finite; give other "
                                "weights with --load")
            if site not in self.bases:
                self.bases[site] = self.leading_directions(site, weight)
                self.first.append(site)
            gradient = gradient.cpu().double()
            U, S, Vh = algebra.svd(algebra.without(self.bases[site].double(), gradient.mT).mT)
            rounding = 10 * torch.finfo(weight.dtype).eps * gradient.norm()
            count = min(self.rank, int((S > max(algebra.ROUNDING * S[0], rounding)).sum()))
            A[:count], B[:, :count] = Vh[:count], U[:, :count] * S[:count]
        return Pair(A, nn.Parameter(B), self.scale)

    def leading_directions(self, site, weight):
        """Return the basis (in, m) protected before the first task, from a weight (out, in). The "output"
        side has as many rows, since the weights of all sites are square."""
        U, S, Vh = algebra.svd(weight.cpu().double())
        count = max(1, algebra.leading(S ** 2, self.energies[site.startswith("visual.")]))
        return (U[:, :count] if self.side == "output" else Vh[:count].mT).to(weight.dtype)

    @torch.no_grad()
    def end(self, state):
        for name, grams in self.inputs(state).items():
            for part in PROJECTIONS:
                basis = self.bases[f"{name}.{part}"]
                grown = algebra.grow(basis, grams[part == "o"], self.feature_energy)
                self.bases[f"{name}.{part}"] = grown.to(basis.dtype)

    def inputs(self, state):
        """Return {name of an attention that trained: Gram matrices (in, in) of the inputs of q, k and v,
        and of o}, on the host, from the weights that are saved.

        In the image tower they are of F (B L, in), the inputs of the batches of one pass **averaged element
        by element**, as in the authors' code: little more than the mean token at each position. In the text
        tower they are of the inputs at all positions of the class prompts, padding included.
        """
        model, totals, grams = state.final_model, {}, {}
        with in_eval_mode(model), no_tf32(), tapped(model) as seen:
            for batch in self.batches(state, "keeplora features") if state.trains("image") else ():
                model.encode_image(batch.images)
                for name, pair in seen.items():
                    before = totals.get(name, [rows[:0] for rows in pair])
                    totals[name] = [added_rows(total, rows) for total, rows in zip(before, pair, strict=True)]
            for name, pair in totals.items():
                grams[name] = [state.world.sum(gram_of(total)).cpu() for total in pair]
            seen.clear()
            for texts in uncut_tokens(state).split(TEXTS_AT_ONCE) if state.trains("text") else ():
                model.encode_text(texts, cut=False)
                for name, pair in seen.items():
                    before = grams.get(name, [0.0, 0.0])
                    grams[name] = [total + gram_of(rows).cpu() for total, rows in zip(before, pair, strict=True)]
        return grams

    def state_dict(self):
        """Save the bases: a repeated decomposition may have other signs."""
        return {"bases": {site: self.bases[site] for site in self.first}} if self.first else {}

    def load_state_dict(self, content):
        self.bases |= content["bases"]

    def copies(self):
        return {"protected bases": self.bases}

    def carry(self):
        return {"bases": self.bases}

    def load_carry(self, content):
        self.bases = dict(content.get("bases", {}))


def gradient_at(model, site):
    """Return the gradient (out, in) that backward left at a site; zeros if there is none."""
    path, _, part = site.rpartition(".")
    attention = model.get_submodule(path)
    name, rows = place_of(part, attention.out_proj.in_features)
    weight = attention.get_parameter(name)
    return (torch.zeros_like(weight) if weight.grad is None else weight.grad)[rows]


def added_rows(total, rows):
    """Add ``rows`` (B', L, in) to ``total`` (B, L, in), in place if it is long enough, as if the shorter
    one were padded with zeros: any batch, also the first, may contain undecodable images."""
    missing = len(rows) - len(total)
    if missing > 0:
        total = torch.cat([total, total.new_zeros(missing, *total.shape[1:])])
    total[:len(rows)] += rows
    return total


def gram_of(rows):
    """Return the Gram matrix, (B, L, in) -> (in, in), in double precision; on the host if the device has no
    float64."""
    rows = algebra.wide(rows).flatten(0, 1)
    return rows.mT @ rows
