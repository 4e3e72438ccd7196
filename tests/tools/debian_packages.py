"""Programs that are no Python packages, for tests that need them: from Debian."""

import os
import shutil
import subprocess


class Unavailable(Exception):
    """A program cannot be had here; the message says why."""


def install(packages, missing):
    """Install Debian's packages by apt-get. Raises Unavailable, which begins with what is ``missing``, where that
    cannot be, as without root."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Unavailable(f"{missing}; installing {' and '.join(packages)} needs root and apt-get")
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *words], env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise Unavailable(f"apt-get {' '.join(words)} failed with status {done.returncode}")
