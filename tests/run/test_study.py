"""A study from the command line: one table at the end, files, exit status. Real ones are in test_whole_study.py."""

import os
import signal
import threading

import pytest
from cli_files import listing
from study_files import until

from src.machine.files import holder_of, locked_folder
from src.main import main
from src.run import launcher, study, whole_study
from src.run.cells import DONE, LOCK, RUNNING
from src.run.study import launch

pytest_plugins = ["cli_fixtures", "study_fixtures"]


# -- from the command line ---------------------------------------------------------------------------------------------


def test_it_ends_with_one_table_and_the_files_of_a_comparison(place, cli):
    words = ("--seed", "1,2,3", "--dataset-order", "toy-colours", "--iterations", 1, "--save", place.folder / "out")
    place.act(seed2="fails")
    done = cli(*words)
    assert done.status == 1 and done.err.splitlines()[-1].startswith("1 of 3 cells are not done")
    assert "| finetune             | 2 |" in done.out
    place.act()
    done = cli(*words)
    assert done.status == 0 and done.err == "" and "| finetune             | 3 |" in done.out
    assert {"compare.md", "compare.tex", "compare.csv", "tradeoff.png"} <= listing(place.folder / "out")
    assert "| finetune             | 3 |" in (place.folder / "out" / "compare.md").read_text(encoding="utf-8")
    status = cli(*words, "--status")
    assert status.status == 0 and status.out.startswith("study finetune: 3 cells, 3 done\n")


def test_where_all_have_failed_there_is_no_table(place, cli):
    place.act(seed1="fails", seed2="fails")
    done = cli("--seed", "1,2", "--dataset-order", "toy-colours", "--iterations", 1, "--save", place.folder / "out")
    assert done.status == 1 and "|" not in done.out
    assert not [name for name in listing(place.folder / "out") if name.startswith("compare")]


WORDS = ("--seed", "1,2,3", "--dataset-order", "toy-colours", "--iterations", "1", "--save")


def test_the_last_task_of_an_array_writes_the_whole_table(place, cli, monkeypatch):
    """A cell of another task ends once this one has left it there."""
    left = []

    def late(*arguments):
        with locked_folder(place.jobs[1].folder, "--save", LOCK):
            launch(*arguments)
            left.extend(place.kinds())
        launch(*arguments)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setattr(whole_study, "launch", late)
    done = cli(*WORDS, place.folder / "out")
    assert done.status == 0 and "| finetune             | 3 |" in done.out and "still run" not in done.out
    assert left == [DONE, RUNNING, DONE]


def test_one_launcher_at_a_time_writes_the_tables(place, monkeypatch):
    place.launcher().run()
    out, tries = place.folder / "out", []

    def tried(folder, flag, lock):
        tries.append(lock)
        return locked_folder(folder, flag, lock)
    monkeypatch.setattr(study, "locked_folder", tried)
    thread = threading.Thread(target=main, args=([*WORDS, str(out)],))
    with locked_folder(out, "--save", study.TABLES):
        thread.start()
        until(lambda: tries.count(study.TABLES) > 1)
        assert thread.is_alive() and "compare.md" not in listing(out)
    thread.join(300)
    assert "compare.md" in listing(out) and holder_of(out, study.TABLES) is None


def test_what_a_killed_launcher_had_half_written_is_removed(tmp_path):
    (tmp_path / "order_I").mkdir()
    for name in ("order_I/.compare.csv.0123abcd", "order_I/compare.md", ".selection.md.0123abcd", "order_II"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    with study.one_at_a_time(tmp_path):
        assert listing(tmp_path) == {"order_I", "order_I/compare.md", "order_II", study.TABLES}


def test_a_signal_while_tables_are_written_ends_it_by_75(place, cli, monkeypatch):
    monkeypatch.setattr(whole_study, "one_at_a_time", lambda save: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        done = cli(*WORDS, place.folder / "out")
        assert (done.status, done.err) == (75, "interrupted by SIGTERM") and place.kinds() == [DONE] * 3
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_ctrl_c_waits_for_no_cell(place, cli, monkeypatch):
    def interrupted(launcher):
        raise KeyboardInterrupt
    monkeypatch.setattr(launcher.Launcher, "run", interrupted)
    done = cli(*WORDS, place.folder / "out")
    assert (done.status, done.err) == (130, study.NOT_AWAITED)


def test_a_hang_up_ends_the_launcher_where_its_cells_resume(place, cli, monkeypatch):
    """The terminal does not end the cells: each has its session."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        monkeypatch.setattr(whole_study, "launch",
                            lambda name, jobs, slots, signals: os.kill(os.getpid(), signal.SIGHUP))
        done = cli(*WORDS, place.folder / "out")
        assert done.status == 75 and done.err == "interrupted by SIGHUP"
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("words", "devices"), [((), ["4", "5"]), (("--device", "cuda"), ["4", "5"]),
                                                (("--device", "cpu"), ())])
def test_devices_are_for_cells_that_may_use_them(words, devices, place, cli, monkeypatch):
    """On the CPU each has its share of the threads, also where the machine has CUDA."""
    given = []

    def recorded(jobs, devices=()):
        given.append((jobs, devices))
        return [{}] * jobs
    monkeypatch.setattr("src.machine.device.cuda_devices", lambda: ["4", "5"])
    monkeypatch.setattr(whole_study, "environments", recorded)
    assert cli(*WORDS, place.folder / "out", "--jobs", 3, *words).status == 0
    assert given == [(3, devices)]
