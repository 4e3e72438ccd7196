"""Run the cells of a study as processes: a launcher starts the missing ones, N in parallel.

Any number of launchers may share the folder of a study, on one machine or several that share it. Only one of
them holds a cell, by a lock that the cell's process inherits.
"""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from src.cli.texts import command_line
from src.errors import UserError
from src.machine.files import InUse, WriteError, atomic_file, holder_of, locked_folder
from src.machine.interruption import STATUS as INTERRUPTED
from src.machine.interruption import Interrupted
from src.machine.progress import clock
from src.run.cells import DONE, FAILED, LOCK, OUTPUT, RECORD, is_done, last_line, record_of

MAIN = f"{__name__.removesuffix('run.launcher')}main"
ROOT = Path(__file__).parents[__name__.count(".")]  # the folder of the packages
PROGRAM = (sys.executable, "-m", MAIN)  # the command of a cell
LOOK, LOOK_AGAIN = 0.1, 1.0  # seconds between polls of processes, and of cells if none was free
ENDED_BY = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR1)  # before a run handles these signals; nothing is lost


def environments(jobs, devices=()):
    """Return [additions to a process's environment] for each of the ``jobs`` that run in parallel.

    Each gets one CUDA device if there are several, else its share of CPU threads.
    """
    if len(devices) > 1:
        return [{"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} for number in range(jobs)]
    if devices or jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return [{}] * jobs
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # macOS lacks it
    return [{"OMP_NUM_THREADS": str(max(1, cores // jobs))}] * jobs


class Attempt:
    """Manage a cell's process. ``held``: the lock that keeps the cell for this launcher."""

    def __init__(self, job, held, lock, environment):
        self.job, self.held, self.began = job, held, time.monotonic()
        with contextlib.ExitStack() as failing:
            failing.push(held)
            with self._open_output() as output:
                self.process = self._start(output, lock, environment)
            failing.pop_all()

    def _open_output(self):
        """Open the file of its output, with the command on top; remove the record of an earlier attempt."""
        try:
            (self.job.folder / RECORD).unlink(missing_ok=True)
            with (self.job.folder / OUTPUT).open("ab") as output:
                output.write(f"$ {command_line(self.job.words)}\n".encode("utf-8", errors="backslashreplace"))
            return (self.job.folder / OUTPUT).open("ab")
        except OSError as error:
            raise WriteError(self.job.folder, error) from None

    def _start(self, output, lock, environment):
        """Start the process in its own session, so that Ctrl-C reaches only the launcher, which passes on one
        signal."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        try:
            return subprocess.Popen([*PROGRAM, *self.job.words], stdin=subprocess.DEVNULL, stdout=output,
                                    stderr=subprocess.STDOUT, pass_fds=[lock.fileno()], start_new_session=True,
                                    env=os.environ | {"PYTHONPATH": path} | environment)
        except OSError as error:
            raise UserError(f"cell {self.job.name}: its process could not be started ({error.strerror}); lower "
                            "--jobs, or free memory and processes") from None

    def ended(self):
        return self.process.poll() is not None

    def interrupted(self):
        return self.process.returncode in (INTERRUPTED, *ENDED_BY)

    def outcome(self):
        """Return DONE, "interrupted" or FAILED, after it has ended."""
        if self.interrupted():
            return "interrupted"
        return FAILED if self.process.returncode else DONE

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def wait(self):
        self.process.wait()

    def leave(self):
        """Record how it ended, unless it resumes, and release the cell. -> the message"""
        status = self.process.returncode
        with self.held:
            message = last_line(self.job) if status >= 0 else f"killed by {_signal(-status)}"
            if not self.interrupted():
                record = {"status": status, "message": message, "seconds": round(time.monotonic() - self.began, 2),
                          "ended": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")}
                with atomic_file(self.job.folder / RECORD, "w") as file:
                    json.dump(record, file, indent=1)
        return message


def _signal(number):
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have none
        return f"signal {number}"


class Launcher:
    """Run the Jobs that are not done, one in each of ``slots``, the additions to a process's environment.

    Each is tried once. Cells held by another launcher are waited for and tried if it leaves them unfinished;
    with ``waits`` False they are left to it. ``report``: a function that gets a line about each start and end.
    """

    def __init__(self, jobs, slots, signals, report, waits=True):
        self.jobs, self.slots, self.signals, self.waits = jobs, list(slots), signals, waits
        self.before = {job.name: record_of(job) for job in jobs}
        self.left = [job for job in jobs if not is_done(job)]
        self.running, self.report = {}, report  # {index of a slot: Attempt}
        self.looked = None  # the last time that no cell was free

    def run(self):
        """Run until nothing is left to do. Raises Interrupted after a signal, once every process has kept its
        resume point."""
        with self.signals.held():
            try:
                while self.left or self.running:
                    self._end_finished()
                    if self.signals.reason:
                        raise Interrupted(f"{self.signals.reason}: rerun the command to continue with what is missing")
                    self._fill()
                    if self.looked and not (self.running or self.waits):
                        return
                    time.sleep(LOOK)
            finally:
                self._stop()

    def _end_finished(self):
        for number, attempt in [(number, attempt) for number, attempt in self.running.items() if attempt.ended()]:
            self.running.pop(number)
            name, seconds = attempt.job.name, clock(time.monotonic() - attempt.began)
            try:
                message = attempt.leave()
            except WriteError as error:  # the next call reruns the cell, which keeps what is trained
                self.report(f"{name}: {attempt.outcome()} after {seconds}, but {error}")
            else:
                why = "" if attempt.outcome() == DONE else f": {message}"
                self.report(f"{name}: {attempt.outcome()} after {seconds}{why}")

    def _fill(self):
        for number, environment in enumerate(self.slots):
            if number in self.running or self.looked and time.monotonic() - self.looked < LOOK_AGAIN:
                continue
            if not (found := self._claim()):
                self.looked = time.monotonic()
                return
            self.running[number] = Attempt(*found, environment)
            self.report(f"{found[0].name}: started, {len(self.left)} to come")

    def _claim(self):
        """Return the next Job for this launcher, as (Job, its hold, its lock); None if none is free now."""
        for job in list(self.left):
            if holder_of(job.folder, LOCK) or holder_of(job.folder):  # by a launcher, or a command typed by hand
                continue
            held = contextlib.ExitStack()
            try:
                lock = held.enter_context(locked_folder(job.folder, "--save", LOCK))
            except InUse:  # taken in the meantime
                continue
            self.left.remove(job)
            if not self._was_tried(job):
                return job, held, lock
            held.close()
        return None

    def _was_tried(self, job):
        """Return whether another launcher has tried it since this one began."""
        record = record_of(job)
        return is_done(job) or record is not None and record != self.before[job.name]

    def _stop(self):
        """End what runs, without losing anything."""
        with contextlib.ExitStack() as leaving:  # an error in ending one still ends the others
            for act in (Attempt.stop, Attempt.wait, lambda attempt: leaving.callback(attempt.leave)):
                for attempt in self.running.values():
                    act(attempt)
        self.running.clear()
