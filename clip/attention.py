"""Causal attention, as in text towers: a position sees itself and all before it."""

import contextlib

import torch
import torch.nn.functional as F


def attend_backwards(query, key, value, sees=None):
    """Attend causally, 3 x (n, H, L, d) -> (n, H, L, d). ``sees``, booleans (L, K): which of K keys each
    query sees, if their number differs from the queries'.

    On CUDA this avoids cuDNN's kernel, which builds a plan for each new shape (0.14 s on an H200), because
    texts have many shapes. The choice is made in each call, so that backward's second pass through a block
    (``run_block``) uses the same kernel.
    """
    if query.device.type != "cuda" or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=sees, is_causal=sees is None)
    with without_cudnn():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=sees, is_causal=sees is None)


@contextlib.contextmanager
def without_cudnn():
    """Disable cuDNN's attention inside the context and restore the setting on exit."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
