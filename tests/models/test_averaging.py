"""Averages and merges of weights against closed forms, on runs of a few real steps."""

import pytest
import torch

from src.models.averaging import MovingAverage, WeightEnsemble, WiseEnsemble, WiseMerge
from src.models.finetune import Finetune
from src.models.hooks import Hooks
from src.models.training import train


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
