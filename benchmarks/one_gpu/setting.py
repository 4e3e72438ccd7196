"""What every part is given, and how it keeps what it has."""

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
    """What every part is given. ``out``: the folder that is kept; ``work``: one that is not; ``ends``: when the part
    is stopped, on the clock of ``time.perf_counter``; ``keep()`` writes what the part has so far."""

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
        """Seconds until the part is stopped."""
        return self.ends - time.perf_counter()

    def wait(self):
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def tidy(self):
        """Free what nothing holds any more."""
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
    """Fill in ``found[name] = work()`` for each row; one that fails leaves the others, and none begins with less than
    ``least`` seconds left."""
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
