"""Jobs of several processes that lose one, or are asked to end: all end soon, and the same command with --resume ends
with the same bits; with another number of processes, the same numbers. By torchrun where it is said so."""

import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import ranks
from cli_files import rows as read_rows
from cli_files import weights
from distributed_cases import EPS
from ranks import At
from test_distributed import ROOT, TOOLS
from test_kills import assert_same_results
from this_machine import THREADS, python_path

from src.machine.interruption import STATUS
from src.main import main
from src.run.scoring import Scorer

pytest_plugins = ["cli_fixtures"]

SOON = 30  # seconds for all to end after one did
METHODS = {
    "finetune": "--orthogonal-gradients 3 --eval-interval 4",
    "zscl": "--method ZSCL --we --avg-freq 2 --image-loss --text-loss --cache-ref-features",
    "icarl": "--method icarl --memory-size 12 --l2 0.1",
    "dropout": "--lora --lora-dropout 0.3",
}
KILLED = [At(rank, step, task, signal.SIGKILL) for rank in range(3) for step, task in ((0, "tones"), (5, "colours"))]


@pytest.fixture(scope="module")
def words(world):
    """-> words(folder, method): a sequence of two tasks, 9 steps each, that keeps a point at every second step."""
    def of(folder, method="finetune"):
        reference = ["--ref-dataset", world.loose, "--ref-model", world.model] if method == "zscl" else []
        shared = ["--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 9,
                  "--batch-size", 6, "--lr", "1e-3", "--warmup-length", 2, "--workers", 0, "--device", "cpu",
                  "--precision", "fp64", "--eps", EPS, "--resume", "--save-interval", 2, "--quiet", "--save", folder]
        return [*map(str, [*shared, *reference]), *METHODS[method].split()]
    return of


@pytest.fixture(scope="module")
def start(words):
    """-> start(folder, size, plan=None, method="finetune"): Ranks of the command line."""
    context = ranks.server()
    return lambda folder, size, plan=None, method="finetune": ranks.Ranks(
        context, size, folder.with_suffix(f".{len(list(folder.parent.iterdir()))}"), ranks.command_line,
        words(folder, method), plan)


@pytest.fixture(scope="module")
def whole(start, words, tmp_path_factory):
    """-> whole(size, method="finetune"): the folder of an undisturbed run; each is made once."""
    @functools.cache
    def once(size, method="finetune"):
        folder = tmp_path_factory.mktemp("whole") / "out"
        if size == 1:
            assert main(words(folder, method)) == 0
        else:
            group = start(folder, size, method=method)
            assert group.join(300) == [0] * size, group.printed()
        return folder
    return once


@pytest.fixture(scope="module")
def seconds(start, whole, tmp_path_factory):
    """How long an undisturbed run takes, once the server of the processes is there."""
    whole(3)
    began = time.monotonic()
    resumed(start, tmp_path_factory.mktemp("measured") / "out", 3)
    return time.monotonic() - began


def interrupted(start, folder, size, plan, status, method="finetune"):
    """-> what a run said that must end with these statuses, and soon after what the plan does."""
    group = start(folder, size, plan, method)
    assert group.join(300) == status, group.printed()
    seconds, printed = time.time() - ranks.acted_at(group.printed()), group.printed()
    print(f"{plan}: all ended {seconds:.1f} s later")
    assert seconds < SOON
    return printed


def resumed(start, folder, size, method="finetune"):
    group = start(folder, size, method=method)
    assert group.join(300) == [0] * size, group.printed()
    return group.printed()


def assert_same_numbers(folder, expected, within=1e-9):
    for task in ("colours", "tones"):
        one, other = (weights(place / f"{task}.pth") for place in (folder, expected))
        difference = max(float((one[name] - other[name]).abs().max()) for name in one)
        print(f"{task}: {difference:.1e}")
        assert difference <= within


def snapshots_aside(folder):
    """What an interrupted task leaves of its gradients is no result."""
    for path in folder.glob("grad_*.raw.pth"):
        path.unlink()
    return folder


