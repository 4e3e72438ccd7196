"""KeepLoRA in plain torch and numpy, slow and obvious, for a CLIP whose widths are 16."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import clip


def by_site(tensors):
    """{name of an attention's weight or its gradient: tensor} -> {site: (16, 16)}"""
    found = {}
    for name, value in tensors.items():
        path = name.rpartition(".attn.")[0] + ".attn"
        if name.endswith("attn.in_proj_weight"):
            found |= {f"{path}.{part}": value[16 * row:16 * row + 16] for row, part in enumerate("qkv")}
        elif name.endswith("attn.out_proj.weight"):
            found[f"{path}.o"] = value
    return found


def by_name(tensors):
    """The other way round."""
    paths = dict.fromkeys(site.rpartition(".")[0] for site in tensors)
    return ({f"{path}.in_proj_weight": torch.cat([tensors[f"{path}.{part}"] for part in "qkv"]) for path in paths}
            | {f"{path}.out_proj.weight": tensors[f"{path}.o"] for path in paths})


def cross_entropy(model, weights, batch, task, head=None):
    """CE of one batch over the prompts of the first template, to which a head (C, D) adds 30 cosines."""
    tokens = clip.tokenize([task.templates[0].replace("{c}", name) for name in task.classnames], model.context_length)
    logits, _ = functional_call(model, weights, (batch.images, tokens))
    if head is not None:
        logits = logits + 30 * F.cosine_similarity(
            functional_call(ImageTower(model), {f"model.{name}": value for name, value in weights.items()},
                            (batch.images,))[:, None], head[None], dim=2)
    return F.cross_entropy(logits, batch.labels)


class ImageTower(nn.Module):
    """What ``functional_call`` can call."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model.encode_image(images)


class Reference:
    """KeepLoRA as the paper and the authors' code have it, x W with W (in, out), one task after the other."""

    def __init__(self, model, rank, side="input", plus=False):
        self.model, self.rank, self.bases, self.plus, self.head = model.requires_grad_(True), rank, {}, plus, None
        for site, weight in by_site(dict(model.named_parameters())).items():
            U, S, Vh = np.linalg.svd(weight.detach().numpy())
            shares = np.cumsum(S ** 2) / (S ** 2).sum()
            count = max(1, int((shares < (0.85 if site.startswith("visual") else 0.2)).sum()))
            self.bases[site] = torch.from_numpy((Vh.T if side == "input" else U)[:, :count])

    def task(self, state):
        """Train one; ``state`` gives its batches, of images that are encoded."""
        model, task, split, size = self.model, state.task, state.task.split("train"), state.settings.batch_size
        losses = [cross_entropy(model, dict(model.named_parameters()), batch, task)
                  for batch in state.once(split, "keeplora gradient", size, shuffle=True, drop_last=True)]
        start = dict(model.named_parameters())
        names = [name for name in start if name.endswith(("attn.in_proj_weight", "attn.out_proj.weight"))]
        gradients = torch.autograd.grad(sum(losses) / len(losses), [start[name] for name in names])
        factors, base = {}, {}
        for site, gradient in by_site(dict(zip(names, gradients, strict=True))).items():
            M = self.bases[site]
            G = gradient.T - M @ (M.T @ gradient.T)
            U, S, Vh = torch.linalg.svd(G)
            live = (S > 1e-6 * S[0])[:self.rank]
            A = U[:, :self.rank] * live
            B = (S[:self.rank, None] * Vh[:self.rank] * live[:, None]).requires_grad_(True)
            base[site] = by_site(start)[site].detach() - (A @ B.detach()).T / self.rank
            factors[site] = A, B
        self.head = self.first_head(state) if self.plus else None
        weights = {name: value.detach() for name, value in start.items()}

        def merged():
            return weights | by_name({site: base[site] + (A @ B).T / self.rank for site, (A, B) in factors.items()})
        trained = [B for _, B in factors.values()] + [self.head] * self.plus
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=state.settings.iterations)
        for batch in state.training_stream():
            optimizer.zero_grad()
            cross_entropy(model, merged(), batch, task, self.head).backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            for name, value in merged().items():
                start[name].copy_(value)
            self.remember(state.once(split, "keeplora features", size, shuffle=True, drop_last=True), task)

    def first_head(self, state):
        """(C, D) unit means of the unit features of each class, over full batches."""
        split, found = state.task.split("train"), {}
        for batch in state.once(split, "keeplora head", state.settings.batch_size, shuffle=True, drop_last=True):
            with torch.no_grad():
                rows = F.normalize(self.model.encode_image(batch.images), dim=1)
            for label, row in zip(batch.labels.tolist(), rows, strict=True):
                found.setdefault(label, []).append(row)
        means = torch.stack([torch.stack(found[label]).mean(dim=0) for label in sorted(found)])
        return F.normalize(means, dim=1).requires_grad_(True)

    def remember(self, batches, task):
        """Grow the bases by the mean activation matrices of the images' batches, and by that of all prompts."""
        sums, number, rows = {}, 0, {}
        handles = []
        for name, module in self.model.named_modules():
            if name.endswith(".attn"):
                def keep(module, inputs, name=name):
                    rows[name] = inputs[0].flatten(0, 1).T
                handles.append(module.register_forward_pre_hook(lambda *args, keep=keep, name=name: keep(*args, name)))
                handles.append(module.out_proj.register_forward_pre_hook(
                    lambda *args, keep=keep, name=name: keep(*args, f"{name}.o")))
        for batch in batches:
            rows.clear()
            self.model.encode_image(batch.images)
            sums = {name: sums.get(name, 0) + matrix for name, matrix in rows.items()}
            number += 1
        found = {name: total / number for name, total in sums.items()}
        rows.clear()
        tokens = clip.tokenize([task.templates[0].replace("{c}", name) for name in task.classnames],
                               self.model.context_length)
        self.model.encode_text(tokens, cut=False)
        found |= rows
        for handle in handles:
            handle.remove()
        for site, M in self.bases.items():
            features = found[site if site.endswith(".o") else site.rpartition(".")[0]].numpy()
            total, M = (features ** 2).sum(), M.numpy()
            rest = features - M @ (M.T @ features)
            U, S, _ = np.linalg.svd(rest, full_matrices=False)
            held, count = total - (rest ** 2).sum(), 0
            while held / total < 0.99:
                held, count = held + S[count] ** 2, count + 1
            self.bases[site] = torch.from_numpy(np.concatenate([M, U[:, :count]], axis=1)[:, :16])
