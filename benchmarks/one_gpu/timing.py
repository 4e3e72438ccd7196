"""Timing of work on the device."""

import time

import torch

MOST = 3.0  # seconds per figure


def timed(setting, work, steps=20, warm=3):
    """Return {"s": mean seconds of back-to-back steps, "host_s": until the host is free, "steps"}, and on
    CUDA "median_s", "least_s", "greatest_s" from events and "peak_bytes". Takes fewer steps if they would
    exceed MOST.

    The device's queue holds about a thousand launches: if the device is slower, the host waits for it too,
    and "host_s" is nearly "s". Steps of a few images show what the host needs by itself.
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
    """Return the seconds of one call, including the device's part."""
    setting.wait()
    began = time.perf_counter()
    work()
    setting.wait()
    return time.perf_counter() - began


def _affordable(setting, work, steps, warm):
    """Warm up and return how many steps fit."""
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
