"""Host time of a step, and what shortens it: alternated variants, profiles, the whole step as a CUDA graph."""

import contextlib
import cProfile
import gc
import pstats
import resource
import statistics
import time
from pathlib import Path

import torch

from benchmarks.one_gpu.kernels import all_of, with_foreach_l2, with_gelu, with_one_forward
from benchmarks.one_gpu.setting import no_cudnn_attention, rows
from benchmarks.one_gpu.steps import build, furthest, padded, sizes, with_l2
from benchmarks.one_gpu.timing import first_call, timed

ROUNDS = 21
TOP = 25  # functions per profile
CALLS = 2000  # repetitions of work that takes microseconds
AS_IT_IS = "as it is"


# -- contexts of a step ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_thread():
    """Limit CPU operations to one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def no_collection():
    """Disable Python's garbage collector."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def backward_here():
    """Run backward in the calling thread."""
    return torch.autograd.set_multithreading_enabled(False)


@contextlib.contextmanager
def all_contexts():
    """Enter all contexts of VARIANTS."""
    with no_cudnn_attention(), one_thread(), no_collection(), backward_here():
        yield


FEWER_LAUNCHES = all_of(padded, with_one_forward, with_foreach_l2)
VARIANTS = {  # name: (change of the step, context around it)
    AS_IT_IS: (None, contextlib.nullcontext),
    "one thread": (None, one_thread),
    "backward in this thread": (None, backward_here),
    "no garbage collection": (None, no_collection),
    "attention without cuDNN": (None, no_cudnn_attention),
    "padded prompts": (padded, contextlib.nullcontext),
    "one forward for both batches": (with_one_forward, contextlib.nullcontext),
    "l2 as it is": (with_l2, contextlib.nullcontext),
    "l2 by foreach": (with_foreach_l2, contextlib.nullcontext),
    "l2, all of these": (FEWER_LAUNCHES, all_contexts),
}


# -- parts -------------------------------------------------------------------------------------------------------------


def host(setting, found):
    """Measure the cost of single calls, alternated steps of all variants, phases of a step, and two profiles."""
    steps = built(setting)
    rows(setting, found, {
        "calls, us": lambda: calls(setting),
        "in turns": lambda: turns(setting, steps),
        "phases": lambda: phases(setting, steps[AS_IT_IS]),
        "python": lambda: python_profile(setting, steps[AS_IT_IS]),
        "dispatcher": lambda: dispatcher_profile(setting, steps[AS_IT_IS]),
    })


def zscl(setting):
    """Return the ZSCL step of most rows."""
    use = sizes(setting)
    return build(setting, use["model"], "bf16", use["batch"], 100, use["sentences"])


def built(setting):
    """Return {name: step}; variants that differ only in context share one."""
    plain, steps = zscl(setting), {}
    for name, (change, _) in VARIANTS.items():
        steps[name] = plain
        if change is not None:
            steps[name] = zscl(setting)
            change(steps[name])
    return steps


def turns(setting, steps):
    """Return {name: seconds of single steps, and of the host's part}, one step of each per round."""
    seconds = {name: [] for name in VARIANTS}
    rounds = 3 if setting.tiny else ROUNDS + 2
    for _ in range(rounds):
        if setting.left() < 12:  # for the profiles
            break
        for name, (_, context) in VARIANTS.items():
            with context():
                seconds[name].append(one_step(setting, steps[name]))
    warm = 1 if setting.tiny else 2
    return {name: summary(measured[warm:]) for name, measured in seconds.items()}


def one_step(setting, step):
    """Return the seconds of a step, of it until the host is free, and the user and system time of all
    threads until then."""
    setting.wait()
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    step()
    free, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    setting.wait()
    whole = time.perf_counter() - began
    return whole, free - began, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


def summary(turns):
    """Summarise [(whole, until the host is free, user, system)] by medians, minimum and maximum."""
    whole, until_free, user, system = zip(*turns, strict=True)
    return {"median_s": statistics.median(whole), "least_s": min(whole), "greatest_s": max(whole),
            "host_median_s": statistics.median(until_free), "host_least_s": min(until_free),
            "user_s": statistics.median(user), "system_s": statistics.median(system), "steps": len(turns)}


def calls(setting):
    """Return {work: median host microseconds per call}: the minimum cost of a launch, and the cost of Python."""
    here, there = torch.zeros(8), torch.zeros(8, device=setting.device)
    weight = torch.zeros(8, 8, device=setting.device, requires_grad=True)

    def linear():
        with torch.autocast(setting.device, torch.bfloat16):
            torch.nn.functional.linear(there, weight)
    table = {"nothing": lambda: None, "perf_counter": time.perf_counter, "empty": lambda: torch.empty_like(there),
             "view": lambda: there.view(2, 4), "add_ on the CPU": lambda: here.add_(1),
             "add_ on the device": lambda: there.add_(1), "linear under autocast, with graph": linear}
    return {name: microseconds(setting, work) for name, work in table.items()}


def microseconds(setting, work, repeats=5):
    """Return the median over ``repeats`` of the host's microseconds per call."""
    count, found = 20 if setting.tiny else CALLS // repeats, []
    work()
    for _ in range(repeats):
        setting.wait()
        began = time.perf_counter()
        for _ in range(count):
            work()
        found.append((time.perf_counter() - began) / count)
    return 1e6 * statistics.median(found)


