"""Files that are either whole or not there."""

import contextlib
import errno
import os
import secrets
from pathlib import Path

from src.errors import UserError

NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # what file systems answer that do not sync folders


class WriteError(UserError, OSError):
    """A file that could not be written. Callers who know the flag behind the path may say so: it is the OSError too,
    with its ``errno`` and ``strerror``."""

    def __init__(self, path, error):
        reason = error.strerror or str(error)
        super().__init__(f"{path} could not be written ({reason}); make room there or give another folder")
        self.errno, self.strerror = error.errno, reason

    __str__ = Exception.__str__  # OSError's own would show errno and strerror alone


@contextlib.contextmanager
def atomic_file(path, mode="wb"):
    """A temporary file beside ``path`` that takes its name, synced to disk, only if the block ends well.

    Where anything fails, ``path`` is what it was and the temporary file is gone; an OSError becomes a WriteError. Only
    the last step, that the folder keeps the new name through a loss of power, can fail after the name was taken.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    options = {"encoding": "utf-8", "newline": ""} if "b" not in mode else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open(mode.replace("w", "x"), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise WriteError(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _sync_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)
