"""Download published files to a cache folder: resumable, verified, one process at a time."""

import contextlib
import fcntl
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from clip.errors import LoadError

CHUNK = 1 << 20
PARTIAL, RANGE_NOT_SATISFIABLE = 206, 416


def download(address, path, sha256):
    """Fetch to ``path + ".part"``, verify, rename; nothing unverified ever gets the final name.

    An interrupted download is resumed if the server supports it; the hash covers the whole file, and if it
    is wrong the file is fetched again, once. The partial file is locked (flock) while it is written:
    another process waits and then finds the file. The lock is released when its process ends in any way. On
    a network file system it works between machines if the system passes locks on, as NFS does since version
    4; if locks are refused, so is the download.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    by_hand = f"fetch {address} on a machine with network access and put the file at {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not path.is_file():
            with _locked(partial) as file:
                if file and not path.is_file():  # it may have been fetched between the two checks
                    _complete(file, partial, address, path, sha256, by_hand)
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LoadError(f"{path.name} could not be downloaded ({reason}); {by_hand}") from None


@contextlib.contextmanager
def _locked(partial):
    """Open and lock the partial file; yield None if it was renamed or removed while waiting."""
    with open(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that downloads {partial.stem}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield file if _is_at(file, partial) else None
        finally:
            with contextlib.suppress(OSError):  # a full disk raises again
                file.flush()
            if _is_at(file, partial) and not os.fstat(file.fileno()).st_size:
                partial.unlink()


def _is_at(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _complete(file, partial, address, path, sha256, by_hand):
    """Fill the partial file, again from the start if what was there turns out wrong; verify and rename it."""
    kept, found = _fetch(file, address, path.name, sha256)
    if found != sha256 and kept:
        file.truncate(0)
        _, found = _fetch(file, address, path.name, sha256)
    if found != sha256:
        partial.unlink()
        raise LoadError(f"{path.name}: the download's sha256 is {found}, published is {sha256}; "
                        f"try again, or {by_hand}")
    file.flush()
    os.fsync(file.fileno())
    os.replace(partial, path)


def _fetch(file, address, name, sha256):
    """Append what is missing. Return (bytes kept from before, sha256 of the whole)."""
    from tqdm import tqdm
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    done = kept = file.tell()
    if digest.hexdigest() == sha256:  # only the rename was missing
        return kept, sha256
    with _open(address, done) as source:
        if done and not _continues(source, done):
            file.seek(0)
            file.truncate()
            digest, done, kept = hashlib.sha256(), 0, 0
        length = source.headers.get("Content-Length")
        total = done + int(length) if length else None
        with tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=name) as bar:
            while chunk := source.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
                done += len(chunk)
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")
    return kept, digest.hexdigest()


def _open(address, start):
    """Open the response from byte ``start`` on, or from 0 if the server has nothing after ``start``."""
    if not start:
        return urllib.request.urlopen(urllib.request.Request(address), timeout=60)
    try:
        return urllib.request.urlopen(urllib.request.Request(address, headers={"Range": f"bytes={start}-"}), timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        return _open(address, 0)


def _continues(source, start):
    return source.status == PARTIAL and source.headers.get("Content-Range", "").startswith(f"bytes {start}-")
