"""CLIP's two towers (Radford et al., 2021, arXiv:2103.00020) under OpenAI's parameter names.

Module names are chosen so that the state dict matches OpenAI's, key for key. Weights are kept in one
floating type (fp32, or fp64 for proofs); lower precisions come from autocast around the model, never from
inside it.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from clip.attention import attend_backwards
from clip.catalog import MEAN, STD

LOGIT_SCALE_AT_START = 2.6593  # ln(1 / 0.07)
GATE = 1.702  # QuickGELU's factor


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's weights. Compilers and torch.jit.trace see the plain
    formula."""

    def forward(self, x):
        eager = not torch.compiler.is_compiling() and not torch.jit.is_tracing()
        if eager and x.requires_grad and torch.is_grad_enabled():
            return _QuickGELU.apply(x)
        return _quick_gelu(x)


def _quick_gelu(x):
    return x * torch.sigmoid(GATE * x)


class _QuickGELU(torch.autograd.Function):
    """QuickGELU that saves only the input, where autograd would save a second tensor of its size, and
    differentiates with one kernel: x sigmoid(a x) = silu(a x) / a, whose slope is silu'(a x)."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return _quick_gelu(x)

    @staticmethod
    def backward(context, gradient):
        [x] = context.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative, which the kernel lacks
            gate = torch.sigmoid(GATE * x)
            return gradient * gate * (1 + GATE * x * (1 - gate))
        return torch.ops.aten.silu_backward(gradient, GATE * x)


ACTIVATIONS = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


class Attention(nn.Module):
    """Multi-head self-attention, (B, L, W) -> (B, L, W), with the parameter names of
    ``nn.MultiheadAttention``.

    ``out_proj`` is called as a module, so that an adapter can replace it. ``beside`` is a seam for modules
    that are not part of CLIP: 3 x (B, H, L, W/H) -> (B, H, L, W/H), added to the mix of the heads.
    """

    beside = None

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x, attend=F.scaled_dot_product_attention):
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)                       # (B, L, 3W)
        return self.out_proj(mix(qkv, self.heads, attend, self.beside))


def mix(qkv, heads, attend, beside=None):
    """Mix values by attention, (B, L, 3W) -> (B, L, W). ``attend``: 3 x (B, H, L, W/H) -> (B, H, L, W/H)
    decides which positions see which; the output of ``beside``, of the same shapes, is added."""
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2)             # (B, H, L, W/H)
                         for part in qkv.chunk(3, dim=-1))  # backward joins chunks with one copy, unbind with two
    mixed = attend(query, key, value)
    if beside is not None:
        mixed = mixed + beside(query, key, value)
    return mixed.transpose(1, 2).flatten(2)


class ResidualAttentionBlock(nn.Module):
    """Pre-norm transformer block, (B, L, W) -> (B, L, W), with ``mlp_width`` (default 4W) hidden values.
    ``beside`` is a seam for modules that are not part of CLIP: (B, L, W) -> (B, L, W), added to the MLP's
    output."""

    beside = None

    def __init__(self, width, heads, activation="quick_gelu", mlp_width=None):
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        hidden = mlp_width or 4 * width
        self.mlp = nn.Sequential(OrderedDict(
            c_fc=nn.Linear(width, hidden), gelu=ACTIVATIONS[activation](), c_proj=nn.Linear(hidden, width)))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x, attend=F.scaled_dot_product_attention):
        x = x + self.attn(self.ln_1(x), attend)
        if self.beside is None:
            return x + self.mlp(self.ln_2(x))
        return x + self.mlp(self.ln_2(x)) + self.beside(x)


def run_block(block, recompute, *inputs):
    """Run block(*inputs). With ``recompute``, backward recomputes its inner values instead of keeping them
    (Chen et al., 2016, arXiv:1604.06174)."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


class Transformer(nn.Module):
    """A stack of residual attention blocks. ``attend`` as in ``mix``; ``recompute`` as in ``run_block``."""

    recompute = False

    def __init__(self, width, layers, heads, attend=F.scaled_dot_product_attention, activation="quick_gelu",
                 mlp_width=None):
        super().__init__()
        self.width, self.attend = width, attend
        self.resblocks = nn.Sequential(*(ResidualAttentionBlock(width, heads, activation, mlp_width)
                                         for _ in range(layers)))

    def forward(self, x, attend=None):
        """Map (B, L, W) -> (B, L, W), using ``attend`` instead of the default if given."""
        for block in self.resblocks:
            x = run_block(block, self.recompute, x, attend or self.attend)
        return x


