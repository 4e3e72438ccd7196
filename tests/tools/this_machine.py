"""What of this machine the tests use, and what a command costs on it."""

import os
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
THREADS = int(os.environ.get("TEST_THREADS", "1"))  # tensors are tiny here: more threads only wait for each other


def python_path(*folders):
    """Return a PYTHONPATH of these folders and of those already in it."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def processor_seconds(*words):
    """Run Python with these words in the root; return the finished process and its processor time in seconds.

    Other work on the machine lengthens the wall time, but hardly the processor time.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@cache
def seconds_to_import_torch():
    """Return what an import takes in a fresh process: the unit for what must start fast."""
    return processor_seconds("-c", "import torch")[1]


def is_instant(*words):
    """Run Python up to three times; return the process and whether it once took a third of an import of torch at most.
    """
    for _ in range(3):
        done, seconds = processor_seconds(*words)
        if seconds < seconds_to_import_torch() / 3:
            return done, True
    return done, False
