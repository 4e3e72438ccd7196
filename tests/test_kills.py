"""Runs that are killed at any instant and resumed end with the same bits as those that are left alone.

Each run is a separate process, forked from a server that has imported everything, so that a kill costs no start-up.
A run is killed after a seeded share of the time that an uninterrupted one took, then resumed, and killed again while
its share says so, until it ends.
"""

import functools
import json
import os
import pkgutil
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import ranks
import torch
from this_machine import THREADS

from src.cli.flags import FLAGS
from src.machine.interruption import STATUS
from src.models import ADD_ONS, METHODS

SEQUENCE = "--dataset-order toy-colours,toy-sizes --iterations 9 --batch-size 8 --lr 1e-3 --warmup-length 2"
PAIRS = ("--dataset-order toy-pairs-new,toy-pairs-dull --iterations 6 --batch-size 8 --lr 1e-3 "
         "--eval-datasets toy-pairs-dull")
ZSCL = "--method ZSCL --ref-dataset toy-reference --ref-sentences toy-reference --ref-size 40"
RUNS = {
    "one task": "--train-dataset toy-colours --iterations 9 --batch-size 8 --lr 1e-3 --warmup-length 2 "
                "--orthogonal-gradients 3 --eval-datasets toy-colours,toy-sizes",
    "finetune, projected": f"{SEQUENCE} --orthogonal-gradients 3 --l2 0.1 --eval-interval 4",
    "ZSCL, averaged": f"{SEQUENCE} {ZSCL} --we --avg-freq 2 --cache-ref-features",
    "icarl, merged": f"{SEQUENCE} --method icarl --memory-size 32 --wise-merge --moving-avg",
    "adapters": f"{SEQUENCE} --method lwf --lora --lora-dropout 0.3",
}
QUICK = "one task"  # the only one of the fast tests
STEPPING = ("condu", "condu-lora", "diki", "ewc", "inflora", "keeplora", "keeplora-plus", "nusa-cl")
CLOSED = ("rail", "ridge", "class-means")
MORE = {
    "pulled average": f"{SEQUENCE} {ZSCL} --we-wise --avg-freq 2 --distill-text-tower --feature-mse",
    "merged with zero-shot": f"{SEQUENCE} {ZSCL} --wise-merge --wise-ft-model zeroshot --ref-wise --max-grad-norm 1",
    "a head": f"{SEQUENCE} --train-mode image-fc --moving-avg --mv-avg-decay 0.5",
    "a head alone": f"{SEQUENCE} --train-mode fc",
    "shared adapters": f"{SEQUENCE} --lora --lora-shared --l2 0.01 --train-mode text",
    "pairs": f"{PAIRS} --method modx",
    "phases": "--train-dataset toy-pairs-new --num-phases 2 --method modx --iterations 6 --batch-size 8 --lr 1e-3 --we",
    "finetune in parts": f"{SEQUENCE} --grad-accum 2 --grad-checkpointing --beta2 0.9 --wd 0.1",
    **{name: f"{SEQUENCE} --method {name} --shots 4" for name in STEPPING},
    "moe-adapters": f"{SEQUENCE} --method moe-adapters --ddas-features clip --ddas-iterations 6 --shots 4",
    **{name: f"--dataset-order toy-colours,toy-sizes --batch-size 8 --method {name} --shots 4" for name in CLOSED},
}
# Where in the code a run may be killed, at a seeded one of its calls.
STAGES = {"steps": "src.models.training.Step.forward", "evaluation": "src.run.scoring.Scorer._evaluations",
          "saving": "src.machine.files.os.replace", "points": "src.store.resume.write_checked"}
COMMON = "--model toy --resume --save-interval 2 --max-evaluation-size 24 --quiet --workers 0"


def run(words, folder, log, stage=None, fatal=0):
    """In a separate process: the command line, its output in a file. It kills itself in the ``fatal``-th call of a
    stage; without, it notes how often each was called."""
    torch.set_num_threads(THREADS)
    calls = dict.fromkeys(STAGES, 0)
    sys.stdout = sys.stderr = open(log, "a", encoding="utf-8", buffering=1)  # also for the traceback of a fault
    from src.main import main
    with pytest.MonkeyPatch.context() as patched:
        for name, place in STAGES.items():
            patched.setattr(place, counted(pkgutil.resolve_name(place), name, calls, fatal * (name == stage)))
        status = main([*words.split(), *COMMON.split(), "--save", str(folder)])
    folder.with_suffix(".calls").write_text(json.dumps(calls), encoding="utf-8")
    sys.exit(status)


def counted(function, name, calls, fatal):
    @functools.wraps(function)
    def call(*arguments, **options):
        calls[name] += 1
        if calls[name] == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call


@pytest.fixture(scope="module")
def processes():
    return ranks.server()


@pytest.fixture(scope="module")
def alone(processes, tmp_path_factory):
    """-> alone(name): (the folder of an uninterrupted run, its seconds); each is run once."""
    found = {}

    def once(name):
        if name not in found:
            folder = tmp_path_factory.mktemp("alone") / "out"
            began = time.monotonic()
            assert finished(processes, name, folder) == 0, folder.with_suffix(".log").read_text()
            found[name] = folder, time.monotonic() - began
        return found[name]
    return once


