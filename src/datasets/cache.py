"""Cache decoded, resized evaluation images on disk, so that a second evaluation of a dataset decodes nothing."""

import hashlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from src.datasets.loading import evaluation_batches
from src.errors import UserError

FOLDER = "cache"  # under --data-location
FILL_BATCH = 256
RULES = "pixels 2"  # of src/datasets/images.py; changes whenever files decode to other pixels than before


def cached_split(split, name, transform, root, workers=0):
    """Return ``split`` with images that are the transform's uint8 results, memory-mapped from ``<root>/cache``.

    The file is filled on first use and gets its final name only when complete. It is keyed by the transform and
    the listing: another resolution or other files make another one.
    """
    listing = "\n".join([transform.name, RULES, *_state(split)]).encode("utf-8", "surrogateescape")
    path = Path(root) / FOLDER / f"{name}-{hashlib.sha256(listing).hexdigest()[:16]}.npy"
    if not path.is_file():
        _fill(path, split, transform, workers)
    return _mapped(path, split)


def _state(split):
    """Return lines that change when the images do: path, size and time of each file."""
    if split.path is None:
        return split.listing()
    lines = []
    for index in range(len(split)):
        path = os.path.abspath(split.path(index))
        try:
            found = os.stat(path)
            lines.append(f"{path} {found.st_size} {found.st_mtime_ns}")
        except OSError:  # reported with its name when it is decoded
            lines.append(path)
    return lines


def _fill(path, split, transform, workers):
    import numpy
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise UserError(f"--cache-images: {path.parent} cannot be written ({error.strerror})") from None
    try:
        shape = (len(split), 3, transform.resolution, transform.resolution)
        rows, first = numpy.lib.format.open_memmap(partial, mode="w+", dtype=numpy.uint8, shape=shape), 0
        for batch in evaluation_batches(split, transform, FILL_BATCH, workers):
            rows[first:first + len(batch.labels)] = batch.images.numpy()
            first += len(batch.labels)
        rows.flush()
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _mapped(path, split):
    import numpy
    import torch
    try:
        rows = numpy.load(path, mmap_mode="r")                                          # (N, 3, R, R) uint8
    except (OSError, ValueError) as error:
        raise UserError(f"--cache-images: {path} is damaged ({error}); remove it") from None
    return replace(split, image=lambda index: torch.from_numpy(numpy.array(rows[index])))


def as_it_is(image, seed=None):
    """Transform images that are ready: change nothing."""
    return image
