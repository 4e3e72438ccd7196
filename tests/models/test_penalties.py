"""L2 against a slow rendering: value and every gradient."""

import pytest
import torch

from src.models.finetune import Finetune
from src.models.penalties import L2
from src.models.training import train


@pytest.mark.parametrize("train_mode", ["whole", "image", "text"])
def test_value_and_gradient(make_state, make_model, kind, train_mode):
    state, penalty = make_state(make_model(kind), train_mode), L2(0.3)
    penalty.begin(state)
    start = {name: value.detach().clone() for name, value in state.model.named_parameters()}
    with torch.no_grad():
        for value in state.model.parameters():
            value.add_(torch.randn_like(value))
    losses = penalty.losses(state, None)
    losses["l2"].backward()
    expected = 0.0
    for name, value in state.model.named_parameters():
        if value.requires_grad:
            difference = value.detach() - start[name]
            expected += sum(number ** 2 for number in difference.flatten().tolist())
            torch.testing.assert_close(value.grad, 2 * 0.3 * difference, rtol=1e-12, atol=1e-12)
        else:
            assert value.grad is None
    assert list(losses) == ["l2"] and losses["l2"].item() == pytest.approx(0.3 * expected, rel=1e-12)


def test_it_keeps_weights_near_the_start(make_state, make_model, kind):
    def distance(*add_ons):
        model = make_model(kind)
        start = [value.detach().clone() for value in model.parameters()]
        train(make_state(model, iterations=20), [Finetune(), *add_ons])
        return sum((value - old).square().sum().item() for value, old in zip(model.parameters(), start, strict=True))
    assert distance(L2(10.0)) < distance() / 2


def test_the_first_step_feels_nothing(make_state, make_model):
    state, penalty = make_state(make_model("vit")), L2(1.0)
    penalty.begin(state)
    loss = penalty.losses(state, None)["l2"]
    loss.backward()
    assert loss.item() == 0 and all(not value.grad.any() for value in penalty.moving)
