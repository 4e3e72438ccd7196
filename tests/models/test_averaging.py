"""Averages and merges of weights against closed forms, on runs of a few real steps."""

import copy
import itertools

import pytest
import torch
from cli_files import STEPS
from torch import nn

from src.models.attached import build_own, tensors_kept
from src.models.averaging import MovingAverage, WeightEnsemble, WiseEnsemble, WiseMerge
from src.models.finetune import Finetune
from src.models.hooks import Hooks
from src.models.memory import weight_copies
from src.models.resuming import state_of_run
from src.models.training import begin, train

pytest_plugins = ["cli_fixtures"]


class Trail(Hooks):
    """Keeps the live weights and buffers after every step."""

    def begin(self, state):
        self.weights = [copied(state.model)]

    def after_step(self, state):
        self.weights.append(copied(state.model))


def copied(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def run(make_state, model, *add_ons, steps=3):
    """-> (state, weights before and after each step)"""
    state, trail = make_state(model, iterations=steps, batch_norm="train"), Trail()
    train(state, [Finetune(), trail, *add_ons])
    return state, trail.weights


def assert_mix(model, *parts):
    """``parts``: (share, weights); every floating tensor of the model is their sum, counts are the last one's."""
    assert sum(share for share, _ in parts) == pytest.approx(1)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            expected = sum(share * weights[name] for share, weights in parts)
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(value, parts[-1][1][name])


def differs(one, other):
    return any(not torch.equal(one[name], other[name]) for name in one)


def test_every_step_moves_weights_and_statistics(make_state, make_model):
    """Else the closed forms below would hold for averages that do nothing."""
    _, (start, *_, last) = run(make_state, make_model("resnet"))
    for name in ("visual.conv1.weight", "visual.bn1.running_mean", "visual.bn1.num_batches_tracked", "ln_final.bias"):
        assert not torch.equal(start[name], last[name])


@pytest.mark.parametrize(("every", "shares"), [
    (1, (1 / 4, 1 / 4, 1 / 4, 1 / 4)),  # (theta_0 + theta_1 + theta_2 + theta_3) / 4
    (2, (1 / 2, 0, 1 / 2, 0)),
    (4, (1, 0, 0, 0))])
def test_weight_ensemble(make_state, make_model, kind, every, shares):
    state, weights = run(make_state, make_model(kind), WeightEnsemble(every))
    last = weights[3 // every * every]  # whose counts it has
    assert_mix(state.ensemble, *zip(shares, weights, strict=True), (0, last))


def test_wise_ensemble(make_state, make_model, kind):
    """Two updates with a = 0.9: each is the ensemble's, then 0.9 of it and 0.1 of the start."""
    state, (start, first, second) = run(make_state, make_model(kind), WiseEnsemble(1, 0.9), steps=2)
    after_one = {"start": 0.9 / 2 + 0.1, "first": 0.9 / 2}
    keep = 0.9 * 2 / 3
    assert_mix(state.ensemble, (keep * after_one["start"] + 0.1, start), (keep * after_one["first"], first),
               (0.9 / 3, second))


def test_moving_average(make_state, make_model, kind):
    state, (start, first, second, third) = run(make_state, make_model(kind), MovingAverage(0.5))
    assert_mix(state.ensemble, (1 / 8, start), (1 / 8, first), (1 / 4, second), (1 / 2, third))


def test_the_live_weights_go_on_as_without_an_average(make_state, make_model, kind):
    _, plain = run(make_state, make_model(kind))
    for add_on in (WeightEnsemble(1), WiseEnsemble(1, 0.5), MovingAverage(0.5)):
        _, weights = run(make_state, make_model(kind), add_on)
        assert not differs(plain[-1], weights[-1])


def test_merge_with_the_start(make_state, make_model, kind):
    state, (start, *_, last) = run(make_state, make_model(kind), WiseMerge(0.75, "n"))
    assert state.final_model is state.model
    assert_mix(state.model, (0.25, start), (0.75, last))


def test_merge_with_zero_shot(make_state, make_model):
    state, (*_, last) = run(make_state, make_model("vit"), WiseMerge(0.25, "zeroshot"))
    assert_mix(state.model, (0.75, copied(state.open_zeroshot())), (0.25, last))


def test_a_merge_acts_on_the_average(make_state, make_model, kind):
    state, (start, first, second) = run(make_state, make_model(kind), WeightEnsemble(1), WiseMerge(0.5), steps=2)
    assert state.final_model is state.ensemble
    assert_mix(state.ensemble, (1 / 6 + 1 / 2, start), (1 / 6, first), (1 / 6, second))


def test_the_average_is_the_final_model_and_a_plain_clip(make_state, make_model, kind):
    state, weights = run(make_state, make_model(kind), MovingAverage(0.9))
    assert state.final_model is state.ensemble is not state.model
    assert list(copied(state.final_model)) == list(weights[0]) and differs(copied(state.final_model), weights[-1])
    assert not any(value.requires_grad for value in state.final_model.parameters())


# -- modules of a method's own -----------------------------------------------------------------------------------------


class Gains(nn.Module):
    """Beside every text block: a gain that two names share, a running sum and a count."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.full((16,), 0.5, dtype=torch.float64))
        self.same = self.gain
        self.register_buffer("sum", torch.zeros(16, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        if self.training:
            self.sum += x.detach().flatten(0, -2).mean(dim=0)
            self.count += 1
        return self.gain * x

    def places(self, model):
        return [(block, "beside", self) for block in model.transformer.resblocks]


class Owner(Finetune):
    averaged = True

    def build(self, model):
        return Gains()


class Restless(Owner):
    """Begins with another gain each time."""

    averaged = True
    draws = itertools.count(1)

    def begin(self, state):
        super().begin(state)
        with torch.no_grad():
            state.own["Restless"].gain += 0.01 * next(self.draws)


class OwnTrail(Trail):
    """The own module's tensors too."""

    def begin(self, state):
        super().begin(state)
        self.own = [self.copied(state)]

    def after_step(self, state):
        super().after_step(state)
        self.own.append(self.copied(state))

    def copied(self, state):
        return {name: value.detach().clone() for name, value in tensors_kept(*state.own.values()).items()}


@pytest.fixture
def owned(make_model, make_state):
    """owned(add-on, ...) -> (state, trail) of a run with an own module. ``points`` takes what each step could resume
    from, ``interrupted`` is one of them; ``report`` is called after each step."""
    def call(*add_ons, method=Owner, points=None, interrupted=None, report=lambda state: None):
        hooks, state = [method(), trail := OwnTrail(), *add_ons], make_state(make_model("vit"), iterations=3)
        state.own = build_own(hooks, state.model, state.device)

        def step_done(state, losses):
            report(state)
            if points is not None:
                points.append(copy.deepcopy(state_of_run(state, hooks)))

        train(state, hooks, step_done, interrupted=interrupted)
        return state, trail
    return call


OWN_SHARES = [
    (WeightEnsemble(1), (1 / 4, 1 / 4, 1 / 4, 1 / 4)), (MovingAverage(0.5), (1 / 8, 1 / 8, 1 / 4, 1 / 2)),
    (WiseEnsemble(3, 0.9), (0.9 / 2 + 0.1, 0, 0, 0.9 / 2)), (WiseMerge(0.75), (1 / 4, 0, 0, 3 / 4)),
    ((WeightEnsemble(3), WiseMerge(0.5)), (1 / 4 + 1 / 2, 0, 0, 1 / 4)),
    ((WiseMerge(0.5), WeightEnsemble(3)), (1 / 4 + 1 / 2, 0, 0, 1 / 4))]


@pytest.mark.parametrize(("add_ons", "shares"), OWN_SHARES)
def test_own_modules_have_the_average_of_the_clip(owned, add_ons, shares):
    """Of the CLIP's weights the same shares are tested above; the count is the last one."""
    state, trail = owned(*(add_ons if isinstance(add_ons, tuple) else [add_ons]))
    assert differs(trail.own[0], trail.own[1]) and trail.own[3]["count"] > trail.own[1]["count"] > 0
    found = tensors_kept(state.own["Owner"])
    assert found.keys() == {"gain", "sum", "count"} and state.own["Owner"].same is found["gain"]
    for name in ("gain", "sum"):
        expected = sum(share * own[name] for share, own in zip(shares, trail.own, strict=True))
        torch.testing.assert_close(found[name].detach(), expected, rtol=1e-12, atol=1e-12)
    assert found["count"] == trail.own[3]["count"]
    assert state.own_average == {}
    expected = sum(share * weights["ln_final.bias"] for share, weights in zip(shares, trail.weights, strict=True))
    torch.testing.assert_close(state.final_model.ln_final.bias.detach(), expected, rtol=1e-12, atol=1e-12)


def test_scores_between_two_steps_are_those_of_averages_and_move_no_bit(owned):
    seen = []

    def report(state):
        with state.in_place(state.final_model), state.in_place(state.final_model):
            seen.append(state.own["Owner"].gain.detach().clone())

    _, plain = owned()
    state, trail = owned(MovingAverage(0.5), report=report)
    assert all(not differs(one, other) for one, other in zip(plain.own, trail.own, strict=True))
    gains = [own["gain"] for own in trail.own]
    torch.testing.assert_close(seen[0], (gains[0] + gains[1]) / 2, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(seen[1], (gains[0] + gains[1] + 2 * gains[2]) / 4, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("add_on", [WeightEnsemble, WiseEnsemble, MovingAverage, WiseMerge])
def test_an_interrupted_average_of_own_modules_ends_with_the_same_bits(owned, add_on):
    words, points = {"avg_freq": 1} if issubclass(add_on, WeightEnsemble) else {}, []
    whole, _ = owned(add_on(**words), method=Restless, points=points)
    again, trail = owned(add_on(**words), method=Restless, interrupted=points[1])
    assert ("own_average" in points[1]) == (add_on is not WiseMerge)
    assert not torch.equal(trail.own[0]["gain"], points[1]["moving"]["own.Restless.gain"])
    assert not differs(tensors_kept(whole.own["Restless"]), tensors_kept(again.own["Restless"]))
    assert not differs(copied(whole.final_model), copied(again.final_model))


def test_memory_counts_the_average_of_own_modules(make_model, make_state):
    found = []
    for add_ons in ([], [MovingAverage()]):
        hooks, state = [Owner(), *add_ons], make_state(make_model("vit"))
        state.own = build_own(hooks, state.model, state.device)
        begin(state, hooks)
        memory = weight_copies(state, hooks)
        found.append(memory.copies.get("ensemble", 0) * memory.unit - memory.copies["model"] * memory.unit)
    assert found[1] == pytest.approx(2 * 16 * 8)  # the gain and the sum beside a whole CLIP


OWNERS = """
import torch
from torch import nn
from src.models.finetune import Finetune


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.gain * x

    def places(self, model):
        return [(model.transformer.resblocks[-1], "beside", self)]


class Promised(Finetune):
    averaged = True

    def build(self, model):
        return Gain()


class Heir(Promised):
    pass


class Plain(Finetune):
    averaged = False

    def build(self, model):
        return None
"""


@pytest.fixture
def run_owner(cli, world, tmp_path):
    """run_owner(class of OWNERS, word, ...) -> a sequence of two tasks into tmp_path / "out"."""
    (tmp_path / "my.py").write_text(OWNERS, encoding="utf-8")
    return lambda name, *words: cli(
        "--load", world.model, "--method", f"{tmp_path}/my.py:{name}", "--dataset-order",
        f"{world.colours},{world.tones}", "--iterations", STEPS, "--batch-size", 4, "--lr", "9e-5", "--warmup-length",
        0, "--workers", 0, "--save", tmp_path / "out", *words)


@pytest.mark.parametrize("flag", ["--we", "--we-wise", "--moving-avg", "--wise-merge"])
def test_modules_without_the_promise_are_refused_before_anything_is_written(run_owner, tmp_path, flag):
    done = run_owner("Heir", flag)
    assert done.status == 2 and f"{flag} averages or merges weights, and Heir trains modules" in done.err
    assert "set averaged = True in Heir" in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_promise_needs_a_counterpart(run_owner, cli, world, tmp_path):
    """Zero-shot CLIP has no modules beside it."""
    done = run_owner("Promised", "--wise-merge", "--wise-ft-model", "zeroshot", "--dry-run")
    assert done.status == 2 and "zero-shot CLIP has no counterpart for the modules of Promised" in done.out
    assert not (tmp_path / "out").exists()
    method = ("--method", f"{tmp_path}/my.py:Promised", "--workers", 0)
    done = cli("--model", "toy", *method, "--train-dataset", world.colours, "--iterations", 1, "--lr", "9e-5",
               "--wise-merge", "--save", tmp_path / "out")
    assert done.status == 0, done.err
    done = cli("--load", tmp_path / "out" / "colours.pth", *method, "--eval-only", "--eval-datasets", world.colours,
               "--wise-ft", "--save", tmp_path / "mixed")
    assert done.status == 2 and "no counterpart for the modules of Promised" in done.err, done.err
    assert not (tmp_path / "mixed").exists()


def test_without_modules_no_promise_is_needed(run_owner, tmp_path):
    assert run_owner("Plain", "--we").status == 0 and (tmp_path / "out" / "tones.pth").exists()
