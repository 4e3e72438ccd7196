"""The losses on image-text pairs: values and every gradient against slow renderings in float64, and their captions."""

import copy
import math

import pytest
import slow_reference as slow
import torch
from slow_reference import gradients_of, move

import clip
from clip.model import CLIP
from clip.tokenizer import END_TOKEN, START_TOKEN, encode
from src.datasets.common import Split, Task
from src.datasets.loading import training_batches
from src.datasets.seeds import order_of_epoch
from src.datasets.transforms import EvalTransform
from src.machine.batch import Batch
from src.machine.device import Device
from src.models import modx
from src.models.averaging import MovingAverage, WeightEnsemble, WiseEnsemble, WiseMerge
from src.models.gradients import GradientTracker
from src.models.hooks import Hooks
from src.models.lora_injection import apply_shared_lora, inject_lora, inject_peft
from src.models.modeling import image_features, set_training, text_features
from src.models.modx import LARGEST_SCALE, Contrastive, ModX, contrastive, off_diagonal
from src.models.penalties import L2
from src.models.training import train
from src.models.wrapped import plain_weights

CAPTIONS = (
    ("cat", "a photo of a cat.", "the old car"), ("a drawing of a very old green tree",),
    ("two birds in a green tree", "red bird"), ("a dog near a house", "dog", "a photo of the dog.", "a drawing of dog"),
    ("small blue house", "a house"), ("blue", "a blue car", "the car near a cat"), ("two old birds", "birds"),
    ("green", "a very old photo of a tree in a house near the car"), ("the red car", "a drawing of the red car."))
ALL_CAPTIONS = [caption for texts in CAPTIONS for caption in texts]
SEED, BATCH = 8, 6  # a seed whose first batch has pairs that each direction keeps and others that it does not


def pairs_task(images, captions=CAPTIONS):
    split = Split(images, [0] * len(captions), captions=captions)
    return Task("pairs", [], [], {"train": split}, pairs=True)


@pytest.fixture
def make_pairs(make_state, task):
    """-> make(model, train_mode="whole", captions=CAPTIONS, **settings): a state whose task are pairs."""
    images = task.split("train").image

    def make(model, train_mode="whole", captions=CAPTIONS, **settings):
        state = make_state(model, train_mode, **{"batch_size": BATCH, **settings})
        state.task = pairs_task(images, captions)
        state.training_stream = lambda: stream(state)
        return state
    return make


def stream(state, choice="random", seed=SEED, steps=None):
    """Batches of the task's pairs on the device."""
    split, settings = state.task.split("train"), state.settings
    transform = EvalTransform(state.model.image_resolution)
    for batch in training_batches(split, transform, settings.batch_size, seed, state.iteration,
                                  steps or settings.iterations, captions=choice):
        yield state.device.batch(batch)._replace(rows=len(batch.labels))