def finished(processes, name, folder, kill_after=None, by=signal.SIGKILL, stage=None, fatal=0):
    """Exit status of a run; that of one that is killed, after these seconds or in a call of a stage, is -9."""
    process = processes.Process(target=run, args=((RUNS | MORE)[name], folder, folder.with_suffix(".log"), stage,
                                                  fatal))
    process.start()
    process.join(kill_after)
    if process.is_alive():
        os.kill(process.pid, by)
    process.join()
    return process.exitcode


def same(one, other):
    """Whether two contents of checkpoints are equal, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_same_results(folder, expected):
    names = {path.name for path in expected.iterdir()}
    assert {path.name for path in folder.iterdir()} == names and not any(name.startswith("resume") for name in names)
    assert sum(name.endswith((".pth", ".csv")) for name in names) > 3
    for name in sorted(names):
        if name.endswith(".csv"):
            assert (folder / name).read_bytes() == (expected / name).read_bytes(), name
        elif name.endswith(".pth"):
            assert same(*(torch.load(place / name, weights_only=True) for place in (folder, expected))), name


def killed_and_resumed(processes, alone, name, seed, tmp_path, kills=2):
    """Kill a run ``kills`` times, each after another share of its time, then let it end."""
    expected, seconds = alone(name)
    draw, folder = random.Random(f"{name} {seed}"), Path(tmp_path) / "out"
    statuses = [finished(processes, name, folder, draw.uniform(0.05, 0.95) * seconds) for _ in range(kills)]
    print(f"{name} {seed}: {statuses}")
    assert set(statuses) <= {0, -signal.SIGKILL}, folder.with_suffix(".log").read_text()
    assert finished(processes, name, folder) == 0, folder.with_suffix(".log").read_text()
    assert_same_results(folder, expected)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in RUNS])
def test_a_run_that_is_killed_twice_ends_with_the_same_bits(name, processes, alone, tmp_path):
    killed_and_resumed(processes, alone, name, 0, tmp_path)


def first_step_is_done(folder):
    """A point is kept after every second step, and a task's checkpoint after its last."""
    try:
        return any(path.name.endswith(".pth") and path.name[0] != "." for path in folder.iterdir())
    except FileNotFoundError:  # the folder is tried out, and removed again, before the run writes into it
        return False


@pytest.mark.parametrize(("name", "by"), [(QUICK, signal.SIGTERM), *(
    pytest.param("finetune, projected", by, marks=pytest.mark.slow) for by in (
        signal.SIGTERM, signal.SIGUSR1, signal.SIGINT))])
def test_a_run_that_is_asked_to_end_keeps_the_step_under_way(name, by, processes, alone, tmp_path):
    """Asked as soon as something is kept, which is in the midst of the first task."""
    folder = tmp_path / "out"
    expected, _ = alone(name)
    process = processes.Process(target=run, args=(RUNS[name], folder, folder.with_suffix(".log")))
    process.start()
    while process.is_alive() and not first_step_is_done(folder):
        time.sleep(0.005)
    os.kill(process.pid, by)
    process.join()
    told = folder.with_suffix(".log").read_text()
    assert process.exitcode == STATUS, told
    found = re.search(rf"interrupted by {by.name}: toy-\w+ resumes after step (\d) of 9 with the same command", told)
    assert int(found[1]) >= 2 and (folder / "grad_toy-colours.raw.pth").exists()
    assert finished(processes, name, folder) == 0
    assert f"resumes after step {found[1]} of 9\n" in folder.with_suffix(".log").read_text()
    assert_same_results(folder, expected)


@pytest.mark.slow
def test_a_finished_run_does_nothing_anew(processes, alone, tmp_path):
    name = "ZSCL, averaged"
    expected, _ = alone(name)
    folder = shutil.copytree(expected, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix in (".pth", ".jsonl")}
    assert finished(processes, name, folder) == 0
    told = folder.with_suffix(".log").read_text()
    assert told.count("already finished") == 2 and "steps in" not in told
    assert before == {name: (folder / name).stat().st_mtime_ns for name in before}
    assert_same_results(folder, expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))  # a third of the kills come after the end of what a run had left to do
@pytest.mark.parametrize("name", [*RUNS, *MORE])
def test_kill_campaign(name, seed, processes, alone, tmp_path):
    killed_and_resumed(processes, alone, name, 1 + seed, tmp_path, kills=2 + seed % 2)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", RUNS)
def test_kills_in_every_stage(name, stage, processes, alone, tmp_path):
    """Right before a step, an evaluation, a rename, a resume point, at a seeded one of all that the run has."""
    expected, _ = alone(name)
    draw, folder = random.Random(f"{name} {stage}"), tmp_path / "out"
    fatal = draw.randint(1, json.loads(expected.with_suffix(".calls").read_text(encoding="utf-8"))[stage])
    assert finished(processes, name, folder, stage=stage, fatal=fatal) == -signal.SIGKILL
    assert finished(processes, name, folder) == 0, folder.with_suffix(".log").read_text()
    assert_same_results(folder, expected)


def test_every_method_and_add_on_is_killed():
    words = " ".join((RUNS | MORE).values()).split() + ["finetune"]
    assert set(METHODS) <= set(words)
    assert {FLAGS[switch].name for key, row in ADD_ONS.items() for switch in row.switches or (key,)} - set(words) == {
        "--orthogonal-gradients-path"}  # which a sequence gives itself
