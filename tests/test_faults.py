"""A disk that refuses: every open, write, fsync and rename of a run fails in turn, and the disk is full at any byte.
Nothing that was finished is lost, one message says what happened, and --resume ends with the bits of a run that was
left alone. The disk is a stand-in below ``io.open`` and ``os``; a file system that is truly full comes last."""

import contextlib
import errno
import io
import os
import pathlib
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_files import BATCH
from test_kills import same

from src.main import main

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[1]
KINDS = ("open", "write", "fsync", "replace")
ADD_ONS = ["--orthogonal-gradients", 2, "--l2", 0.1, "--eval-interval", 2, "--save-interval", 1, "--log-interval", 1]


class Disk:
    """Counts what is done to files below ``folder``, {kind: number}, and fails at one of them, ``at`` = (kind, number
    from 1), or at every write after ``room`` bytes. A file's first write alone is counted."""

    def __init__(self, folder, at=None, room=None):
        self.folder, self.at, self.room = str(folder), at, room
        self.done, self.written, self.failed = dict.fromkeys(KINDS, 0), 0, []
        self.real = {"open": io.open, "fsync": os.fsync, "replace": os.replace}

    def meets(self, kind, path):
        self.done[kind] += 1
        if (kind, self.done[kind]) == self.at:
            self.refuse(kind, path)

    def refuse(self, kind, path):
        self.failed.append((kind, str(path)))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def open(self, file, mode="r", *arguments, **options):
        ours = isinstance(file, (str, Path)) and str(file).startswith(self.folder) and set(mode) & set("wxa")
        if ours:
            self.meets("open", file)
        opened = self.real["open"](file, mode, *arguments, **options)
        return Written(opened, self) if ours else opened

    def fsync(self, descriptor):
        self.meets("fsync", descriptor)
        self.real["fsync"](descriptor)

    def replace(self, source, target, **options):
        self.meets("replace", target)
        self.real["replace"](source, target, **options)

    @contextlib.contextmanager
    def mounted(self):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(io, "open", self.open)
            if hasattr(pathlib, "_NormalAccessor"):  # Python 3.10, where Path keeps the open of its import
                patched.setattr(pathlib._NormalAccessor, "open", staticmethod(self.open))
            patched.setattr(os, "fsync", self.fsync)
            patched.setattr(os, "replace", self.replace)
            patched.setattr("src.store.resume.threading.Thread", AtOnce)
            patched.setattr("src.run.sequence.write_report", lambda folder: None)  # tests/report/test_page.py
            yield self


class Written:
    """A file that the disk sees written."""

    def __init__(self, file, disk):
        self.file, self.disk, self.fresh = file, disk, True

    def write(self, data):
        if self.fresh:
            self.disk.meets("write", self.file.name)
        self.fresh = False
        if self.disk.room is not None and self.disk.written + len(data) > self.disk.room:
            self.disk.refuse("full", self.file.name)
        self.disk.written += len(data)
        return self.file.write(data)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


class AtOnce:
    """A thread whose work is done when it starts, so that a run does the same each time."""

    def __init__(self, target, args):
        self.target, self.args = target, args

    def start(self):
        self.target(*self.args)

    def join(self):
        pass


@pytest.fixture(scope="module")
def words(world):
    return [str(word) for word in (
        "--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 4, "--batch-size",
        BATCH, "--lr", "1e-3", "--warmup-length", 0, "--workers", 0, "--quiet", "--resume", *ADD_ONS)]


