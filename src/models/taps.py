"""What the attention layers of CLIP's towers are given while a model runs."""

import contextlib

from clip.model import ResidualAttentionBlock
from src.models.wrapped import BASE, plain_name


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
