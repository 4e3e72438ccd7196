"""L2 against a slow rendering: value and every gradient."""

import pytest
import torch

from benchmarks.operations import Operations
from src.errors import UserError
from src.models.finetune import Finetune
from src.models.helpers import l2_distance
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


def test_a_frozen_clip_has_nothing_to_pull_back(make_state, make_model):
    """As beside a method that trains modules of its own alone."""
    state = make_state(make_model("vit"))
    state.model.requires_grad_(False)
    with pytest.raises(UserError, match="--l2: the method trains no weight of CLIP"):
        L2(0.3).begin(state)


def test_it_takes_few_operations_and_gives_the_gradient_of_one_by_one():
    """Bit for bit: doubling is exact. It may be taken twice, and a weight that moves in between is an error."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (2,), (3, 1, 2)]
    weights, anchors = ([torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
                        for _ in range(2))
    weights = [weight.requires_grad_() for weight in weights]
    one_by_one = sum((weight - anchor).square().sum() for weight, anchor in zip(weights, anchors, strict=True))
    expected = torch.autograd.grad(0.3 * one_by_one, weights)
    with Operations() as operations:
        distance = l2_distance(weights, anchors)
        found = torch.autograd.grad(0.3 * distance, weights, retain_graph=True)
    assert distance.item() == pytest.approx(one_by_one.item(), rel=1e-14)
    for turn in (found, torch.autograd.grad(0.3 * distance, weights, retain_graph=True)):
        assert all(torch.equal(one, other) for one, other in zip(turn, expected, strict=True))
    assert operations.found["_foreach_sub"] == 2 and operations.total < 12
    with torch.no_grad():
        weights[0].add_(1)
    with pytest.raises(RuntimeError, match="inplace"):
        distance.backward()
    with pytest.raises(ValueError, match="3 tensors and 2 anchors"):
        l2_distance(weights, anchors[:2])


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
