"""The folder of finished tasks: whole entries only, within its size, each in the hands of one process at a time."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from src.errors import UserError
from src.machine.files import holder_of, locked_folder
from src.store import task_cache
from src.store.task_cache import GB, LOCK, SCORES, TASK, TaskCache

ROOT = Path(__file__).parents[2]
CONTENT = {"checkpoint": {"w": torch.arange(1000, dtype=torch.float32)}, "facts": "{}"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(task_cache, "LOOK", 0.01)
    return TaskCache(tmp_path / "cache", GB)


def used(cache, key, seconds):
    """Set when an entry was used last."""
    for kind in (TASK, SCORES):
        if (cache.folder / f"{key}{kind}").exists():
            os.utime(cache.folder / f"{key}{kind}", (seconds, seconds))


def there(cache):
    return sorted(path.name.removesuffix(TASK) for path in cache.folder.glob(f"*{TASK}"))


def test_what_is_written_is_read(cache):
    assert cache.read("a") is None and cache.scores("a") == {}
    cache.write("a", CONTENT)
    found = cache.read("a")
    assert found["facts"] == "{}" and torch.equal(found["checkpoint"]["w"], CONTENT["checkpoint"]["w"])
    cache.add_scores("a", {"one": {"scores": {"task": 0.1 + 0.2}, "rows": [{"iteration": 3, "top1": "1.0"}]}})
    cache.add_scores("a", {"two": {"scores": {}, "rows": []}})
    assert cache.scores("a") == {"one": {"scores": {"task": 0.1 + 0.2}, "rows": [{"iteration": 3, "top1": "1.0"}]},
                                 "two": {"scores": {}, "rows": []}}
    assert cache.scores("b") == {} and cache.read("b") is None
    cache.write("a", CONTENT)
    assert cache.scores("a") == {}, "scores of an entry that was replaced"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another entry"])
def test_a_damaged_entry_is_announced_and_counts_as_absent(cache, capsys, damage):
    cache.write("a", CONTENT)
    cache.write("b", CONTENT)
    path, whole = cache.folder / f"a{TASK}", (cache.folder / f"a{TASK}").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes({"cut": whole[:-1], "flipped": bytes(flipped), "empty": b"",
                      "another entry": (cache.folder / f"b{TASK}").read_bytes()}[damage])
    assert cache.read("a") is None
    assert capsys.readouterr().err.count("; the task is trained again") == 1
    cache.write("a", CONTENT)
    assert cache.read("a") and not capsys.readouterr().err


@pytest.mark.parametrize("damage", [
    lambda text: text[:-3], lambda text: text.replace("0.5", "0.6"), lambda text: "[]", lambda text: "{}"])
def test_damaged_scores_are_announced_and_count_as_absent(cache, capsys, damage):
    cache.add_scores("a", {"one": {"scores": {"task": 0.5}, "rows": []}})
    path = cache.folder / f"a{SCORES}"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert cache.scores("a") == {}
    assert capsys.readouterr().err.endswith("its content has changed since it was written; the task is scored again\n")
    cache.add_scores("a", {"one": {"scores": {"task": 0.5}, "rows": []}})
    assert json.loads(path.read_text(encoding="utf-8"))["scores"] == {"one": {"scores": {"task": 0.5}, "rows": []}}


def test_what_was_not_used_for_longest_goes_first(cache):
    for number, key in enumerate("abcd"):
        cache.write(key, CONTENT)
        used(cache, key, 1000 + number)
    size = (cache.folder / f"a{TASK}").stat().st_size
    cache.read("a")  # now it is the newest
    small = TaskCache(cache.folder, 3.5 * size)
    small.write("e", CONTENT)
    assert there(cache) == ["a", "d", "e"]


def test_scores_count_and_go_with_their_entry(cache):
    for number, key in enumerate("ab"):
        cache.write(key, CONTENT)
        cache.add_scores(key, {"one": {"scores": {}, "rows": ["x" * 20_000]}})
        used(cache, key, 1000 + number)
    size = (cache.folder / f"a{TASK}").stat().st_size
    TaskCache(cache.folder, 2 * size + 30_000).write("c", CONTENT)
    assert there(cache) == ["b", "c"] and not (cache.folder / f"a{SCORES}").exists()


def test_an_entry_that_a_run_holds_stays(cache):
    for number, key in enumerate("ab"):
        cache.write(key, CONTENT)
        used(cache, key, 1000 + number)
    size = (cache.folder / f"a{TASK}").stat().st_size
    with cache.alone("a"):
        TaskCache(cache.folder, 2.5 * size).write("c", CONTENT)
    assert there(cache) == ["a", "c"]


def test_an_entry_larger_than_the_size_is_not_kept(cache, capsys):
    cache.write("a", CONTENT)
    TaskCache(cache.folder, 100).write("b", CONTENT)
    assert "b" not in there(cache)
    assert "a task is larger than --task-cache-size" in capsys.readouterr().err


def test_a_disk_that_refuses_costs_a_warning(cache, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    cache.write("a", CONTENT)
    cache.add_scores("a", {"one": {"scores": {}, "rows": []}})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("warning: --task-cache") and "No space" in line for line in lines)
    assert cache.read("a") is None and cache.scores("a") == {}


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="--task-cache .*file/cache: cannot be written"):
        TaskCache(tmp_path / "file" / "cache", GB).prepare()
    TaskCache(tmp_path / "a" / "b", GB).prepare()
    assert not list((tmp_path / "a" / "b").iterdir())


def test_the_second_waits_until_the_first_has_left(cache):
    cache.prepare()
    told, order = [], []

    def second():
        with cache.alone("a", told.append):
            order.append("second")
    with cache.alone("a"), cache.alone("b"):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 300
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
        order.append("first")
    thread.join(300)
    assert order == ["first", "second"] and len(told) == 1 and f"process {os.getpid()}" in told[0]


def test_a_killed_owner_leaves_its_entry_free(cache):
    cache.prepare()
    code = ("import sys, time\nfrom src.machine.files import locked_folder\n"
            "with locked_folder(sys.argv[1], '--task-cache', sys.argv[2]):\n"
            "    print('in', flush=True)\n    time.sleep(60)\n")
    child = subprocess.Popen([sys.executable, "-c", code, str(cache.folder), f"a{LOCK}"], cwd=ROOT,
                             stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "in\n"
        assert holder_of(cache.folder, f"a{LOCK}")
        child.kill()
        child.wait()
        with cache.alone("a", pytest.fail):
            pass
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_an_owner_that_fails_leaves_its_entry_free(cache):
    cache.prepare()
    with pytest.raises(ZeroDivisionError), cache.alone("a"):
        1 / 0  # noqa: B018
    with locked_folder(cache.folder, "--task-cache", f"a{LOCK}"):
        pass
