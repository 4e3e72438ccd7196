"""A non-finite loss stops the run before it reaches the weights."""

import math

import pytest
import torch

from src.errors import UserError
from src.machine.device import Device
from src.models.finetune import Finetune
from src.models.hooks import Hooks
from src.models.training import train


class Spoilt(Hooks):
    """A term that is ``value`` from one step on."""

    def __init__(self, step, value=math.nan):
        self.step, self.value, self.weights = step, value, []

    def losses(self, state, batch):
        self.weights.append([value.detach().clone() for value in state.model.parameters()])
        term = state.model.text_projection.sum()
        return {"spoilt": term * (self.value if state.iteration >= self.step else 0.0)}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_before_it_reaches_the_weights(value, make_model, make_state):
    state, hook, reported = make_state(make_model("vit")), Spoilt(2, value), []
    with pytest.raises(UserError, match=r"step 3 of 6: the loss is not finite \(task [\d.]+, spoilt .*--lr"):
        train(state, [Finetune(), hook], lambda state, losses: reported.append(state.iteration))
    assert reported == [1, 2]
    assert all(map(torch.equal, hook.weights[2], [value.detach() for value in state.model.parameters()]))


@pytest.mark.parametrize("step", [2, 5])
def test_where_reading_waits_the_step_is_skipped_and_told_one_later(step, make_model, make_state, monkeypatch):
    """As on CUDA: the host looks at a loss when the next step is under way, the last one at the end."""
    monkeypatch.setattr(Device, "waits", True)
    monkeypatch.setattr(Device, "read", lambda device, values: values.tolist)
    state, hook, reported = make_state(make_model("vit")), Spoilt(step), []
    with pytest.raises(UserError, match=f"step {step + 1} of 6"):
        train(state, [Finetune(), hook], lambda state, losses: reported.append(state.iteration))
    assert reported == list(range(1, step + 2))
    assert all(map(torch.equal, hook.weights[step], [value.detach() for value in state.model.parameters()]))