class VisionTransformer(nn.Module):
    """ViT image tower, (B, 3, R, R) -> (B, D)."""

    def __init__(self, resolution, patch_size, width, layers, heads, embed_dim, activation="quick_gelu",
                 mlp_width=None):
        super().__init__()
        scale = width ** -0.5
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn((resolution // patch_size) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation=activation, mlp_width=mlp_width)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))

    def forward(self, images):
        patches = self.conv1(images).flatten(2).transpose(1, 2)                  # (B, P, W)
        class_token = self.class_embedding.expand(len(patches), 1, -1)
        x = torch.cat([class_token, patches], dim=1)                             # (B, 1 + P, W)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class Bottleneck(nn.Module):
    """ResNet bottleneck whose stride is an average pool (anti-aliased), in the branch and in the shortcut."""

    expansion = 4

    def __init__(self, channels_in, channels, stride=1):
        super().__init__()
        channels_out = channels * self.expansion
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(channels, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = None
        if stride > 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(OrderedDict([  # OpenAI names the pool "-1"
                ("-1", nn.AvgPool2d(stride)),
                ("0", nn.Conv2d(channels_in, channels_out, 1, bias=False)),
                ("1", nn.BatchNorm2d(channels_out))]))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(self.avgpool(x)))
        return F.relu(x + shortcut)


class AttentionPool2d(nn.Module):
    """One attention query, the mean of the map, over all its positions: (B, C, h, w) -> (B, D)."""

    def __init__(self, side, channels, heads, embed_dim):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(side ** 2 + 1, channels) * channels ** -0.5)
        self.k_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, embed_dim)

    def forward(self, feature_map):
        x = feature_map.flatten(2).transpose(1, 2)                                     # (B, hw, C)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self.positional_embedding
        query, key, value = (project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, C/H)
                             for project, tokens in ((self.q_proj, x[:, :1]), (self.k_proj, x), (self.v_proj, x)))
        pooled = F.scaled_dot_product_attention(query, key, value)                     # (B, H, 1, C/H)
        return self.c_proj(pooled.transpose(1, 2).flatten(1))


