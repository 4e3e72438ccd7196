"""Low precision is around the step only: bf16 losses follow those of fp32, and all that is kept or compared is fp32."""

import pytest
import torch

import src.models.finetune
from src.machine.device import Device
from src.models.finetune import ZSCL, Finetune
from src.models.hooks import Hooks
from src.models.training import train

METHODS = {"finetune": Finetune, "zscl": lambda: ZSCL("tiny-reference", image_loss=True, text_loss=True)}
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}
SCALE = 16.0  # at which no gradient of the tiny model overflows in fp16, as it does at torch's 65536


@pytest.fixture(autouse=True)
def small_scale(monkeypatch):
    monkeypatch.setattr(Device, "scaler", lambda self: torch.amp.GradScaler(
        self.device.type, SCALE, enabled=self.precision == "fp16"))


class Look(Hooks):
    """Notes the types of gradients, and of what the image tower gives."""

    def begin(self, state):
        self.gradients, self.features = set(), set()
        state.model.visual.register_forward_hook(lambda module, given, result: self.features.add(result.dtype))

    def after_backward(self, state):
        self.gradients |= {value.grad.dtype for value in state.model.parameters() if value.grad is not None}


@pytest.fixture
def trained(make_model, make_state):
    """-> trained(method, precision, steps) -> (state, Look, the terms of each step)."""
    def trained(method, precision, steps=20):
        state, terms, look = make_state(make_model("vit", dtype=torch.float32), iterations=steps, lr=2e-4), [], Look()
        state.device = Device("cpu", precision)
        state.open_zeroshot = lambda path=None: make_model("vit", seed=5, dtype=torch.float32).requires_grad_(False)
        train(state, [METHODS[method](), look], lambda state, losses: terms.append(losses))
        return state, look, terms
    return trained


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", LOW)
def test_losses_of_twenty_steps_stay_within_two_percent_of_fp32_on_average(precision, method, trained):
    _, exact, expected = trained(method, "fp32")
    _, low, found = trained(method, precision)
    assert exact.features == {torch.float32} and low.features == {LOW[precision]}
    assert len(found) == len(expected) == 20 and found[0].keys() == expected[0].keys()
    values = [[torch.stack(list(terms.values())).sum().item() for terms in run] for run in (found, expected)]
    apart = [abs(low - exact) / exact for low, exact in zip(*values, strict=True)]
    assert 0 < sum(apart) / len(apart) < 0.02
    assert max(apart) < 0.04  # a step of bf16: the rounding of kernels differs from CPU to CPU
    assert max(values[1]) > 1.08 * min(values[1])  # they move by more than what is allowed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", LOW)
def test_what_is_kept_or_compared_is_fp32(precision, method, trained, monkeypatch):
    logits, similarity = set(), src.models.finetune.similarity

    def noted(*features):
        result = similarity(*features)
        logits.update({result.dtype, *(value.dtype for value in features)})
        return result
    monkeypatch.setattr(src.models.finetune, "similarity", noted)
    state, look, terms = trained(method, precision, 3)
    moments = {value.dtype for kept in state.optimizer.state.values() for name, value in kept.items() if "avg" in name}
    losses = {value.dtype for losses in terms for value in losses.values()}
    weights = {value.dtype for value in state.model.parameters()}
    assert logits == losses == weights == look.gradients == moments == {torch.float32}
    assert {name for kept in state.optimizer.state.values() for name in kept} == {"exp_avg", "exp_avg_sq", "step"}


# -- fp16: the loss is scaled, and whoever looks at gradients sees them as they are ------------------------------------


def test_fp16_gradients_are_scaled_back_before_hooks_see_them(make_model, make_state):
    gradients = {}

    class Keep(Hooks):
        def after_backward(self, state):
            gradients[state.device.precision] = state.model.text_projection.grad.clone()
    for precision in ("fp32", "fp16"):
        state = make_state(make_model("vit", dtype=torch.float32), iterations=1)
        state.device = Device("cpu", precision)
        train(state, [Finetune(), Keep()])
    difference = (gradients["fp16"] - gradients["fp32"]).norm() / gradients["fp32"].norm()
    assert 0 < difference < 0.02


def test_a_step_whose_fp16_gradient_overflows_is_left_out(make_model, make_state):
    """The first one, by a term that only its scale makes infinite."""
    weights, factors = [], []

    class Overflow(Hooks):
        def losses(self, state, batch):
            return {"steep": state.model.text_projection.sum() * (1e38 if state.iteration == 0 else 0.0)}

        def after_backward(self, state):
            factors.append(bool(state.model.text_projection.grad.isfinite().all()))

        def after_step(self, state):
            weights.append(state.model.text_projection.detach().clone())
    model = make_model("vit", dtype=torch.float32)
    start = model.text_projection.detach().clone()
    state = make_state(model, iterations=2)
    state.device = Device("cpu", "fp16")
    train(state, [Finetune(), Overflow()])
    assert factors == [False, True]
    assert torch.equal(weights[0], start) and not torch.equal(weights[1], start)
