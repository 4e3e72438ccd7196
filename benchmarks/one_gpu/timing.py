"""Seconds of a piece of work on the device."""

import time

import torch

MOST = 3.0  # seconds that one figure may take


def timed(setting, work, steps=20, warm=3):
    """Return {"s": mean of a step back to back, "host_s": of it until the host is free, "steps"} and on CUDA
    "median_s", "least_s", "greatest_s" by events and "peak_bytes". Fewer steps where they would take over MOST.

    The device's queue holds about a thousand launches: where the device is the slower one, the host waits for it too,
    and "host_s" is nearly "s". What the host needs by itself shows in steps of a few images.
    """
    steps = _affordable(setting, work, steps, warm)
    if setting.cuda:
        torch.cuda.reset_peak_memory_stats()
    marks, host = [_mark(setting)], 0.0
    began = time.perf_counter()
    for _ in range(steps):
        start = time.perf_counter()
        work()
        host += time.perf_counter() - start
        marks.append(_mark(setting))
    setting.wait()
    seconds = time.perf_counter() - began
    return {"s": seconds / steps, "host_s": host / steps, "steps": steps, **_by_events(setting, marks)}


def first_call(setting, work):
    """Return the seconds of one call, the device's part included."""
    setting.wait()
    began = time.perf_counter()
    work()
    setting.wait()
    return time.perf_counter() - began


def _affordable(setting, work, steps, warm):
    """Warm up, and return how many steps fit."""
    for _ in range(max(1, warm - 1)):
        work()
    seconds = first_call(setting, work)
    if setting.tiny:
        return 3
    return max(3, min(steps, int(MOST / max(seconds, 1e-9))))


def _mark(setting):
    if not setting.cuda:
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _by_events(setting, marks):
    if not setting.cuda:
        return {}
    seconds = sorted(before.elapsed_time(after) / 1000 for before, after in zip(marks, marks[1:], strict=False))
    return {"median_s": seconds[len(seconds) // 2], "least_s": seconds[0], "greatest_s": seconds[-1],
            "peak_bytes": torch.cuda.max_memory_allocated()}
