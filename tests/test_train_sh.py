"""train.sh by hand and under a SLURM that only records, with a training that only counts. tests/slurm: a real one."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import fake_training
import pytest

from src.machine.interruption import STATUS

ROOT = Path(__file__).parents[1]
TASK = ["--train-dataset", "DTD", "--save", "run"]
STEPS = "300"  # which take three seconds
# srun runs what it is given once a node and hands USR1 to all its processes; scontrol answers for one job.
SRUN = """#!/bin/bash
echo "srun $*" >> commands
while [ "${1#--}" != "$1" ]; do shift; done
for node in $(seq "$SLURM_JOB_NUM_NODES"); do setsid "$@" & tasks+=($!); done
trap 'kill -USR1 -- "${tasks[@]/#/-}"' USR1
for task in "${tasks[@]}"; do wait "$task" || wait "$task" || exit; done
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> commands
if [ "$1" = requeue ]; then exit ${REQUEUE_STATUS:-0}; fi
if [ "$2" = hostnames ]; then echo localhost; else echo "JobId=7 JobState=$JOB_STATE Requeue=1 BatchFlag=1 Reboot=0"; fi
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with train.sh, ``python``, srun and scontrol of the tests, and no job around."""
    shutil.copy(ROOT / "train.sh", tmp_path)
    (tmp_path / "logs").mkdir()
    programs = fake_training.install(tmp_path / "bin")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    for name in [name for name in os.environ if name.startswith("SLURM")] + ["EACH"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PROCESSES", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def job(place, monkeypatch):
    """job(state, NAME=value): from here on train.sh is the batch script of job 7, which SLURM has in that state."""
    def begin(state="RUNNING", **environment):
        for name, value in ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "first",
                             "SLURM_SUBMIT_DIR": str(place), "JOB_STATE": state} | environment).items():
            monkeypatch.setenv(name, value)
    return begin


def hear_all():
    """A shell cannot trap what was ignored when it started, as in a job in the background."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(*words):
    return subprocess.Popen(["bash", "train.sh", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            preexec_fn=hear_all)


def run(*words):
    process = start(*words)
    _, told = process.communicate(timeout=300)
    return process.returncode, told


def interrupt(*words, number=signal.SIGUSR1):
    """Start, send the signal as soon as the training has begun; -> (status, stderr)."""
    process = start(*TASK, "--iterations", STEPS, *words)  # words given later win
    deadline = time.monotonic() + 300
    while len(list(Path("run").glob("began_*"))) < int(os.environ["PROCESSES"]):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=300)
    return process.returncode, told


def result(path="run/DTD.pth"):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def commands(name):
    path = Path("commands")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line for line in lines if line.startswith(name)]


def test_a_run_by_hand(place):
    status, told = run(*TASK, "--seed", "7", "a word")
    assert status == 0, told
    assert result() == {"steps": 1, "seed": 7, "processes": 1, "words": ["a word"]}
    assert not list(place.glob("logs/.status*")) and not commands("")


@pytest.mark.parametrize("status", [1, 2, 137])
def test_its_status_is_the_trainings(place, job, status):
    assert run(*TASK, "--status", str(status))[0] == status
    job()
    assert run(*TASK, "--status", str(status))[0] == status
    assert not commands("scontrol requeue")


@pytest.mark.parametrize(("others", "expected", "tells"), [
    ([], 1, True), ([75], 75, False), ([2], 2, False), ([1], 1, False), ([0], 1, True), ([137, 75], 137, False)])
def test_an_abort_of_nccl_is_no_status_of_the_training(place, others, expected, tells):
    """134: a process that lost another one, which says why, if it still can. The processes leave their statuses."""
    left = " ".join(f': > "$STATUSES/{status}";' for status in others)
    (place / "bin" / "python").write_text(f"#!/bin/bash\n{left}\nkill -ABRT $$\n", encoding="utf-8")
    status, told = run(*TASK)
    assert status == expected and ("aborted (134)" in told) == tells
    assert ("last resume point" in told) == tells and ("train.sh: interrupted" in told) == (expected == 75)


def test_it_knows_the_status_of_an_interrupted_run():
    """As docs/running.md promises it to whoever scripts against it."""
    text = (ROOT / "train.sh").read_text(encoding="utf-8")
    assert f"INTERRUPTED={STATUS} " in text and STATUS == 75


@pytest.mark.slow
def test_an_interrupted_run_continues(place):
    status, told = interrupt()
    assert status == 75 and "the same command continues" in told and not Path("run/DTD.pth").exists()
    assert run(*TASK, "--iterations", STEPS)[0] == 0
    began = Path("run/began_0.txt").read_text(encoding="utf-8").split()
    assert began[0] == "0" and 0 < int(began[1]) < int(STEPS) and result()["steps"] == int(STEPS)
    assert not commands("")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_else_interrupts(place, number):
    assert interrupt(number=number)[0] == 75 and Path("run/resume_DTD_0.json").exists()


@pytest.mark.parametrize(("status", "number"), [(75, signal.SIGUSR1), (75, signal.SIGTERM), (137, signal.SIGKILL)])
def test_a_signal_before_the_training_has_its_handlers(place, status, number):
    (place / "bin" / "python").write_text(f"#!/bin/sh\nkill -{number.value} $$\n", encoding="utf-8")
    assert run(*TASK)[0] == status


