"""What the attention layers of CLIP's towers are given while a model runs."""

import contextlib

import torch

import clip
from clip.model import ResidualAttentionBlock
from src.machine.device import no_tf32
from src.models.algebra import wide
from src.models.wrapped import BASE, plain_name

TEXTS_AT_ONCE = 64  # with padding, of which all layers' inputs are held


@contextlib.contextmanager
def tapped(model):
    """While entered, the dict that this yields has {name of an attention: (what q, k and v are computed of, what o is
    computed of)}, each (B, L, W), detached, of the last forward of its tower; the names are those of a plain CLIP, such
    as "visual.transformer.resblocks.0.attn". Layers may be wrapped; a model that recomputes blocks runs them twice.

    Texts that are cut or packed have fewer positions than those that padding fills: ``clip.model.CLIP.encode_text``
    with ``cut=False`` has all of them.
    """
    seen, handles = {}, []
    for name, block in model.named_modules():
        if isinstance(block, ResidualAttentionBlock):
            plain = plain_name(f"{name}.attn")
            inner = getattr(block.attn, BASE, block.attn)
            handles.append(block.attn.register_forward_pre_hook(_keeps(seen, plain, 0)))
            handles.append(inner.out_proj.register_forward_pre_hook(_keeps(seen, plain, 1)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keeps(seen, name, place):
    def keep(_, inputs):
        seen.setdefault(name, [None, None])[place] = inputs[0].detach()
    return keep


def uncut_tokens(state):
    """Return the tokens (N, L) of one prompt a class, of all parts of the task, on the model's device."""
    model, parts = state.model, state.task.parts or [state.task]
    prompts = [prompt for part in parts for prompt in state.prompts(part)]
    return clip.tokenize(prompts, model.context_length).to(model.logit_scale.device)


class Moments:
    """The sums of x x^T over all tokens x that attentions compute q, k and v of, {name of an attention: (d, d)}: the
    uncentred covariance of a task's inputs, but for a factor. ``widths`` {name: d}; ``like`` has the device.

    In float64, on the host where the device has no such type; the products themselves are in the model's type.
    """

    def __init__(self, widths, like):
        self.sums = {name: wide(like.new_zeros(width, width)) for name, width in widths.items()}

    def clear(self):
        for moment in self.sums.values():
            moment.zero_()

    @torch.no_grad()
    def add(self, model, images=None, tokens=None):
        """Encode images (B, 3, R, R) and token ids (N, L), padding included, in full precision and in the mode that the
        model is in; a tower without an attention of ``widths`` is skipped."""
        given, towers = [], {is_of_images(name) for name in self.sums}
        if images is not None and True in towers:
            given.append((model.encode_image, images, {}))
        if tokens is not None and False in towers:
            given += [(model.encode_text, part, {"cut": False}) for part in tokens.split(TEXTS_AT_ONCE)]
        # Under autocast, weights that are cast without gradient would be taken for the step around this too.
        with torch.autocast(model.logit_scale.device.type, enabled=False), no_tf32():
            for encode, inputs, options in given:
                with tapped(model) as seen:
                    encode(inputs, **options)
                for name in seen.keys() & self.sums.keys():
                    x = seen[name][0].flatten(0, 1)                                         # (tokens, d)
                    self.sums[name] += wide(x.mT @ x)

    def of_all(self, world):
        """The sums over the images of all processes; over the texts, which each process has, the mean of theirs."""
        return {name: world.sum(moment) / (1 if is_of_images(name) else world.size)
                for name, moment in self.sums.items()}


def is_of_images(name):
    """Whether a name is one of the image tower's."""
    return name.startswith("visual.")
