"""Cache decoded, resized images on disk, so that a second pass over a split decodes nothing.

A file fills row by row while its images are used, by any number of processes and runs, each of which writes the same
bytes. It takes its final name when it is whole, and is read in slices from then on.
"""

import functools
import hashlib
import importlib.metadata
import io
import mmap
import os
import shutil
import struct
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.datasets.common import listing_digest
from src.machine.files import may_write
from src.machine.notices import warn

FOLDER = "cache"  # under --data-location
RULES = "pixels 3"  # of src/datasets/images.py; changes whenever files decode to other pixels than before
DECODERS = ("torch", "torchvision", "pillow")
MOST = 20 * 10 ** 9  # bytes of a split that is kept without being asked for
LEFT_FREE = 2  # of the free disk such a split takes at most 1 / LEFT_FREE
MARK = struct.Struct("<Q")
CHECKED = 64  # rows that are checked at a time
_one_at_a_time = threading.Lock()  # of the threads that check whole files, for which Python waits before it ends


@dataclass(frozen=True)
class Rows:
    """Images that are ready: ``pixels`` (N, 3, R, R) uint8, a mapped file or a tensor on the device, of which
    ``places`` are a Split's. ``transform``: the name of what made them."""

    pixels: Any
    places: Sequence[int]
    transform: str

    def subset(self, indices):
        """Those at ``indices``."""
        if isinstance(indices, range) and isinstance(self.places, range) and indices.step > 0:
            return replace(self, places=self.places[indices.start:indices.stop:indices.step])
        return replace(self, places=[self.places[index] for index in indices])

    def read(self, first, last):
        """Images ``first`` to ``last`` -> uint8 (B, 3, R, R), in pinned memory where CUDA is."""
        import numpy
        import torch
        chosen = self.places[first:last]
        where = slice(chosen.start, chosen.stop, chosen.step) if isinstance(chosen, range) else list(chosen)
        if torch.is_tensor(self.pixels):
            return self.pixels[where]
        images = torch.empty(len(chosen), *self.pixels.shape[1:], dtype=torch.uint8,
                             pin_memory=torch.cuda.is_available())
        numpy.copyto(images.numpy(), self.pixels[where])
        return images


class ImageCache:
    """What a run keeps of decoded images, in files under ``<root>/cache``.

    ``mode``: "disk" keeps all splits; "auto", where the folder ``root`` is there, those that take at most MOST and
    1 / LEFT_FREE of the free disk; "device" also holds whole files on the torch.device ``device``, where half of its
    free memory suffices; "off" keeps and reads none, as without a ``root``. Images that cost nothing to read are not
    kept, nor are those that no file tells changes of.
    """

    def __init__(self, root=None, mode="disk", device=None):
        self.root = None if root is None else Path(root)
        self.mode, self.device = mode, device
        self._files, self._digests, self._noted = {}, {}, set()

    @property
    def folder(self):
        return self.root / FOLDER

    def of_task(self, task, split, transform):
        """A Task's split of that name, ``kept`` unless code gives its images."""
        found = task.split(split)
        return found if task.from_code else self.kept(found, f"{task.place or task.name}-{split}", transform)

    def kept(self, split, name, transform):
        """A Split whose images are the results of ``transform``, an EvalTransform of which nothing changes them: read
        from the file of ``name``, or made and kept there. The split itself where it is not kept."""
        size = len(split) * 3 * transform.resolution ** 2
        if self.root is None or self.mode == "off" or split.in_memory or not size:
            return split
        if not (split.path or split.content):
            return split
        if self.mode == "auto" and (size > MOST or not self.root.is_dir()):  # before each of its files is looked at
            return split
        file = self._file(split, name, transform)
        if file is None:
            return split
        file.settle(wait=True)
        if not file.whole:
            return replace(split, image=functools.partial(_kept_image, file, split.image, transform))
        rows = Rows(self._resident(file), range(len(split)), transform.name)
        return replace(split, image=lambda index: rows.read(index, index + 1)[0], rows=rows)

    def settle(self, wait=False):
        """Let files that have become whole take their final names; ``wait`` until they have them."""
        for file in self._files.values():
            if file is not None:
                file.settle(wait)

    def _file(self, split, name, transform):
        """The _File of a split, opened once; None where none may be."""
        key = name, self.digest(split, transform)
        if key not in self._files:
            self._files[key] = self._opened(split, name, transform)
        return self._files[key]

    def digest(self, split, transform):
        """What changes when the results of a transform do; files are looked at once a run."""
        here = [os.path.abspath(split.path(0)), *split.listing()] if split.path else [split.content()]
        key = transform.name, listing_digest(here)
        if key not in self._digests:
            self._digests[key] = _digest(split, transform)
        return self._digests[key]

    def _opened(self, split, name, transform):
        size = len(split) * 3 * transform.resolution ** 2
        path = self.folder / f"{name}-{self.digest(split, transform)}.npy"
        file = _File(path, len(split), transform.resolution)
        if file.is_there() or not may_write():
            return file if file.whole else None
        try:
            free = file.room(self.root)
            if size > (free / LEFT_FREE if self.mode == "auto" else free):
                self._note(f"the decoded images of {name} would take {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are "
                           f"free at {self.root}: they are decoded each time")
                return None
            is_new = file.begin()
            if file.is_there():  # another one has just given it its name
                if is_new:
                    file.partial.unlink(missing_ok=True)
            elif is_new:
                self._note(f"decoded images are kept in {path.parent}, for later passes over them; --cache-images off "
                           "keeps none", once="kept")
        except OSError as error:
            self._note(f"decoded images are not kept: {path.parent} cannot be written ({error.strerror})", once="write")
            return None
        return file

    def _resident(self, file):
        """The rows of a whole _File, on the device where they are to be and have room."""
        if self.mode != "device" or self.device is None:
            return file.pixels
        if file.resident is None:
            file.resident = _on_device(file.pixels, self.device)
            if file.resident is None:
                self._note(f"{file.path.name} is read from the disk: half of the device's free memory does not hold it")
                file.resident = file.pixels
        return file.resident

    def _note(self, text, once=None):
        """Print a note, and of those called ``once`` the first."""
        if (once or text) not in self._noted:
            print(f"note: {text}", flush=True)
        self._noted.add(once or text)