class ModifiedResNet(nn.Module):
    """ResNet image tower with a three-convolution stem and an attention pool, (B, 3, R, R) -> (B, D).

    ``layers`` holds the number of blocks per stage: four in OpenAI's models (a map of R / 32), any number
    here (a map of R / 2^(stages + 1)). ``recompute`` as in ``run_block``; batch norms must then be in eval
    mode, or they would see each batch twice.
    """

    recompute = False

    def __init__(self, layers, embed_dim, heads, resolution, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        channels_in = width
        self.stages = [f"layer{index + 1}" for index in range(len(layers))]
        for index, (name, blocks) in enumerate(zip(self.stages, layers, strict=True)):
            channels = width * 2 ** index
            stage = [Bottleneck(channels_in, channels, stride=1 if index == 0 else 2)]
            channels_in = channels * Bottleneck.expansion
            stage += [Bottleneck(channels_in, channels) for _ in range(1, blocks)]
            self.add_module(name, nn.Sequential(*stage))
        self.attnpool = AttentionPool2d(resolution // 2 ** (len(layers) + 1), channels_in, heads, embed_dim)

    def forward(self, images):
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.avgpool(F.relu(self.bn3(self.conv3(x))))
        for name in self.stages:
            for block in getattr(self, name):
                x = run_block(block, self.recompute, x)
        return self.attnpool(x)


class CLIP(nn.Module):
    """Image tower, text tower and temperature.

    ``vision_layers`` is a number for a ViT and a list (blocks per stage) for a ResNet. Heads default to
    OpenAI's rule of 64 values per head, ``vision_mlp_width`` and ``transformer_mlp_width`` to four times
    the width. ``activation`` of the transformers: quick_gelu or gelu. ``mean`` and ``std`` (3 numbers each,
    for pixels from 0 to 1): the normalisation that images must already have.

    ``vocabulary`` lists the token ids with their own embedding row in a small model (row i + 1 belongs to
    ``vocabulary[i]``); all other ids share row 0, and ``vocab_size`` counts the rows. ``architecture``
    repeats these arguments as plain types, for checkpoints.

    Under a gradient a batch of images is encoded in ``parts``, one after the other, and each again in
    backward: this takes the memory of one part. ``context`` is a seam for prompts that are not part of
    CLIP: (M, W), which replace the embeddings of positions 1 to M of every text; its end token must come
    after them.
    """

    parts = 1
    context = None

    def __init__(self, *, embed_dim, image_resolution, vision_layers, vision_width, context_length, vocab_size,
                 transformer_width, transformer_heads, transformer_layers, vision_patch_size=None, vision_heads=None,
                 vision_mlp_width=None, transformer_mlp_width=None, vocabulary=None, activation="quick_gelu", mean=MEAN,
                 std=STD):
        mean, std = [*mean], [*std]
        architecture = {key: value for key, value in locals().items()
                        if key not in ("self", "__class__") and value is not None}
        super().__init__()
        self.architecture = architecture
        self.context_length, self.image_resolution = context_length, image_resolution
        self.mean, self.std = tuple(mean), tuple(std)
        if isinstance(vision_layers, (list, tuple)):
            self.visual = ModifiedResNet(vision_layers, embed_dim, vision_heads or max(1, vision_width * 32 // 64),
                                         image_resolution, vision_width)
        else:
            self.visual = VisionTransformer(image_resolution, vision_patch_size, vision_width, vision_layers,
                                            vision_heads or max(1, vision_width // 64), embed_dim, activation,
                                            vision_mlp_width)
        self.transformer = Transformer(transformer_width, transformer_layers, transformer_heads, attend_backwards,
                                       activation, transformer_mlp_width)
        self.token_embedding = nn.Embedding(vocab_size, transformer_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, transformer_width))
        self.ln_final = nn.LayerNorm(transformer_width)
        self.text_projection = nn.Parameter(torch.empty(transformer_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_AT_START))
        self.register_buffer("token_rows", _rows_of(vocabulary), persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self):
        """Initialise as CLIP does (section 2.5 of the paper and its published code)."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.transformer.width ** -0.5)
        _initialise_blocks(self.transformer)
        if isinstance(self.visual, VisionTransformer):
            _initialise_blocks(self.visual.transformer)
            return
        pool = self.visual.attnpool
        for projection in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
            nn.init.normal_(projection.weight, std=pool.c_proj.in_features ** -0.5)
        for block in self.visual.modules():
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.bn3.weight)

    def encode_image(self, images):
        """Encode images, (B, 3, R, R) -> (B, D), not normalised."""
        if self.parts == 1 or not torch.is_grad_enabled():
            return self.visual(images)
        return torch.cat([run_block(self.visual, True, part) for part in images.chunk(self.parts)])

    def encode_text(self, tokens, cut=True):
        """Encode token ids, (N, L) -> (N, D), not normalised. The feature is read at the end token, the
        largest id.

        The batch is cut behind its last end token; the causal mask makes that exact. Finding this position
        waits for the device, so tokens that were cut before (``cut_tokens``) are used as they are.
        ``cut=False`` keeps the padding positions.
        """
        if cut and tokens.shape[1] == self.context_length:
            tokens = cut_tokens(tokens)
        ends = tokens.argmax(dim=-1)                                                   # (N,)
        rows = tokens if self.token_rows is None else self.token_rows[tokens]
        x = self.token_embedding(rows)                                                 # (N, L, W)
        if self.context is not None:
            x = self._in_context(x, torch.arange(x.shape[1], device=x.device))
        x = x + self.positional_embedding[:x.shape[1]]
        x = self.transformer(x)
        x = self.ln_final(x[torch.arange(len(x), device=x.device), ends])              # (N, W)
        return x @ self.text_projection

    def encode_packed(self, texts):
        """Encode PackedTexts of N texts -> (N, D): equal to ``encode_text`` up to rounding, from fewer tokens."""
        rows = texts.ids if self.token_rows is None else self.token_rows[texts.ids]
        x = self.token_embedding(rows)                                                 # (T, W)
        if self.context is not None:
            x = self._in_context(x, texts.positions)
        x = x + self.positional_embedding[texts.positions]
        x = self.transformer(x[None], texts.attend)[0]
        return self.ln_final(x[texts.ends]) @ self.text_projection                     # (N, D)

    def _in_context(self, x, positions):
        """Return embeddings (..., T, W) of tokens at positions (T,), with ``context`` at positions 1 to M."""
        rows = positions - 1
        learned = (rows >= 0) & (rows < len(self.context))                             # (T,)
        context = self.context[rows.clamp(0, len(self.context) - 1)].to(x.dtype)       # (T, W)
        return torch.where(learned[:, None], context, x)

    def forward(self, images, tokens):
        """Return scaled cosine similarities (B, N) and their transpose, from (B, 3, R, R) and (N, L)."""
        image_features = F.normalize(self.encode_image(images), dim=-1)
        text_features = F.normalize(self.encode_text(tokens), dim=-1)
        logits = self.logit_scale.exp() * image_features @ text_features.T             # (B, D) x (N, D) -> (B, N)
        return logits, logits.T


def cut_tokens(tokens):
    """Cut (N, L) behind the last end token -> (N, L'); what is cut off cannot reach any feature."""
    return tokens[:, :int(tokens.argmax(dim=-1).max()) + 1]


def _rows_of(vocabulary):
    if vocabulary is None:
        return None
    from clip.tokenizer import VOCABULARY_SIZE
    rows = torch.zeros(VOCABULARY_SIZE, dtype=torch.long)
    rows[torch.tensor(vocabulary)] = torch.arange(1, len(vocabulary) + 1)
    return rows


def _initialise_blocks(transformer):
    width, layers = transformer.width, len(transformer.resblocks)
    residual_std = width ** -0.5 * (2 * layers) ** -0.5
    for block in transformer.resblocks:
        nn.init.normal_(block.attn.in_proj_weight, std=width ** -0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=residual_std)
        nn.init.zeros_(block.attn.out_proj.bias)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=residual_std)
