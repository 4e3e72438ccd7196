"""Several processes are one: losses, gradients, weights, scores and files, of two gloo processes. By torchrun where it
is said so, which takes a while to start."""

import datetime
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import distributed_cases
import exchange_order
import pytest
import ranks
import torch
from cli_files import BATCH, listing, read_json, rows, weights
from example_runs import EXAMPLES
from this_machine import THREADS, python_path

from src import datasets
from src.cli.training_checks import STEPPING
from src.datasets.loading import SeededBatches, require_shares
from src.errors import UserError
from src.machine import distributed
from src.machine.device import Device
from src.machine.distributed import World, this_world
from src.machine.interruption import Interrupted
from src.main import main

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tests" / "tools"
PRECISE = dict(rtol=0, atol=1e-10)
FAULTY = ("indivisible", "small reference", "broken")
RUNS = ["finetune", "lwf", "zscl", "icarl", "ogd", "lora", "fc", "small", "small dropped", "no share", "dropped",
        "keeplora", "keeplora-plus", *EXAMPLES]
SLOW_CASES = [name for name in distributed_cases.CASES if name not in distributed_cases.QUICK]
QUICK = ("finetune", "zscl", "icarl", "fc", "experts", "scored", *FAULTY)


def torchrun(*words, processes=2):
    """Finished torchrun on a free port."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run([*command, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=600,
                          check=False, env=os.environ | {"OMP_NUM_THREADS": str(THREADS),
                                                         "PYTHONPATH": python_path(ROOT, TOOLS.parent, TOOLS)})


def task_words(world, root):
    return ["--load", world.model, "--epochs", 2, "--batch-size", BATCH, "--lr", "1e-3", "--warmup-length", 0,
            "--workers", 0, "--precision", "fp64", "--wd", 0.1, "--log-interval", 1, "--data-location", root,
            "--device", "cpu", "--eps", distributed_cases.EPS]


def commands(world, root, save):
    """{name: words}, one for each part that reads, writes or trains in another way."""
    first, sequence = ["--train-dataset", world.colours], ["--dataset-order", f"{world.colours},{world.tones}"]
    zscl = ["--method", "ZSCL", "--ref-dataset", world.loose, "--ref-model", world.model, "--T", 2.5]
    every = {
        "finetune": [*first, "--we", "--avg-freq", 2, "--eval-every-epoch", "--eval-datasets",
                     f"{world.colours},{world.tones}"],
        "lwf": [*first, "--method", "lwf", "--shots", 4, "--val-fraction", 0.34, "--eval-split", "val"],
        "zscl": [*first, *zscl, "--image-loss", "--text-loss", "--ablation-loss-2", "--distill-text-tower",
                 "--cache-images"],
        "icarl": [*sequence, "--method", "icarl", "--memory-size", 40, "--label-space", "task,seen"],
        "ogd": [*sequence, "--orthogonal-gradients", 3],
        "keeplora": [*sequence, "--method", "keeplora"],
        "keeplora-plus": [*sequence, "--method", "keeplora-plus"],
        "lora": [*first, "--lora", "--lora-dropout", 0, "--lora-r", 2],
        "fc": [*first, "--train-mode", "fc"],
        "scored": ["--eval-only", "--eval-datasets", world.tones],
        "indivisible": [*first, "--batch-size", 5],
        "dropped": [*first, "--last-batch", "drop"],
        "small dropped": [*first, "--batch-size", 100, "--shots", 1, "--last-batch", "drop"],
        "small": [*first, "--batch-size", 100, "--shots", 1],  # 3 images: of 2 and 1
        "no share": [*first, "--method", "lwf", "--shots", 3],  # 9 images: the last of an epoch is one process's
        "small reference": [*first, *zscl, "--ref-size", 3],
        "broken": ["--train-dataset", f"folder:{root / 'broken'}"],
    }
    shared = task_words(world, root)
    found = {name: [*shared, *words, "--save", save / name] for name, words in every.items()}
    found |= {name: [*example_words(example, shared), *sequence, "--save", save / name]
              for name, example in EXAMPLES.items()}
    found["scored"] = [word for word in found["scored"] if word not in ("--epochs", 2)]
    return {name: [str(word) for word in words] for name, words in found.items()}


def example_words(example, shared):
    """A closed form takes what has nothing to do with steps."""
    if example.steps:
        return [*shared, *example.words[:-len(example.length)]]
    kept = [pair for pair in zip(shared[::2], shared[1::2], strict=True)
            if pair[0].removeprefix("--").replace("-", "_") not in STEPPING]
    return [*itertools.chain(*kept), *example.words]


@pytest.fixture(scope="module")
def together(world, tmp_path_factory):
    """What two processes gave: a folder with the cases and a folder ``saved`` with the quick runs."""
    return of_two(world, tmp_path_factory.mktemp("together"), distributed_cases.QUICK, quick=True)


def of_two(world, out, cases, quick):
    """The folder ``out``, with a damaged data set, after two processes did these cases and ran command lines."""
    shutil.copytree(world.root / "colours", out / "data" / "broken")
    image = out / "data" / "broken" / "train" / "green" / "3.png"
    image.write_bytes(image.read_bytes()[:-150])
    words = commands(world, out / "data", out / "saved")
    group = ranks.Ranks(ranks.server(), 2, out / "log", distributed_cases.give, out, cases,
                        {name: words[name] for name in words if (name in QUICK) == quick})
    assert group.join(300) == [0, 0], group.printed()
    return out


@pytest.fixture(scope="module")
def slowly_together(world, tmp_path_factory):
    """The same of the slow cases and command lines."""
    return of_two(world, tmp_path_factory.mktemp("together"), SLOW_CASES, quick=False)


@pytest.fixture(scope="module")
def cases(together):
    """(what one process gives, what each of two gave), {case: numbers}."""
    return of_both(together, distributed_cases.QUICK)


@pytest.fixture(scope="module")
def slow_cases(slowly_together):
    return of_both(slowly_together, SLOW_CASES)


def of_both(together, names):
    alone = distributed_cases.run_cases(World(), names)
    return alone, [torch.load(together / f"cases{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """The same quick command lines in one process; -> the folder ``saved``."""
    return of_one(world, tmp_path_factory.mktemp("alone"), quick=True)


def of_one(world, out, quick):
    for name, words in commands(world, out / "data", out / "saved").items():
        if name not in FAULTY and (name in QUICK) == quick:
            assert main(words) == 0, name
    return out / "saved"


@pytest.fixture(scope="module")
def slow_runs(world, slowly_together, tmp_path_factory):
    """Of the slow command lines: what one process and what two saved."""
    return of_one(world, tmp_path_factory.mktemp("alone"), quick=False), slowly_together / "saved"


# -- one process -------------------------------------------------------------------------------------------------------


def test_alone_every_exchange_is_the_identity(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    this_world.cache_clear()
    world, rows, step = this_world(), torch.randn(3, 2, requires_grad=True), torch.nn.Linear(2, 2)
    world.start(torch.device("cpu"))
    assert (world.part, world.first, world.first_row(rows)) == ((0, 1), True, 0)
    assert world.gather(rows) is rows and world.sum(rows) is rows and world.parallel(step) is step
    assert world.means({"a": torch.tensor(1.5), "b": 2}) == {"a": 1.5, "b": 2.0} and world.means({}) == {}
    assert world.interleave([1, 2], 2) == [1, 2] and world.first_then_others(lambda: 5) == 5
    assert world.first_to_stop(2) and world.first_to_stop(2) and world.stopped(2) is None
    assert not world.is_broken(RuntimeError("gloo")) and world.require_same(1, "differ") is None
    world.await_first()
    with pytest.raises(Interrupted, match="by hand"), world.interrupted_together():
        raise Interrupted("by hand")
    world.wait()
    world.stop()
    assert not torch.distributed.is_initialized()


def test_what_must_be_the_same(monkeypatch):
    world = World(0, 2)
    monkeypatch.setattr(World, "_of_all", lambda self, value: [value, 4])
    assert world.require_same(4, "differ") is None
    with pytest.raises(UserError, match="^differ$"):
        world.require_same(None, "differ")


@pytest.mark.parametrize(("rank", "expected"), [(0, ["work", "nested", "wait"]), (1, ["wait", "work", "nested"])])
def test_turns(rank, expected):
    """A turn within a turn is part of it: every process waits once."""
    world, events = World(rank, 2), []
    world.wait = lambda: events.append("wait")
    assert world.first_then_others(lambda: (events.append("work"), world.first_then_others(
        lambda: events.append("nested")), 7)[-1]) == 7
    assert events == expected
    with pytest.raises(UserError):
        world.first_then_others(lambda: require_shares(3, 8, 2))
    world.first_then_others(lambda: None)
    assert events[3:].count("wait") == (1 if rank == 0 else 2)


def test_each_process_takes_its_rows_of_a_batch():
    whole = list(SeededBatches(20, 6, 7, 0, 5))
    parts = [list(SeededBatches(20, 6, 7, 0, 5, (rank, 3))) for rank in range(3)]
    assert [sum(rows, []) for rows in zip(*parts, strict=True)] == whole
    assert all(len(batch) == 2 for part in parts for batch in part)
    small = [list(SeededBatches(4, 6, 7, 0, 2, (rank, 2))) for rank in range(2)]
    assert [sum(rows, []) for rows in zip(*small, strict=True)] == list(SeededBatches(4, 6, 7, 0, 2))


@pytest.mark.parametrize(("size", "batch_size"), [(5, 8), (20, 7)])
def test_rows_that_cannot_be_shared(size, batch_size):
    with pytest.raises(UserError, match="2 processes"):
        SeededBatches(size, batch_size, 7, 0, 5, (0, 2))
    require_shares(size, batch_size, 1)


def test_a_process_takes_its_device(monkeypatch):
    assert Device("cpu", index=3).device == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match="--device mps"):
        Device("mps", "fp32", index=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="2 CUDA devices"):
        Device("cuda", "fp32", index=2)


@pytest.mark.parametrize(("visible", "index", "taken"), [(1, 3, 0), (1, 0, 0), (4, 3, 3)])
def test_a_process_that_sees_one_device_takes_it(visible, index, taken, monkeypatch):
    """As srun starts processes, each with a device of its own, which all call 0."""
    took = []
    monkeypatch.setattr(Device, "tensor", lambda self, values: torch.tensor(values))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", took.append)
    assert Device("cuda", "fp32", index=index).device == torch.device("cuda", taken) == took[0]


@pytest.mark.parametrize(("called", "shared"), [("ABC", False), ("ABB", True), ("AAA", True)])
def test_processes_that_share_a_device_are_refused(called, shared, monkeypatch):
    """Of three, whose devices are called so: before NCCL meets, which would call it an error of its own."""
    store, met = Store(), []
    monkeypatch.setattr(distributed, "_called", lambda device: called[device.index])
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **options: met.append(options["timeout"]))
    monkeypatch.setattr(torch.distributed, "new_group", lambda **options: met.append(options["timeout"]))
    monkeypatch.setattr(torch.distributed, "PrefixStore", lambda *_: None)
    for rank in range(3):
        store.set(f"device 0 {rank}", called[rank])
    world = World(2, 3, 2, store)
    if not shared:
        world.start(torch.device("cuda", 2))
        assert met == [distributed.STEP, distributed.TURN]
        return
    with pytest.raises(UserError, match="--nproc-per-node: the processes .*1, 2 have one CUDA device"):
        world.start(torch.device("cuda", 2))
    assert not met


def test_patience(monkeypatch):
    """Ten minutes for what all reach together; twelve hours for turns and what processes tell each other."""
    options = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *backend, **more: options.append(
        (*backend, more["timeout"])))
    monkeypatch.setattr(torch.distributed, "new_group", lambda **more: options.append(
        (more["backend"], more["timeout"])) or "turns")
    monkeypatch.setattr(torch.distributed, "PrefixStore", lambda *_: None)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: bool(options))
    world = World(0, 2)
    world.start(torch.device("cpu"))
    assert options == [("gloo", datetime.timedelta(minutes=10)), ("gloo", datetime.timedelta(hours=12))]
    groups = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda group: groups.append(group))
    monkeypatch.setattr(torch.distributed, "all_gather_object", lambda found, value, group: groups.append(group))
    world.wait()
    world.interleave([], 0)
    assert groups == ["turns", "turns"]


# -- one order of communication ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exchanges(tmp_path_factory):
    """-> {case: the exchanges of each of two processes}, see exchange_order."""
    folder = tmp_path_factory.mktemp("order")
    group = ranks.Ranks(ranks.server(), 2, folder / "log", exchange_order.give, folder)
    assert group.join(120) == [0, 0], group.printed()
    both = [read_json(folder / f"{rank}.json") for rank in (0, 1)]
    return {case: [found[case] for found in both] for case in both[0]}


@pytest.mark.parametrize("case", exchange_order.CASES)
def test_processes_exchange_in_one_order(case, exchanges):
    """Where a process lacks what the other has, a gradient of its is ready before the backward of a gather."""
    first, second = (found["order"] for found in exchanges[case])
    assert first == second and len(first) > 3
    assert exchanges[case][0]["gradients"] == exchanges[case][1]["gradients"]


def test_averages_wait_for_the_backward_of_gathers(exchanges):
    """The gather has 3 rows of 5 numbers of two processes. Without gathers nothing waits."""
    for found in exchanges["part"]:
        assert found["order"][0] == ["gather", 30] and {kind for kind, _ in found["order"][1:]} == {"reduce"}
    held, free = (sum(found["held"] for found in exchanges[case]) for case in ("part", "no gather"))
    assert held and not free
    assert exchanges["not used"][0]["held"] == exchanges["not used"][1]["held"] > 0, "released when backward ends"


@pytest.mark.parametrize("case", exchange_order.CASES)
def test_gradients_are_means_over_the_processes(case, exchanges):
    """Against the losses of both processes, differentiated together in one."""
    for name, value in exchange_order.expected(case).items():
        found = torch.tensor(exchanges[case][0]["gradients"][name], dtype=torch.float64)
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-14)


# -- the step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", distributed_cases.QUICK)
def test_two_processes_are_one(cases, case):
    require_same_numbers(cases, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW_CASES)
def test_two_processes_are_one_in_slow_cases(slow_cases, case):
    require_same_numbers(slow_cases, case)


def require_same_numbers(cases, case):
    """Every logged loss and metric, every gradient, weight, score and drawn exemplar, on both processes."""
    alone, both = cases
    for found in both:
        torch.testing.assert_close(found[case], alone[case], rtol=1e-10, atol=1e-10)


def require_gradients(alone):
    without = {"gather", "gather uneven", "gather nothing", "scores", "icarl", "icarl everything", "icarl, no share",
               "no terms", "ewc", "ewc of pairs", "inflora", "inflora code", "keeplora", "rail", "rail dual", "diki",
               "condu", "condu-lora"}
    for name in alone.keys() - without:
        steps = alone[name]["gradients"]
        assert len(steps) == 3 and all(any(value.abs().max() > 1e-6 for value in step.values()) for step in steps), name


def test_cases_mean_something(cases):
    """Gradients are there where something trains, and nowhere else; the parts that several processes could miss are."""
    alone, _ = cases
    require_gradients(alone)
    assert alone["no terms"]["gradients"] == [{}] * 3
    assert not any(name.startswith("transformer.") for name in alone["unused parameters"]["gradients"][0])
    assert alone["icarl"]["tiny"]["numbers"][0]["replay"] > 0
    assert 0 < alone["modx sum"]["numbers"][0]["keep_i2t"] < 1


@pytest.mark.slow
def test_slow_cases_mean_something(slow_cases):
    alone, _ = slow_cases
    require_gradients(alone)
    assert {"image_pair_kl", "text_kl", "text_tower_text_kl", "replay", "feature_mse"} <= alone[
        "icarl everything"]["tiny"]["numbers"][0].keys()


def test_parts(together):
    parts = [torch.load(together / f"part{rank}.pt", weights_only=False) for rank in (0, 1)]
    rows = [one + other for one, other in zip(*(part["rows"] for part in parts), strict=True)]
    state = distributed_cases.state_of(World(), task="pairs")
    assert rows == [batch.labels_on_host.tolist() for batch in state.training_stream()]
    for part in parts:
        assert part["wrapped"] == ["DistributedDataParallel", "Linear"]  # nothing to average where nothing trains
        assert part["interleaved"] == list(range(7))


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in RUNS if name in QUICK])
def test_files_are_those_of_one_process(alone, together, name):
    require_same_files(alone / name, together / "saved" / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name not in QUICK])
def test_files_of_slow_runs_are_those_of_one_process(slow_runs, name):
    require_same_files(*(folder / name for folder in slow_runs))


def require_same_files(one, two):
    assert listing(one) == listing(two)
    for file in listing(one):
        if file.endswith(".pth") and not file.startswith("grad_"):
            ours, theirs = (torch.load(folder / file, weights_only=True) for folder in (one, two))
            assert same(theirs, ours), file
        elif file.endswith(".csv"):
            assert rows(one / file) == rows(two / file)
        elif file.startswith("log_"):
            assert logged(two / file) == [pytest.approx(line, rel=1e-9) for line in logged(one / file)]
        elif file == "summary.json":
            assert read_json(one / file) == read_json(two / file)


def same(one, other):
    """Contents of two checkpoints; configurations name different folders."""
    if isinstance(one, torch.Tensor):
        return torch.allclose(one, other, **PRECISE)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one if key != "config")
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def logged(path):
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in found]


@pytest.mark.slow
def test_the_basis_is_that_of_one_process(slow_runs):
    """The rows span the same; each is drawn up to its sign."""
    for task in ("colours", "tones"):
        ours, theirs = (torch.load(folder / "ogd" / f"grad_{task}.pth", weights_only=True) for folder in slow_runs)
        assert ours.keys() == theirs.keys()
        for name, entry in ours.items():
            one, two = entry["basis"].double(), theirs[name]["basis"].double()
            assert one.shape == two.shape
            torch.testing.assert_close(two - (two @ one.T) @ one, torch.zeros_like(two), rtol=0, atol=1e-5)


def test_training_moved_the_weights(world, alone):
    start = weights(world.model)
    assert any((value - start[name]).abs().max() > 1e-4 for name, value in weights(
        alone / "finetune" / "colours.pth").items())


def test_scores_of_an_evaluation(alone, together):
    assert rows(alone / "scored" / "metrics_tones.csv") == rows(together / "saved" / "scored" / "metrics_tones.csv")


def test_one_process_speaks(together):
    told = (together / "told.txt").read_text()
    told_tasks = [line.split(":")[0] for line in told.splitlines() if " steps in " in line]
    assert told_tasks == ["colours", "colours", "colours", "tones", "colours", "colours", "tones"]
    assert "Warning" not in told and told.count("warning: --wd has no effect in an evaluation run") == 1, told


def test_an_error_ends_all_processes_with_one_message(together):
    """Those of the command line, and an image that one process cannot read while the other waits for it."""
    told = (together / "told.txt").read_text()
    for rank in (0, 1):
        statuses = read_json(together / f"statuses{rank}.json")
        assert {name: status for name, status in statuses.items() if status} == dict.fromkeys(FAULTY, 2)
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3 and "--batch-size 5" in errors[0] and "3 images" in errors[1] and "3.png" in errors[2]
    assert "Traceback" not in told
    for name in FAULTY:
        assert not list((together / "saved" / name).glob("*.pth"))


@pytest.mark.slow
def test_torchrun_of_the_command_line(world, alone, tmp_path):
    words = commands(world, tmp_path / "data", tmp_path)["finetune"]
    done = torchrun("-m", "src.main", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1") == 1 and "error" not in done.stderr
    torch.testing.assert_close(weights(tmp_path / "finetune" / "colours.pth"),
                               weights(alone / "finetune" / "colours.pth"), **PRECISE)
    assert read_json(tmp_path / "finetune" / "run_colours.json")["processes"] == 2


@pytest.mark.slow
def test_two_machines(world, alone, tmp_path):
    """Two launchers of one process each, as on two machines that share a file system."""
    words = commands(world, tmp_path / "data", tmp_path)["finetune"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--master-addr",
               "127.0.0.1", "--master-port", str(port)]
    launchers = [subprocess.Popen([*command, "--node-rank", str(rank), "-m", "src.main", *words], cwd=ROOT, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  env=os.environ | {"OMP_NUM_THREADS": str(THREADS)}) for rank in (0, 1)]
    told = [launcher.communicate(timeout=600) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], told
    assert told[0][0].count("top-1") == 1 and not told[1][0]
    torch.testing.assert_close(weights(tmp_path / "finetune" / "colours.pth"),
                               weights(alone / "finetune" / "colours.pth"), **PRECISE)


def test_no_dataset_knows_the_processes():
    assert "distributed" not in Path(datasets.__file__).with_name("common.py").read_text()


class Store:
    """What torch's store does, in one process."""

    def __init__(self):
        self.set, self.content = self._set, {}

    def _set(self, key, value):
        self.content[key] = value.encode()

    def check(self, keys):
        return all(key in self.content for key in keys)

    def get(self, key):
        return self.content[key]

    def compare_set(self, key, expected, value):
        if key not in self.content and not expected:
            self._set(key, value)
        return self.content[key]