# -- one that ends -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_failure_of_one_ends_all_with_its_error(start, tmp_path):
    printed = interrupted(start, tmp_path / "out", 3, At(1, 5, "tones"), [1, 1, 1])
    assert printed.count("Traceback") == 1 and "ValueError: process 1 fails" in printed and "gloo" not in printed
    assert not (tmp_path / "out" / "tones.pth").exists()


@pytest.mark.parametrize("plan", [pytest.param(plan, marks=pytest.mark.slow) for plan in KILLED],
                         ids=lambda plan: f"{plan.rank} at {plan.step} of {plan.task}")
def test_after_one_was_killed_the_run_ends_with_the_same_bits(plan, start, whole, tmp_path):
    folder, statuses = tmp_path / "out", [1, 1, 1]
    statuses[plan.rank] = -signal.SIGKILL
    printed = interrupted(start, folder, 3, plan, statuses)
    assert "Traceback" not in printed and printed.count("ended without a message") == 1
    printed = resumed(start, folder, 3)
    assert ranks.steps_done(printed) in ([[2], [4]] if plan.step else [[]])  # the last point may not be written yet
    assert_same_results(snapshots_aside(folder), whole(3))


# -- all are asked to end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, *(pytest.param(rank, marks=pytest.mark.slow) for rank in (0, 2))])
@pytest.mark.parametrize("by", [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_to_one_ends_all_after_the_same_step(rank, by, start, whole, tmp_path):
    folder = tmp_path / "out"
    printed = interrupted(start, folder, 3, At(rank, 4, "tones", by), [STATUS] * 3)
    assert printed.count("interrupted by") == 1 and f"interrupted by {by.name}: tones resumes after step" in printed
    step, = ranks.steps_done(printed)
    assert 5 <= step <= 7
    assert ranks.steps_done(resumed(start, folder, 3)) == [step]
    assert_same_results(snapshots_aside(folder), whole(3))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [2, 3])
def test_interrupted_runs_of_every_method_end_with_the_same_bits(size, method, start, whole, tmp_path):
    folder, plan = tmp_path / "out", At(size - 1, 6, "tones", signal.SIGKILL)
    interrupted(start, folder, size, plan, [*[1] * (size - 1), -signal.SIGKILL], method)
    resumed(start, folder, size, method)
    assert_same_results(snapshots_aside(folder), whole(size, method))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_signals_at_any_instant(seed, start, whole, seconds, tmp_path):
    """To all at once, or to one of them: before they meet, in a step, while they score, while they write. Where one
    fails, the others are asked to end, as torchrun does."""
    folder, draw = tmp_path / "out", random.Random(seed)
    for _ in range(2):
        by, ranks_meant = draw.choice([(signal.SIGUSR1, None), (signal.SIGTERM, [draw.randrange(3)]),
                                       (signal.SIGKILL, [draw.randrange(3)])])
        group = start(folder, 3)
        time.sleep(draw.uniform(0, seconds))
        group.send(by, ranks_meant)
        began = time.monotonic()
        statuses = group.supervise(SOON)
        # A signal that comes before it is listened to ends a process as it does by itself.
        assert {*statuses} <= {0, STATUS, -by, -signal.SIGTERM, 1 if by == signal.SIGKILL else 0}, group.printed()
        print(f"{by.name} to {ranks_meant}: {statuses} after {time.monotonic() - began:.1f} s")
    resumed(start, folder, 3)
    assert_same_results(snapshots_aside(folder), whole(3))


@pytest.mark.slow
def test_scoring_that_is_interrupted_is_done_again(words, whole, tmp_path, monkeypatch):
    """After the fourth step, in one process."""
    folder, trained = tmp_path / "out", Scorer.trained

    def interrupted(self, state, hooks, file):
        monkeypatch.setattr(Scorer, "trained", trained)
        os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setattr(Scorer, "trained", interrupted)
    assert main(words(folder)) == STATUS
    assert read_rows(folder / "metrics_colours.csv")[-1]["iteration"] == "0"
    assert main(words(folder)) == 0
    assert_same_results(snapshots_aside(folder), whole(1))


# -- another number of processes ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("before", "now"), [(3, 2), (2, 1), (1, 2)])
@pytest.mark.parametrize("method", ["finetune", "zscl", "icarl"])
def test_another_number_of_processes_goes_on_with_the_same_numbers(before, now, method, start, whole, tmp_path):
    folder, plan = tmp_path / "out", At(before - 1, 5, "tones", signal.SIGKILL)
    statuses = [*[1] * (before - 1), -signal.SIGKILL]
    interrupted(start, folder, before, plan, statuses, method)
    printed = resumed(start, folder, now, method)
    others = f"with {now} processes instead of {before}: the same up to rounding"
    assert re.search(f"tones: resumes after step [24] of 9, {others}", printed)
    assert_same_numbers(folder, whole(before, method))
    assert_same_numbers(folder, whole(1, method))


@pytest.mark.slow
def test_another_number_is_refused_where_processes_draw(start, tmp_path):
    folder = tmp_path / "out"
    interrupted(start, folder, 2, At(1, 5, "colours", signal.SIGKILL), [1, -signal.SIGKILL], "dropout")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    group = start(folder, 1, method="dropout")
    assert group.join(300) == [2]
    assert "resume_colours.pth is of 2 processes, here are 1, and each process draws the dropout" in group.printed()
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert re.search(r"resumes after step [24] of 9\n", resumed(start, folder, 2, "dropout"))


@pytest.mark.slow
def test_processes_that_see_different_folders_do_not_go_on(start, whole, tmp_path):
    """As on machines without a file system that they share."""
    shutil.copytree(whole(2), tmp_path / "save 0")
    group = start(tmp_path / "save {rank}", 2)
    assert group.join(300) == [2, 2] and "see different files there" in group.printed(), group.printed()


# -- by torchrun -------------------------------------------------------------------------------------------------------


def torchrun(words, size, plan=None, log=None):
    """A running torchrun, with its output in a file."""
    code = ("import os, sys, ranks; sys.exit(ranks.command_line(int(os.environ['RANK']), sys.argv[1:], "
            f"{plan_text(plan)}))")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size),
               "--no-python", sys.executable, "-c", code, *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=log.open("a"), stderr=subprocess.STDOUT,
                            env=os.environ | {"OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": python_path(ROOT, TOOLS)})


