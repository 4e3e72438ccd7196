"""Digests of weights, computed on their device."""

import functools
import hashlib
import itertools

import torch

WITHOUT_TEXT = ("visual.", "head.", "logit_scale")  # tensors of a CLIP that text features do not depend on
CHUNK, CHUNK_OF_CPU = 2 ** 20, 2 ** 16  # words of a tensor summed at a time; a CPU's cache holds fewer
WORD = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int32}  # a value's bits as integers, by its bytes


def text_fingerprint(model, modules=()):
    """Return a digest of all that a model's text features depend on: the architecture and the bits of every
    tensor, including those of ``modules`` in its towers."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    text = [(name, tensor) for name, tensor in tensors if not name.startswith(WITHOUT_TEXT)]
    beside = [(f"{number}.{name}", tensor) for number, module in enumerate(modules)
              for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers())]
    return fingerprint(text + beside, repr(model.architecture))


@torch.no_grad()
def fingerprint(named, more=""):
    """Return a hex digest of [(name, tensor)], all on one device, and a text ``more``.

    For each chunk of a tensor's bits, as 32-bit words w_i, it takes sum_i m_i w_i modulo 2^64 with random
    odd m_i: any change of one word changes the sum, and a change of several words keeps it with probability
    at most 2^-32. The sums are computed on the device, and the host waits once for all of them.
    """
    digest, sums = hashlib.blake2b(more.encode(), digest_size=16), []
    for name, tensor in named:
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape), tensor.device)).encode())
        sums += _sums(tensor)
    digest.update(repr(torch.stack(sums).tolist()).encode())
    return digest.hexdigest()


def _sums(tensor):
    """Return one scalar per chunk of a tensor's bits."""
    multipliers = _multipliers(tensor.device)
    words = tensor.contiguous().flatten().view(WORD[tensor.element_size()])
    return [(part * multipliers[:len(part)]).sum() for part in words.split(len(multipliers))]


@torch.no_grad()
def digests(tensors):
    """Return one number per tensor, all on one device, to detect which tensors change.

    The number is sum_r m_r (sum of the words of row r), with random odd m_r. It takes one pass at memory
    speed; only an exchange within a row goes undetected.
    """
    return torch.stack([_of_rows(tensor) for tensor in tensors]).tolist()


def _of_rows(tensor):
    rows = tensor.contiguous().flatten(1) if tensor.ndim > 1 else tensor.reshape(-1, 1)        # (R, N)
    sums = rows.view(WORD[tensor.element_size()]).sum(dim=1, dtype=torch.int64)                # (R,)
    multipliers = _multipliers(tensor.device)
    return sum(((part * multipliers[:len(part)]).sum() for part in sums.split(len(multipliers))), sums.new_zeros(()))


@functools.cache
def _multipliers(device):
    """Return odd 64-bit integers, one per word of a chunk, the same in every process."""
    count = CHUNK_OF_CPU if device.type == "cpu" else CHUNK
    drawn = torch.randint(-2 ** 63, 2 ** 63 - 1, (count,), generator=torch.Generator().manual_seed(0))
    return (drawn | 1).to(device)
