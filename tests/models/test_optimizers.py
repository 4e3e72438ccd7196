"""The optimiser: its groups, each kind against plain loops, and the rate of every step against torch's schedulers."""

import copy
import math

import pytest
import slow_reference as slow
import torch

from src.errors import UserError
from src.machine.interruption import Interrupted
from src.models.finetune import Finetune
from src.models.hooks import Hooks
from src.models.optimizers import Schedule, Untouched, build_optimizer, groups_of, rate_at
from src.models.resuming import state_of_run
from src.models.state import Settings
from src.models.training import train

RATES = (0.1, 0.05, 0.02, 0.3, 0.1, 0.01)


def draw(generator=None):
    generator = generator or torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 2), (4,), ())]


def stepped(settings, by_hand):
    """Six steps with RATES by our optimiser, and ``by_hand(gradients, rate)`` beside them; -> our parameters."""
    generator = torch.Generator().manual_seed(4)
    ours = [torch.nn.Parameter(value.clone()) for value in draw()]
    optimizer = build_optimizer(ours, settings)
    for rate in RATES:
        gradients = draw(generator)
        for value, gradient in zip(ours, gradients, strict=True):
            value.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        by_hand(gradients, rate)
    return [value.detach() for value in ours]


def assert_close(ones, others):
    for one, other in zip(ones, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


# -- kinds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"wd": 0.3}, {"beta2": 0.9, "eps": 1e-3, "wd": 0.05}], ids=str)
@pytest.mark.parametrize("kind", ["adamw", "adam"])
def test_adam_and_adamw_by_hand(kind, options):
    """The decay of Adam is a term of the gradient, that of AdamW shortens the weights."""
    decay = options.get("wd", 0.0)
    by_hand = slow.AdamW(draw(), options.get("beta2", 0.999), options.get("eps", 1e-8), decay if kind == "adamw" else 0)

    def step(gradients, rate):
        coupled = decay if kind == "adam" else 0.0
        pairs = zip(gradients, by_hand.parameters, strict=True)
        by_hand.step([gradient + coupled * value for gradient, value in pairs], rate)
    assert_close(stepped(Settings(6, 0.1, optimizer=kind, **options), step), by_hand.parameters)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_sgd_by_hand(decay):
    weights = draw()

    def step(gradients, rate):
        for number, gradient in enumerate(gradients):
            weights[number] = weights[number] - rate * (gradient + decay * weights[number])
    assert_close(stepped(Settings(6, 0.1, optimizer="sgd", wd=decay), step), weights)


# -- rates -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [2, 3, 4, 7, 10, 50, 101])
def test_one_cycle_is_torch_s(total):
    """Its rates, and the first beta that it cycles, of two groups with different rates."""
    theirs = torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.ones(1))]} for _ in range(2)], lr=1.0,
                               betas=(0.9, 0.95))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, [1e-3, 4e-2], total_steps=total)
    settings = Settings(total, 1e-3, schedule="onecycle", beta2=0.95)
    ours = build_optimizer([{"params": [torch.nn.Parameter(torch.ones(1))]},
                            {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 4e-2}], settings)
    schedule = Schedule(ours, settings)
    for step in range(total):
        schedule.set(step)
        for one, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert one["lr"] == pytest.approx(other["lr"], rel=1e-12)
            assert one["betas"] == pytest.approx(other["betas"], rel=1e-12)
        theirs.step()
        if step < total - 1:
            scheduler.step()


def test_one_cycle_by_hand():
    """Of 10 steps: up to step 2, where the peak is, and down to step 9; SGD has no beta to cycle."""
    settings = Settings(10, 0.5, schedule="onecycle", optimizer="sgd")
    rates = [rate_at(step, settings, 0.5) for step in range(10)]
    assert rates[:3] == pytest.approx([0.02, 0.26, 0.5], rel=1e-12) and rates[9] == pytest.approx(2e-6, rel=1e-12)
    assert rates[4] == pytest.approx(2e-6 + (0.5 - 2e-6) / 2 * (1 + math.cos(2 * math.pi / 7)), rel=1e-12)
    optimizer = build_optimizer([torch.nn.Parameter(torch.ones(1))], settings)
    Schedule(optimizer, settings).set(1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.26) and optimizer.param_groups[0]["momentum"] == 0


def test_late_cosine_by_hand():
    """InfLoRA's: of 4 epochs of 3 steps the first two run at the peak, the last at cos(0.495 pi 2/3) of it."""
    settings = Settings(12, 0.2, warmup=0, schedule="late-cosine", epoch_steps=3)
    rates = [rate_at(step, settings, 0.2) for step in range(12)]
    assert rates[:6] == [0.2] * 6
    assert rates[6:9] == pytest.approx([0.2 * math.cos(math.pi * 0.165)] * 3, rel=1e-12)
    assert rates[9:] == pytest.approx([0.2 * math.cos(math.pi * 0.33)] * 3, rel=1e-12)
    assert settings.peak_rate == 0.2


@pytest.mark.parametrize(("epochs", "expected"), [
    (1, [1.0]), (2, [1.0, 1.0]), (3, [1.0, 1.0, math.cos(math.pi * 0.2475)])])