@pytest.mark.parametrize("asked", [0, 1, 2])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_all_processes_end_after_the_same_step(asked, order):
    """Whoever is asked, and whoever of them comes to the end of a step first."""
    store = Store()
    worlds, ended = [World(rank, 3, store=store) for rank in range(3)], {}
    for step in range(1, 9):
        for rank in order:
            if rank not in ended:
                reason = worlds[rank].all_stop("by SIGTERM" if rank == asked and step >= 4 else None, step)
                if reason:
                    assert reason == "by SIGTERM"  # which only one of them has heard
                    ended[rank] = step
    assert len(set(ended.values())) == 1 and len(ended) == 3 and ended[0] in (5, 6)
    assert World().all_stop("by SIGTERM", 1) and not World().all_stop(None, 1)


def test_the_first_that_stops_is_told_from_the_others():
    store = Store()
    first, second = (World(rank, 2, store=store) for rank in range(2))
    assert first.stopped(2) is second.stopped(2) is None
    assert second.first_to_stop(75) and not first.first_to_stop(2)
    assert first.stopped(2) == second.stopped(2) == 75
    second.await_first()
    for world in (first, second):
        world.stop()
    assert first.stopped(2) is None and first.first_to_stop(2)  # of the next run in these processes


def test_without_the_store_each_ends_as_it_would(monkeypatch):
    """It goes with the first process where that is not torchrun's."""
    def gone(*arguments):
        raise RuntimeError("Connection reset by peer")
    store = Store()
    monkeypatch.setattr(store, "check", gone)
    monkeypatch.setattr(store, "compare_set", gone)
    world = World(1, 2, store=store)
    assert not world.first_to_stop(75) and world.stopped(75) == 75


def test_an_exchange_that_an_interruption_breaks_interrupts():
    store = Store()
    first, second = (World(rank, 2, store=store) for rank in range(2))
    broken = RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error")
    with pytest.raises(RuntimeError, match="Read error"), first.interrupted_together():
        raise broken
    with pytest.raises(Interrupted), second.interrupted_together():
        raise Interrupted("interrupted by SIGUSR1")
    with pytest.raises(Interrupted, match="by SIGUSR1"), first.interrupted_together():
        raise broken
    with pytest.raises(RuntimeError, match="size"), first.interrupted_together():
        raise RuntimeError("size mismatch")