def own_tokens(state, step=0):
    """Tokens, uncut, of the captions that a step must have drawn."""
    split, size = state.task.split("train"), state.settings.batch_size
    epoch, position = divmod(step, len(split) // size)
    rows = order_of_epoch(len(split), SEED, epoch)[position * size:(position + 1) * size]
    captions = [caption for texts in split.captions for caption in texts]
    drawn = [captions[slow.drawn_caption(split.captions, SEED, epoch, row)] for row in rows]
    return clip.tokenize(drawn, state.model.context_length)


def begin_and_move(hook, state):
    """The first moment of a task, then a model that is no longer the old one; -> a copy of what it was."""
    entered = copy.deepcopy(state.model)
    hook.begin(state)
    move(state.model)
    return entered


def assert_same_gradients(model, loss, expected_loss):
    """Tensor by tensor to 1e-10 of its norm; where a gradient is zero by symmetry, to 1e-13 of the largest one."""
    given, expected = gradients_of(loss, model), gradients_of(expected_loss, model)
    largest = max(gradient.norm() for gradient in expected.values() if gradient is not None)
    assert largest > 1e-4 and "logit_scale" in expected
    for name, gradient in expected.items():
        if gradient is None:
            assert given[name] is None or given[name].norm() == 0, name
        else:
            assert (given[name] - gradient).norm() <= 1e-10 * gradient.norm() + 1e-13 * largest, name
    return expected


def values(terms):
    return {name: value.item() for name, value in terms.items()}


# -- what goes with any method -----------------------------------------------------------------------------------------


class Trail(Hooks):
    """Keeps the plain weights before and after each step."""

    def begin(self, state):
        self.weights = [kept(state)]

    def after_step(self, state):
        self.weights.append(kept(state))


def kept(state):
    return {name: value.clone() for name, value in plain_weights(state.model).items()}


@pytest.mark.parametrize(("add_on", "shares"), [
    (WeightEnsemble(1), (1 / 3, 1 / 3, 1 / 3)), (MovingAverage(0.5), (1 / 4, 1 / 4, 1 / 2)),
    (WiseEnsemble(2, 0.9), (0.9 / 2 + 0.1, 0, 0.9 / 2)), (WiseMerge(0.75, "n"), (1 / 4, 0, 3 / 4))],
    ids=lambda value: type(value).__name__)
def test_averages_and_merges_of_pairs(add_on, shares, make_model, make_pairs):
    """The temperature, which trains on pairs, has its share as well."""
    state, trail = make_pairs(make_model("vit"), iterations=2, warmup=0), Trail()
    train(state, [Contrastive(), trail, add_on])
    for name, value in state.final_model.state_dict().items():
        if value.is_floating_point():
            expected = sum(share * weights[name] for share, weights in zip(shares, trail.weights, strict=True))
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    assert trail.weights[0]["logit_scale"] != trail.weights[2]["logit_scale"]


def test_the_l2_of_pairs_counts_every_trained_value(make_model, make_pairs):
    state, trail, terms = make_pairs(make_model("vit"), iterations=2, warmup=0), Trail(), []
    train(state, [Contrastive(), L2(0.3), trail], lambda state, losses: terms.append(losses))
    start, after = trail.weights[:2]
    moved = {name: (after[name] - start[name]).square().sum().item() for name in start
             if start[name].is_floating_point()}
    assert moved["logit_scale"] > 0 and terms[0]["l2"].item() == 0
    assert terms[1]["l2"].item() == pytest.approx(0.3 * sum(moved.values()), rel=1e-10)


@pytest.mark.parametrize("adapters", ["peft", "own", "shared"])
def test_adapters_on_pairs_train_alone_beside_the_temperature(adapters, make_model, make_pairs):
    model, targets = make_model("vit"), ["attn.out_proj", "mlp.c_fc"]
    state, trail = make_pairs(model, iterations=2, warmup=0), Trail()
    if adapters == "peft":
        inject_peft(model, targets, r=2, dropout=0.0)
    else:
        inject_lora(model, targets, 2, generator=torch.Generator().manual_seed(0))
    if adapters == "shared":
        apply_shared_lora(model)
    train(state, [ModX(), trail])
    start, end = trail.weights[0], state.final_model.state_dict()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert {name.rpartition(".")[2] for name in moved - {"logit_scale"}} <= {"weight", "in_proj_weight"}
    assert {name.startswith("visual.") for name in moved - {"logit_scale"}} == {True, False}
    assert "logit_scale" in moved and all(torch.equal(trail.weights[-1][name], end[name]) for name in end)


def test_a_projection_of_pairs_leaves_the_gradients_of_earlier_pairs_alone(make_model, make_pairs, tmp_path):
    tracker, path = GradientTracker(2), tmp_path / "basis.pth"
    train(make_pairs(make_model("vit"), iterations=2, warmup=0), [Contrastive(), tracker])
    torch.save(tracker.files(finished=True)["grad_{task}.pth"], path)
    largest = {}
    for add_ons in ([], [GradientTracker(orthogonal_gradients_path=str(path))]):
        state, trail = make_pairs(make_model("vit"), iterations=2, warmup=0), Trail()
        train(state, [ModX(), *add_ons, trail])
        inside = [entry["basis"].double() @ (trail.weights[-1][name] - trail.weights[0][name]).flatten()
                  for name, entry in torch.load(path, weights_only=True).items()]
        largest[len(add_ons)] = max(part.abs().max().item() for part in inside)
    assert largest[1] < 1e-6 * largest[0] and largest[0] > 1e-3


# -- the losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_mode", ["whole", "image", "text"])
def test_the_contrastive_loss_equals_the_slow_rendering(kind, train_mode, make_model, make_pairs):
    state, hook = make_pairs(make_model(kind), train_mode), Contrastive()
    begin_and_move(hook, state)
    batch = next(stream(state))
    scale = torch.exp(state.model.logit_scale)
    expected = slow.pair_loss(slow.scores(slow.image_features(state.model, batch.images),
                                          slow.text_features(state.model, own_tokens(state)), scale))
    losses = hook.losses(state, batch)
    assert values(losses) == pytest.approx({"contrastive": expected.item()}, rel=1e-10)
    gradients = assert_same_gradients(state.model, losses["contrastive"], expected)
    assert gradients["logit_scale"].abs() > 1e-3
    assert values(state.metrics) == pytest.approx({"scale": scale.item()}, rel=1e-12)
    assert not state.metrics["scale"].requires_grad


OPTIONS = [{}, {"reduction": "mean"}, {"temperature": 0.05}, {"alpha": 0.3, "temperature": 3.0, "reduction": "mean"},
           {"alpha": 0.0}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_modx_equals_the_papers_rendering(kind, options, make_model, make_pairs):
    """Term by term and in sum; some rows are kept and some are not, others in one direction than in the other."""
    state, hook = make_pairs(make_model(kind)), ModX(**{f"modx_{name}": value for name, value in options.items()})
    old = begin_and_move(hook, state)
    batch = next(stream(state))
    expected, metrics = slow.modx_terms(state.model, old, batch.images, own_tokens(state), **options)
    losses = hook.losses(state, batch)
    assert values(losses) == pytest.approx(values(expected), rel=1e-10)
    assert_same_gradients(state.model, sum(losses.values()), sum(expected.values()))
    if options.get("alpha") != 0:
        gradients = assert_same_gradients(state.model, losses["off_diagonal"], expected["off_diagonal"])
        assert gradients["logit_scale"] is None and expected["off_diagonal"] > 1e-6
    assert values(state.metrics) == pytest.approx(metrics, rel=1e-12)
    assert not any(value.requires_grad for value in state.metrics.values())
    assert 0 < metrics["keep_i2t"] < 1 and 0 < metrics["keep_t2i"] < 1
    assert metrics["keep_i2t"] != metrics["keep_t2i"]


def test_the_published_numbers_are_the_defaults():
    hook = ModX()
    assert (hook.alpha, hook.temperature, hook.reduction) == (20.0, 1.0, "sum")


def test_modx_of_an_adapted_model_keeps_to_its_merged_weights(make_model, make_pairs):
    state, hook = make_pairs(make_model("vit")), ModX()
    inject_lora(state.model, ("attn.out_proj", "mlp.c_fc", "mlp.c_proj"), r=2,
                generator=torch.Generator().manual_seed(0))
    move(state.model)
    hook.begin(state)
    batch = next(stream(state))
    assert torch.allclose(image_features(hook.old, batch.images), image_features(state.model, batch.images), rtol=1e-9)
    assert abs(hook.losses(state, batch)["off_diagonal"].item()) < 1e-12
    move(state.model)
    assert hook.losses(state, batch)["off_diagonal"].item() > 1e-6


# Rows 0 and 2 rank their own pair first, and columns 1 and 2.
OLD = [[0.6, 0.1, -0.2], [0.7, 0.5, 0.0], [0.3, 0.2, 0.4]]
NEW = [[0.2, 0.3, 0.1], [-0.4, 0.1, 0.6], [0.0, 0.5, -0.1]]


def divergence(before, now, temperature):
    """KL(softmax(before / T) || softmax(now / T)) of two lists of numbers."""
    p, q = ([math.exp(value / temperature) for value in row] for row in (before, now))
    return sum(one / sum(p) * math.log(one / sum(p) / (two / sum(q))) for one, two in zip(p, q, strict=True))


def doubles(rows, requires_grad=False):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=requires_grad)


@pytest.mark.parametrize("transpose, kept", [(False, (0, 2)), (True, (1, 2))])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_each_direction_has_a_filter_of_its_own(transpose, kept, temperature):
    old, new = (doubles(rows).T if transpose else doubles(rows) for rows in (OLD, NEW))
    new = new.clone().requires_grad_()
    expected = sum(divergence(old[row].tolist(), new[row].tolist(), temperature) for row in kept)
    loss, share = off_diagonal(old, new, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-12) and share.item() == pytest.approx(2 / 3)
    mean, _ = off_diagonal(old, new, temperature, "mean")
    assert mean.item() == pytest.approx(expected / 3, rel=1e-12)
    gradient, = torch.autograd.grad(loss, new)
    assert [row for row in range(3) if gradient[row].any()] == list(kept)


def test_no_gradient_reaches_what_the_old_cosines_came_from():
    old, new = doubles(OLD, requires_grad=True), doubles(NEW, requires_grad=True)
    reached, none = torch.autograd.grad(off_diagonal(old, new)[0], (new, old), allow_unused=True)
    assert reached.abs().max() > 0.01 and none is None


def test_a_wrong_pair_that_comes_later_than_the_own_one_is_wrong_too():
    old = doubles([[0.1, 0.2], [0.1, 0.3]])
    assert off_diagonal(old, doubles([[0.5, 0.0], [0.2, 0.1]]))[1].item() == 0.5


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_no_kept_row_is_exactly_zero_without_a_gradient(reduction):
    new = doubles(NEW, requires_grad=True)
    loss, share = off_diagonal(doubles(OLD).roll(1, dims=0), new, reduction=reduction)
    assert loss.item() == 0.0 and share.item() == 0.0
    assert torch.autograd.grad(loss, new)[0].tolist() == [[0.0] * 3] * 3


def test_rates_are_in_no_wider_type_than_the_cosines():
    """Not every accelerator has float64."""
    assert off_diagonal(doubles(OLD).float(), doubles(NEW).float())[1].dtype == torch.float32


def test_the_contrastive_loss_by_hand():
    cosines, scale = doubles([[0.5, 0.1], [-0.2, 0.3]]), torch.tensor(2.0, dtype=torch.float64)
    gaps = (-0.4, -0.5, -0.7, -0.2)  # of each wrong pair to the own one: two rows, then two columns
    expected = sum(math.log(1 + math.exp(2 * gap)) for gap in gaps) / 4
    assert contrastive(cosines, scale).item() == pytest.approx(expected, rel=1e-12)
    assert contrastive(cosines.T, scale).item() == pytest.approx(expected, rel=1e-12)


# -- the old model -----------------------------------------------------------------------------------------------------


def entered_off_diagonal(model, batch_norm, make_pairs):
    """The distillation at the first step, and the largest gradient of it."""
    state, hook = make_pairs(model, batch_norm=batch_norm), ModX()
    hook.begin(state)
    set_training(state.model, batch_norm)
    loss = hook.losses(state, next(stream(state)))["off_diagonal"]
    assert state.metrics["keep_i2t"] > 0 and state.metrics["keep_t2i"] > 0
    gradients = [gradient for gradient in gradients_of(loss, state.model).values() if gradient is not None]
    return loss.item(), max(gradient.norm().item() for gradient in gradients)


@pytest.mark.parametrize("kind, batch_norm", [("vit", "eval"), ("vit", "train"), ("resnet", "eval")])
def test_nothing_is_to_be_kept_at_the_first_step(kind, batch_norm, make_model, make_pairs):
    loss, gradient = entered_off_diagonal(make_model(kind), batch_norm, make_pairs)
    assert abs(loss) < 1e-12 and gradient < 1e-12


def test_batch_statistics_are_not_those_of_the_old_model(make_model, make_pairs):
    loss, gradient = entered_off_diagonal(make_model("resnet"), "train", make_pairs)
    assert loss > 1e-3 and gradient > 1e-3


@pytest.mark.parametrize("kind, batch_norm", [("vit", "eval"), ("resnet", "train")])
def test_the_old_model_stays_bit_by_bit_through_training(kind, batch_norm, make_model, make_pairs):
    state, hook, entered = make_pairs(make_model(kind), batch_norm=batch_norm), ModX(), make_model(kind).state_dict()
    train(state, [hook])
    assert state.iteration == 6 and not hook.old.training
    assert all(torch.equal(value, entered[name]) for name, value in hook.old.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in hook.old.parameters())
    assert set(state.model.state_dict()) == set(entered)
    for name, parameter in state.model.named_parameters():
        assert not torch.equal(parameter, entered[name]), name


def test_each_phase_has_the_old_model_of_its_start(make_model, make_pairs):
    state, hook = make_pairs(make_model("vit"), iterations=2), ModX()
    train(state, [hook])
    first, state.iteration = hook.old, 0
    left = copy.deepcopy(state.model.state_dict())
    train(state, [hook])
    assert hook.old is not first
    assert all(torch.equal(value, left[name]) for name, value in hook.old.state_dict().items())
    assert not torch.equal(left["logit_scale"], state.model.logit_scale)


def pairs_that_no_direction_keeps(state):
    """Two images and the numbers of their texts, each with the other's ranked first by rows and by columns."""
    split, transform = state.task.split("train"), EvalTransform(16)
    batch = state.device.batch(Batch(torch.stack([transform(split.image(row)) for row in range(len(split))]),
                                     torch.arange(len(split))))
    cosines = image_features(state.model, batch.images) @ text_features(
        state.model, clip.tokenize(ALL_CAPTIONS, state.model.context_length)).T
    rows, columns = cosines.shape
    a, b, p, q = next((a, b, p, q) for a in range(rows) for b in range(rows) for p in range(columns)
                      for q in range(columns)
                      if a != b and min(cosines[a, q], cosines[b, p]) > max(cosines[a, p], cosines[b, q]) + 0.01)
    return batch.images[[a, b]], torch.tensor([p, q])


def test_a_batch_without_a_kept_row_trains_by_contrast_alone(kind, make_model, make_pairs):
    state, hook = make_pairs(make_model(kind)), ModX()
    images, rows = pairs_that_no_direction_keeps(state)
    begin_and_move(hook, state)
    losses = hook.losses(state, Batch(images, rows, labels_on_host=rows))
    assert losses["off_diagonal"].item() == 0.0
    assert state.metrics["keep_i2t"] == state.metrics["keep_t2i"] == 0
    nothing = gradients_of(losses["off_diagonal"], state.model)
    assert all(gradient is None or not gradient.any() for gradient in nothing.values())  # NaN would be true
    alone = gradients_of(losses["contrastive"], state.model)
    for name, gradient in gradients_of(sum(losses.values()), state.model).items():
        assert torch.isfinite(gradient).all() and torch.equal(gradient, alone[name]), name


def test_a_batch_of_one_pair_has_nothing_to_tell_apart(make_model, make_pairs):
    state, hook = make_pairs(make_model("vit"), batch_size=1), ModX()
    begin_and_move(hook, state)
    losses = hook.losses(state, next(stream(state)))
    assert values(losses) == {"contrastive": 0.0, "off_diagonal": 0.0}


def test_training_follows_the_slow_rendering_step_by_step(make_model, make_pairs):
    """AdamW, decay and schedule of whole steps, the temperature's among them, captions drawn again in each epoch."""
    state, hook, old, other = make_pairs(make_model("vit"), iterations=3, wd=0.1), ModX(), *map(make_model, 2 * ["vit"])
    batches = [batch.images for batch in stream(state)]
    train(state, [hook])

    def loss_of(step, images):
        return sum(slow.modx_terms(other, old, images, own_tokens(state, step))[0].values())
    slow.train(other.parameters(), loss_of, batches, [slow.learning_rate(step, 3, 2, 1e-2) for step in range(3)],
               decay=0.1)
    for (name, value), expected in zip(state.model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9, msg=name)


# -- the temperature ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_mode", ["whole", "image", "text"])
@pytest.mark.parametrize("method", [Contrastive, ModX])
def test_the_temperature_trains(method, train_mode, make_model, make_pairs):
    state = make_pairs(make_model("vit"), train_mode, iterations=1, warmup=0)
    start = state.model.logit_scale.item()
    assert not state.model.logit_scale.requires_grad
    train(state, [method()])
    assert state.model.logit_scale.requires_grad
    assert abs(state.model.logit_scale.item() - start) == pytest.approx(1e-2, rel=1e-3)  # Adam's first step: its rate


class Pull(Hooks):
    """Pulls the temperature alone to one side, and writes down where each step leaves it."""

    def __init__(self, sign):
        self.sign, self.left = sign, []

    def after_backward(self, state):
        for parameter in state.model.parameters():
            parameter.grad.zero_()
        state.model.logit_scale.grad.fill_(-self.sign)

    def after_step(self, state):
        self.left.append(state.model.logit_scale.item())


@pytest.mark.parametrize("method", [Contrastive, ModX])
@pytest.mark.parametrize("sign, end", [(1, math.log(100)), (-1, 0.0)])
def test_the_temperature_stays_between_0_and_ln_100(method, sign, end, make_model, make_pairs):
    state, pull = make_pairs(make_model("vit"), iterations=4, lr=1.5, warmup=0), Pull(sign)
    start = state.model.logit_scale.item()
    train(state, [method(), pull])
    first, *later = pull.left
    assert first == pytest.approx(start + 1.5 * sign, rel=1e-6)  # inside, hence left alone
    assert later == pytest.approx([end] * 3, abs=1e-12)


@pytest.mark.parametrize("before, after", [(-3.0, 0.0), (-1e-9, 0.0), (0.0, 0.0), (2.5, 2.5), (4.6, 4.6),
                                           (4.7, LARGEST_SCALE), (50.0, LARGEST_SCALE)])
def test_the_clamp_moves_only_what_is_outside(before, after, make_model, make_pairs):
    state, hook = make_pairs(make_model("vit")), Contrastive()
    hook.begin(state)
    parameter = state.model.logit_scale
    with torch.no_grad():
        parameter.fill_(before)
    hook.after_step(state)
    assert state.model.logit_scale is parameter and parameter.requires_grad
    assert parameter.item() == after and math.exp(LARGEST_SCALE) == pytest.approx(100, rel=1e-14)


# -- captions and their tokens -----------------------------------------------------------------------------------------


def padded(tokens, length):
    return torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]))


