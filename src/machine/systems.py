"""The operating systems on which this runs: Linux and macOS, whose locks, signals and pipes it relies on."""

import sys

from src.errors import UserError


def refuse_windows():
    """Raise UserError on Windows."""
    if sys.platform == "win32":
        raise UserError("clip-continual runs on Linux and macOS; on Windows, run it in WSL, the Windows Subsystem for "
                        "Linux")
