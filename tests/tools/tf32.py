"""Which matrix products run while torch's flag allows TF32; without a GPU the flag changes no number."""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from src.machine.device import tf32_as_before, tf32_backends

PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_")


class _Products(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.allowed = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.overloadpacket.__name__ in PRODUCTS:
            self.allowed.append(torch.backends.cuda.matmul.allow_tf32)
        return function(*arguments, **(options or {}))


@contextlib.contextmanager
def under_tf32():
    """As with --tf32; yields a list that gets, of each matrix product, whether TF32 is allowed."""
    with tf32_as_before(), _Products() as products:
        for backend in tf32_backends():
            backend.allow_tf32 = True
        yield products.allowed
        assert all(backend.allow_tf32 for backend in tf32_backends())