@pytest.mark.parametrize("choice", ["random", "first"])
def test_a_batch_has_the_tokens_of_captions_of_its_own_images(choice, make_model, make_pairs):
    state, hook = make_pairs(make_model("vit"), iterations=8, batch_size=4), Contrastive()
    hook.begin(state)
    images = torch.stack([EvalTransform(16)(state.task.split("train").image(row)) for row in range(len(CAPTIONS))])
    found = {row: set() for row in range(len(CAPTIONS))}
    for batch in stream(state, choice):
        tokens = padded(hook.pairs(state, batch), 14)
        for pixels, own in zip(batch.images, tokens, strict=True):
            row = next(row for row, image in enumerate(state.device.images(images)) if torch.equal(image, pixels))
            given = [text for text in CAPTIONS[row] if torch.equal(clip.tokenize(text, 14)[0], own)]
            assert len(given) == 1
            found[row] |= set(given)
    if choice == "first":
        assert all(texts == {CAPTIONS[row][0]} for row, texts in found.items())
    else:
        assert sum(len(texts) > 1 for texts in found.values()) > 4


def batch_of(*rows):
    return Batch(torch.zeros(len(rows), 3, 16, 16), torch.tensor(rows), labels_on_host=torch.tensor(rows))


LONGEST = max(ALL_CAPTIONS, key=lambda caption: len(encode(caption)))


