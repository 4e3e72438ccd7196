"""The processes of a run: who this one is, and what they exchange. Started by torchrun, one node:

    torchrun --nproc-per-node 2 -m src.main --method finetune --train-dataset DTD --iterations 1000 --lr 1e-5

Each process takes its own rows of every global batch. Gradients are averaged around the whole Step, and whatever has a
softmax over the batch sees all processes' features, so that one step of n processes is one step of one.
"""

import os

import torch
import torch.distributed as dist
from torch import nn


class World:
    """``rank`` of ``size`` processes. Without torchrun there is one, and every exchange is the identity."""

    def __init__(self):
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        self.first = self.rank == 0

    def start(self, device):
        """Meet the others; nothing to do alone. ``device`` tells the backend."""
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    def stop(self):
        if dist.is_initialized():
            dist.destroy_process_group()

    def rows(self, batch):
        """This process's part of a list that all of them know, equal parts in the order of the ranks."""
        part = len(batch) // self.size
        return batch[self.rank * part:(self.rank + 1) * part]

    def parallel(self, step):
        """The module whose backward averages gradients over the processes."""
        return step if self.size == 1 else nn.parallel.DistributedDataParallel(step, broadcast_buffers=False)

    def gather(self, features):
        """(n, D) of each process -> (n * size, D) in the order of the ranks, with gradient: what the others do with
        these features flows back here."""
        return features if self.size == 1 else _Gather.apply(features)

    def sum(self, tensor):
        """The sum over all processes, on each of them."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def first_then_others(self, work):
        """``work()`` in the first process, then in the others: it may download or write a list that they then find."""
        if self.size > 1 and not self.first:
            dist.barrier()
        result = work()
        if self.size > 1 and self.first:
            dist.barrier()
        return result

    def collect(self, thing):
        """[each process's thing], any that can be pickled, on each of them."""
        if self.size == 1:
            return [thing]
        found = [None] * self.size
        dist.all_gather_object(found, thing)
        return found


class _Gather(torch.autograd.Function):
    """All-gather forward, reduce-scatter backward."""

    @staticmethod
    def forward(context, features):
        found = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(found, features.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(context, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)  # gloo has no reduce-scatter
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