def plan_text(plan):
    return plan and f"ranks.At({plan.rank}, {plan.step}, {plan.task!r}, {plan.by and int(plan.by)})"


@pytest.mark.slow
@pytest.mark.parametrize("by", [None, *(signal.SIGKILL,) * 3])
def test_torchrun_ends_soon_after_one_of_its_processes(by, words, whole, tmp_path, request):
    rank = int(request.node.callspec.indices["by"]) - 1 if by else 1
    folder, log = tmp_path / "out", tmp_path / "log"
    job = torchrun(words(folder), 3, At(rank, 5, "tones", by), log)
    status = job.wait(600)
    ended, printed = time.time(), log.read_text()
    assert status != 0 and ended - ranks.acted_at(printed) < SOON
    print(f"rank {rank} by {by}: torchrun ended {ended - ranks.acted_at(printed):.1f} s later with {status}")
    assert ("ValueError: process 1 fails" if by is None else f"rank      : {rank}") in printed
    assert torchrun(words(folder), 3, log=log).wait(600) == 0, log.read_text()
    assert_same_results(snapshots_aside(folder), whole(3))


@pytest.mark.slow
def test_torchrun_that_is_ended_keeps_the_step_under_way(words, whole, tmp_path):
    folder, log = tmp_path / "out", tmp_path / "log"
    job = torchrun(words(folder), 3, At(2, 5, "tones", signal.SIGCONT), log)  # which only marks the moment
    while "acts at" not in log.read_text():
        time.sleep(0.02)
    job.terminate()
    assert job.wait(600) != 0
    printed = log.read_text()
    assert "interrupted by SIGTERM: tones resumes after step" in printed
    assert torchrun(words(folder), 3, log=log).wait(600) == 0, log.read_text()
    assert_same_results(snapshots_aside(folder), whole(3))
