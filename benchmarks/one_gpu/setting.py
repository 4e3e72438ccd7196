"""What every part receives, and how it keeps its figures."""

import contextlib
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.harness import nothing


@dataclass
class Setting:
    """What every part receives. ``out``: the folder that is kept; ``work``: a temporary one; ``ends``: when
    the part is stopped, on the clock of ``time.perf_counter``; ``keep()`` writes the figures so far."""

    out: Path
    work: Path
    device: str = "cuda"
    tiny: bool = False
    ends: float = float("inf")
    keep: Callable = nothing

    @property
    def cuda(self):
        return self.device == "cuda"

    def left(self):
        """Return the seconds until the part is stopped."""
        return self.ends - time.perf_counter()

    def wait(self):
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def tidy(self):
        """Free unreferenced memory."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()


@contextlib.contextmanager
def no_cudnn_attention():
    """Keep cuDNN out of attention."""
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


def rows(setting, found, table, least=4.0):
    """Fill in ``found[name] = work()`` for each row. A failed row does not affect the others, and none
    starts with less than ``least`` seconds left."""
    for name, work in table.items():
        if setting.left() < least:
            found[name] = {"skipped": "no time left in this part"}
            continue
        try:
            found[name] = work()
        except Exception as error:
            found[name] = {"error": repr(error)[:500]}
        setting.tidy()
        setting.keep()
