"""Sum in another order, as the kernels of another machine do: with this folder in PYTHONPATH, every Python process adds
the products of a matrix multiplication from the last to the first.

    PYTHONPATH=tests/tools/summation_order python -m pytest tests/test_x.py

Results change by rounding only. Memory that nothing has written yet holds NaN, not what is left of something else, so
that a value shows which is read before it is written. Torch is patched after its import, never imported here: some
tests check that it stays unloaded.
"""

import ctypes
import functools
import importlib
import importlib.abc
import importlib.util
import sys


def patch(torch):
    """Replace linear layers, ``@``, the normalisation of layers and what allocates."""
    functional = torch.nn.functional
    linear, layer_norm, matmul = functional.linear, functional.layer_norm, torch.Tensor.__matmul__

    def reversed_linear(input, weight, bias=None):
        return linear(input.flip(-1), weight.flip(-1), bias)

    def reversed_matmul(left, right):
        if not isinstance(right, torch.Tensor) or right.ndim < 1 or left.is_sparse or right.is_sparse:
            return matmul(left, right)
        return matmul(left.flip(-1), right.flip(-2 if right.ndim > 1 else -1))

    def reversed_layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
        if len(normalized_shape) != 1:
            return layer_norm(input, normalized_shape, weight, bias, eps)
        weight, bias = (None if value is None else value.flip(-1) for value in (weight, bias))
        return layer_norm(input.flip(-1), normalized_shape, weight, bias, eps).flip(-1)

    for owner, reversed_one, plain in ((functional, reversed_linear, linear),
                                       (functional, reversed_layer_norm, layer_norm),
                                       (torch.Tensor, reversed_matmul, matmul)):
        reversed_one.plain = plain  # for tests that count kernels
        setattr(owner, plain.__name__, reversed_one)
    # Which functions `with torch.device(...)` acts on is found once: before they are others.
    importlib.import_module("torch.utils._device")._device_constructors()
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        setattr(owner, name, filled_with_nan(torch, getattr(owner, name)))


def filled_with_nan(torch, allocate):
    """Return the same function, what it allocates on the host filled where that can hold NaN, past torch, so that no
    counter of operations sees it."""
    @functools.wraps(allocate)
    def filled(*args, **kwargs):
        found = allocate(*args, **kwargs)
        if type(found) is torch.Tensor and found.device.type == "cpu" and found.is_floating_point():
            ctypes.memset(found.data_ptr(), 0xFF, found.nbytes)  # of all types of floats a NaN
        return found
    return filled


class PatchTorch(importlib.abc.MetaPathFinder):
    """Find torch as usual, and patch it after its import."""

    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            patch(module)
        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, PatchTorch())
