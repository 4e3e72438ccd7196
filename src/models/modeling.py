"""What trains, and features of images and texts."""

import contextlib
import copy
import sys

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # of SyncBatchNorm too

import clip
from clip.model import ModifiedResNet, Transformer, cut_tokens
from clip.packing import PackedTexts
from clip.tokenizer import END_TOKEN, START_TOKEN, VOCABULARY_SIZE
from src.datasets.seeds import seed_of
from src.models.attached import draws, is_dropout
from src.models.modes import TRAIN_MODES

TEXT_TOWER = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
TOWERS = {"image": ("visual.",), "text": TEXT_TOWER}  # prefixes of the names of a tower's tensors
RANDOM_TEXTS, RANDOM_TEXT_LENGTH = 1000, 10
# Tokens that packing must save, by kind of device. Off CUDA: with fewer, the additional kernels take longer than
# they save. On CUDA packing adds 1,150 operations or more to a step of a ViT-B/16. Measured on an H200: with 2000
# classes (25,085 tokens saved) a packed ZSCL step takes 1.37 times the padded one, with 4000 (49,866) 0.85 times.
# Linear interpolation puts break-even at 40,850 saved tokens; in fine-tuning at 44,710.
WORTH_PACKING = {"cuda": 40960}
WORTH_PACKING_ELSEWHERE = 128


class ImageEncoder(nn.Module):
    """The image tower alone: (B, 3, R, R) -> (B, D), L2-normalised, in the weights' dtype also under autocast."""

    def __init__(self, model):
        super().__init__()
        self.visual = model.visual

    def forward(self, images):
        return unit(self.visual(images), next(self.visual.parameters()))


class ClassificationHead(nn.Module):
    """A linear layer on L2-normalised image features, (B, D) -> (B, C). As ``model.head`` it is trained,
    averaged and merged with the towers; a checkpoint stores it separately, so that its weights are a plain
    CLIP's."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)               # (C, D), (C,)

    def forward(self, features):
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features, self.weight, self.bias)

    def packed(self):
        """Return (C, D + 1) on the host, with the bias as last column: the form that a checkpoint stores."""
        return torch.cat([self.weight, self.bias[:, None]], dim=1).detach().cpu()

    @classmethod
    def unpacked(cls, tensor, like):
        """Rebuild the head from ``packed``, on the device and in the dtype of the tensor ``like``."""
        tensor = tensor.to(like.device, like.dtype)
        return cls(tensor[:, :-1].clone(), tensor[:, -1].clone())


def select_trainable(model, train_mode):
    """Set requires_grad for a train mode: on the towers or the ``head`` that it names, never on
    ``logit_scale``. Return the trainable names."""
    mode = TRAIN_MODES[train_mode]
    freed = tuple(start for tower in mode.towers for start in TOWERS[tower]) + ("head.",) * mode.head_trains
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(freed))
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def trains(model, tower):
    """Return whether any parameter of the ``"image"`` or ``"text"`` tower requires a gradient."""
    return any(parameter.requires_grad for name, parameter in model.named_parameters()
               if name.startswith(TOWERS[tower]))


def set_training(model, batch_norm):
    """Set training mode; batch norms keep their statistics if ``batch_norm`` is "eval" or their tower is
    not trained."""
    model.train()
    if batch_norm == "eval" or not trains(model, "image"):
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def recompute_blocks(model):
    """Enable gradient checkpointing: of each transformer block and bottleneck, keep only the input for backward."""
    for module in model.modules():
        if isinstance(module, Transformer | ModifiedResNet):
            module.recompute = True


def compile_image_tower(model, backend="inductor"):
    """torch.compile of the image tower, in place: names, copies and checkpoints stay as they are. A graph serves every
    batch size, and every model of equal sizes. Texts stay uncompiled: their shapes change from task to task."""
    tower = model.visual
    if tower._compiled_call_impl is not None:
        return
    tower.compile(backend=backend)
    compiled = tower._compiled_call_impl

    def of_any_batch(images):
        if len(images) < 2:  # it would need a second graph
            return tower._call_impl(images)
        torch._dynamo.maybe_mark_dynamic(images, 0)
        return compiled(images)
    tower._compiled_call_impl = of_any_batch


def frozen_copy(model):
    """Return an independent copy in eval mode without gradients, e.g. a teacher."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def tokens_of(model, texts):
    """Tokenise N texts -> (N, L) ids on the model's device, cut behind the last end token.

    A small model has embedding rows for some tokens only; a note reports the first text that needs others.
    """
    tokens = cut_tokens(clip.tokenize(list(texts), model.context_length))
    if model.token_rows is not None:
        _note_unknown_words(model, texts, tokens)
    return tokens.to(model.logit_scale.device)


