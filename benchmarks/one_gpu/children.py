"""Processes started by a part, all of which end with it."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
THREADS = "2"  # per child on the CPU, since several run side by side
_running = []


@dataclass
class Child:
    """A process whose output goes to the file ``log``: a pipe would stay open in its own children."""

    job: subprocess.Popen
    log: Path

    def wait(self, seconds):
        """Wait at most ``seconds``, then kill; return the exit status, or "killed..." after a kill."""
        try:
            return self.job.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self.kill()
            return "killed: no time left"

    def kill(self):
        """End the process now."""
        self.job.kill()
        self.job.wait()

    def tail(self, characters=400):
        """Return the end of its output."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-characters:]


def start(words, log):
    """Start ``python WORDS`` in the checkout's root with this process's environment."""
    environment = {"OMP_NUM_THREADS": THREADS, **os.environ}
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        job = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                               stdout=file, stderr=subprocess.STDOUT)
    child = Child(job, log)
    _running.append(child)
    return child


def kill_all():
    """End every child of a finished part."""
    while _running:
        child = _running.pop()
        if child.job.poll() is None:
            child.kill()


def until(condition, seconds, glance=0.05):
    """Wait until ``condition()`` or at most ``seconds``; return whether it came true."""
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        if condition():
            return True
        time.sleep(glance)
    return False