class _File:
    """The file of a split: numpy's header, N rows of uint8 (3, R, R), and for each row a mark, 0 where it is not there.
    A mark is a sum of the row's bits, so that what a loss of power has taken is no row. Until all are there the file is
    called ``.partial``. Writing is by ``pwrite``, so that a full disk is an error and no signal."""

    def __init__(self, path, count, resolution):
        self.path, self.partial = path, path.with_name(f"{path.name}.partial")
        self.shape = count, 3, resolution, resolution
        self.row, self.header = 3 * resolution ** 2, _header(self.shape)
        self.marks = len(self.header) + count * self.row  # where they begin
        self.size = self.marks + count * MARK.size
        self.descriptor = self.resident = self.finishing = None
        self.whole = self._finished = self._fails = self._stays = False

    def is_there(self):
        """Whether the whole file is there; one of another length is removed, with a warning."""
        if not self.path.is_file():
            return False
        if self.path.stat().st_size != self.size:
            warn(f"{self.path} is damaged: its images are decoded again")
            self.path.unlink(missing_ok=True)
            return False
        self.whole = True
        return True

    def room(self, root):
        """Bytes that this file may take: free ones, and those that it has."""
        while not root.exists():
            root = root.parent
        taken = self.partial.stat().st_blocks * 512 if self.partial.exists() else 0
        return shutil.disk_usage(root).free + taken

    def begin(self):
        """Open the file for filling -> whether it is new. OSError where that is not possible."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666)
        weakref.finalize(self, os.close, self.descriptor)
        found = os.fstat(self.descriptor).st_size
        if found not in (0, self.size):
            os.ftruncate(self.descriptor, 0)
        os.ftruncate(self.descriptor, self.size)
        os.pwrite(self.descriptor, self.header, 0)
        return found == 0

    def get(self, index):
        """The row as a uint8 tensor (3, R, R), None where it is not there."""
        import torch
        [mark] = MARK.unpack(os.pread(self.descriptor, MARK.size, self.marks + index * MARK.size))
        if not mark:
            return None
        row = torch.empty(self.shape[1:], dtype=torch.uint8)
        os.preadv(self.descriptor, [row.numpy()], self._at(index))
        return row if _marks_of(row.numpy()[None])[0] == mark else None

    def put(self, index, row):
        """Keep a row; without room it is not kept, nor are those behind it."""
        if self._fails:
            return
        try:
            os.pwrite(self.descriptor, row.numpy(), self._at(index))
            os.pwrite(self.descriptor, _marks_of(row.numpy()[None]), self.marks + index * MARK.size)
        except OSError:
            self._fails = True

    def settle(self, wait=False):
        """Where all rows are there, begin to check them and to give the file its name; ``wait`` until that is done."""
        if self.whole or self._stays:
            return
        if self.finishing is None and self._marks().all():
            self.finishing = threading.Thread(target=self._finish, name=self.path.name)
            self.finishing.start()
        if self.finishing is not None and wait:
            self.finishing.join()
        if self.finishing is not None and not self.finishing.is_alive():
            self.whole, self.finishing = self._finished, None

    def _marks(self):
        import numpy
        return numpy.frombuffer(os.pread(self.descriptor, self.size - self.marks, self.marks), dtype="<u8")

    def _finish(self):
        with _one_at_a_time:
            self._finished = self._is_whole()

    def _is_whole(self):
        """Check that the rows are what their marks say, have them on the disk, and give the file its name."""
        import numpy
        mapped = mmap.mmap(self.descriptor, self.marks, access=mmap.ACCESS_READ)
        pixels = numpy.frombuffer(mapped, numpy.uint8, offset=len(self.header)).reshape(self.shape)
        marks, bad = self._marks(), []
        for first in range(0, len(pixels), CHECKED):
            found = _marks_of(pixels[first:first + CHECKED])
            bad += (first + (found != marks[first:first + CHECKED]).nonzero()[0]).tolist()
        for index in bad:
            os.pwrite(self.descriptor, MARK.pack(0), self.marks + index * MARK.size)
        if bad:
            return False
        try:
            os.fsync(self.descriptor)
            os.replace(self.partial, self.path)
        except OSError:  # another process was first, or it remains partial
            self._stays = not self.path.is_file()
            return not self._stays
        return True

    def _at(self, index):
        return len(self.header) + index * self.row

    @functools.cached_property
    def pixels(self):
        """(N, 3, R, R) uint8 of the whole file, mapped."""
        import numpy
        return numpy.memmap(self.path, numpy.uint8, "r", len(self.header), self.shape)


def _kept_image(file, image, transform, index):
    """An image as it was kept, or from ``image(index)`` and kept. None of one that cannot be decoded."""
    found = file.get(index)
    if found is None and (decoded := image(index)) is not None:
        found = transform(decoded)
        file.put(index, found)
    return found


def _marks_of(rows):
    """(n, 3, R, R) uint8 -> (n,) numbers of 64 bits, never 0: the sums of the rows' words."""
    import numpy
    words = rows.reshape(len(rows), -1)
    if rest := -words.shape[1] % MARK.size:
        words = numpy.pad(words, ((0, 0), (0, rest)))
    sums = words.view("<u8").sum(axis=1, dtype="<u8")
    sums[sums == 0] = 1
    return sums


