"""Signals that ask a run to end. Imports no torch, so that they are handled from the first moment."""

import contextlib
import os
import signal
import threading

STATUS = 75  # EX_TEMPFAIL: the same command with --resume continues
HEARD = ("SIGTERM", "SIGINT", "SIGUSR1")


class Interrupted(BaseException):
    """A signal ended the run at a point where nothing is lost; its text names the signal and what is kept.
    Derives from BaseException so that ``except Exception`` around file I/O cannot swallow it."""


class Signals:
    """Inside the context, SIGTERM, SIGINT and SIGUSR1 raise ``Interrupted``; within ``held`` they are only
    recorded, as ``name``, so that a step is finished and kept first. A second SIGINT ends the process at
    once. ``hang_up``: SIGHUP does the same, unless it is ignored, as under nohup."""

    def __init__(self, hang_up=False):
        self.name, self._process, self._held, self._asked_by_hand, self._before = None, os.getpid(), False, False, {}
        self._numbers = [number for number in map(_number, HEARD) if number]
        if hang_up and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self._numbers.append(signal.SIGHUP)

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            self._before = {number: signal.signal(number, self._hear) for number in self._numbers}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number, frame):
        if os.getpid() != self._process:  # a forked loader inherits the handler until it ignores signals
            return
        if number == signal.SIGINT:
            if self._asked_by_hand:
                raise KeyboardInterrupt
            self._asked_by_hand = True
        self.name = self.name or signal.Signals(number).name
        if not self._held:
            self.stop()

    @property
    def reason(self):
        """Why to end, in words; None if no signal has arrived."""
        return self.name and f"interrupted by {self.name}"

    def stop(self):
        raise Interrupted(self.reason)

    @contextlib.contextmanager
    def held(self):
        """Record signals inside the context instead of raising them."""
        yield from self._while(held=True)

    @contextlib.contextmanager
    def released(self):
        """Raise signals again inside ``held``; one recorded before is raised now."""
        if self.name:
            self.stop()
        yield from self._while(held=False)

    @contextlib.contextmanager
    def unheard(self):
        """Let signals end the process at once, as by default, around code in which Python cannot handle
        them and where there is nothing to keep yet. A signal recorded before is raised now."""
        if self.name:
            self.stop()
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)
        try:
            yield
        finally:
            for number in self._before:
                signal.signal(number, self._hear)

    def _while(self, held):
        before, self._held = self._held, held
        try:
            yield
        finally:
            self._held = before


def serve_to_the_end(worker):
    """Let a process that loads images ignore the signals of HEARD, which schedulers and terminals send to all processes
    of a run: the main one hears them, ends the step with these images, and then its loaders."""
    for number in filter(None, map(_number, HEARD)):
        signal.signal(number, signal.SIG_IGN)


def _number(name):
    return getattr(signal, name, None)  # Windows lacks SIGUSR1