def phases(setting, step, count=10):
    """Return the median host seconds of forward, backward and optimiser, without waiting in between."""
    found = {"forward_s": [], "backward_s": [], "optimizer_s": []}
    for _ in range(3 if setting.tiny else count):
        setting.wait()
        marks = [time.perf_counter()]
        loss = sum(step.losses().values())
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        step.state.optimizer.step()
        step.state.optimizer.zero_grad(set_to_none=True)
        marks.append(time.perf_counter())
        for seconds, before, after in zip(found.values(), marks, marks[1:], strict=False):
            seconds.append(after - before)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def python_profile(setting, step, count=5):
    """Return Python's functions ranked by own time, which cProfile inflates; backward is one function here."""
    profiler = cProfile.Profile()
    setting.wait()
    profiler.enable()
    for _ in range(count):
        step()
    profiler.disable()
    stats = pstats.Stats(profiler).stats
    ranked = sorted(stats.items(), key=lambda entry: -entry[1][2])
    return {"columns": ["function", "calls per step", "ms per step"],
            "whole_ms": 1000 * sum(entry[2] for entry in stats.values()) / count,
            "top": [[_place(*where), entry[1] / count, 1000 * entry[2] / count] for where, entry in ranked[:TOP]]}


def _place(file, line, name):
    """Return "folder/file:line name", without the rest of the path."""
    return f"{'/'.join(Path(file).parts[-2:])}:{line} {name}"


def dispatcher_profile(setting, step, count=2):
    """Return operations and driver calls ranked by own host time, which the profiler inflates."""
    from torch.profiler import ProfilerActivity
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.cuda else [])]
    with torch.profiler.profile(activities=kinds) as profiler:
        for _ in range(count):
            step()
        setting.wait()
    ranked = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return {"columns": ["operation", "calls per step", "ms per step"],
            "whole_ms": sum(event.self_cpu_time_total for event in ranked) / 1000 / count,
            "top": [[event.key[:90], event.count / count, event.self_cpu_time_total / 1000 / count]
                    for event in ranked[:TOP]]}


# -- the step as a CUDA graph ------------------------------------------------------------------------------------------


class StaticStep:
    """The body of an OurStep with nothing decided on the host: a capturable optimiser, a rate on the
    device, new gradients."""

    def __init__(self, step, capturable):
        settings = step.settings
        self.step = step
        parameters = [value for group in step.state.optimizer.param_groups for value in group["params"]]
        rate = torch.tensor(settings.lr, device=parameters[0].device)
        self.optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, settings.beta2), eps=settings.eps,
                                           weight_decay=settings.wd, fused=True, capturable=capturable)

    def __call__(self):
        """Take one step and return the loss before it. Gradients are kept."""
        loss = sum(self.step.losses().values())
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def forget_gradients(self):
        self.optimizer.zero_grad(set_to_none=True)


def captured(static, warm=3):
    """Return (graph of one step, its loss, losses of ``warm`` steps before it)."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    losses = []
    with torch.cuda.stream(aside):
        for _ in range(warm):
            losses.append(static())
            static.forget_gradients()
    torch.cuda.current_stream().wait_stream(aside)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = static()
    return graph, loss, losses


def graph(setting, found):
    """Replay the whole step from a CUDA graph; an error names what cannot be captured."""
    rows(setting, found, {
        "eager": lambda: timed(setting, zscl(setting)),
        "whole step": lambda: graph_row(setting),
        "whole step, all": lambda: graph_row(setting, all_of(FEWER_LAUNCHES, with_gelu)),
        "whole step, recipe's l2": lambda: graph_row(setting, with_l2),
        "finetune batch 8": lambda: graph_row(setting, options=(8, 47, 0)),
        "student's image tower alone": lambda: tower_row(setting),
    }, least=6.0)


def graph_row(setting, change=None, options=None):
    """Return the seconds of a replay and of capturing, and how far its losses differ from those of single steps."""
    use = sizes(setting)
    options = options or (use["batch"], 100, use["sentences"])
    step, other = (build(setting, use["model"], "bf16", *options) for _ in range(2))
    for each in (step, other) if change else ():
        change(each)
    expected = [other().item() for _ in range(6)]
    del other
    setting.tidy()
    made = []
    seconds = first_call(setting, lambda: made.append(captured(StaticStep(step, capturable=True))))
    [(graph, loss, losses)] = made
    losses = [value.item() for value in losses]
    for _ in range(3):
        graph.replay()
        losses.append(loss.item())
    apart = furthest(losses, expected)
    return {"capture_s": seconds, "losses": losses, "losses_differ": apart, **timed(setting, graph.replay)}


def tower_row(setting):
    """Return the seconds of a step with one forward for both batches and only the student's image tower as
    a graph."""
    step, other = (zscl(setting) for _ in range(2))
    for each in (step, other):
        with_one_forward(each)
    expected = [other().item() for _ in range(3)]
    del other
    setting.tidy()
    visual, reference = step.state.model.visual, next(step.method.reference_images)
    images = torch.cat([step.batch.images, reference.images])

    def capture():
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            torch.cuda.make_graphed_callables(visual, (images,))
    seconds = first_call(setting, capture)
    losses = [step().item() for _ in range(3)]
    apart = furthest(losses, expected)
    return {"capture_s": seconds, "losses": losses, "losses_differ": apart, **timed(setting, step)}
