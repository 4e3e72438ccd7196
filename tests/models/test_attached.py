"""Modules of a method's own in the towers: felt inside, gone outside, recomputed with the blocks."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from clip.packing import PackedTexts
from src.errors import UserError
from src.models.attached import attached, build_own, draws, places_of
from src.models.classifiers import ZeroshotClassifiers
from src.models.finetune import Finetune
from src.models.lora_injection import apply_shared_lora, inject_lora
from src.models.memory import weight_copies
from src.models.modeling import frozen_copy, image_features, recompute_blocks, text_features, tokens_of
from src.models.resuming import drawn_by_process, moving_tensors
from src.models.training import Step, begin, train
from src.models.wrapped import merge


class Experts(nn.Module):
    """A linear layer beside the MLP of every block of both towers."""

    def __init__(self, model):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(16, 16, dtype=torch.float64) for _ in blocks_of(model))

    def places(self, model):
        return [(block, "beside", expert) for block, expert in zip(blocks_of(model), self.experts, strict=True)]


class Mixed(nn.Module):
    """A gain on the values of every attention."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, query, key, value):
        return self.gain * value

    def places(self, model):
        return [(block.attn, "beside", self) for block in blocks_of(model)]


class Prompt(nn.Module):
    def __init__(self):
        super().__init__()
        self.context, self.template = nn.Parameter(torch.randn(2, 16, dtype=torch.float64)), "a a {c}"

    def places(self, model):
        return [(model, "context", self.context)]


def blocks_of(model):
    return [*model.visual.transformer.resblocks, *model.transformer.resblocks]


@pytest.fixture
def model(make_model):
    return make_model("vit")


@pytest.fixture
def images():
    return torch.randn(3, 3, 16, 16, dtype=torch.float64)


def features(model, images):
    return image_features(model, images), text_features(model, tokens_of(model, ["a photo of a cat.", "the red bird"]))


@pytest.mark.parametrize(("make", "image", "text"), [
    (Experts, True, True), (lambda model: Mixed(), True, True), (lambda model: Prompt(), False, True),
    (lambda model: nn.Linear(2, 2), False, False)], ids=["experts", "mixed", "prompt", "nowhere"])
def test_felt_inside_and_gone_outside(model, images, make, image, text):
    before = features(model, images)
    with attached(model, [make(model)]):
        inside = features(model, images)
    assert [not torch.equal(one, other) for one, other in zip(before, inside, strict=True)] == [image, text]
    assert all(torch.equal(one, other) for one, other in zip(before, features(model, images), strict=True))


def test_gone_after_an_error(model, images):
    before = features(model, images)
    with pytest.raises(KeyError), attached(model, [Experts(model), Prompt()]):
        raise KeyError
    assert all(torch.equal(one, other) for one, other in zip(before, features(model, images), strict=True))


def test_a_copy_is_plain(model, images):
    before = features(model, images)
    with attached(model, [Experts(model)]):
        pass
    assert all(torch.equal(one, other) for one, other in zip(before, features(frozen_copy(model), images), strict=True))


def test_recomputed_blocks_have_the_same_gradients(model, images):
    plain, recomputing = Experts(model), None
    recomputing = copy.deepcopy(plain)
    for own, recompute in ((plain, False), (recomputing, True)):
        if recompute:
            recompute_blocks(model)
        with attached(model, [own]):
            sum(value.cumsum(1).square().sum() for value in features(model, images)).backward()
    for one, other in zip(plain.parameters(), recomputing.parameters(), strict=True):
        assert one.grad.abs().max() > 1e-6
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_beside_an_adapted_attention(model, images, shared):
    """Adapters that change nothing yet leave the place where it was."""
    own = Mixed()
    with attached(model, [own]):
        expected = features(model, images)
    inject_lora(model, ["attn", "mlp.c_fc"])
    if shared:
        apply_shared_lora(model)
    with attached(model, [own]):
        found = features(model, images)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert not any("beside" in vars(module) for module in merge(model).modules())


