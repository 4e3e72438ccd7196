"""Which matrix products run while torch's flag allows TF32; without a GPU the flag changes no number."""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    with contextlib.ExitStack() as stack:
        for backend in backends:
            stack.callback(setattr, backend, "allow_tf32", backend.allow_tf32)
            backend.allow_tf32 = True
        yield stack.enter_context(_Products()).allowed
        assert all(backend.allow_tf32 for backend in backends)
