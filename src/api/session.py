"""Context of a command called from Python: its output, its exceptions, and the state it restores."""

import contextlib
import io
import sys
import warnings

from clip.errors import LoadError
from src.api.keywords import in_python
from src.errors import UserError
from src.machine.ending import several_processes
from src.machine.interruption import Interrupted
from src.machine.notices import warnings_to
from src.machine.systems import refuse_windows

OURS = __name__.partition("src.")[0]  # the package around an installed ``src``, "" in a checkout
BY_HAND = "interrupted by SIGINT"


class RunWarning(UserWarning):
    """A warning that the command line would print after "warning:"."""


class Printed:
    """The output of a command, all of it in ``text``; ``terminal``: a stream that also gets it, or None."""

    def __init__(self, terminal=None):
        self._kept, self._terminal = io.StringIO(), terminal

    @property
    def text(self):
        return self._kept.getvalue()

    def write(self, text):
        self._kept.write(text)
        return len(text) if self._terminal is None else self._terminal.write(text)

    def flush(self):
        if self._terminal is not None:
            self._terminal.flush()

    def isatty(self):
        return self._terminal is not None and self._terminal.isatty()

    def fileno(self):
        if self._terminal is None:
            raise io.UnsupportedOperation("fileno")
        return self._terminal.fileno()


@contextlib.contextmanager
def session(verbose=False):
    """Run a command inside the context as Python expects; yield its Printed.

    Only ``verbose`` shows the command line's output; otherwise its warnings become ``RunWarning``. Errors
    are ``UserError``. Ctrl-C raises KeyboardInterrupt with what is kept; any other signal raises
    ``Interrupted``.
    """
    if several_processes():
        raise UserError("this is one of several processes, but a run from Python has one: start several with torchrun "
                        "-m src.main, with the keywords as flags")
    refuse_windows()
    printed = Printed(sys.stdout if verbose else None)
    try:
        with _heard(printed, verbose):
            yield printed
    except (UserError, LoadError) as error:
        raise UserError(in_python(str(error))) from None
    except Interrupted as error:
        text = in_python(str(error))
        raise (KeyboardInterrupt if text.startswith(BY_HAND) else Interrupted)(text) from None


@contextlib.contextmanager
def _heard(printed, verbose):
    stderr = sys.stderr

    def warned(text):
        with contextlib.redirect_stderr(stderr):
            warnings.warn(in_python(text), RunWarning, stacklevel=_level_of_the_caller())
    with contextlib.ExitStack() as leaving:
        leaving.enter_context(contextlib.redirect_stdout(printed))
        if not verbose:
            leaving.enter_context(contextlib.redirect_stderr(printed))
            leaving.enter_context(warnings_to(warned))
        yield


def _level_of_the_caller():
    """Return the stacklevel at which ``warned`` points to the first line outside this package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _is_ours(frame):
        frame, level = frame.f_back, level + 1
    return level


def _is_ours(frame):
    name = frame.f_globals.get("__name__", "")
    return name.startswith((f"{OURS}src.", f"{OURS}clip.", "contextlib"))


@contextlib.contextmanager
def torch_as_before():
    """Restore random states and global settings of torch, which a run changes for the whole process."""
    import torch

    from src.machine.device import tf32_as_before
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        with torch.random.fork_rng(), tf32_as_before():
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