@pytest.mark.parametrize(("words", "resumes"), [
    (["--save", "run"], 1), (["--save=run"], 1), (["--resume", "--save", "run"], 1), (["--save-interval", "5"], 0)])
def test_resume_is_added_once_where_something_is_kept(place, words, resumes):
    python = place / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@" > told\n', encoding="utf-8")
    assert run(*words)[0] == 0
    assert (place / "told").read_text(encoding="utf-8").split().count("--resume") == resumes


def test_a_job_before_its_time_limit_is_requeued(job):
    job(SLURM_CPUS_PER_TASK="3")
    status, _ = interrupt()
    assert status == 75 and commands("scontrol requeue") == ["scontrol requeue 7"]
    [launched] = commands("srun")
    assert launched.startswith("srun --nodes=1 --ntasks=1 --ntasks-per-node=1 --export=ALL --cpus-per-task=3 ")


def test_of_an_array_its_task_alone_is_requeued(job):
    job(SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    assert interrupt("--seed", "{}")[0] == 75
    assert commands("scontrol") == ["scontrol show hostnames first", "scontrol --oneliner show job 7_3",
                                    "scontrol requeue 7_3"]


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", ""])
def test_what_slurm_has_taken_off_its_node_is_left_to_it(job, state):
    job(state)
    assert interrupt(number=signal.SIGTERM)[0] == 75 and not commands("scontrol requeue")


def test_a_job_that_may_not_be_requeued_says_so(job):
    job(REQUEUE_STATUS="1")
    status, told = interrupt()
    assert status == 75 and "could not be requeued" in told


def test_an_array_of_seeds(job):
    job(SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    assert run("--train-dataset", "DTD", "--seed", "{}", "--save", "run-{}/{}")[0] == 0
    assert result("run-3/3/DTD.pth")["seed"] == 3


def test_an_array_of_datasets(job, monkeypatch):
    job(SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="1")
    monkeypatch.setenv("EACH", "DTD\nA&B  MNIST")
    assert run("--train-dataset", "{}", "--save", "run")[0] == 0
    assert result("run/A&B.pth")["steps"] == 1
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    status, told = run("--train-dataset", "{}", "--save", "run")
    assert status == 2 and "EACH has 3 words, counted from 0, so no word 3" in told


def test_an_array_of_one_run_is_refused(job):
    job(SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="1")
    status, told = run(*TASK)
    assert status == 2 and "--save included" in told and not commands("srun")


@pytest.mark.parametrize("words", [["--study", "a.yaml"], ["--study=a.yaml"]])
def test_an_array_shares_the_cells_of_a_study(job, words, monkeypatch):
    """One process in each task, whatever its number of GPUs: the cells are separate processes."""
    job(SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="1")
    monkeypatch.setenv("PROCESSES", "2")
    assert run(*TASK, *words)[0] == 0
    assert result()["processes"] == 1 and result()["words"] == words


@pytest.mark.parametrize("words", [["--reproduce", "a.yaml"], ["--reproduce=a.yaml"]])
def test_a_reproduction_is_one_process(job, words, monkeypatch):
    job()
    monkeypatch.setenv("PROCESSES", "2")
    assert run(*TASK, *words)[0] == 0
    assert result()["processes"] == 1 and result()["words"] == words


def test_an_array_of_a_study_has_no_number(job):
    job(SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="1")
    status, told = run("--study", "a.yaml", "--save", "run-{}")
    assert status == 2 and "the tasks of an array share the cells of a study; leave {} out" in told
    assert not commands("srun")


def test_a_variable_of_the_shell_makes_no_study(job, monkeypatch):
    """sbatch exports the environment."""
    monkeypatch.setenv("study", "study")
    job(SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    assert run("--train-dataset", "DTD", "--seed", "{}", "--save", "run-{}")[0] == 0
    assert result("run-3/DTD.pth")["seed"] == 3


def test_a_number_without_an_array_is_refused(place):
    status, told = run(*TASK, "--seed", "{}")
    assert status == 2 and "sbatch --array" in told


def with_a_failure():
    """The status of a run whose first process fails, of which the others hear by being ended."""
    return run("--train-dataset", "DTD", "--save", "failing", "--iterations", "200", "--status", "2")[0]


@pytest.mark.slow
def test_several_processes(place, monkeypatch):
    """By torchrun: all save; a failure of one is no interruption of the run."""
    monkeypatch.setenv("PROCESSES", "2")
    assert interrupt("--iterations", "6000")[0] == 75
    assert sorted(path.name for path in Path("run").glob("resume*")) == ["resume_DTD_0.json", "resume_DTD_1.json"]
    assert run(*TASK)[0] == 0
    assert result()["processes"] == 2 and result()["steps"] > 1  # where the interruption left it
    assert with_a_failure() == 2


@pytest.mark.slow
def test_several_nodes(place, job):
    """That meet on the first one."""
    job(SLURM_JOB_NUM_NODES="2")
    assert run(*TASK)[0] == 0
    assert result()["processes"] == 2 and sorted(path.name for path in Path("run").glob("began*")) == [
        "began_0.txt", "began_1.txt"]
    assert commands("srun")[0].startswith("srun --nodes=2 --ntasks=2 --ntasks-per-node=1 ")
    assert with_a_failure() == 2
