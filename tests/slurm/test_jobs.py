"""train.sh as jobs of a real SLURM. Each test runs with a training that only counts
(tests/tools/fake_training.py) and with src.main on the toy model. Bits are compared tensor by tensor."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cluster
import fake_training
import pytest
import torch
from instants import Instant, variables
from whole_studies import CELLS, FIRST, FLAGS, Study, assert_same_study, cells_started, shortened

ROOT = Path(__file__).parents[2]
COUNTING, REAL = "counting", "src.main"
KINDS = [COUNTING, REAL]
RESOURCES = ["--gres=none", "--cpus-per-task=1", "--mem=100"]
WORDS = {  # of a run, and how long it is: enough to be interrupted in its midst
    COUNTING: ["--train-dataset", "toy-shapes", "--iterations", "800"],
    REAL: ["--method", "lwf", "--train-dataset", "toy-shapes", "--model", "toy", "--iterations", "200", "--batch-size",
           "8", "--lr", "1e-5", "--max-evaluation-size", "16", "--log-interval", "1"],
}
STEPS = {COUNTING: 800, REAL: 200}


@pytest.fixture(scope="session")
def environment():
    """Of commands that speak to the test's cluster."""
    try:
        with cluster.cluster() as found:
            yield found
    except cluster.Unavailable as error:
        pytest.skip(f"no SLURM here: {error}")


