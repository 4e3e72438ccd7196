"""Several processes of one run, as torchrun would start them, but forked from a server that has imported everything.
Nobody supervises them: one that waits for a dead one would wait for good."""

import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

PRELOADED = ["src.main", "src.run", "src.models.icarl", "src.models.modx", "src.models.gradients",
             "src.models.penalties", "src.datasets.toy", "peft", "torch._dynamo", "torch.nn.parallel", __name__]


@dataclass(frozen=True)
class At:
    """What a rank does before a step of a task: raises (``by`` None), or sends itself a signal."""

    rank: int
    step: int
    task: str = ""
    by: signal.Signals | None = None


def server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class Ranks:
    """``size`` processes of ``target(rank, *arguments)``, started; what rank R says goes to ``log`` with the suffix R.
    """

    def __init__(self, context, size, log, target, *arguments):
        self.logs = [Path(f"{log}.{rank}") for rank in range(size)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        told = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.processes = [context.Process(target=_rank, args=(rank, told, self.logs[rank], target, arguments))
                          for rank in range(size)]
        for process in self.processes:
            process.start()

    def send(self, number, ranks=None):
        for rank in range(len(self.processes)) if ranks is None else ranks:
            if self.processes[rank].is_alive():
                os.kill(self.processes[rank].pid, number)

    def join(self, seconds=60):
        """The exit statuses; all must have ended within so many seconds."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, end - time.monotonic()))
        late = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        self.send(signal.SIGKILL)
        assert not late, f"processes {late} did not end within {seconds} s: {self.told()}"
        return [process.exitcode for process in self.processes]

    def told(self):
        return "".join(log.read_text(encoding="utf-8") for log in self.logs if log.exists())


def _rank(rank, told, log, target, arguments):
    os.environ.update(told, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    with open(log, "a", encoding="utf-8", buffering=1) as file:
        sys.stdout = sys.stderr = file
        sys.exit(target(rank, *arguments))


def command_line(rank, words, plan=None):
    """A target: ``src.main`` with these words, and what the plan, an At, makes a rank do."""
    from src.main import main
    if plan and plan.rank == rank:
        _act(plan)
    return main([str(word) for word in words])


def _act(plan):
    from src.models import training
    seed_step = training.seed_step

    def act(state):
        if state.iteration == plan.step and state.task.name.endswith(plan.task):
            if plan.by is None:
                raise ValueError(f"process {plan.rank} fails")
            os.kill(os.getpid(), plan.by)
        seed_step(state)
    training.seed_step = act


def steps_done(told):
    """The steps after which a run was interrupted, or went on."""
    return [int(step) for step in re.findall(r"goes on after step (\d+)", told)]
