"""Inputs of the attention layers of CLIP's towers, captured while a model runs."""

import contextlib

import torch

import clip
from clip.model import ResidualAttentionBlock
from src.machine.device import no_tf32
from src.models.algebra import wide
from src.models.wrapped import BASE, plain_name

TEXTS_AT_ONCE = 64  # padded texts per pass, whose inputs to all layers are in memory


@contextlib.contextmanager
def tapped(model):
    """Capture the inputs of attentions inside the context.

    The yielded dict holds {name of an attention: (input of q, k and v, input of o)}, each (B, L, W),
    detached, from the last forward of its tower. Names are those of a plain CLIP, such as
    "visual.transformer.resblocks.0.attn". Layers may be wrapped; a model that recomputes blocks runs them
    twice.

    Cut or packed texts have fewer positions than padded ones: ``clip.model.CLIP.encode_text`` with
    ``cut=False`` has all.
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
    """Return the tokens (N, L) of one prompt per class, of all parts of the task, on the model's device."""
    model, parts = state.model, state.task.parts or [state.task]
    prompts = [prompt for part in parts for prompt in state.prompts(part)]
    return clip.tokenize(prompts, model.context_length).to(model.logit_scale.device)


class Moments:
    """Sums of x x^T over all inputs x of q, k and v, {name of an attention: (d, d)}: the uncentred
    covariance of a task's inputs up to a factor. ``widths`` {name: d}; ``like`` has the device.

    In float64, on the host if the device has no float64; the products themselves are in the model's dtype.
    """

    def __init__(self, widths, like):
        self.sums = {name: wide(like.new_zeros(width, width)) for name, width in widths.items()}

    def clear(self):
        for moment in self.sums.values():
            moment.zero_()

    @torch.no_grad()
    def add(self, model, images=None, tokens=None):
        """Add images (B, 3, R, R) and token ids (N, L), padding included, encoded in full precision and in
        the model's current mode; a tower without an attention of ``widths`` is skipped."""
        given, towers = [], {is_of_images(name) for name in self.sums}
        if images is not None and True in towers:
            given.append((model.encode_image, images, {}))
        if tokens is not None and False in towers:
            given += [(model.encode_text, part, {"cut": False}) for part in tokens.split(TEXTS_AT_ONCE)]
        # Under autocast, the surrounding step would reuse weights that were cast here without gradient.
        with torch.autocast(model.logit_scale.device.type, enabled=False), no_tf32():
            for encode, inputs, options in given:
                with tapped(model) as seen:
                    encode(inputs, **options)
                for name in seen.keys() & self.sums.keys():
                    x = seen[name][0].flatten(0, 1)                                         # (tokens, d)
                    self.sums[name] += wide(x.mT @ x)

    def of_all(self, world):
        """Return the sums over the images of all processes; for texts, which each process has, the mean
        over processes."""
        return {name: world.sum(moment) / (1 if is_of_images(name) else world.size)
                for name, moment in self.sums.items()}


def is_of_images(name):
    """Return whether a name belongs to the image tower."""
    return name.startswith("visual.")
