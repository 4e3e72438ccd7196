"""Finished tasks that other runs take over instead of training them again: the folder of ``--task-cache``.

    <key>.task         what a task leaves, with its sha256 behind it
    <key>.scores.json  what it scores, with a sha256 in it
    <key>.in_use       the lock of the run that trains, reads or scores it

Any number of runs may share the folder, on one machine or on several. No entry is half written, and one that is damaged
counts as absent.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from pathlib import Path

from src.errors import UserError
from src.machine.files import InUse, WriteError, atomic_file, folder_of_ones_own, holder_of, read_json
from src.machine.notices import warn
from src.store.checkpoint import CheckpointError, read_checked, write_checked

FLAG = "--task-cache"
TASK, SCORES, LOCK = ".task", ".scores.json", ".in_use"
LOOK = 1.0  # seconds between looks at a lock
GB = 10 ** 9


class TaskCache:
    """The entries of a folder, at most ``size`` bytes of them: those that were not used for longest go first."""

    def __init__(self, folder, size):
        self.folder, self.size = Path(folder), size

    def _file(self, key, kind):
        return self.folder / f"{key}{kind}"

    def prepare(self):
        """Make the folder. UserError where it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with folder_of_ones_own(self.folder, FLAG, f"{secrets.token_hex(8)}{LOCK}"):
                pass
        except OSError as error:
            raise UserError(f"{FLAG} {self.folder}: cannot be written ({error.strerror}); give another") from None

    @contextlib.contextmanager
    def alone(self, key, waiting=lambda holder: None):
        """While entered, no other run has this entry. Wait for one that has; ``waiting(holder)`` is called once, with
        the process in words. The lock goes with its process, however that ends."""
        with contextlib.ExitStack() as held:
            told = False
            while True:
                holder = holder_of(self.folder, f"{key}{LOCK}")
                if holder is None:
                    try:
                        held.enter_context(folder_of_ones_own(self.folder, FLAG, f"{key}{LOCK}"))
                        break
                    except InUse:  # since that look
                        continue
                if not told:
                    waiting(holder)
                told = True
                time.sleep(LOOK)
            yield

    # -- what a task leaves --------------------------------------------------------------------------------------------

    def read(self, key):
        """The content of ``write``; None where there is none, or with a warning where it is damaged."""
        path = self._file(key, TASK)
        if not path.exists():
            return None
        try:
            content = read_checked(path)
            if not isinstance(content, dict) or content.get("key") != key:
                raise CheckpointError(f"{path} is not the entry of its name", damaged=True)
        except CheckpointError as error:
            warn(f"{FLAG}: {error}; the task is trained again")
            return None
        with contextlib.suppress(OSError):  # of a folder that is only read: it counts as used when it was written
            os.utime(path)
        return content

    def write(self, key, content):
        """Keep tensors and plain types under a key, and make room for them. A disk that refuses costs no training: a
        warning says so."""
        path = self._file(key, TASK)
        try:
            write_checked(path, {"key": key, **content})
            self._file(key, SCORES).unlink(missing_ok=True)
            if path.stat().st_size > self.size:
                path.unlink()
                warn(f"{FLAG} {self.folder}: a task is larger than --task-cache-size {self.size / GB:g}; it is not "
                     "kept there")
        except (OSError, UserError) as error:
            warn(f"{FLAG} {self.folder}: the finished task is not kept there ({error})")
        try:
            self._make_room(key)
        except (OSError, UserError) as error:
            warn(f"{FLAG} {self.folder}: older tasks could not be removed ({error}); it may grow beyond "
                 "--task-cache-size")

    # -- what it scores ------------------------------------------------------------------------------------------------

    def scores(self, key):
        """{key of a dataset and how it is scored: content} of ``add_scores``; with a warning {} where the file is
        damaged."""
        path = self._file(key, SCORES)
        if not path.exists():
            return {}
        try:
            content = read_json(path)
            if _sealed(content["scores"]) == content:
                return content["scores"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        warn(f"{path} is damaged: it is not as it was written; the task is scored again")
        return {}

    def add_scores(self, key, found):
        """Keep plain types beside what is there; a disk that refuses costs a warning."""
        if not found:
            return
        try:
            with atomic_file(self._file(key, SCORES), "w") as file:
                json.dump(_sealed(self.scores(key) | found), file)
        except WriteError as error:
            warn(f"{FLAG} {self.folder}: scores are not kept there ({error})")

    # -- room ----------------------------------------------------------------------------------------------------------

    def _make_room(self, newest):
        """Remove entries, the one that was not used for longest first, until all are within the size. Entries that a
        run holds, and the ``newest``, stay."""
        entries = self._entries()
        total = sum(size for _, size in entries.values())
        for key in sorted(entries.keys() - {newest}, key=lambda key: (entries[key][0], key)):
            if total <= self.size:
                break
            if holder_of(self.folder, f"{key}{LOCK}"):
                continue
            with contextlib.suppress(InUse), folder_of_ones_own(self.folder, FLAG, f"{key}{LOCK}"):
                for kind in (TASK, SCORES):
                    self._file(key, kind).unlink(missing_ok=True)
                total -= entries[key][1]

    def _entries(self):
        """{key: (when it was used last, bytes)}"""
        found = {}
        for path in self.folder.iterdir():
            kind = next((kind for kind in (TASK, SCORES) if path.name.endswith(kind)), None)
            with contextlib.suppress(FileNotFoundError):  # another run makes room too
                if kind and path.is_file():
                    status, key = path.stat(), path.name.removesuffix(kind)
                    used, size = found.get(key, (0, 0))
                    found[key] = max(used, status.st_mtime), size + status.st_size
        return found


def _sealed(scores):
    text = json.dumps(scores, sort_keys=True)
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "scores": scores}
