"""The training step as published with ZSCL (Zheng et al., 2023, arXiv:2303.06628), rendered plainly: the
peer.

Everything is recomputed at every step: all class prompts by the student, all reference captions and
reference images by the teacher, texts always at their full 77 positions; fp32, every parameter requires a
gradient, AdamW with torch's defaults. Uses nothing of ``src`` and no model code of ``clip``: the towers
below are ``nn.MultiheadAttention`` blocks in OpenAI's layout (length first, additive causal mask), whose
state dict equals that of ``clip.model.CLIP`` key for key.
"""

import contextlib
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from clip.catalog import DEFAULTS


class PlainGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class PlainBlock(nn.Module):
    """(L, B, W) -> (L, B, W)"""

    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(OrderedDict(
            c_fc=nn.Linear(width, 4 * width), gelu=PlainGELU(), c_proj=nn.Linear(4 * width, width)))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class PlainTransformer(nn.Module):
    def __init__(self, width, layers, heads):
        super().__init__()
        self.resblocks = nn.ModuleList(PlainBlock(width, heads) for _ in range(layers))

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class PlainViT(nn.Module):
    """(B, 3, R, R) -> (B, D)"""

    def __init__(self, resolution, patch, width, layers, heads, embed_dim):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((resolution // patch) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = PlainTransformer(width, layers, heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, embed_dim))

    def forward(self, images):
        x = self.conv1(images).flatten(2).permute(0, 2, 1)                               # (B, P, W)
        first = self.class_embedding + torch.zeros(len(x), 1, x.shape[-1], dtype=x.dtype, device=x.device)
        x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding)        # (B, 1 + P, W)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0]) @ self.proj


class PlainCLIP(nn.Module):
    """The two towers; arguments like those of ``clip.model.CLIP``, for a ViT."""

    def __init__(self, *, embed_dim, image_resolution, vision_layers, vision_width, vision_patch_size, context_length,
                 vocab_size, transformer_width, transformer_heads, transformer_layers):
        super().__init__()
        self.visual = PlainViT(image_resolution, vision_patch_size, vision_width, vision_layers, vision_width // 64,
                               embed_dim)
        self.transformer = PlainTransformer(transformer_width, transformer_layers, transformer_heads)
        self.token_embedding = nn.Embedding(vocab_size, transformer_width)
        self.positional_embedding = nn.Parameter(torch.zeros(context_length, transformer_width))
        self.ln_final = nn.LayerNorm(transformer_width)
        self.text_projection = nn.Parameter(torch.zeros(transformer_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        mask = torch.full((context_length, context_length), float("-inf")).triu_(1)
        self.register_buffer("mask", mask, persistent=False)

    def encode_image(self, images):
        """Encode images, (B, 3, R, R) -> (B, D), length 1."""
        features = self.visual(images)
        return features / features.norm(dim=-1, keepdim=True)

    def encode_text(self, tokens):
        """Encode texts, (N, 77) -> (N, D), length 1. All 77 positions are computed."""
        x = self.token_embedding(tokens) + self.positional_embedding                     # (N, 77, W)
        x = self.transformer(x.permute(1, 0, 2), self.mask).permute(1, 0, 2)
        x = self.ln_final(x)
        features = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)] @ self.text_projection
        return features / features.norm(dim=-1, keepdim=True)


def plain_copy(model):
    """Return a PlainCLIP with the weights, dtype and device of a ``clip.model.CLIP``."""
    shapes = {key: value for key, value in model.architecture.items() if key not in DEFAULTS}
    plain = PlainCLIP(**shapes).to(model.logit_scale.device, model.logit_scale.dtype)
    plain.load_state_dict(model.state_dict())
    return plain


def distillation(teacher_logits, student_logits, T):
    """Return T^2 * mean over rows of the cross-entropy between softened distributions."""
    teacher = F.softmax(teacher_logits / T, dim=1)
    student = F.log_softmax(student_logits / T, dim=1)
    return -(teacher * student).sum(dim=1).mean() * T ** 2


def entropy(teacher_logits, T):
    """Return T^2 * mean entropy of the softened rows, by which ``distillation`` exceeds the KL divergence."""
    teacher = F.softmax(teacher_logits / T, dim=1)
    return -(teacher * teacher.log()).sum(dim=1).mean() * T ** 2


class PublishedLoop:
    """Steps of plain fine-tuning, or with a ``teacher`` and ``sentences`` (M, 77) of ZSCL.

    ``tokens`` (C, 77) are the class prompts. ``lr`` is constant. ``autocast`` creates the context of the
    forward pass: by default none, as published.
    """

    def __init__(self, student, tokens, teacher=None, sentences=None, T=2.0, lr=1e-5, autocast=contextlib.nullcontext):
        self.student, self.tokens, self.teacher, self.sentences, self.T = student, tokens, teacher, sentences, T
        self.autocast = autocast
        student.train().requires_grad_(True)
        trained = [value for name, value in student.named_parameters() if name != "logit_scale"]
        self.optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)

    def losses(self, images, labels, reference=None, divergences=False):
        """Return {name: scalar} for (B, 3, R, R), (B,) and reference images (B', 3, R, R). ``divergences``:
        the same terms as KL divergences, whose gradient equals that of the published cross-entropies."""
        scale = self.student.logit_scale.exp()
        features, classes = self.student.encode_image(images), self.student.encode_text(self.tokens)
        losses = {"task": F.cross_entropy(scale * features @ classes.t(), labels)}
        if self.teacher is None:
            return losses
        with torch.no_grad():
            texts = self.teacher.encode_text(self.sentences)                             # (M, D), at every step
            taught = self.teacher.encode_image(reference)
        learnt = self.student.encode_image(reference)
        teacher_logits, student_logits = scale * taught @ texts.t(), scale * learnt @ texts.t()
        for name, teacher, student in (("image_kl", teacher_logits, student_logits),
                                       ("text_kl", teacher_logits.t(), student_logits.t())):
            constant = entropy(teacher, self.T) if divergences else 0.0
            losses[name] = distillation(teacher, student, self.T) - constant
        return losses

    def step(self, images, labels, reference=None):
        """Take one optimiser step and return the loss before it."""
        with self.autocast():
            loss = sum(self.losses(images, labels, reference).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()
