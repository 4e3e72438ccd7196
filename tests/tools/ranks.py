"""Several processes of one run, as torchrun would start them, but forked from a server that has imported everything.
Only ``supervise`` ends them after a failure: without it, a process that waits for a dead one waits for good.

Python starts one such server, with the imports that its first user names: every test that forks takes it from here."""

import faulthandler
import multiprocessing
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from this_machine import THREADS

PRELOADED = ["src.main", "src.run.sequence", "src.models.icarl", "src.models.modx", "src.models.gradients",
             "src.models.penalties", "src.datasets.toy", "peft", "torch._dynamo", "torch.nn.parallel",
             "matplotlib.figure", "matplotlib.backends.backend_agg", "src.report.page", "pytest", __name__]


@dataclass(frozen=True)
class At:
    """What a rank does before a step of a task: raises (``by`` None), or sends itself a signal."""

    rank: int
    step: int
    task: str = ""
    by: signal.Signals | None = None


def server():
    """-> the context of multiprocessing whose processes are forked from it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    first = context.Process(target=int)  # whose start waits for the imports: times of those that follow are their own
    first.start()
    first.join()
    return context


class Ranks:
    """``size`` processes of ``target(rank, *arguments)``, started; rank R prints to ``log`` with the suffix R."""

    def __init__(self, context, size, log, target, *arguments):
        self.logs = [Path(f"{log}.{rank}") for rank in range(size)]
        self.store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun's
        environment = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port),
                       "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        self.processes = [context.Process(target=_rank, args=(rank, environment, self.logs[rank], target, arguments))
                          for rank in range(size)]
        for process in self.processes:
            process.start()

    def send(self, number, ranks=None):
        for rank in range(len(self.processes)) if ranks is None else ranks:
            if self.processes[rank].is_alive():
                os.kill(self.processes[rank].pid, number)

    def join(self, seconds=60):
        """Return the exit statuses; all must have ended within ``seconds``."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, end - time.monotonic()))
        late = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        self.send(signal.SIGABRT)  # whose handler prints where they are
        for process in self.processes:
            process.join()
        assert not late, f"processes {late} did not end within {seconds} s: {self.printed()}"
        return [process.exitcode for process in self.processes]

    def supervise(self, seconds):
        """Join; once one has failed, end the others by SIGTERM, as torchrun does."""
        while all(process.is_alive() or process.exitcode == 0 for process in self.processes) and any(
                process.is_alive() for process in self.processes):
            time.sleep(0.1)  # torchrun's
        self.send(signal.SIGTERM)
        return self.join(seconds)

    def printed(self):
        return "".join(log.read_text(encoding="utf-8") for log in self.logs if log.exists())


def _rank(rank, environment, log, target, arguments):
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(THREADS)
    sys.stdout = sys.stderr = open(log, "a", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)  # of torch itself
    faulthandler.enable()
    sys.exit(target(rank, *arguments))


def command_line(rank, words, plan=None):
    """A target: ``src.main`` with these words, {rank} in them filled in, and what the plan, an At, makes a rank do."""
    from src.main import main
    if plan and plan.rank == rank:
        _act(plan)
    return main([str(word).replace("{rank}", str(rank)) for word in words])


def _act(plan):
    from src.models import training
    seed_step, stderr = training.seed_step, sys.stderr

    def act(state):
        if state.iteration == plan.step and state.task.name.endswith(plan.task):
            print(f"acts at {time.time()}", file=stderr, flush=True)
            if plan.by is None:
                raise ValueError(f"process {plan.rank} fails")
            os.kill(os.getpid(), plan.by)
        seed_step(state)
    training.seed_step = act


def acted_at(printed):
    """Return when the plan was carried out, in seconds of time.time()."""
    return float(re.search(r"acts at ([\d.]+)", printed)[1])


def steps_done(printed):
    """The steps after which a run was interrupted, or resumed."""
    return [int(step) for step in re.findall(r"resumes after step (\d+)", printed)]
