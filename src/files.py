"""Files that are either whole or not there."""

import contextlib
import os
import tempfile
from pathlib import Path


@contextlib.contextmanager
def atomic_file(path, mode="wb"):
    """A temporary file beside ``path`` that takes its name, synced to disk, only if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"encoding": "utf-8", "newline": ""} if "b" not in mode else {}
    with tempfile.NamedTemporaryFile(mode, dir=path.parent, prefix=f".{path.name}.", delete=False, **options) as file:
        partial = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            partial.chmod(0o666 & ~umask)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
