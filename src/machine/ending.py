"""How a process ends: each exception's message and exit status, and coordination between several processes.

Of several processes (``torchrun``) only the first prints. Imports no torch.
"""

import contextlib
import os
import select
import sys

from clip.errors import LoadError
from src.errors import UserError, legible
from src.machine.interruption import STATUS, Interrupted
from src.machine.notices import marked

INTERRUPTED, UNREAD = 130, 141
MISSING = ("the package {name} is not installed for {python}; activate the environment that has it "
           "(. .venv/bin/activate), or pip install -r requirements.txt")
BROKEN = ("another process of this run ended without a message, as a killed one does ({error}). Rerun the same "
          "command with --resume to continue from what was kept")


def to_its_end(run):
    """Call ``run()``, which returns 0 or 1, and return the exit status: that, or what an exception means."""
    with contextlib.ExitStack() as leaving:
        if several_processes():
            leaving.callback(_world().stop)
        try:
            with _only_the_first_speaks(), _interrupted_together():
                status = run()
                print(end="", flush=True)  # works without any stdout, too
                return _ended(status)
        except (UserError, LoadError) as error:
            return _stopped(marked("error", legible(str(error))), 2)
        except Interrupted as error:
            if first_process():
                return _stopped(str(error), STATUS)
            _world().await_first()  # it prints what is kept
            return STATUS
        except KeyboardInterrupt as error:
            return _stopped(str(error) or "interrupted: no checkpoint of the unfinished task was written", INTERRUPTED)
        except Exception as error:
            if _is_missing_package(error):
                return _stopped(marked("error", MISSING.format(name=error.name, python=sys.executable)), 2)
            if isinstance(error, BrokenPipeError) and _reader_has_gone():
                return _stopped("stopped: the reader of the output has ended", UNREAD)
            if several_processes() and _world().is_broken(error):  # the process that broke it prints why, if it can
                return _stopped(marked("error", BROKEN.format(error=str(error).split(". ")[0])), 1)
            _ended(1)
            raise


def several_processes():
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def first_process():
    return int(os.environ.get("RANK", 0)) == 0


def _world():
    from src.machine.distributed import this_world
    return this_world()


@contextlib.contextmanager
def _only_the_first_speaks():
    """Silence all processes but the first, since they print the same. Tracebacks still come from all."""
    if first_process():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere), \
            contextlib.redirect_stderr(nowhere):
        yield


def _is_missing_package(error):
    return (isinstance(error, ModuleNotFoundError) and "." not in (error.name or ".")
            and error.name not in ("src", "clip"))


def _reader_has_gone():
    """Return whether stdout is a pipe whose reader has ended, as with ``| head``; if so, discard all later output."""
    stdout, pipe = sys.__stdout__.fileno(), select.poll()
    pipe.register(stdout, select.POLLERR)
    if unread := bool(pipe.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)  # else Python prints an error at exit
    return unread


def _stopped(message, status):
    """Return the exit status: with several processes, that of the first to stop, which prints the message."""
    if not several_processes() or _world().first_to_stop(status):
        print(message, file=sys.stderr, flush=True)
        return status
    return _world().stopped(status)


def _ended(status):
    """Record the end of a finished run, or of an exception with a traceback, without printing."""
    if several_processes() and (status or first_process()):
        _world().first_to_stop(status)
    return status


def _interrupted_together():
    return _world().interrupted_together() if several_processes() else contextlib.nullcontext()