def run(words, folder, disk):
    with disk.mounted():
        return main([*words, "--save", str(folder)])


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory):
    """(folder of a run that was left alone, its Disk)."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    disk = Disk(folder)
    assert run(words, folder, disk) == 0
    return folder, disk


def results(folder):
    return {path.name: path for path in folder.iterdir() if path.name.endswith((".pth", ".csv"))}


def assert_same(folder, expected):
    ours, theirs = results(folder), results(expected)
    assert ours.keys() == theirs.keys()
    for name, path in ours.items():
        if name.endswith(".csv"):
            assert path.read_bytes() == theirs[name].read_bytes(), name
        else:
            assert same(*(torch.load(file, weights_only=True) for file in (path, theirs[name]))), name
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")], "half a file is left"


def survives(words, folder, disk, expected, capsys):
    """A run on a disk that fails, and the same with --resume on one that does not."""
    capsys.readouterr()
    status = run(words, folder, disk)
    told = capsys.readouterr().err.splitlines()
    assert disk.failed, "the fault was never met"
    assert status in (0, 2), told
    assert all(line.startswith(("error: ", "warning: ")) for line in told), told
    assert sum(line.startswith("error: ") for line in told) == (status == 2), told
    assert any("No space left on device" in line for line in told), told
    finished = {}
    for path in folder.glob("*.pth") if folder.is_dir() else ():
        finished[path.name] = torch.load(path, weights_only=True)  # every file that has its name is whole
    assert run(words, folder, Disk(folder)) == 0, capsys.readouterr().err
    for name in ("colours.pth", "grad_colours.pth"):
        assert name not in finished or same(finished[name], torch.load(folder / name, weights_only=True))
    assert_same(folder, expected)


def places(disk, seed, number=None):
    """Every (kind, place) of a run's operations on files, or some of them by a seed."""
    every = [(kind, place) for kind in KINDS for place in range(1, disk.done[kind] + 1)]
    return every if number is None else random.Random(seed).sample(every, number)


def test_the_disk_is_heard_of(alone):
    folder, disk = alone
    assert min(disk.done.values()) > 20 and disk.written > 1e5 and not disk.failed
    assert {"colours.pth", "tones.pth", "grad_tones.pth", "matrix_top1.csv"} <= results(folder).keys()


def fail_in_turn(words, alone, tmp_path, capsys, chosen):
    for kind, place in chosen:
        folder = tmp_path / f"{kind}-{place}"
        survives(words, folder, Disk(folder, at=(kind, place)), alone[0], capsys)
        shutil.rmtree(folder)


@pytest.mark.parametrize("number", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_an_operation_that_fails(number, words, alone, tmp_path, capsys):
    fail_in_turn(words, alone, tmp_path, capsys, places(alone[1], 0, number))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_that_fails(kind, words, alone, tmp_path, capsys):
    fail_in_turn(words, alone, tmp_path, capsys, [place for place in places(alone[1], 0) if place[0] == kind])


def fill_up(words, alone, tmp_path, capsys, shares):
    for share in shares:
        folder = tmp_path / f"{share:.3f}"
        survives(words, folder, Disk(folder, room=int(share * alone[1].written)), alone[0], capsys)
        shutil.rmtree(folder)


@pytest.mark.parametrize("share", [0.3, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 0.95))])
def test_a_disk_that_is_full(share, words, alone, tmp_path, capsys):
    fill_up(words, alone, tmp_path, capsys, [share])


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_byte(words, alone, tmp_path, capsys):
    fill_up(words, alone, tmp_path, capsys, [random.Random(seed).random() for seed in range(30)])


@pytest.fixture
def small(tmp_path):
    """A file system of 3 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=False,
                                      capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.slow
def test_a_file_system_that_is_full(small, words, alone):
    """In a separate process, with nothing replaced: first there is no room beside a large file, then there is."""
    command = [sys.executable, "-m", "src.main", *words, "--save", str(small / "out")]
    as_here = {"cwd": ROOT, "timeout": 300, "check": False,
               "env": os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}}
    filler = small / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - 600_000)  # enough for a start, not for the whole
    done = subprocess.run(command, capture_output=True, text=True, **as_here)
    assert done.returncode == 2 and "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1, done.stderr
    filler.unlink()
    assert subprocess.run(command, **as_here).returncode == 0
    assert_same(small / "out", alone[0])
