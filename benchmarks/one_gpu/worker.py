"""Measure parts one after another, each within its budget."""

import argparse
import contextlib
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
import torch._dynamo  # takes seconds, which would count against the budget of the part with the first optimiser

import benchmarks.gpu as gpu  # replaces missing text packages: before anything imports the tokenizer
from benchmarks.harness import surroundings
from benchmarks.one_gpu import children, supervise
from benchmarks.one_gpu.predictions import verdicts
from benchmarks.one_gpu.setting import Setting
from benchmarks.one_gpu.table import PARTS

AGAIN = 5  # seconds between two alarms, for code that swallows the first


class Overrun(BaseException):
    """A part's budget is over. Derives from BaseException so that `except Exception` in a part cannot swallow it."""


@contextlib.contextmanager
def alarm(seconds):
    """Raise Overrun in the block after ``seconds``."""
    def over(*_):
        raise Overrun
    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(setting, part, seconds, found):
    """Fill in the figures of one part and never raise for its errors; return whether it ran uncut."""
    began, whole = time.perf_counter(), True
    setting.ends = began + seconds
    try:
        with alarm(seconds):
            part.load()(setting, found)
    except Overrun:
        whole = False  # e.g. an import may have been cut
        found["error"] = f"stopped after {seconds:.0f} s, its budget"
    except (Exception, SystemExit) as error:
        found["error"] = repr(error)[:500]
        found["where"] = traceback.format_exc()[-1500:]
    children.kill_all()
    found["part_s"] = round(time.perf_counter() - began, 2)
    return whole


def works(setting):
    """Return whether the device still responds."""
    try:
        setting.wait()
        setting.tidy()
    except RuntimeError:
        return False
    return True


def run(setting, names, ends):
    """Measure the parts until ``ends``, in seconds of ``time.time``; return an exit status."""
    around = surroundings()
    place = f"{around['machine']['device']}, torch {torch.__version__}"
    for name in names:
        found = supervise.read(setting.out) | {"surroundings": around, "sizes": "tiny" if setting.tiny else "full"}
        part, left = PARTS[name], ends - time.time()
        figures, whole = {"on": place}, True
        if left < supervise.LEAST:
            figures["skipped"] = "--until was reached"
        elif part.cuda_only and not setting.cuda:
            figures["skipped"] = "needs CUDA"
        else:
            seconds = min(part.seconds, left)
            setting.keep = keeper(setting.out, found, {"part": name, "ends": time.time() + seconds, "figures": figures})
            setting.keep()
            gpu.tokens_by_word()  # no vocabulary is needed in this process
            whole = measure(setting, part, seconds, figures)
        found["parts"][name] = figures
        found["predictions"] = verdicts(found["parts"] if setting.cuda and not setting.tiny else {})
        supervise.write(setting.out, found)
        print(name, short(figures), flush=True)
        if not (whole and works(setting)):
            return supervise.BROKEN
    return 0


def keeper(out, found, running):
    """Return a function that writes the current part's figures so far."""
    return lambda: supervise.write(out, found | {"running": running})


def short(figures, characters=1500):
    """Return the beginning of a part's figures, for the log."""
    return str(figures)[:characters]


def main(words=None):
    """Measure the parts that the supervisor named."""
    parser = argparse.ArgumentParser(parents=[supervise.parser()], add_help=False, conflict_handler="resolve")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ends", type=float, required=True)
    arguments = parser.parse_args(words)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.one_gpu: no CUDA device here; give --tiny --device cpu for a trial", file=sys.stderr)
        return supervise.NO_DEVICE
    setting = Setting(arguments.out, arguments.work, arguments.device, arguments.tiny)
    return run(setting, arguments.parts, arguments.ends)


if __name__ == "__main__":
    sys.exit(main())
