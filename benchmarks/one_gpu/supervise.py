"""Start a worker and watch it; if it dies or hangs, start another one for the remaining parts. Needs no torch."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.one_gpu.table import PARTS

ROOT = Path(__file__).parents[2]
GRACE = 20  # seconds past a part's budget after which its worker counts as hung in code that ignores signals
NO_DEVICE = 2  # exit status of a worker
BROKEN = 3  # exit status if the device no longer responds or a part was stopped anywhere: another worker takes over
LEAST = 10  # seconds of --until below which no part starts
GLANCE = 0.2  # seconds between two checks of the worker
FILE = "one_gpu.json"


def parser():
    """Return the command line's parser, which the worker shares."""
    found = argparse.ArgumentParser(prog="benchmarks.one_gpu", description="Measure one GPU in a few minutes")
    found.add_argument("--out", type=Path, required=True, help="folder of one_gpu.json and its companions")
    found.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    found.add_argument("--tiny", action="store_true", help="small sizes, for a trial")
    found.add_argument("--parts", type=names_of_parts, default=list(PARTS), help="comma-separated, in this order")
    found.add_argument("--until", type=float, default=525, help="seconds after which no part runs")
    return found


def names_of_parts(text):
    """Split "a,b" into names of known parts."""
    names = text.split(",")
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no part {unknown[0]}; choose from {', '.join(PARTS)}")
    return names


def read(out):
    """Return the figures so far, or ``{"parts": {}}``."""
    path = Path(out) / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"parts": {}}


def write(out, found):
    """Replace the file of figures atomically."""
    partial = Path(out) / (FILE + ".partial")
    partial.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
    partial.replace(Path(out) / FILE)


def main(words=None):
    """Measure the parts; return 0 even if some of them failed, 2 without a device."""
    arguments = parser().parse_args(words)
    arguments.out = arguments.out.absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(arguments.out, {"parts": {}})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = tempfile.mkdtemp(prefix="one_gpu_")
    try:
        return supervise(arguments, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def supervise(arguments, work):
    """Run workers until every part has its entry; return an exit status."""
    ends = time.time() + arguments.until
    left = arguments.parts
    while left and ends - time.time() > LEAST:
        status, reason = run_worker(command(arguments, left, work, ends), arguments.out, ends)
        if status == NO_DEVICE:
            return NO_DEVICE
        found = read(arguments.out)
        left = [name for name in left if name not in found["parts"]]
        begun = found.pop("running", None)
        if left and status != BROKEN:
            found["parts"][left[0]] = {**(begun or {}).get("figures", {}), "error": reason}
            print(f"{left[0]}: {reason}", file=sys.stderr, flush=True)
            left = left[1:]
        write(arguments.out, found)
    found = read(arguments.out)
    found["parts"] |= {name: {"skipped": "--until was reached"} for name in left}
    write(arguments.out, found)
    return 0


def command(arguments, left, work, ends):
    """Return the command that starts a worker."""
    words = [sys.executable, "-m", "benchmarks.one_gpu.worker", "--out", str(arguments.out), "--device",
             arguments.device, "--parts", ",".join(left), "--work", work, "--ends", str(ends)]
    return [*words, "--tiny"] if arguments.tiny else words


def run_worker(words, out, ends, grace=None):
    """Run a worker to its end, or kill it and its children if it hangs; return (status, how it ended)."""
    grace = GRACE if grace is None else grace
    job = subprocess.Popen(words, cwd=ROOT, preexec_fn=os.setpgrp)  # a group, for all of its children
    try:
        while job.poll() is None:
            running = read(out).get("running")
            deadline = running["ends"] if running else ends
            if time.time() > deadline + grace:
                return None, f"hung: no end {grace:.0f} s past its budget"
            time.sleep(GLANCE)
        return job.returncode, f"its process ended with status {job.returncode}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
