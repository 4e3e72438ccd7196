"""Attention backwards: what it sees, and cuDNN kept out of it on CUDA."""

import types

import pytest
import torch
import torch.nn.functional as F

from clip import attention
from clip.attention import attend_backwards, without_cudnn

CUDNN = torch.backends.cuda.cudnn_sdp_enabled


def heads(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_position_sees_itself_and_what_stands_before_it():
    """By hand: the softmax over the first i + 1 keys."""
    query, key, value = (heads(2, 3, 5, 4, seed=seed) for seed in range(3))
    found = attend_backwards(query, key, value)
    for place in range(5):
        scores = torch.einsum("nhd,nhkd->nhk", query[:, :, place], key[:, :, :place + 1]) / 4 ** 0.5
        expected = torch.einsum("nhk,nhkd->nhd", scores.softmax(-1), value[:, :, :place + 1])
        torch.testing.assert_close(found[:, :, place], expected)


def test_a_mask_says_what_is_seen():
    query, key, value = heads(2, 3, 2, 4, seed=0), heads(2, 3, 5, 4, seed=1), heads(2, 3, 5, 4, seed=2)
    sees = torch.tensor([[True, False, True, False, False], [True] * 5])
    found = attend_backwards(query, key, value, sees)
    torch.testing.assert_close(found[:, :, :1],
                               F.scaled_dot_product_attention(query[:, :, :1], key[:, :, ::2][:, :, :2],
                                                              value[:, :, ::2][:, :, :2]))
    torch.testing.assert_close(found[:, :, 1:], F.scaled_dot_product_attention(query[:, :, 1:], key, value))


@pytest.fixture
def calls(monkeypatch):
    """-> [whether cuDNN was allowed] of each call of attention."""
    found = []
    monkeypatch.setattr(attention.F, "scaled_dot_product_attention",
                        lambda *inputs, attn_mask, is_causal: found.append((CUDNN(), is_causal)))
    return found


def on(kind):
    return types.SimpleNamespace(device=torch.device(kind))


@pytest.mark.parametrize("before", [True, False])
def test_cudnn_is_out_on_cuda_and_what_was_set_comes_back(before, calls):
    torch.backends.cuda.enable_cudnn_sdp(before)
    try:
        attend_backwards(on("cuda"), None, None)
        attend_backwards(on("cuda"), None, None, sees=torch.ones(1, 1, dtype=torch.bool))
        assert CUDNN() is before
        attend_backwards(on("cpu"), None, None)
        with pytest.raises(ZeroDivisionError), without_cudnn():
            raise ZeroDivisionError
        assert CUDNN() is before
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)
    assert calls == [(False, True), (False, False), (before, True)]


def test_a_compiler_decides_for_itself(calls, monkeypatch):
    """Setting a flag would break its graph in every block."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    attend_backwards(on("cuda"), None, None)
    assert calls == [(True, True)]
