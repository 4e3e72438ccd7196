"""Files that are either whole or absent, and text files that users may have edited."""

import contextlib
import contextvars
import errno
import hashlib
import json
import os
import re
import reprlib
import secrets
import socket
import time
from pathlib import Path

from src.errors import UserError

PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}")
LOCK = "in_use"
PATIENCE = (0.05, 0.1, 0.2)  # seconds between tries for a lock, which ``holder_of`` takes for an instant
CHUNK = 1 << 24
NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # from file systems that do not sync folders
MOST_LETTERS = 1 << 24  # in a list of names


def read_json(path):
    """Return the content of a JSON file. Raise OSError if it cannot be read, ValueError if it is not JSON."""
    return parse_json(Path(path).read_text(encoding="utf-8-sig"))


class RepeatedKey(ValueError):
    """A JSON object that gives two values for a key."""


def parse_json(text):
    """Parse like json.loads, but raise ValueError also for too deep nesting and for a repeated key."""
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _each_once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise RepeatedKey(f"the key {reprlib.repr(twice)} occurs twice in an object")
    return found


def reject_nul(text):
    """Raise ValueError for a text with NUL, which the csv module rejects on Python 3.10 and accepts since 3.11."""
    if "\0" in text:
        raise ValueError("it contains NUL characters, so it is not text")


def read_lines(path):
    """Return the lines of a text file, stripped, without blank lines and byte order mark. Raise OSError if
    it cannot be read, ValueError if it is not a list of names."""
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(MOST_LETTERS + 1)
    reject_nul(text)
    if len(text) > MOST_LETTERS:
        raise ValueError(f"it has more than {MOST_LETTERS:,} characters")
    return [line.strip() for line in text.splitlines() if line.strip()]


_only_read = contextvars.ContextVar("only_read", default=False)


@contextlib.contextmanager
def reading_only():
    """Make ``atomic_file`` refuse to write inside the context. Code that only caches checks ``may_write``."""
    token = _only_read.set(True)
    try:
        yield
    finally:
        _only_read.reset(token)


def may_write():
    return not _only_read.get()


class WriteError(UserError, OSError):
    """A file that could not be written. It is also the OSError, with ``errno`` and ``strerror``, so that
    callers who know the flag behind the path can name it."""

    def __init__(self, path, error):
        reason = error.strerror or str(error)
        super().__init__(f"{path} could not be written ({reason}); make room there or give another folder")
        self.errno, self.strerror = error.errno, reason

    __str__ = Exception.__str__  # OSError's own shows only errno and strerror


@contextlib.contextmanager
def atomic_file(path, mode="wb"):
    """Open a temporary file beside ``path`` that is synced to disk and renamed to it only if the block
    succeeds.

    If anything fails, ``path`` is unchanged and the temporary file is removed; an OSError becomes a
    WriteError. Only the last step, syncing the folder so that the new name survives a power loss, can fail
    after the rename.
    """
    if not may_write():
        raise RuntimeError(f"{path} would be written inside reading_only()")
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # Names of files may contain bytes that are not UTF-8: these are written as e.g. \\udcff.
    text = {"encoding": "utf-8", "newline": "", "errors": "backslashreplace"}
    options = text if "b" not in mode else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open(mode.replace("w", "x"), **options) as file:
            _lock(file)
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


def named_paths(text):
    """Split ``A,B`` -> ["A", "B"]. A comma inside the name of an existing path does not split; names of
    missing paths are kept."""
    parts, found = text.split(","), []
    while parts:
        joined = [",".join(parts[:count]).strip() for count in range(1, len(parts) + 1)]
        most = next((count for count in range(len(parts), 0, -1) if os.path.exists(joined[count - 1])), 1)
        found.append(joined[most - 1])
        parts = parts[most:]
    return found


def digest_of(path):
    """Return the sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class InUse(UserError):
    """Another process is in the folder."""


@contextlib.contextmanager
def locked_folder(folder, flag, lock=LOCK):
    """Lock a folder for this process inside the context; yield the open lock file.

    Raises InUse, naming ``flag``, the host and the process that holds it. A process that inherits the file
    keeps the lock when this one is gone.

    The lock is a flock on a file, released when its process ends in any way; between machines it works if
    the file system passes locks on, as NFS does since version 4. Half-written files of killed processes are
    removed. A folder created for the lock alone is removed with it.
    """
    path = Path(folder) / lock
    made = [place for place in path.parents if not place.exists()]
    with _ours(path, flag) as file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        sweep(path.parent)
        try:
            yield file
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty
                for place in made:
                    place.rmdir()


def _ours(path, flag):
    """Open and lock the file at ``path``; retry if its previous holder removed it meanwhile."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        except OSError as error:
            raise WriteError(path, error) from None
        if not _lock_patiently(file):
            with file:
                raise InUse(f"{flag} {path.parent}: in use by {_who(file)}; wait until it ends, or give another folder")
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()


def holder_of(folder, lock=LOCK):
    """Describe the process that holds a folder; None if there is none."""
    try:
        file = (Path(folder) / lock).open(encoding="utf-8")
    except OSError:
        return None
    with file:
        return None if _lock(file, shared=True) else _who(file)


def _who(file):
    return file.read().strip() or "another process"


def _lock_patiently(file):
    for seconds in PATIENCE:
        if _lock(file):
            return True
        time.sleep(seconds)
    return _lock(file)


def _lock(file, shared=False):
    """Lock the open file for this process until it is closed. Return whether that worked."""
    import fcntl  # which Windows lacks: there a command must get as far as the message that it does not run
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks excludes no process
        return True
    return True


def sweep(folder):
    """Remove half-written files of killed processes from a folder."""
    for path in folder.iterdir():
        if PARTIAL.fullmatch(path.name):
            with contextlib.suppress(OSError), path.open("rb") as file:
                if _lock(file):
                    path.unlink()


def _sync_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)