def test_late_cosine_of_few_epochs(epochs, expected):
    """One epoch, which divides by zero in the authors' code, is at the peak."""
    settings = Settings(2 * epochs, 0.5, warmup=0, schedule="late-cosine", epoch_steps=2)
    assert [rate_at(step, settings, 1.0) for step in range(0, 2 * epochs, 2)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_cosine_with_a_floor_is_torch_s(warmup):
    """Behind the warm-up: CosineAnnealingLR from the peak to ``eta_min``."""
    peer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(peer, 12 - warmup, eta_min=0.05)
    settings = Settings(12, 0.2, warmup=warmup, lr_floor=0.05)
    rates = [rate_at(step, settings, 0.2) for step in range(12)]
    assert rates[:warmup] == pytest.approx([0.2 * (step + 1) / warmup for step in range(warmup)], rel=1e-12)
    for rate in rates[warmup:]:
        assert rate == pytest.approx(peer.param_groups[0]["lr"], rel=1e-12)
        peer.step()
        scheduler.step()
    assert rate_at(12, settings, 0.2) == pytest.approx(0.05) and rate_at(12, settings, 0.02) == pytest.approx(0.005)


@pytest.mark.parametrize(("settings", "expected"), [
    (Settings(6, 0.4, warmup=4, schedule="constant"), [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]),
    (Settings(3, 0.4, warmup=0, schedule="constant"), [0.4, 0.4, 0.4]),
    (Settings(2, 0.4, warmup=4, schedule="constant"), [0.1, 0.2])], ids=str)
def test_a_constant_rate_follows_its_warm_up(settings, expected):
    assert [rate_at(step, settings, 0.4) for step in range(settings.iterations)] == pytest.approx(expected, rel=1e-12)
    assert settings.peak_rate == pytest.approx(max(expected))


@pytest.mark.parametrize("total", [2, 7, 10])
def test_the_peak_of_one_cycle(total):
    settings = Settings(total, 0.4, schedule="onecycle")
    assert settings.peak_rate == max(rate_at(step, settings, 0.4) for step in range(total))
    assert (settings.peak_rate == pytest.approx(0.4)) == (total == 10)


# -- groups ------------------------------------------------------------------------------------------------------------


class Grouped(Finetune):
    """The image tower and all the rest, each with the options given."""

    def __init__(self, image=None, rest=None):
        super().__init__()
        self.image, self.rest = image or {}, rest or {}

    def groups(self, state):
        parts = {True: [], False: []}
        for name, parameter in state.model.named_parameters():
            parts[name.startswith("visual.")].append(parameter)
        return [{"params": parts[True], **self.image}, {"params": iter(parts[False]), **self.rest}]


class Half(Hooks):
    """A group of one tower."""

    def __init__(self, tower, **options):
        self.tower, self.options = tower, options

    def groups(self, state):
        visual = [parameter for name, parameter in state.model.named_parameters() if name.startswith("visual.")]
        others = [parameter for name, parameter in state.model.named_parameters() if not name.startswith("visual.")]
        return [{"params": visual if self.tower == "image" else others, **self.options}]


class Another(Half):
    """So that a message can tell the two apart."""


def weights(state):
    return [value.detach().clone() for value in state.model.parameters()]


def trained(state, *hooks, **options):
    train(state, list(hooks), **options)
    return state


def test_one_group_unless_a_hook_gives_some(make_model, make_state):
    state = make_state(make_model("vit"))
    named = [*state.model.named_parameters()]
    group, = groups_of(named, [Finetune(), Hooks()], state)
    assert [*group] == ["params"] and all(map(lambda one, other: one is other[1], group["params"], named))


def test_groups_without_options_train_as_one(make_model, make_state):
    """Each parameter moves by itself; the order of groups is not that of the model."""
    alone = trained(make_state(make_model("vit"), wd=0.1), Finetune())
    parted = trained(make_state(make_model("vit"), wd=0.1), Grouped())
    assert len(parted.optimizer.param_groups) == 2
    assert all(map(torch.equal, weights(alone), weights(parted)))


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "constant"])
def test_each_group_has_its_own_rate_and_decay(schedule, make_model, make_state):
    """A tower at a tenth of the rate moves, in the first step of SGD, a tenth as far; the schedule scales both."""
    settings = {"optimizer": "sgd", "schedule": schedule, "lr": 1e-2, "wd": 0.5, "iterations": 6}
    start, seen = weights(make_state(make_model("vit"))), []
    alone = trained(make_state(make_model("vit"), **settings | {"iterations": 1, "wd": 0.0}), Finetune())
    hook = Grouped({"lr": 1e-3, "weight_decay": 0.0}, {"weight_decay": 0})
    once = trained(make_state(make_model("vit"), **settings | {"iterations": 1}), hook)
    for (name, _), before, full, own in zip(alone.model.named_parameters(), start, weights(alone), weights(once),
                                            strict=True):
        share = 0.1 if name.startswith("visual.") else 1.0
        torch.testing.assert_close(own - before, share * (full - before), rtol=1e-9, atol=1e-15)
    state = make_state(make_model("vit"), **settings)
    trained(state, Grouped({"lr": 1e-3}, {"weight_decay": 0.25}), report=lambda state, losses: seen.append(
        ([group["lr"] for group in state.optimizer.param_groups], state.learning_rate)))
    for step, (rates, logged) in enumerate(seen):
        assert rates == pytest.approx([rate_at(step, state.settings, peak) for peak in (1e-3, 1e-2)], rel=1e-12)
        assert rates[1] == pytest.approx(10 * rates[0], rel=1e-12) and logged == rates[0]
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0.5, 0.25]


