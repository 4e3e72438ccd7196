"""Finished tasks that other runs reuse instead of training them again: the folder of ``--task-cache``.

    <key>.task         a finished task, followed by its sha256
    <key>.scores.json  its scores, with a sha256 inside
    <key>.in_use       the lock of the run that trains, reads or scores it

Any number of runs may share the folder, on one machine or on several. Entries are never half written, and a
damaged one counts as absent.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from pathlib import Path

from src.errors import UserError
from src.machine.files import InUse, WriteError, atomic_file, holder_of, locked_folder, read_json
from src.machine.notices import warn
from src.store.checkpoint import CheckpointError, read_checked, write_checked

FLAG = "--task-cache"
TASK, SCORES, LOCK = ".task", ".scores.json", ".in_use"
LOOK = 1.0  # seconds between looks at a lock
GB = 10 ** 9


class TaskCache:
    """The entries of a folder, at most ``size`` bytes: the least recently used go first."""

    def __init__(self, folder, size):
        self.folder, self.size = Path(folder), size

    def _file(self, key, kind):
        return self.folder / f"{key}{kind}"

    def prepare(self):
        """Create the folder. Raise UserError if it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked_folder(self.folder, FLAG, f"{secrets.token_hex(8)}{LOCK}"):
                pass
        except OSError as error:
            raise UserError(f"{FLAG} {self.folder}: cannot be written ({error.strerror}); give another") from None

    @contextlib.contextmanager
    def alone(self, key, waiting=lambda holder: None):
        """Lock an entry inside the context, waiting for a run that holds it; ``waiting(holder)`` is then
        called once, with a description of its process. The lock is released when its process ends in any
        way."""
        with contextlib.ExitStack() as held:
            told = False
            while True:
                holder = holder_of(self.folder, f"{key}{LOCK}")
                if holder is None:
                    try:
                        held.enter_context(locked_folder(self.folder, FLAG, f"{key}{LOCK}"))
                        break
                    except InUse:  # taken since the check
                        continue
                if not told:
                    waiting(holder)
                told = True
                time.sleep(LOOK)
            yield

    # -- what a task leaves --------------------------------------------------------------------------------------------

    def read(self, key):
        """Return the content of ``write``; None if there is none, or, with a warning, if it is damaged."""
        path = self._file(key, TASK)
        if not path.exists():
            return None
        try:
            content = read_checked(path)
            if not isinstance(content, dict) or content.get("key") != key:
                raise CheckpointError(f"{path} is not the entry that its name says", damaged=True)
        except CheckpointError as error:
            warn(f"{FLAG}: {error}; the task is trained again")
            return None
        with contextlib.suppress(OSError):  # in a read-only folder an entry counts as used when it was written
            os.utime(path)
        return content

    def write(self, key, content):
        """Store tensors and plain types under a key, and make room for them. If the disk fails, warn and continue."""
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
        """Return {key of a dataset and how it is scored: content} of ``add_scores``; {} with a warning if
        the file is damaged."""
        path = self._file(key, SCORES)
        if not path.exists():
            return {}
        try:
            content = read_json(path)
            if _sealed(content["scores"]) == content:
                return content["scores"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        warn(f"{path} is damaged: its content has changed since it was written; the task is scored again")
        return {}

    def add_scores(self, key, found):
        """Add plain types to the stored scores. If the disk fails, warn and continue."""
        if not found:
            return
        try:
            with atomic_file(self._file(key, SCORES), "w") as file:
                json.dump(_sealed(self.scores(key) | found), file)
        except WriteError as error:
            warn(f"{FLAG} {self.folder}: scores are not kept there ({error})")

    # -- room ----------------------------------------------------------------------------------------------------------

    def _make_room(self, newest):
        """Remove entries, least recently used first, until all fit the size. Entries in use, and the
        ``newest``, stay."""
        entries = self._entries()
        total = sum(size for _, size in entries.values())
        for key in sorted(entries.keys() - {newest}, key=lambda key: (entries[key][0], key)):
            if total <= self.size:
                break
            if holder_of(self.folder, f"{key}{LOCK}"):
                continue
            with contextlib.suppress(InUse), locked_folder(self.folder, FLAG, f"{key}{LOCK}"):
                for kind in (TASK, SCORES):
                    self._file(key, kind).unlink(missing_ok=True)
                total -= entries[key][1]

    def _entries(self):
        """Return {key: (time of last use, bytes)}."""
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
