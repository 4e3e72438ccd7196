"""Run the first steps of a planned run, to measure their time and the peak of memory."""

import contextlib
import time
from dataclasses import dataclass

from src.machine.progress import clock
from src.models.training import train
from src.run.build import build_task, is_closed_form
from src.run.plan.work import settings_of

PROBED = 3  # steps


class Enough(Exception):
    """Signal that the last probed step is done."""


@dataclass(frozen=True)
class Probe:
    """Hold the seconds until the first step begins, of the first step and of a later one, and the peak memory
    in bytes."""

    before: float
    first: float
    step: float
    peak: int


def probe(run, name, start, zeroshot):
    """Run the first steps of the first task and keep nothing of them. -> Probe, or None if it has no steps"""
    if is_closed_form(run.training):
        return None
    run.device.forget_peak()
    times = [time.perf_counter()]
    state, hooks = build_task(run.training, run.datasets, name, start, run.device, zeroshot, run.basis)
    state.world = run.world
    last = min(PROBED, state.settings.iterations)

    def report(state, losses):
        for value in losses.values():
            value.item()  # waits for the step to finish
        times.append(time.perf_counter())
        if state.iteration == last:
            raise Enough
    with contextlib.suppress(Enough), run.device.enough_memory(f"--batch-size {run.training.batch_size}"):
        train(state, hooks, report, lambda state, hooks: times.append(time.perf_counter()))
    began, begun, *done = times
    return Probe(begun - began, done[0] - begun, (done[-1] - done[0]) / max(1, len(done) - 1) or done[0] - begun,
                 run.device.peak_memory())


def probe_text(training, datasets, names, probed):
    if not names:
        return "an evaluation has no steps"
    if probed is None:
        settings = settings_of(training, datasets, names[0])
        return "not run: " + ("a closed form has no steps" if settings and not settings.iterations
                              else "see what is missing")
    steps = sum(settings_of(training, datasets, name).iterations for name in names)
    return (f"{probed.step:.3f} s per step after a first one of {probed.first:.2f} s; {probed.before:.1f} s before it\n"
            f"{steps} steps in all: about {clock(steps * probed.step + len(names) * probed.before)}, evaluations not "
            f"counted\npeak memory {probed.peak / 2 ** 30:.2f} GiB")
