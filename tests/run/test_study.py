"""The cells of a study as processes: each once, at most N at a time, whatever ends them; and how far each is."""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cli_files import contents, listing, same_weights, weights
from report_files import write_run

from src.args import parse
from src.cli.study import jobs_of, study_of_seeds
from src.errors import UserError
from src.machine.files import WriteError, atomic_file, folder_of_ones_own, holder_of
from src.machine.interruption import Interrupted, Signals
from src.main import main
from src.run import study
from src.run.study import (
    DONE,
    FAILED,
    LOCK,
    RUNNING,
    WAITING,
    Launcher,
    State,
    environments,
    exit_status,
    is_done,
    launch,
    progress_of,
    state_of,
    status_text,
)

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[2]
SEQUENCE = {"dataset_order": "toy-colours", "iterations": "1"}
# Stands in for a run: it leaves a folder that was made before, or does what acts.json has for its cell.
PROGRAM = """
import json, os, shutil, signal, sys, time
save, here = sys.argv[sys.argv.index("--save") + 1], os.environ["HERE"]
name = os.path.basename(save)
with open(f"{here}/starts", "a") as file:
    file.write(name + "\\n")
acts = json.load(open(f"{here}/acts.json"))
act = acts.get(name)
if act == "fails":
    print("step 3 of 9\\nerror: no memory left\\n", file=sys.stderr)
    sys.exit(2)
if act == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
if act == "hangs":
    def stop(*_):
        print("interrupted by SIGTERM: resumes after step 3", flush=True)
        os._exit(75)
    signal.signal(signal.SIGTERM, stop)
    open(f"{here}/{name}-hangs", "w").close()
    time.sleep(60)
if act == "is killed by a signal without a name":
    os.kill(os.getpid(), 40)
for mark in ("at-work", "came"):
    open(f"{here}/{name}.{mark}", "w").close()
def count(mark):
    return sum(path.endswith(f".{mark}") for path in os.listdir(here))
with open(f"{here}/at-work", "a") as file:
    file.write(f"{count('at-work')}\\n")
end = time.monotonic() + 20
while count("came") < acts.get("meet", 0) and time.monotonic() < end:
    time.sleep(0.01)
time.sleep(acts.get("seconds", 0))
os.unlink(f"{here}/{name}.at-work")
shutil.copytree(f"{here}/runs/{name}", save, dirs_exist_ok=True)
"""


class Place:
    """Jobs of a study whose processes run PROGRAM. ``acts``: {cell: what it does}."""

    def __init__(self, folder, seeds):
        self.folder = folder
        numbers = range(1, seeds + 1)
        grid = study_of_seeds(SEQUENCE | {"seed": ",".join(map(str, numbers))})
        self.jobs, _ = jobs_of(grid, str(folder / "out"), parse)
        for seed in numbers:
            write_run(folder / "runs" / f"seed-{seed}", f"--seed {seed}")
        self.act()

    def act(self, seconds=0, meet=0, **acts):
        """``seed1="fails"``, say; ``seconds`` that each takes; ``meet``: how many wait for each other first."""
        named = {name.replace("seed", "seed-"): act for name, act in acts.items()}
        (self.folder / "acts.json").write_text(json.dumps(named | {"seconds": seconds, "meet": meet}), encoding="utf-8")

    def starts(self):
        path = self.folder / "starts"
        return path.read_text(encoding="utf-8").split() if path.exists() else []

    def launcher(self, slots=2, signals=None, report=lambda text: None):
        return Launcher(self.jobs, [{}] * slots, signals or Signals(), report)

    def kinds(self):
        return [state_of(job).kind for job in self.jobs]


@pytest.fixture
def make_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setattr(study, "LOOK", 0.01)
    monkeypatch.setattr(study, "LOOK_AGAIN", 0.03)
    monkeypatch.setattr(study, "PROGRAM", (sys.executable, "-I", "-S", "-c", PROGRAM))
    return lambda seeds: Place(tmp_path, seeds)


@pytest.fixture
def place(make_place):
    return make_place(3)


