"""Files that are either whole or not there, and text files that anybody may have edited."""

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
PATIENCE = (0.05, 0.1, 0.2)  # seconds between tries for a lock: ``holder_of`` has it for an instant
CHUNK = 1 << 24
NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # what file systems answer that do not sync folders
MOST_LETTERS = 1 << 24  # of a list of names


def read_json(path):
    """Content of a json file. OSError where it cannot be read, ValueError where it is no json."""
    return parse_json(Path(path).read_text(encoding="utf-8-sig"))


class RepeatedKey(ValueError):
    """An object of json that gives two values to a key."""


def parse_json(text):
    """As json.loads, with a ValueError also for what is nested too deeply, and for a key that stands twice."""
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _each_once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise RepeatedKey(f"the key {reprlib.repr(twice)} stands twice in an object")
    return found


def reject_nul(text):
    """ValueError for a text with NUL, which the csv module rejects on Python 3.10 and accepts since 3.11."""
    if "\0" in text:
        raise ValueError("it holds NUL characters, so it is no text")


def read_lines(path):
    """Lines of a text file, without blank ones, spaces around them and a byte order mark. OSError where it cannot be
    read, ValueError where it holds no names."""
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(MOST_LETTERS + 1)
    reject_nul(text)
    if len(text) > MOST_LETTERS:
        raise ValueError(f"it holds more than {MOST_LETTERS:,} letters")
    return [line.strip() for line in text.splitlines() if line.strip()]


_only_read = contextvars.ContextVar("only_read", default=False)


@contextlib.contextmanager
def reading_only():
    """While entered, ``atomic_file`` refuses to write. Who stores only what can be had again asks ``may_write``."""
    token = _only_read.set(True)
    try:
        yield
    finally:
        _only_read.reset(token)


def may_write():
    return not _only_read.get()


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
    if not may_write():
        raise RuntimeError(f"{path} would be written where nothing may be")
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    # Names of files may hold bytes that are no UTF-8: they are written as \\udcff, say.
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
    """``A,B`` -> ["A", "B"]; a comma that is part of the name of what is there parts nothing, and what is not there is
    a name all the same."""
    parts, found = text.split(","), []
    while parts:
        joined = [",".join(parts[:count]).strip() for count in range(1, len(parts) + 1)]
        most = next((count for count in range(len(parts), 0, -1) if os.path.exists(joined[count - 1])), 1)
        found.append(joined[most - 1])
        parts = parts[most:]
    return found


def digest_of(path):
    """sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class InUse(UserError):
    """Another process is in the folder."""


@contextlib.contextmanager
def folder_of_ones_own(folder, flag, lock=LOCK):
    """While entered, no other process enters: InUse names ``flag``, the host and the process that is in there. -> the
    open file ``lock``: a process that inherits it stays in the folder when this one is gone.

    By flock on a file, which is gone with its process however that ends; between machines it holds where the file
    system passes locks on, as NFS does since version 4. What a killed process had half written is removed. A folder
    that was made for the lock alone goes with it.
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
    """The file at ``path``, open and locked; anew where who had it before removed it meanwhile."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
        except OSError as error:
            raise WriteError(path, error) from None
        if not _lock_patiently(file):
            with file:
                raise InUse(f"{flag} {path.parent}: in use by {_who(file)}; wait until it has ended, or give another "
                            "folder")
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()


def holder_of(folder, lock=LOCK):
    """The process that is in a folder, in words; None where none is."""
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
    """Whether the open file is ours alone from now on, until it is closed."""
    import fcntl  # which Windows lacks: there a command must get as far as the message that it does not run
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nobody is kept out
        return True
    return True


def sweep(folder):
    """Remove from a folder what processes that were killed had half written."""
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