def test_places_that_are_none(model):
    class Wrong(nn.Module):
        def places(self, model):
            return [(model.visual, "beside", nn.Identity())]

    with pytest.raises(ValueError, match=r"Wrong.places: VisionTransformer has no seam 'beside'"):
        places_of(model, [Wrong()])


def test_a_place_for_two(model):
    with pytest.raises(ValueError, match="'context' of a CLIP is taken by Prompt"):
        places_of(model, [Prompt(), Prompt()])


@pytest.mark.parametrize("template", ["", "a {c}.", "a photo of", "{c} of a a", "{c}"])
def test_a_context_in_the_place_of_class_names(model, device, template):
    """The first two tokens of a prompt are the context's, so that a name has to come behind them."""
    prompt = Prompt()
    prompt.template = template
    with pytest.raises(ValueError, match=r"Owner: a context of 2 vectors needs a template with as many tokens before"):
        build_own([Owner(lambda: prompt)], model, device)


def test_a_context_leaves_room(model, device):
    """Of 14 tokens a start, an end and one of a name are not the context's."""
    prompt = Prompt()
    prompt.template = f"{'a ' * 12}{{c}}"
    for length in (11, 12):
        prompt.context = nn.Parameter(torch.zeros(length, 16))
        with pytest.raises(UserError, match="of 12 vectors leaves no room") if length == 12 else nullcontext():
            build_own([Owner(lambda: prompt)], model, device)


def test_class_prompts_are_those_of_the_context(make_own_state, make_task):
    """In training and in zero-shot classifiers; other texts stay."""
    state, hooks = make_own_state(Prompt)
    assert state.prompts(make_task(2)) == ["a a cat", "a a red bird"]
    assert state.task.prompts()[:2] == ["a photo of a cat.", "a photo of a red bird."]
    with attached(state.model, state.own.values()):
        built = ZeroshotClassifiers(state.device)(state.model, {"two": make_task(2)}, state.own.values())["two"]
        texts = text_features(state.model, tokens_of(state.model, ["a a cat", "a a red bird"]))
    torch.testing.assert_close(built.classes.weights.T, texts, rtol=1e-12, atol=1e-12)
    plain = make_own_state(lambda: nn.Linear(1, 1))[0]
    assert plain.prompts(make_task(2)) == ["a photo of a cat.", "a photo of a red bird."]
    begin(state, hooks)
    with attached(state.model, state.own.values()):
        scores = hooks[0].classes.scores[0](texts)
        names = text_features(state.model, tokens_of(state.model, [f"a a {name}" for name in state.task.classnames]))
    torch.testing.assert_close(scores, state.scale * texts @ names.T, rtol=1e-12, atol=1e-12)


# -- each place that looks at what trains ------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Dropout beside every block of both towers, with a gain that trains."""

    def __init__(self):
        super().__init__()
        self.dropout, self.gain = nn.Dropout(0.5), nn.Parameter(torch.ones(16, dtype=torch.float64))

    def forward(self, x):
        return self.dropout(x) * self.gain

    def places(self, model):
        return [(block, "beside", self) for block in blocks_of(model)]


