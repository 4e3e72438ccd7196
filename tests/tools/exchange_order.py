"""Two processes whose batches differ: in which order they exchange, and what gradients they get."""

import functools
import json

import torch
import torch.distributed as dist
from torch import nn

from src.machine.distributed import World, this_world

CASES = ("same", "part", "not used", "no gather")


class Towers(nn.Module):
    """Two layers before the gather; a third one that, of the case "part", the first process alone needs."""

    def __init__(self, case, world):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.extra = (nn.Linear(5, 5, dtype=torch.float64) for _ in range(3))
        self.case, self.world = case, world

    def forward(self, rank, gathered):
        """``gathered``: (3, 5) -> (6, 5)"""
        rows = self.second(self.first(inputs(rank)).tanh())                                  # (3, 5)
        loss = rows.square().mean()
        if self.case != "no gather":
            everything = gathered(rows)
            if self.case != "not used":
                loss = loss + (rows @ everything.T).sin().mean()
        if self.case != "part" or rank == 0:
            loss = loss + self.extra(rows).cos().mean()
        return loss


def inputs(rank):
    return torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))


def give(rank, folder):
    """A process of two: {case: {"order", "held", "gradients"}} into ``folder``. A bucket of DDP has few layers."""
    world, found = this_world(), {}
    world.start(torch.device("cpu"))
    wrap, dist._DEFAULT_FIRST_BUCKET_BYTES = nn.parallel.DistributedDataParallel, 1
    nn.parallel.DistributedDataParallel = functools.partial(wrap, bucket_cap_mb=1e-6)
    for case in CASES:
        module, order = Towers(case, world), []
        step = world.parallel(module)
        for _ in range(2):  # buckets are ordered anew behind the first step
            module.zero_grad()
            order.clear()
            with recorded(world, order) as held:
                step(rank, world.gather).backward()
        gradients = {name: value.grad.tolist() for name, value in module.named_parameters()
                     if value.grad is not None and name != "unused"}
        found[case] = {"order": order, "held": len(held), "gradients": gradients}
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    world.stop()
    return 0


class recorded:
    """While entered, ``order`` gets the exchanges of backward: ["gather" or "reduce", numbers]. -> the held buckets."""

    def __init__(self, world, order):
        self.order, self.rules, self.held = order, world._order, []

    def __enter__(self):
        self.reduce, self.average = dist.all_reduce, type(self.rules)._average
        release = self.rules._release

        def reduce(values, *words, **options):
            self.order.append(["gather" if values.dim() > 1 else "reduce", values.numel()])
            return self.reduce(values, *words, **options)

        def let_go():
            self.held += self.rules._held
            release()
        dist.all_reduce, self.rules._release = reduce, let_go
        return self.held

    def __exit__(self, *_):
        dist.all_reduce = self.reduce
        del self.rules._release


def expected(case):
    """{name: gradient} of the mean of both processes' losses, in one process."""
    module = Towers(case, World())
    rows = [module.second(module.first(inputs(rank)).tanh()) for rank in (0, 1)]
    loss = sum(module(rank, lambda own, rank=rank: torch.cat([own if other == rank else rows[other]
                                                              for other in (0, 1)])) for rank in (0, 1)) / 2
    loss.backward()
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
