"""Attention in which a position sees itself and what stands before it, as text towers have it."""

import contextlib

import torch
import torch.nn.functional as F


def attend_backwards(query, key, value, sees=None):
    """3 x (n, H, L, d) -> (n, H, L, d). ``sees``, booleans (L, K), says which of K keys each query sees where they are
    not as many.

    On CUDA another kernel than cuDNN's, which builds a plan for each new shape, 0.14 s on an H200: texts have many
    shapes. Each call decides, so that backward's second pass through a block (``run_block``) takes the same kernel.
    """
    if query.device.type != "cuda" or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=sees, is_causal=sees is None)
    with without_cudnn():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=sees, is_causal=sees is None)


@contextlib.contextmanager
def without_cudnn():
    """Keep cuDNN's attention out of a block and leave the setting as it was."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