class Owner(Finetune):
    """Trains one module of its own beside a frozen CLIP."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def build(self, model):
        return self.make()

    def begin(self, state):
        state.model.requires_grad_(False)
        super().begin(state)


@pytest.fixture
def make_own_state(make_model, make_state):
    """-> make(make_module, **settings): (a state with the module that an Owner builds, [the Owner])"""
    def make(module, **settings):
        hooks, state = [Owner(module)], make_state(make_model("vit"), **settings)
        state.own = build_own(hooks, state.model, state.device)
        return state, hooks
    return make


def test_what_trains(make_own_state):
    state, hooks = make_own_state(Prompt)
    state.model.requires_grad_(False)
    assert state.modules() == [state.model, state.own["Owner"]]
    assert [parameter.shape for parameter in state.trained()] == [(2, 16)]
    assert state.trains("text") and not state.trains("image")
    assert "own.Owner.context" in dict(state.named_parameters())


def test_the_step_and_the_optimiser_have_them(make_own_state):
    """Gradients reach the module, are clipped together, and move it."""
    state, hooks = make_own_state(Prompt, iterations=1, max_grad_norm=1e-3, warmup=0)
    before, seen = state.own["Owner"].context.detach().clone(), []
    clip = nn.utils.clip_grad_norm_
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(nn.utils, "clip_grad_norm_", lambda parameters, most: seen.extend(parameters) or clip(
            parameters, most))
        train(state, hooks)
    assert seen == [state.own["Owner"].context] and not torch.equal(state.own["Owner"].context, before)
    assert any(parameter is state.own["Owner"].context for parameter in Step(state, hooks).parameters())


def test_resume_points_hold_all_of_them(make_own_state):
    state, hooks = make_own_state(lambda: nn.BatchNorm1d(4))
    begin(state, hooks)
    names = {name for name in moving_tensors(state) if name.startswith("own.")}
    assert names == {f"own.Owner.{name}" for name in ("weight", "bias", "running_mean", "running_var",
                                                      "num_batches_tracked")}


def test_which_modules_a_score_by_clip_rests_on(make_own_state):
    """Those with parts in the towers in eval mode, or with their own prompts; not what ``scores`` alone reads."""
    class Trains(Noisy):
        def places(self, model):
            return super().places(model) if self.training else []

    class Worded(nn.Linear):
        template = "the {c}."

    for module, acts in ((Noisy, True), (Prompt, True), (lambda: Worded(2, 1), True), (Trains, False),
                         (lambda: nn.Linear(2, 1), False)):
        state, _ = make_own_state(module)
        assert state.acting() == ["Owner"] * acts, module
        assert state.own["Owner"].training


def test_they_train_and_are_scored_in_their_modes(make_own_state):
    state, hooks = make_own_state(Noisy)
    state.own["Owner"].eval()
    begin(state, hooks)
    assert state.own["Owner"].dropout.training
    with state.in_place(state.final_model):
        assert not state.own["Owner"].dropout.training
    assert state.own["Owner"].dropout.training


def test_who_draws_is_told(make_own_state):
    """With a method of the framework's own nothing else would tell."""
    noisy, plain = make_own_state(Noisy), make_own_state(Prompt)
    assert drawn_by_process(noisy[0], []) == "each process draws the dropout of its own rows"
    assert drawn_by_process(plain[0], []) is None


def test_texts_are_packed_and_images_joined_where_tokens_are_alone(make_own_state):
    """Context is the same for every text; other modules have to promise it, and must not draw."""
    class Promised(Experts):
        token_by_token = True

    class Both(Noisy):
        token_by_token = True

    model = make_own_state(Prompt)[0].model
    for module, packed, joined in ((Prompt, True, True), (Noisy, False, False), (Both, False, False),
                                   (lambda: Experts(model), False, False), (lambda: Promised(model), True, True)):
        state, _ = make_own_state(module)
        tokens = tokens_of(state.model, ["a photo of a cat.", "the red bird", "blue"] * 40)
        assert isinstance(state.packed(tokens), PackedTexts) == packed, module
        assert state.encodes_rows_alone() == joined, module


def test_memory_counts_them(make_own_state):
    state, hooks = make_own_state(Prompt)
    begin(state, hooks)
    copies, unit = (found := weight_copies(state, hooks)).copies, found.unit
    assert copies["own modules"] * unit == pytest.approx(2 * 16 * 8) and copies["gradients"] == copies["own modules"]


def test_stored_tensors_keep_every_bit(make_own_state):
    """A module is built in single precision; what a run in double precision has trained is not rounded to it."""
    state, hooks = make_own_state(Prompt)
    stored = {"Owner": {"weight": torch.tensor([[1 / 3]], dtype=torch.float64)}}
    own = build_own([Owner(lambda: nn.Linear(1, 1, bias=False))], state.model, state.device, stored)
    assert torch.equal(own["Owner"].weight, stored["Owner"]["weight"])


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.AlphaDropout])
def test_every_dropout_draws(kind):
    assert draws(nn.Sequential(kind(0.5))) and not draws(nn.Sequential(kind(0.0)))
    assert not draws(nn.Sequential(kind(0.5)).eval())
