"""The cells of a study as processes: each once, at most N at a time, whatever ends them."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli_files import contents, listing
from study_files import PROGRAM, until

from src.errors import UserError
from src.machine.files import WriteError, atomic_file, holder_of, locked_folder
from src.machine.interruption import Interrupted, Signals
from src.run import launcher
from src.run.cells import DONE, FAILED, LOCK, RUNNING, WAITING, State, state_of
from src.run.launcher import environments
from src.run.study import exit_status, launch, status_text

pytest_plugins = ["study_fixtures"]
ROOT = Path(__file__).parents[2]


def launched(jobs, slots, signals):
    """The states of the Jobs after a launch."""
    launch("s", jobs, slots, signals)
    return list(map(state_of, jobs))


def test_each_cell_runs_once_and_a_second_call_runs_none(place, capsys):
    signals = Signals()
    assert launched(place.jobs, [{}, {}], signals) == [State(DONE)] * 3
    assert sorted(place.starts()) == ["seed-1", "seed-2", "seed-3"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "study s: 3 cells, 0 done, 3 to run, 2 at the same time"
    assert sorted(line.split(": ")[1].split(" after")[0] for line in printed[1:]) == sorted(
        ["started, 2 to come", "started, 1 to come", "started, 0 to come", "done", "done", "done"])
    before = {job.name: contents(job.folder) for job in place.jobs}
    assert launched(place.jobs, [{}], signals) == [State(DONE)] * 3 and len(place.starts()) == 3
    assert {job.name: contents(job.folder) for job in place.jobs} == before
    output = before["seed-2"]["output.txt"].decode()
    assert output == f"$ python -m src.main {' '.join(place.jobs[1].words)}\n"
    assert exit_status(place.jobs, [State(DONE)] * 3) == 0


def test_as_many_at_the_same_time_as_there_are_slots(make_place):
    place = make_place(5)
    place.act(seconds=0.1, meet=2)
    place.launcher(slots=2).run()
    at_work = [int(line) for line in (place.folder / "at-work").read_text(encoding="utf-8").split()]
    assert len(at_work) == 5 and max(at_work) == 2


def test_a_cell_that_fails_stops_no_other_and_is_tried_by_the_next_call(place, capsys):
    place.act(seed1="fails", seed3="is killed")
    states = launched(place.jobs, [{}], Signals())
    assert states == [State(FAILED, "error: no memory left"), State(DONE), State(FAILED, "killed by SIGKILL")]
    assert exit_status(place.jobs, states) == 1
    printed = capsys.readouterr().err.splitlines()
    assert printed == [f"seed-1: failed, error: no memory left ({place.jobs[0].folder / 'output.txt'})",
                       f"seed-3: failed, killed by SIGKILL ({place.jobs[2].folder / 'output.txt'})",
                       "2 of 3 cells are not done; rerun the command to try them again"]
    assert place.starts() == ["seed-1", "seed-2", "seed-3"]
    text = status_text("s", place.jobs)
    assert text.startswith("study s: 3 cells, 1 done, 2 failed\n") and "error: no memory left" in text
    place.act()
    place.launcher().run()
    assert place.kinds() == [DONE] * 3
    assert sorted(place.starts()[3:]) == ["seed-1", "seed-3"]


def full_disk(path, mode):
    raise WriteError(path, OSError(errno.ENOSPC, "No space left on device"))


def test_a_record_that_cannot_be_written_stops_no_other_cell(place, monkeypatch, capsys):
    monkeypatch.setattr(launcher, "atomic_file", lambda path, mode: (
        full_disk if path.parent.name == "seed-1" else atomic_file)(path, mode))
    states = launched(place.jobs, [{}], Signals())
    assert [state.kind for state in states] == [WAITING, DONE, DONE]
    assert holder_of(place.jobs[0].folder, LOCK) is None and not (place.jobs[0].folder / LOCK).exists()
    assert exit_status(place.jobs, states) == 75
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("seed-1: done")]
    assert line.endswith("cell.json could not be written (No space left on device); make room there or give another "
                         "folder")
    monkeypatch.undo()


def test_a_cell_whose_end_goes_wrong_keeps_no_other_locked(place, monkeypatch):
    place.act(seed1="hangs", seed2="hangs")
    signals = Signals()

    def broken(job):
        raise OSError(errno.EIO, "Input/output error")

    def ask():
        until(lambda: all((place.folder / f"seed-{number}-hangs").exists() for number in (1, 2)))
        signals.name = "SIGTERM"
    monkeypatch.setattr(launcher, "last_line", broken)
    asking = threading.Thread(target=ask)
    asking.start()
    broken_off = place.launcher(signals=signals)
    with pytest.raises(OSError, match="Input/output error") as kept:  # with the frames that hold the locks
        broken_off.run()
    asking.join()
    assert [holder_of(job.folder, LOCK) for job in place.jobs] == [None] * 3
    assert not [name for name in listing(place.folder / "out") if name.endswith(LOCK)]
    del kept


def test_a_process_that_cannot_be_started_is_no_file_that_cannot_be_written(place, monkeypatch):
    monkeypatch.setattr(launcher, "PROGRAM", (str(place.folder / "nothing"),))
    with pytest.raises(UserError, match="cell seed-1: its process could not be started .No such file") as caught:
        place.launcher(slots=1).run()
    assert not isinstance(caught.value, WriteError)
    assert holder_of(place.jobs[0].folder, LOCK) is None and place.kinds() == [WAITING] * 3


def test_a_signal_without_a_name(place):
    place.act(seed1="is killed by a signal without a name")
    assert launched(place.jobs, [{}], Signals()) == [State(FAILED, "killed by signal 40"), State(DONE), State(DONE)]


def test_two_launchers_share_the_cells(make_place):
    place = make_place(6)
    place.act(meet=3, seed2="fails")  # three at work at the same time are not those of one launcher
    reports = [], []
    launchers = [place.launcher(slots=2, report=report.append) for report in reports]
    threads = [threading.Thread(target=launcher.run) for launcher in launchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert sorted(place.starts()) == [f"seed-{number}" for number in range(1, 7)], "none twice, none left out"
    assert place.kinds() == [DONE, FAILED, *[DONE] * 4]
    started = [sum(": started" in line for line in report) for report in reports]
    assert min(started) > 0 and sum(started) == 6


def test_a_task_of_an_array_waits_for_no_other(place, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    with locked_folder(place.jobs[1].folder, "--save", LOCK):
        states = launched(place.jobs, [{}, {}], Signals())
        assert [state.kind for state in states] == [DONE, RUNNING, DONE]
        assert exit_status(place.jobs, states) == 0
        printed = capsys.readouterr()
        assert printed.err == "" and "note: 1 of 3 cells still run in other tasks of the array" in printed.out
    assert launched(place.jobs, [{}], Signals()) == [State(DONE)] * 3 and place.starts().count("seed-2") == 1


@pytest.mark.parametrize("lock", [LOCK, "in_use"])
def test_a_cell_that_another_process_runs_is_waited_for_and_then_tried(place, lock):
    """Another launcher, or a command that was typed."""
    launcher = place.launcher()
    thread = threading.Thread(target=launcher.run)
    with locked_folder(place.jobs[0].folder, "--save", lock):
        assert state_of(place.jobs[0]).kind == RUNNING
        thread.start()
        until(lambda: place.kinds()[1:] == [DONE, DONE])
        until(lambda: launcher.looked)
        looked = launcher.looked
        until(lambda: launcher.looked > looked)
        assert thread.is_alive() and "seed-1" not in place.starts()
    thread.join(300)
    assert place.kinds() == [DONE] * 3 and len(place.starts()) == 3


def test_a_cell_stays_in_the_hands_of_its_process_when_the_launcher_is_killed(place):
    place.act(seed1="hangs")
    code = ("import sys; from src.run import launcher; from pathlib import Path; from src.machine.files import *\n"
            "job = type('Job', (), {'folder': Path(sys.argv[1]), 'words': ('--save', sys.argv[1])})()\n"
            "with locked_folder(job.folder, '--save', launcher.LOCK) as lock:\n"
            "    launcher.PROGRAM = (sys.executable, '-I', '-S', '-c', sys.argv[2])\n"
            "    print(launcher.Attempt(job, None, lock, {}).process.pid, flush=True)\n"
            "    sys.stdin.read()")
    job = place.jobs[0]
    launcher = subprocess.Popen([sys.executable, "-c", code, str(job.folder), PROGRAM], cwd=ROOT,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    cell = int(launcher.stdout.readline())
    try:
        until((place.folder / "seed-1-hangs").exists)
        launcher.kill()
        launcher.communicate()
        assert holder_of(job.folder, LOCK) and state_of(job).kind == RUNNING
        with pytest.raises(UserError, match="in use by process"), locked_folder(job.folder, "--save", LOCK):
            pass
    finally:
        os.kill(cell, signal.SIGKILL)
    until(lambda: holder_of(job.folder, LOCK) is None)
    place.act()
    place.launcher().run()
    assert place.kinds() == [DONE] * 3


def test_a_signal_ends_every_process_where_it_resumes(place):
    place.act(seed1="hangs", seed2="hangs")
    signals = Signals()
    hanging = [place.folder / f"seed-{number}-hangs" for number in (1, 2)]

    def ask():
        until(lambda: all(path.exists() for path in hanging))
        signals.name = "SIGTERM"
    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(Interrupted, match="interrupted by SIGTERM: rerun the command to continue with what is missing"):
        place.launcher(signals=signals).run()
    asking.join()
    assert place.kinds() == [WAITING] * 3 and place.starts().count("seed-3") == 0
    assert not [name for name in listing(place.folder / "out") if name.endswith((".json", LOCK))]
    place.act()
    place.launcher().run()
    assert place.kinds() == [DONE] * 3


def test_a_process_that_was_interrupted_alone_continues_by_the_same_command(place, capsys):
    place.act(seed1="hangs")

    def interrupt():
        until((place.folder / "seed-1-hangs").exists)
        launcher.running[0].stop()
    launcher = place.launcher(slots=1)
    asking = threading.Thread(target=interrupt)
    asking.start()
    launcher.run()
    asking.join()
    states = [state_of(job) for job in place.jobs]
    assert [state.kind for state in states] == [WAITING, DONE, DONE]
    assert exit_status(place.jobs, states) == 75
    assert capsys.readouterr().err.startswith("seed-1: waiting, ")


def test_each_process_has_its_device_or_its_share_of_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(9)), raising=False)
    assert environments(3, ["4", "GPU-x"]) == [{"CUDA_VISIBLE_DEVICES": name} for name in ("4", "GPU-x", "4")]
    assert environments(2, ["0"]) == [{}, {}] and environments(1) == [{}]
    assert environments(4) == [{"OMP_NUM_THREADS": "2"}] * 4
    assert environments(12) == [{"OMP_NUM_THREADS": "1"}] * 12
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert environments(4) == [{}] * 4
