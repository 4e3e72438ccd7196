"""Two and three gloo processes, a global batch of 12, the last of an epoch of 4 (one of three processes has 2 of them):
after 20 steps their weights are one process's, and all of them hold the same bits. By torchrun where it is said so,
which takes a while to start. Figures go to stdout (``-s``)."""

import functools

import pytest
import ranks
import torch
import torchrun_steps
from test_distributed import TOOLS, torchrun

from src.datasets.loading import SeededBatches
from src.machine.distributed import World

ALLOWED = {"fp64": 1e-9, "fp32": 1e-6}
SOME = ["zscl we", "modx", "projected we"]
ALL = list(torchrun_steps.CASES)
RUNS = {"3": (3, SOME), "2 by torchrun": (2, ALL), "3 by torchrun": (3, ALL)}

pytestmark = pytest.mark.slow
every_run = pytest.mark.parametrize("name", RUNS)
every_case = pytest.mark.parametrize(("name", "case"), [(name, case) for name, (_, cases) in RUNS.items()
                                                        for case in cases])


@pytest.fixture(scope="module")
def basis(tmp_path_factory):
    path = tmp_path_factory.mktemp("basis") / "basis.pth"
    torchrun_steps.write_basis(path)
    return path


@pytest.fixture(scope="module")
def alone(basis):
    """-> alone(case, precision): what one process gives."""
    return functools.cache(lambda case, precision: torchrun_steps.run(World(), case, precision, basis))


@pytest.fixture(scope="module")
def together(basis, tmp_path_factory):
    """-> together(name): what each process of a run gave; each run is made once."""
    @functools.cache
    def once(name):
        size, cases = RUNS[name]
        out = tmp_path_factory.mktemp("together")
        (out / "basis.pth").write_bytes(basis.read_bytes())
        if "torchrun" in name:
            done = torchrun(TOOLS / "torchrun_steps.py", out, processes=size)
            assert done.returncode == 0 and "Warning" not in done.stderr, done.stdout + done.stderr
        else:
            group = ranks.Ranks(ranks.server(), size, out / "log", torchrun_steps.main, out, cases)
            assert group.join(300) == [0] * size, group.printed()
        return [torch.load(out / f"steps{rank}.pt", weights_only=False) for rank in range(size)]
    return once


def largest_difference(one, other):
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


@pytest.mark.parametrize("precision", ALLOWED)
@every_case
def test_weights_after_twenty_steps_are_those_of_one_process(name, case, precision, alone, together):
    expected, start = alone(case, precision)["weights"], torchrun_steps.tiny_clip("vit").state_dict()
    found = max(largest_difference(part[case, precision]["weights"], expected) for part in together(name))
    print(f"{name}, {case}, {precision}: {found:.1e}")
    assert found <= ALLOWED[precision] < 1e-3 < largest_difference(expected, start)


@pytest.mark.parametrize("precision", ALLOWED)
@every_case
def test_replicas_hold_the_same_bits(name, case, precision, together):
    parts = [part[case, precision] for part in together(name)]
    assert len({part["digest"] for part in parts}) == 1
    assert parts[0]["moments"] == 0 if precision == "fp32" else parts[0]["moments"] > 60


@pytest.mark.slow
def test_options_act(alone):
    """Each case differs from the one without its part."""
    for one, other in (("finetune", "finetune we"), ("zscl", "zscl we"), ("modx", "modx we"), ("finetune", "zscl"),
                       ("finetune", "projected"), ("projected", "projected we")):
        assert largest_difference(*(alone(case, "fp64")["weights"] for case in (one, other))) > 1e-4, (one, other)


@every_run
def test_no_image_is_trained_on_twice(name, together):
    """The rows of a step are shared: each image of the global batch is one process's."""
    size = len(torchrun_steps.TASKS["task"].split("train"))
    seed = torchrun_steps.state_of(World(), "task", "fp64").seed_of("train")
    whole = [[index for _, index in batch] for batch in SeededBatches(
        size, torchrun_steps.BATCH, seed, 0, torchrun_steps.STEPS, rest=True)]
    assert [len(set(batch)) for batch in whole] == [12, 12, 12, 4] * 5
    assert [sum(parts, []) for parts in zip(*(part["rows"] for part in together(name)), strict=True)] == whole


@every_run
def test_scores_count_each_image_once(name, together):
    """31 images among 2 or 3 processes: accuracy, frames of videos, one image, features, retrieval, a linear layer."""
    alone = torchrun_steps.scored(World())
    assert [score["n"] for score in alone["scores"]] == [31, 31, 1]
    for part in together(name):
        torch.testing.assert_close(part["scores"], alone, rtol=1e-10, atol=1e-10)
        assert part["scores"]["scores"] == alone["scores"]