def until(holds, seconds=30):
    """Wait for it; never longer than a test may take."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_each_cell_runs_once_and_a_second_call_runs_none(place, capsys):
    signals = Signals()
    assert launch("s", place.jobs, [{}, {}], signals) == [State(DONE)] * 3
    assert sorted(place.starts()) == ["seed-1", "seed-2", "seed-3"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "study s: 3 cells, 0 done, 3 to run, 2 at the same time"
    assert sorted(line.split(": ")[1].split(" after")[0] for line in printed[1:]) == sorted(
        ["started, 2 to come", "started, 1 to come", "started, 0 to come", "done", "done", "done"])
    before = {job.name: contents(job.folder) for job in place.jobs}
    assert launch("s", place.jobs, [{}], signals) == [State(DONE)] * 3 and len(place.starts()) == 3
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
    states = launch("s", place.jobs, [{}], Signals())
    assert states == [State(FAILED, "error: no memory left"), State(DONE), State(FAILED, "killed by SIGKILL")]
    assert exit_status(place.jobs, states) == 1
    printed = capsys.readouterr().err.splitlines()
    assert printed == [f"seed-1: failed, error: no memory left ({place.jobs[0].folder / 'output.txt'})",
                       f"seed-3: failed, killed by SIGKILL ({place.jobs[2].folder / 'output.txt'})",
                       "2 of 3 cells are not done; the same command tries them again"]
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
    monkeypatch.setattr(study, "atomic_file", lambda path, mode: (
        full_disk if path.parent.name == "seed-1" else atomic_file)(path, mode))
    states = launch("s", place.jobs, [{}], Signals())
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
    monkeypatch.setattr(study, "last_line", broken)
    asking = threading.Thread(target=ask)
    asking.start()
    launcher = place.launcher(signals=signals)
    with pytest.raises(OSError, match="Input/output error") as kept:  # with the frames that hold the locks
        launcher.run()
    asking.join()
    assert [holder_of(job.folder, LOCK) for job in place.jobs] == [None] * 3
    assert not [name for name in listing(place.folder / "out") if name.endswith(LOCK)]
    del kept


def test_a_process_that_cannot_be_started_is_no_file_that_cannot_be_written(place, monkeypatch):
    monkeypatch.setattr(study, "PROGRAM", (str(place.folder / "nothing"),))
    with pytest.raises(UserError, match="cell seed-1: its process could not be started .No such file") as caught:
        place.launcher(slots=1).run()
    assert not isinstance(caught.value, WriteError)
    assert holder_of(place.jobs[0].folder, LOCK) is None and place.kinds() == [WAITING] * 3


def test_a_signal_without_a_name(place):
    place.act(seed1="is killed by a signal without a name")
    assert launch("s", place.jobs, [{}], Signals()) == [State(FAILED, "killed by signal 40"), State(DONE), State(DONE)]


def test_two_launchers_share_the_cells(make_place):
    place = make_place(6)
    place.act(meet=3, seed2="fails")  # three at work at the same time are not those of one launcher
    reports = [], []
    launchers = [place.launcher(slots=2, report=report.append) for report in reports]
    threads = [threading.Thread(target=launcher.run) for launcher in launchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(place.starts()) == [f"seed-{number}" for number in range(1, 7)], "none twice, none left out"
    assert place.kinds() == [DONE, FAILED, *[DONE] * 4]
    started = [sum(": started" in line for line in report) for report in reports]
    assert min(started) > 0 and sum(started) == 6


def test_a_task_of_an_array_waits_for_no_other(place, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    with folder_of_ones_own(place.jobs[1].folder, "--save", LOCK):
        states = launch("s", place.jobs, [{}, {}], Signals())
        assert [state.kind for state in states] == [DONE, RUNNING, DONE]
        assert exit_status(place.jobs, states) == 0
        printed = capsys.readouterr()
        assert printed.err == "" and "note: 1 of 3 cells still run in other tasks of the array" in printed.out
    assert launch("s", place.jobs, [{}], Signals()) == [State(DONE)] * 3 and place.starts().count("seed-2") == 1


@pytest.mark.parametrize("lock", [LOCK, "in_use"])
def test_a_cell_that_another_process_runs_is_waited_for_and_then_tried(place, lock):
    """Another launcher, or a command that was typed."""
    launcher = place.launcher()
    thread = threading.Thread(target=launcher.run)
    with folder_of_ones_own(place.jobs[0].folder, "--save", lock):
        assert state_of(place.jobs[0]).kind == RUNNING
        thread.start()
        until(lambda: place.kinds()[1:] == [DONE, DONE])
        until(lambda: launcher.looked)
        looked = launcher.looked
        until(lambda: launcher.looked > looked)
        assert thread.is_alive() and "seed-1" not in place.starts()
    thread.join(60)
    assert place.kinds() == [DONE] * 3 and len(place.starts()) == 3


def test_a_cell_stays_in_the_hands_of_its_process_when_the_launcher_is_killed(place):
    place.act(seed1="hangs")
    code = ("import sys; from src.run import study; from pathlib import Path; from src.machine.files import *\n"
            "job = type('Job', (), {'folder': Path(sys.argv[1]), 'words': ('--save', sys.argv[1])})()\n"
            "with folder_of_ones_own(job.folder, '--save', study.LOCK) as lock:\n"
            "    study.PROGRAM = (sys.executable, '-I', '-S', '-c', sys.argv[2])\n"
            "    print(study.Attempt(job, None, lock, {}).process.pid, flush=True)\n"
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
        with pytest.raises(UserError, match="in use by process"), folder_of_ones_own(job.folder, "--save", LOCK):
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
    with pytest.raises(Interrupted, match="interrupted by SIGTERM: the same command continues with what is missing"):
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


def test_another_configuration_is_not_done(place):
    place.launcher().run()
    job = place.jobs[0]
    path = job.folder / "run.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert is_done(job)
    for damage in (lambda: facts["flags"]["lr"].update(value={"": 0.5}), lambda: facts.pop("flags")):
        damage()
        path.write_text(json.dumps(facts), encoding="utf-8")
        assert not is_done(job)
    path.unlink()
    assert not is_done(job)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("{"),
                                    lambda path: path.write_text("{}")])
def test_a_cell_without_its_summary_is_not_done_and_resumes(damage, place):
    place.launcher().run()
    damage(place.jobs[0].folder / "summary.json")
    assert not is_done(place.jobs[0])
    states = [state_of(job) for job in place.jobs]
    assert states == [State(FAILED, study.NOT_USABLE), State(DONE), State(DONE)]
    assert exit_status(place.jobs, states) == 1, "another try in a queue would not mend it"
    place.launcher().run()
    assert place.kinds() == [DONE] * 3 and len(place.starts()) == 4


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"status": 0}', "{", '{"status": 2, "message": 3}'])
def test_a_damaged_record_is_none(place, text):
    job = place.jobs[0]
    shutil.copytree(place.folder / "runs" / "seed-1", job.folder)
    (job.folder / "cell.json").write_text(text, encoding="utf-8")
    assert state_of(job).kind == WAITING


# -- what a cell is at -------------------------------------------------------------------------------------------------


def job_at(folder, tasks=("a", "b", "c"), iterations=100):
    job, *_ = jobs_of(study_of_seeds({"dataset_order": "toy-colours", "iterations": "1", "batch_size": "20",
                                      "seed": "1,2"}), str(folder), parse)[0]
    job.folder.mkdir(parents=True)
    return dataclasses.replace(job, tasks=tasks, iterations=iterations)


def log(job, task, *lines):
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 99, "imag'  # being written
    (job.folder / f"log_{task}.jsonl").write_text(text, encoding="utf-8")


def finish(job, task, seconds):
    (job.folder / f"{task}.pth").write_bytes(b"")
    (job.folder / f"run_{task}.json").write_text(json.dumps({"seconds": seconds}), encoding="utf-8")


def test_step_and_time_left_of_the_first_task(tmp_path):
    """A step of 20 images at 40 a second takes 0.5 s: 60 steps are left of this task, and two tasks of 100."""
    job = job_at(tmp_path)
    assert progress_of(job) == ""
    log(job, "a", {"iteration": 10, "images_per_second": 1.0}, {"iteration": 40, "images_per_second": 40.0})
    assert progress_of(job) == "task 1 of 3: a, step 40 of 100, about 2:10 left"


def test_step_and_time_left_of_a_later_task(tmp_path):
    """50 steps of 1 s, and a last task that takes as long as the finished one did, with its scores: 400 s."""
    job = job_at(tmp_path)
    finish(job, "a", 400.0)
    assert progress_of(job) == "task 2 of 3: b, step 0 of 100"
    log(job, "b", {"iteration": 50, "images_per_second": 20.0})
    assert progress_of(job) == "task 2 of 3: b, step 50 of 100, about 7:30 left"
    finish(job, "b", 1.0)
    finish(job, "c", 1.0)
    assert progress_of(job) == "all tasks are trained"


def test_what_files_do_not_show_is_left_out(tmp_path):
    job = job_at(tmp_path, iterations=None)  # --epochs
    log(job, "a", {"iteration": 40, "images_per_second": 40.0})
    assert progress_of(job) == "task 1 of 3: a, step 40"
    job = job_at(tmp_path / "b")
    log(job, "a", {"iteration": 40, "images_per_second": 0.0})
    assert progress_of(job) == "task 1 of 3: a, step 40 of 100"


def test_each_process_has_its_device_or_its_share_of_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(9)), raising=False)
    assert environments(3, ["4", "GPU-x"]) == [{"CUDA_VISIBLE_DEVICES": name} for name in ("4", "GPU-x", "4")]
    assert environments(2, ["0"]) == [{}, {}] and environments(1) == [{}]
    assert environments(4) == [{"OMP_NUM_THREADS": "2"}] * 4
    assert environments(12) == [{"OMP_NUM_THREADS": "1"}] * 12
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert environments(4) == [{}] * 4


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
    """A cell of another task ends while this one has looked at it already."""
    def stale(*arguments):
        launch(*arguments)
        return [State(DONE), State(RUNNING), State(DONE)]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setattr(study, "launch", stale)
    done = cli(*WORDS, place.folder / "out")
    assert done.status == 0 and "| finetune             | 3 |" in done.out and "still run" not in done.out


def test_one_launcher_at_a_time_writes_the_tables(place, monkeypatch):
    place.launcher().run()
    out, tries = place.folder / "out", []

    def tried(folder, flag, lock):
        tries.append(lock)
        return folder_of_ones_own(folder, flag, lock)
    monkeypatch.setattr(study, "folder_of_ones_own", tried)
    thread = threading.Thread(target=main, args=([*WORDS, str(out)],))
    with folder_of_ones_own(out, "--save", study.TABLES):
        thread.start()
        until(lambda: tries.count(study.TABLES) > 1)
        assert thread.is_alive() and "compare.md" not in listing(out)
    thread.join(60)
    assert "compare.md" in listing(out) and holder_of(out, study.TABLES) is None


def test_a_hang_up_ends_the_launcher_where_its_cells_resume(place, cli, monkeypatch):
    """The terminal does not end the cells: each has its session."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        monkeypatch.setattr(study, "launch", lambda name, jobs, slots, signals: os.kill(os.getpid(), signal.SIGHUP))
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
    monkeypatch.setattr(study, "environments", recorded)
    assert cli(*WORDS, place.folder / "out", "--jobs", 3, *words).status == 0
    assert given == [(3, devices)]


