"""The operations of a step, each of which a GPU's host starts, stay as few as they are."""

import pytest
import torch
from torch.nn import functional

from benchmarks.operations import Operations, count, step_of


@pytest.fixture(autouse=True)
def words(monkeypatch):
    """One token a word: the vocabulary is not needed."""
    from benchmarks import gpu
    from clip import tokenizer
    monkeypatch.setattr(tokenizer, "encode", tokenizer.encode)
    gpu.tokens_by_word()


@pytest.fixture(autouse=True)
def as_torch_computes(monkeypatch):
    """Kernels as torch has them: tests/tools/summation_order sums in another order, by more of them."""
    for owner, name in ((functional, "linear"), (functional, "layer_norm"), (torch.Tensor, "__matmul__")):
        monkeypatch.setattr(owner, name, getattr(getattr(owner, name), "plain", getattr(owner, name)))


def test_what_is_counted():
    """Two products and a sum do work; a view, an allocation and a tensor that is taken as it is do not."""
    x = torch.ones(2, 3)
    with Operations() as operations:
        y = x.T.view(6, 1) if x.T.is_contiguous() else x.view(2, 3)[:1]
        (y * 2 @ torch.empty(3, 1)).detach().sum()
    assert operations.found == {"mul": 1, "mm": 1, "sum": 1} and operations.total == 3


@pytest.mark.parametrize(("options", "most", "before"), [
    ({}, 1850, 3784), ({"l2": True}, 2150, 5896), ({"references": 0}, 1500, 2750)], ids=str)
def test_operations_of_a_step(options, most, before):
    """1736, 2048 and 1394 with torch 2.15. ``before``: packed prompts, two forwards, a penalty tensor by tensor and
    autograd's activation."""
    found = count(step_of(**options)).total
    assert 0.5 * most < found <= most < before