def test_several_hooks_give_groups(make_model, make_state):
    state = trained(make_state(make_model("vit"), iterations=1), Finetune(), Half("image", lr=1e-4), Half("rest"))
    assert [group["lr"] for group in state.optimizer.param_groups] == pytest.approx([5e-5, 5e-3])  # of 2 steps warm-up


def test_what_does_not_train_is_left_out_of_a_group(make_model, make_state):
    state = trained(make_state(make_model("vit"), "image", iterations=1), Grouped())
    group, = state.optimizer.param_groups
    assert all(parameter.requires_grad for parameter in group["params"]) and group["params"]


class Bad(Finetune):
    def __init__(self, *groups):
        super().__init__()
        self.found = groups

    def groups(self, state):
        return [{"params": state.model.parameters(), **group} for group in self.found]


class Stranger(Finetune):
    def groups(self, state):
        return [{"params": [*state.model.parameters(), torch.nn.Parameter(torch.ones(3, 2))]}]


class Nameless(Finetune):
    def groups(self, state):
        return [{"lr": 1.0}]


@pytest.mark.parametrize(("hooks", "message"), [
    ([Finetune(), Half("image")], r"^positional_embedding \(and \d+ more\) trains and is in no group of Half; put it"),
    ([Finetune(), Half("image"), Another("image")], r"^visual\.\S+ is in two groups, of Half and Another; leave"),
    ([Bad({}, {})], r"^\S+ is in two groups, of Bad; leave it"),
    ([Stranger()], r"^Stranger.groups: a parameter of shape \(3, 2\) belongs to no module"),
    ([Nameless()], "^Nameless.groups: a group has no 'params'"),
    ([Bad({"wd": 0.1})], "^Bad.groups: a group has 'wd'; it may have params, lr, weight_decay"),
    ([Bad({"lr": -1.0})], "^Bad.groups: lr -1.0 is not a number of at least 0"),
    ([Bad({"weight_decay": "none"})], "^Bad.groups: weight_decay 'none' is not a number")], ids=range(8))
def test_groups_that_cannot_be(hooks, message, make_model, make_state):
    """Before the first step."""
    state = make_state(make_model("vit"))
    with pytest.raises(UserError, match=message) as caught:
        train(state, hooks, lambda state, losses: pytest.fail("it has trained"))
    assert len(str(caught.value).splitlines()) == 1


# -- resume ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("settings", [
    {"optimizer": "sgd", "schedule": "constant"}, {"optimizer": "adam", "schedule": "onecycle", "wd": 0.1},
    {"schedule": "onecycle"}, {"lr_floor": 1e-3}], ids=str)
def test_a_run_resumes_with_the_same_bits(settings, step, make_model, make_state):
    def made():
        return make_state(make_model("vit"), **settings), [Grouped({"lr": 3e-3})]
    alone, first, second = made(), made(), made()
    train(*alone)
    kept = {}

    def stop(state, losses):
        if state.iteration == step:
            kept.update(copy.deepcopy(state_of_run(*first)))
            raise Interrupted
    with pytest.raises(Interrupted):
        train(*first, stop)
    train(*second, interrupted=kept)
    assert all(map(torch.equal, weights(alone[0]), weights(second[0])))
    assert not all(map(torch.equal, weights(alone[0]), weights(first[0])))


# -- what a step leaves alone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_untouched_parameters_are_those_without_a_gradient(kind):
    """In weights, moments and counts of steps, to the bit: against parameters whose gradients are None, also before the
    first gradient of one."""
    chosen = [(0, 1, 0), (1, 1, 0), (0, 0, 0), (1, 0, 1), (0, 1, 1)]
    generator = torch.Generator().manual_seed(4)
    start = [torch.randn(2, 3, generator=generator) for _ in range(3)]
    ours, theirs = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(2))
    settings = Settings(5, 0.1, wd=0.1, optimizer=kind)
    optimizer, plain = (build_optimizer(values, settings) for values in (ours, theirs))
    untouched = Untouched([ours])
    for mask in chosen:
        gradients = [torch.randn(2, 3, generator=generator) for _ in start]
        for one, other, gradient, active in zip(ours, theirs, gradients, mask, strict=True):
            one.grad, other.grad = gradient * active, gradient.clone() if active else None
        untouched.remember(optimizer)
        optimizer.step()
        untouched.restore(optimizer, [torch.tensor(mask) == 0])
        plain.step()
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)
            for name, value in plain.state[other].items():
                assert torch.equal(optimizer.state[one][name], value), name