def _header(shape):
    """The beginning of numpy's file of such a uint8 array."""
    import numpy
    file = io.BytesIO()
    numpy.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def _on_device(pixels, device):
    """The (N, 3, R, R) of a mapped file as a tensor on the device; None where it would take more than half of what is
    free there."""
    import torch
    if device.type == "cuda" and pixels.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return None
    found, step = torch.empty(pixels.shape, dtype=torch.uint8, device=device), 512
    for first in range(0, len(pixels), step):
        found[first:first + step] = torch.from_numpy(pixels[first:first + step].copy())
    return found


def _digest(split, transform):
    """What changes when the pixels do: the transform, the decoders, and where each file lies, its size and time, or
    the content of what is in no files."""
    import torch
    lines = [RULES, transform.name, *_decoders(), torch.backends.cpu.get_cpu_capability()]
    listing = "\n".join([*lines, *(_state(split) if split.path else [split.content()])])
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@functools.cache
def _decoders():
    return [f"{name} {importlib.metadata.version(name)}" for name in DECODERS]


def _state(split):
    """A line for each file."""
    for index in range(len(split)):
        path = os.path.abspath(split.path(index))
        try:
            found = os.stat(path)
            yield f"{path} {found.st_size} {found.st_mtime_ns}"
        except OSError:  # it is named when it is decoded
            yield path


def as_it_is(image, seed=None):
    """Transform images that are ready: change nothing."""
    return image
