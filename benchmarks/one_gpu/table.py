"""The parts, by importance, and their budgets. Needs no torch, since the supervisor reads it."""

import importlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """``where``: "module:function" of this package, called with a Setting and a dict to fill in.
    ``seconds``: its budget, after which it is stopped. ``cuda_only``: skipped on a CPU."""

    where: str
    seconds: float
    cuda_only: bool = False

    def load(self):
        """Import and return the function; a missing package is an error of this part alone."""
        module, name = self.where.split(":")
        return getattr(importlib.import_module(f"benchmarks.one_gpu.{module}"), name)


PARTS = {
    "env": Part("machine:env", 45),
    "rates": Part("machine:rates", 25),
    "parity": Part("steps:parity", 45),
    "cli_toy": Part("commands:toy", 100),
    "steps": Part("steps:steps", 100),
    "kernels": Part("kernels:kernels", 80),
    "cli_jpeg": Part("commands:jpeg", 110),
    "evaluation": Part("commands:evaluation", 45),
    "nccl": Part("machine:nccl", 30, cuda_only=True),
    "ogd": Part("steps:ogd", 30),
    "nvjpeg": Part("machine:nvjpeg", 20, cuda_only=True),
    "bench": Part("steps:bench", 120),
    "compiled": Part("kernels:compiled", 110),
    "kernels_compiled": Part("kernels:kernels_compiled", 90),
    "cli_compile": Part("commands:compiled", 110),
    "projections": Part("projections:projections", 40),
    "host": Part("host:host", 80),
    "graph": Part("host:graph", 50, cuda_only=True),
    "changes": Part("changes:changes", 110),
    "changes_parity": Part("changes:changes_parity", 40),
    "changes_finetune": Part("changes:changes_finetune", 80),
    "packing": Part("packing:packing", 100),
    "casts": Part("casts:casts", 40),
    "nusa": Part("nusa:nusa", 90),
}