@pytest.fixture
def slurm(environment, tmp_path):
    """A submission folder with train.sh, and the commands of SLURM in it."""
    shutil.copy(ROOT / "train.sh", tmp_path)
    (tmp_path / "logs").mkdir()
    counting = fake_training.install(tmp_path / COUNTING)
    real = tmp_path / REAL
    real.mkdir()
    (real / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    (real / "python").chmod(0o755)
    programs = {COUNTING: counting, REAL: real}

    def command(*words, kind=COUNTING, **more):
        done = subprocess.run(
            words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
            env=environment | {"PATH": f"{programs[kind]}:{environment['PATH']}", "PYTHONPATH": str(ROOT),
                               "OMP_NUM_THREADS": "1"} | more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def submit(*words, kind=COUNTING, options=(), **more):
        """-> the number of a job of train.sh with WORDS of the kind and more."""
        words = ["train.sh", *WORDS[kind], *words]
        return command("sbatch", "--parsable", *RESOURCES, *options, *words, kind=kind, **more)

    def show(job):
        """{field: value} of a job that the controller still knows."""
        return dict(re.findall(r"(\S+?)=(\S+)", command("scontrol", "--oneliner", "show", "job", job)))

    def log(job):
        [file] = tmp_path.glob(f"logs/*-{show(job)['JobId']}.out")
        return file.read_text(encoding="utf-8")

    yield SimpleNamespace(command=command, submit=submit, show=show, log=log, folder=tmp_path)
    cluster.end_all_jobs(environment)


def until(condition, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.3)


def ended(slurm, job, state="COMPLETED"):
    """Wait for the job's end; -> its fields."""
    finals = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL")
    until(lambda: slurm.show(job)["JobState"] in finals)
    found = slurm.show(job)
    assert found["JobState"] == state, slurm.log(job)
    return found


def stepping(slurm, kind, save="run"):
    """Wait until the training is in its midst."""
    mark = {COUNTING: "began_0.txt", REAL: "log_toy-shapes.jsonl"}[kind]
    until(lambda: (slurm.folder / save / mark).exists())
    time.sleep(1)


def starts(slurm, save="run"):
    """The steps from which a counting run resumed, start by start."""
    return [int(line) for line in (slurm.folder / save / "began_0.txt").read_text(encoding="utf-8").split()]


def same_bits(kind, first, second):
    if kind == COUNTING:
        return first.read_bytes() == second.read_bytes()
    first, second = (torch.load(path, weights_only=False)["state_dict"] for path in (first, second))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """uninterrupted(kind) -> the checkpoint of a run of WORDS without SLURM."""
    made = {}

    def run(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("uninterrupted")
            program = [fake_training.__file__] if kind == COUNTING else ["-m", "src.main"]
            subprocess.run([sys.executable, *program, *WORDS[kind], "--save", folder], cwd=ROOT, check=True,
                           env=os.environ | {"OMP_NUM_THREADS": "1"})
            made[kind] = folder / "toy-shapes.pth"
        return made[kind]
    return run


def went_on(slurm, kind, uninterrupted):
    """The run was interrupted once, resumed there, and its checkpoint is that of an uninterrupted one."""
    if kind == COUNTING:
        first, second = starts(slurm)
        assert first == 0 and 0 < second < STEPS[kind]
    return same_bits(kind, slurm.folder / "run" / "toy-shapes.pth", uninterrupted(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_runs_to_its_end(slurm, kind, uninterrupted):
    job = slurm.submit("--save", "run", kind=kind)
    found = ended(slurm, job)
    assert found["Restarts"] == "0" and found["ExitCode"] == "0:0"
    assert same_bits(kind, slurm.folder / "run" / "toy-shapes.pth", uninterrupted(kind))
    assert not list(slurm.folder.glob("logs/.status*"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_is_requeued_goes_on(slurm, kind, uninterrupted):
    job = slurm.submit("--save", "run", kind=kind)
    stepping(slurm, kind)
    slurm.command("scontrol", "requeue", job)
    assert ended(slurm, job)["Restarts"] == "1"
    assert went_on(slurm, kind, uninterrupted) and "could not be requeued" not in slurm.log(job)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_before_its_time_limit_goes_back_into_the_queue(slurm, kind, uninterrupted):
    """SLURM itself signals, at its next look at the limits, which are two minutes away."""
    words = {COUNTING: ["--iterations", "6000"], REAL: ["--iterations", "3000"]}[kind]
    job = slurm.submit(*words, "--save", "run", kind=kind, options=["--time=2"])
    stepping(slurm, kind)
    until(lambda: slurm.show(job)["Restarts"] == "1", seconds=90)
    log = slurm.log(job)
    assert "the same command continues" in log and "TIME LIMIT" not in log
    assert slurm.show(job)["JobState"] in ("PENDING", "COMPLETING")
    if kind == COUNTING:
        until(lambda: len(starts(slurm)) == 2)
        assert 0 < starts(slurm)[1] < 6000
    slurm.command("scancel", job)


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_to_the_batch_script_is_enough(slurm, kind, uninterrupted):
    job = slurm.submit("--save", "run", kind=kind)
    stepping(slurm, kind)
    slurm.command("scancel", "--batch", "--signal=USR1", job)
    assert ended(slurm, job)["Restarts"] == "1"
    assert went_on(slurm, kind, uninterrupted)


@pytest.mark.parametrize("partition", ["low", "polite"])
def test_a_preempted_job_goes_on(slurm, partition, uninterrupted):
    """At once, where SLURM requeues it; after a time of grace, in which it ends by itself and requeues itself."""
    job = slurm.submit("--save", "run", options=[f"--partition={partition}", "--cpus-per-task=2"])
    stepping(slurm, COUNTING)
    urgent = slurm.command("sbatch", "--parsable", "--partition=high", "--cpus-per-task=2", "--output=/dev/null",
                           "--wrap", "true")
    ended(slurm, urgent)
    assert ended(slurm, job)["Restarts"] == "1"
    assert went_on(slurm, COUNTING, uninterrupted)


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_of_three_runs(slurm, kind):
    short = ["--iterations", "2"]
    array = slurm.submit(*short, "--seed", "{}", "--save", "run-{}", kind=kind, options=["--array=1-3"])
    for number in (1, 2, 3):
        ended(slurm, f"{array}_{number}")
    files = [slurm.folder / f"run-{number}" / "toy-shapes.pth" for number in (1, 2, 3)]
    assert all(file.exists() for file in files) and not same_bits(kind, files[0], files[1])


def test_one_task_of_an_array_goes_on_and_the_others_are_left_alone(slurm):
    """The last one to start has the array's own number, by which the whole array would be requeued."""
    names = ["toy-sizes", "toy-shapes"]
    array = slurm.submit("--train-dataset", "{}", "--save", "run-{}", options=["--array=0-1"], EACH=" ".join(names))
    for name in names:
        stepping(slurm, COUNTING, f"run-{name}")
    numbers = [slurm.show(f"{array}_{index}")["JobId"] for index in (0, 1)]
    chosen = numbers.index(array)
    slurm.command("scancel", "--batch", "--signal=USR1", f"{array}_{chosen}")
    assert ended(slurm, f"{array}_{chosen}")["Restarts"] == "1"
    assert ended(slurm, f"{array}_{1 - chosen}")["Restarts"] == "0"
    assert len(starts(slurm, f"run-{names[chosen]}")) == 2 and starts(slurm, f"run-{names[1 - chosen]}") == [0]


def test_two_processes_go_on(slurm):
    """By torchrun, all of whose processes SLURM signals."""
    job = slurm.submit("--save", "run", PROCESSES="2")
    stepping(slurm, COUNTING)
    slurm.command("scancel", "--batch", "--signal=USR1", job)
    assert ended(slurm, job)["Restarts"] == "1"
    assert json.loads((slurm.folder / "run" / "toy-shapes.pth").read_text(encoding="utf-8"))["processes"] == 2
    assert len(starts(slurm)) == 2 and starts(slurm)[1] > 0


def test_two_processes_that_are_requeued_go_on(slurm):
    job = slurm.submit("--save", "run", PROCESSES="2")
    stepping(slurm, COUNTING)
    slurm.command("scontrol", "requeue", job)
    assert ended(slurm, job)["Restarts"] == "1"
    assert len(starts(slurm)) == 2 and starts(slurm)[1] > 0


def test_a_cancelled_job_stays_cancelled_and_has_saved(slurm):
    job = slurm.submit("--save", "run")
    stepping(slurm, COUNTING)
    slurm.command("scancel", job)
    assert ended(slurm, job, "CANCELLED")["Restarts"] == "0"
    until((slurm.folder / "run" / "resume_toy-shapes_0.json").exists, seconds=10)
    time.sleep(3)
    assert slurm.show(job)["JobState"] == "CANCELLED"


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_training_that_fails_fails_the_job(slurm, processes):
    job = slurm.submit("--iterations", "1", "--status", "3", "--save", "run", PROCESSES=processes)
    found = ended(slurm, job, "FAILED")
    assert found["ExitCode"] == "3:0" and found["Restarts"] == "0"


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory):
    """A Study that ran without SLURM."""
    study = Study(tmp_path_factory.mktemp("whole"), shortened())
    done = study.run("--jobs", "2")
    assert done.status == 0, done.err
    return study


@pytest.mark.parametrize("by", ["SIGKILL", "SIGUSR1"])
def test_an_array_shares_a_study_and_one_task_is_requeued(by, slurm, whole_study):
    """Killed with the cell that it trains, it fails, and is requeued by hand; signalled, it requeues itself."""
    study = Study(slurm.folder, shortened())
    hooks = variables(slurm.folder / "hooks", Instant(f"*/{FIRST}/resume_*.pth", signal=by, to=("parent", "itself")))
    array = slurm.command("sbatch", "--parsable", *RESOURCES, "--array=1-2", "train.sh", "--study", "study.yaml",
                          "--save", str(study.folder), *FLAGS, kind=REAL, **hooks)
    tasks = [f"{array}_1", f"{array}_2"]
    if by == "SIGKILL":
        until(lambda: "FAILED" in [slurm.show(task)["JobState"] for task in tasks])
        [failed] = [task for task in tasks if slurm.show(task)["JobState"] == "FAILED"]
        slurm.command("scontrol", "requeue", failed)
    found = [ended(slurm, task) for task in tasks]
    assert sorted(fields["Restarts"] for fields in found) == ["0", "1"]
    logs = [slurm.log(task) for task in tasks]
    assert all(map(cells_started, logs)) and set().union(*map(cells_started, logs)) == set(CELLS)
    assert any("# order new-first" in log and "| ZSCL " in log for log in logs)
    assert study.starts(FIRST) > 1
    assert_same_study(study, whole_study)