def test_tokens_are_cut_behind_the_longest_caption_of_the_batch(make_model, make_pairs):
    captions = [["cat"], ["a photo of a cat."], [LONGEST], ["a dog <end_of_text> near a very old house"], [""]]
    state, hook = make_pairs(make_model("vit"), captions=captions), Contrastive()
    hook.begin(state)
    whole = clip.tokenize([text for text, in captions], 14)
    lengths = [3, 2 + len(encode(captions[1][0])), 14, 4, 2]  # a text is over at its first end token
    for rows in ((0,), (4,), (0, 1), (1, 0, 4), (0, 3), (2, 0), (3, 3, 4)):
        tokens = hook.pairs(state, batch_of(*rows))
        assert tokens.shape == (len(rows), max(lengths[row] for row in rows))
        torch.testing.assert_close(text_features(state.model, tokens), text_features(state.model, whole[list(rows)]),
                                   rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [14, 77])
def test_a_long_caption_keeps_its_first_tokens_and_its_end(length, make_model, make_pairs):
    model = CLIP(**{**make_model("vit").architecture, "context_length": length}).double()
    long = " ".join(["a very old green tree near the small blue house"] * 20)
    state, hook = make_pairs(model, captions=[[long], ["cat"]]), Contrastive()
    hook.begin(state)
    assert len(long.split()) == 200 and len(encode(long)) == 200
    tokens = hook.pairs(state, batch_of(1, 0))
    assert tokens[1].tolist() == [START_TOKEN, *encode(long)[:length - 2], END_TOKEN]
    assert tokens[0].tolist() == [START_TOKEN, *encode("cat"), END_TOKEN] + [0] * (length - 3)


