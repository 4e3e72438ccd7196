"""Two alternated ways to one result: times, ratios, and the file that keeps them. Needs only torch."""

import datetime
import json
import os
import platform
import statistics
import time
from importlib import metadata
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "open_clip_torch", "pillow")


class Mismatch(Exception):
    """The two sides do not compute the same, so there is nothing to time."""


def nothing():
    """Do nothing: there is no device to wait for."""


def in_turns(ours, peer, rounds, budget=None, wait=nothing, clock=time.perf_counter):
    """Alternate both sides, A B A B ..., and return their seconds ([ours], [peer]). Runs ``rounds`` of
    each, fewer if another pair would exceed ``budget`` seconds, at least one. ``wait`` waits for the
    device."""
    seconds, began = ([], []), clock()
    for number in range(rounds):
        for work, kept in zip((ours, peer), seconds, strict=True):
            wait()
            start = clock()
            work()
            wait()
            kept.append(clock() - start)
        if budget is not None and (clock() - began) * (number + 2) / (number + 1) > budget:
            break
    return seconds


def compared(name, ours, peer, tolerance):
    """Return {what, difference, tolerance}, the difference being the largest one relative to the peer's
    largest value; raise Mismatch if it exceeds the tolerance."""
    ours, peer = (torch.as_tensor(value).detach().double().cpu() for value in (ours, peer))
    if ours.shape != peer.shape:
        raise Mismatch(f"{name}: {tuple(ours.shape)} here, {tuple(peer.shape)} there")
    difference = ((ours - peer).abs().max() / peer.abs().max()).item()
    if not difference <= tolerance:
        raise Mismatch(f"{name}: differs by {difference:.1e} of the largest value, allowed is {tolerance:.0e}")
    return {"what": name, "difference": difference, "tolerance": tolerance}


def summary(ours, peer):
    """Return the medians of both lists of seconds, and the median, minimum and maximum of the ratios peer /
    ours of the pairs."""
    ratios = [there / here for here, there in zip(ours, peer, strict=True)]
    return {"ours_s": statistics.median(ours), "peer_s": statistics.median(peer),
            "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
            "pairs": len(ratios), "seconds": {"ours": list(ours), "peer": list(peer)}}


def versions():
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def surroundings():
    """Return where and with what a figure was measured, and the machine's load."""
    cuda = torch.cuda.is_available()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": {"processor": platform.machine(), "model": _processor(), "cores": os.cpu_count(),
                        "threads": torch.get_num_threads(), "load_at_start": load,
                        "device": torch.cuda.get_device_name() if cuda else "cpu"},
            "versions": versions()}


def _processor():
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def result_file(row, size, folder=RESULTS):
    return Path(folder) / f"{row}-{size}.json"


def read_results(path):
    """Return all results of a row and size, oldest first; [] without a file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def is_measured(path, options):
    """Return whether the latest result has these options and the installed versions."""
    latest = (read_results(path) or [None])[-1]
    return bool(latest) and latest["versions"] == versions() and latest["options"] == json.loads(json.dumps(options))


def keep(path, result):
    """Append a result to its file, replacing the file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps([*read_results(path), result], indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
