"""Files that are whole or not there, whatever fails while they are written."""

import errno
import fcntl
import multiprocessing
import os
import stat
import time

import pytest
from cli_files import listing

from src.errors import UserError
from src.machine import files
from src.machine.files import InUse, WriteError, atomic_file, holder_of, locked_folder


@pytest.mark.parametrize(("mode", "content"), [("wb", b"\0\1"), ("w", "line\nä\n")])
def test_a_whole_file(tmp_path, mode, content):
    with atomic_file(tmp_path / "new" / "file", mode) as file:
        file.write(content)
        assert not (tmp_path / "new" / "file").exists(), "it has its name only when it is whole"
    read = (tmp_path / "new" / "file").read_bytes()
    assert read == (content if mode == "wb" else content.encode())
    assert listing(tmp_path) == {"new", "new/file"}


def test_names_that_are_no_text_can_be_written(tmp_path):
    """A file name of Latin-1 bytes, say, in a table of predictions."""
    with atomic_file(tmp_path / "file", "w") as file:
        file.write("caf\udce9.jpg,cat\n")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "caf\\udce9.jpg,cat\n"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_writer_that_raises_leaves_what_was_there(tmp_path, error, before):
    path = tmp_path / "file"
    if before:
        path.write_text(before, encoding="utf-8")
    with pytest.raises(error), atomic_file(path, "w") as file:
        file.write("half")
        raise error
    assert listing(tmp_path) == ({"file"} if before else set())
    assert not before or path.read_text(encoding="utf-8") == before


def test_a_name_that_cannot_be_taken_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError), atomic_file(tmp_path / "file") as file:
        file.write(b"x")
    assert listing(tmp_path) == {"file"}


def test_others_may_read_it_as_the_umask_says(tmp_path):
    mask = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "file") as file:
            file.write(b"x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))
    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_step_that_fails_leaves_what_was_there(tmp_path, monkeypatch, step, number):
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with monkeypatch.context() as patched, pytest.raises(UserError) as caught:
        patched.setattr(os, step, failing(number))
        with atomic_file(path, "w") as file:
            file.write("new")
    assert str(path) in str(caught.value) and os.strerror(number) in str(caught.value)
    assert path.read_text(encoding="utf-8") == "old" and listing(tmp_path) == {"file"}


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    """/dev/full's answer, from the block itself."""
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(WriteError, match="No space left") as caught, atomic_file(path) as file:
        file.write(b"half")
        failing(errno.ENOSPC)()
    assert caught.value.errno == errno.ENOSPC and caught.value.strerror == os.strerror(errno.ENOSPC)
    assert path.read_text(encoding="utf-8") == "old" and listing(tmp_path) == {"file"}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file/below"), atomic_file(tmp_path / "file" / "below"):
        pass
    assert listing(tmp_path) == {"file"}


def test_the_content_is_synced_before_the_name_is_taken_and_the_folder_after(tmp_path, monkeypatch):
    steps, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content"), sync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("name"), replace(*names)))
    with atomic_file(tmp_path / "file") as file:
        file.write(b"x")
    assert steps == ["content", "name", "folder"]


@pytest.mark.parametrize(("number", "is_told"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, number, is_told):
    """Some file systems never do, which is no failure; either way the file is whole."""
    real = os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: failing(number)() if stat.S_ISDIR(
        os.fstat(descriptor).st_mode) else real(descriptor))
    try:
        with atomic_file(tmp_path / "file") as file:
            file.write(b"new")
        told = False
    except WriteError:
        told = True
    assert told == is_told and (tmp_path / "file").read_bytes() == b"new" and listing(tmp_path) == {"file"}


# -- a locked folder ---------------------------------------------------------------------------------------------------


def hold(folder, ready):
    with locked_folder(folder, "--save"):
        ready.send(True)
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """Another process that has taken tmp_path / "out"."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path / "out", there))
    process.start()
    assert here.poll(300)
    yield process
    process.kill()
    process.join()


def test_a_folder_in_use_is_refused_until_its_process_is_gone(tmp_path, holder):
    with pytest.raises(UserError, match=rf"--save .*out: in use by process {holder.pid} on \S+; wait"), \
            locked_folder(tmp_path / "out", "--save"):
        pass
    assert listing(tmp_path) == {"out", "out/in_use"}
    holder.kill()
    holder.join()
    with locked_folder(tmp_path / "out", "--save"):
        assert f"process {os.getpid()} on" in (tmp_path / "out" / "in_use").read_text()
    assert listing(tmp_path) == {"out"}


def test_who_is_in_a_folder(tmp_path, holder):
    assert holder_of(tmp_path / "out").startswith(f"process {holder.pid} on ")
    assert holder_of(tmp_path / "out", "other") is None and holder_of(tmp_path / "nowhere") is None
    with locked_folder(tmp_path / "out", "--save", "other") as lock:
        assert os.path.samestat(os.fstat(lock.fileno()), (tmp_path / "out" / "other").stat())
        assert holder_of(tmp_path / "out", "other").startswith(f"process {os.getpid()} on ")
    assert listing(tmp_path) == {"out", "out/in_use"}
    holder.kill()
    holder.join()
    assert holder_of(tmp_path / "out") is None, "the file that a killed process has left locks nothing"


def test_a_look_at_a_lock_does_not_block_a_second_try(tmp_path, monkeypatch):
    """A lock that is held for an instant is tried again."""
    (tmp_path / "in_use").write_text("")
    looking = (tmp_path / "in_use").open()
    fcntl.flock(looking, fcntl.LOCK_SH)
    waited = []
    monkeypatch.setattr(files.time, "sleep", lambda seconds: waited.append(seconds) or looking.close())
    with locked_folder(tmp_path, "--save"):
        assert waited == [0.05]
        monkeypatch.setattr(files.time, "sleep", waited.append)
        with pytest.raises(InUse), locked_folder(tmp_path, "--save"):
            pass
    assert len(waited) == 4


def test_what_was_in_use_is_free_whatever_ended_it(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked_folder(tmp_path / "new" / "out", "--save"):
            raise ZeroDivisionError
    assert listing(tmp_path) == set(), "folders that were made for the lock alone are gone too"


def test_half_written_files_of_the_dead_are_removed(tmp_path):
    for name in (".file.0123abcd", "file.0123abcd", ".file.0123abc", ".file.0123abcg"):
        (tmp_path / name).write_text("half")
    with atomic_file(tmp_path / "other") as file:
        file.write(b"whole")
        with locked_folder(tmp_path, "--save"):
            pass
    assert listing(tmp_path) == {"file.0123abcd", ".file.0123abc", ".file.0123abcg", "other"}


def test_a_locked_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError), locked_folder(tmp_path / "file", "--save"):
        pass