_noted = set()


def _note_unknown_words(model, texts, tokens):
    unknown = (model.token_rows.cpu()[tokens] == 0) & (tokens != 0)
    texts = [text for text, row in zip(texts, unknown.any(dim=1).tolist(), strict=True) if row and text not in _noted]
    if texts and not _noted:
        print(f"note: this small model lacks words of some texts, such as {texts[0]!r}; all unknown words share one "
              "embedding", file=sys.stderr)
    _noted.update(texts)


def random_tokens(model, seed):
    """Return (1000, L) ids: start token, 10 uniform tokens (or as many as the context holds), end token. A
    small model draws from the tokens it has."""
    generator = torch.Generator().manual_seed(seed_of(seed, "random texts"))
    if model.token_rows is None:
        choices = torch.arange(VOCABULARY_SIZE)
    else:
        choices = model.token_rows.cpu().nonzero().flatten()
    choices = choices[choices < START_TOKEN]
    length = min(RANDOM_TEXT_LENGTH, model.context_length - 2)
    drawn = choices[torch.randint(len(choices), (RANDOM_TEXTS, length), generator=generator)]
    start, end = torch.full((RANDOM_TEXTS, 1), START_TOKEN), torch.full((RANDOM_TEXTS, 1), END_TOKEN)
    return torch.cat([start, drawn, end], dim=1).to(model.logit_scale.device)


def unit(features, weights):
    """Return features (N, D), L2-normalised, in the dtype of the tensor ``weights`` also under autocast."""
    return F.normalize(features.to(weights.dtype), dim=-1)


def image_features(model, images):
    """Return unit image features, (B, 3, R, R) -> (B, D); see ``unit``."""
    return unit(model.encode_image(images), model.logit_scale)


def batch_features(model, batch):
    """Return the features (B, D) of a Batch: those it brings along, or the model's."""
    return image_features(model, batch.images) if batch.features is None else batch.features


def encodes_rows_alone(model):
    """Return whether the image tower encodes each image independently: training batch norms see the whole
    batch, and dropout draws by position in it."""
    return not draws(model.visual)


def text_features(model, texts):
    """Return unit text features of (N, L), or of N PackedTexts -> (N, D); see ``unit``."""
    encode = model.encode_packed if isinstance(texts, PackedTexts) else model.encode_text
    return unit(encode(texts), model.logit_scale)


def packed_where_shorter(model, tokens):
    """Return PackedTexts of texts (N, L) that will be encoded often, or the tokens if packing saves too
    little. If dropout acts on texts, they do not share their first tokens, so that each has its own draws."""
    dropout = any(map(is_dropout, model.transformer.modules()))
    packed, kind = PackedTexts(tokens, share=not dropout), tokens.device.type
    least = WORTH_PACKING.get(kind, WORTH_PACKING_ELSEWHERE)
    if kind in WORTH_PACKING and tokens.shape[1] == model.context_length:
        least = 0  # cutting them in ``encode_text`` would wait for the device at each step
    return packed if tokens.numel() - len(packed) >= least else tokens


@torch.no_grad()
def constant_text_features(model, tokens, batch_size=256):
    """Encode texts without gradient, (N, L) -> (N, D), L2-normalised: sorted by length and cut batch by batch."""
    ends = tokens.argmax(dim=-1)
    order = ends.argsort()
    features = [text_features(model, tokens[rows, :int(ends[rows[-1]]) + 1]) for rows in order.split(batch_size)]
    return torch.cat(features)[order.argsort()]


@contextlib.contextmanager
def _as_frozen(model):
    if torch.is_grad_enabled() or any("beside" in vars(module) for module in model.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def in_eval_mode(model):
    """All modules in eval mode; afterwards each one's flag is as it was. A compiled tower runs as that of a frozen
    model, whose graph it shares, without gradient; uncompiled with gradient, or where modules have places in it."""
    was_training = [module for module in model.modules() if module.training]
    compiled = any(module._compiled_call_impl for module in model.modules())
    model.eval()
    try:
        with _as_frozen(model) if compiled else contextlib.nullcontext():
            yield
    finally:
        for module in was_training:
            module.training = True
