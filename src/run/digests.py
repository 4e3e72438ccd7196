"""Compute digests of everything that numbers depend on: nested content, data files, code, the machine."""

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import site
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

import torch

import clip
from src.machine.code_files import OURS
from src.machine.files import digest_of
from src.run.kept import plain_frames

FOLDERS = (Path(__file__).parents[1], Path(clip.__file__).parent)  # of our code


def content_digest(content):
    """Return the digest of tensors and plain values in dicts, lists and tuples: every bit counts, and the order."""
    digest = hashlib.blake2b(digest_size=32)
    _feed(digest.update, content)
    return digest.hexdigest()


def _feed(update, content):
    if isinstance(content, torch.Tensor):
        values = content.detach().cpu().contiguous()
        update(f"tensor {values.dtype} {tuple(values.shape)} ".encode())
        update(values.flatten().view(torch.uint8).numpy())
    elif isinstance(content, dict):
        update(f"dict {len(content)} ".encode())
        for key, value in content.items():
            _feed(update, key)
            _feed(update, value)
    elif isinstance(content, list | tuple):
        update(f"list {len(content)} ".encode())
        for value in content:
            _feed(update, value)
    else:
        text = repr(content).encode("utf-8", "surrogateescape")
        update(f"{type(content).__name__} {len(text)} ".encode() + text)


# -- data --------------------------------------------------------------------------------------------------------------


class DataDigests:
    """Compute digests of a run's datasets, as its flags open them.

    An image file counts by its name in the dataset, its size and its modification time. No file is read, and
    each dataset is examined once per run.
    """

    def __init__(self, datasets):
        self.datasets = datasets
        self.trained, self.read, self.scored = map(functools.cache, (self._trained, self._read, self._scored))

    def _trained(self, name, every_split=False):
        """Digest what a task trains on; ``every_split`` of the dataset for a custom method, which may read any."""
        task = self.datasets.open(name)
        return content_digest([words_digest(task), _splits(task, sorted(task.splits) if every_split else ["train"]),
                               task.train_data, task.lists, task.drawn_from and split_digest(task.drawn_from)])

    def _read(self, name, trained):
        """Digest another dataset that a method reads, opened either as trained on or not."""
        task = self.datasets.open(name, trained=True) if trained else self.datasets.open(name)
        return content_digest([words_digest(task), split_digest(task.reference_split) if task.splits else None])

    def _scored(self, name, split):
        """Digest the images and captions in a split that is scored."""
        return split_digest(self.datasets.open(name).split(split))


def words_digest(task):
    """Return the digest of all text in a Task."""
    return content_digest([task.name, list(task.classnames), list(task.templates), list(task.sentences), task.pairs])


def _splits(task, names):
    return {name: split_digest(task.split(name)) for name in names}


def split_digest(split):
    """Return the digest of a Split: labels, captions, what counts as right in videos, names and state of files."""
    return content_digest([list(split.listing()), list(split.labels), split.captions and list(split.captions),
                           plain_frames(split.video),
                           None if split.path is None else [_state(split.path(index)) for index in range(len(split))]])


def _state(path):
    try:
        found = os.stat(path)
    except OSError:  # reported when it is decoded
        return None
    return [found.st_size, found.st_mtime_ns]


# -- code and machine --------------------------------------------------------------------------------------------------


def code_digest(folders=None):
    """Return the digest of every file in src/ and clip/, by name and bytes; the same on every machine."""
    files = {f"{folder.name}/{path.relative_to(folder).as_posix()}": path for folder in folders or FOLDERS
             for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    return hashlib.sha256(json.dumps([[name, digest_of(files[name])] for name in sorted(files)]).encode()).hexdigest()


def sources_digest(path):
    """Return the digest of a custom method's file and of the modules that it imports by name.

    Modules of Python and of packages count by their version, others by their files.
    """
    waiting, files, packages = [Path(path).resolve()], {}, {}
    while waiting:
        file = waiting.pop()
        if file in files:
            continue
        files[file] = digest_of(file)
        for name in _imported(file):
            found = _files_of(name)
            packages |= {} if found else {name: _version(name)}
            waiting += found
    return content_digest([sorted([file.name, digest] for file, digest in files.items()), sorted(packages.items())])


def _imported(file):
    """Return the top-level names of the packages that a file imports anywhere, without ours."""
    names = set()
    for node in ast.walk(ast.parse(file.read_bytes())) if file.suffix == ".py" else ():
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.split(".")[0] for name in names} - {*OURS, *sys.stdlib_module_names}


def _files_of(name):
    """Return the files of a user's module; [] if it is installed or missing."""
    spec = PathFinder.find_spec(name)
    places = [Path(place).resolve() for place in (spec.submodule_search_locations or [spec.origin])] if spec else []
    if any(place.is_relative_to(folder) for place in places for folder in _installed()):
        return []
    return [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]


@functools.cache
def _installed():
    named = [*sysconfig.get_paths().values(), site.getusersitepackages(), *site.getsitepackages()]
    packages = [Path(name).resolve() for name in named]
    return [folder for folder in packages if folder.name in ("site-packages", "dist-packages")]


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine(device):
    """Return, as text, what of the machine may change the last bits of a number. ``device``: the run's Device."""
    backend = [torch.version.cuda, torch.backends.cudnn.version()] if device.device.type == "cuda" else []
    cpu = [platform.machine(), _cpu_model(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    return repr([device.device.type, device.describe(), device.precision, *backend, *cpu])


@functools.cache
def _cpu_model():
    """Return the CPU model where Linux reports it: libraries choose their kernels by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