# -- for real ----------------------------------------------------------------------------------------------------------

GRID = """
base: {model: toy, dataset-order: [toy-sizes, toy-colours], iterations: 20, batch-size: 8, lr: 1e-4, warmup-length: 2,
       max-evaluation-size: 24, workers: 0, save-interval: 2}
axes: {method: [finetune, lwf], seed: [1]}
"""


@pytest.mark.slow
def test_killed_at_three_instants_it_ends_with_the_same_tables(tmp_path, monkeypatch):
    """The launcher and all its processes: once while a first task trains, once after it, once after a first cell. The
    same weights too, and those of a command that is typed."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    (tmp_path / "grid.yaml").write_text(GRID, encoding="utf-8")
    command = [sys.executable, "-m", "src.main", "--study", str(tmp_path / "grid.yaml"), "--jobs", "2", "--save"]
    killed, whole, typed = (tmp_path / name for name in ("killed", "whole", "typed"))
    for instant in ("*/log_toy-sizes.jsonl", "*/toy-sizes.pth", "*/summary.json"):
        launcher = subprocess.Popen([*command, str(killed)], cwd=ROOT, stdout=subprocess.DEVNULL)
        until(lambda pattern=instant, process=launcher: list(killed.glob(pattern)) or process.poll() is not None, 900)
        kill_all(launcher, killed)
    for folder in (killed, whole):
        subprocess.run([*command, str(folder)], cwd=ROOT, check=True, capture_output=True, timeout=1800)
    for name in ("compare.csv", "compare.md", "compare.tex"):
        texts = {(folder / name).read_text(encoding="utf-8").replace(str(folder), "") for folder in (killed, whole)}
        assert len(texts) == 1, name
    printed = subprocess.run([*command, str(typed), "--dry-run"], cwd=ROOT, check=True, capture_output=True, text=True,
                             timeout=300).stdout.splitlines()
    subprocess.run(["bash", "-c", printed[1]], cwd=ROOT, check=True, capture_output=True, timeout=900)
    assert_same_weights(killed, whole, ("finetune_seed-1", "lwf_seed-1"))
    assert_same_weights(typed, whole, ("finetune_seed-1",))


def kill_all(launcher, folder):
    launcher.kill()
    launcher.wait()
    for holder in filter(None, map(holder_of, folder.glob("*_seed-1"))):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(holder.split()[1]), signal.SIGKILL)


def assert_same_weights(one, other, cells):
    for cell in cells:
        for task in ("toy-sizes", "toy-colours"):
            assert same_weights(*(weights(folder / cell / f"{task}.pth") for folder in (one, other))), (cell, task)