def test_captions_need_not_be_ascii(make_model, make_pairs):
    captions = [["Straße, naïve", "Strasse, naive"], ["ein 日本語 Buch", "ein 日本 Buch"], ["😀", "😁"]]
    state, hook = make_pairs(make_model("vit"), captions=captions), Contrastive()
    hook.begin(state)
    flat = [text for texts in captions for text in texts]
    tokens = hook.pairs(state, batch_of(*range(6)))
    assert len({tuple(row) for row in tokens.tolist()}) == 6
    for row, text in zip(tokens.tolist(), flat, strict=True):
        assert row[:row.index(END_TOKEN) + 1] == [START_TOKEN, *encode(text), END_TOKEN]


# -- precision ---------------------------------------------------------------------------------------------------------


def losses_at(precision, kind, make_model, make_pairs, monkeypatch):
    """(terms, gradient norms, types that similarity gave) of the same moved model and batch."""
    state, hook = make_pairs(make_model(kind, dtype=torch.float32)), ModX(modx_temperature=0.2)
    state.device = Device("cpu", precision)
    begin_and_move(hook, state)
    with torch.no_grad():
        state.model.logit_scale.fill_(LARGEST_SCALE)
    types = []

    def noted(*arguments):
        result = similarity(*arguments)
        types.append(result.dtype)
        return result
    similarity = modx.similarity
    with monkeypatch.context() as patch, state.device.autocast():
        patch.setattr(modx, "similarity", noted)
        losses = hook.losses(state, next(stream(state)))
    gradients = gradients_of(sum(losses.values()), state.model)
    return losses, {name: gradient.norm() for name, gradient in gradients.items()}, types


def test_autocast_leaves_cosines_and_losses_in_the_weights_type(kind, make_model, make_pairs, monkeypatch):
    exact, _, _ = losses_at("fp32", kind, make_model, make_pairs, monkeypatch)
    losses, norms, types = losses_at("bf16", kind, make_model, make_pairs, monkeypatch)
    assert types == [torch.float32] * 2
    assert all(value.dtype == torch.float32 for value in losses.values())
    assert all(torch.isfinite(norm) for norm in norms.values()) and norms["logit_scale"] > 0
    for name, value in values(losses).items():
        assert value == pytest.approx(values(exact)[name], rel=0.05) and value != values(exact)[name]


def test_steps_under_autocast_keep_weights_whole_and_finite(make_model, make_pairs):
    state = make_pairs(make_model("vit", dtype=torch.float32), iterations=4)
    state.device, terms = Device("cpu", "bf16"), []
    train(state, [ModX()], lambda state, losses: terms.append(values(losses)))
    assert terms[0]["off_diagonal"] == 0.0 < max(each["off_diagonal"] for each in terms)
    assert all(math.isfinite(value) for each in terms for value in each.values())
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in state.model.parameters())
