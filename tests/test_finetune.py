"""Every loss and every gradient of the methods on class data, against slow renderings in float64.

The student is moved away from its teacher before each comparison: at its optimum a distillation has no gradient.
"""

import itertools

import pytest
import slow_reference as slow
import torch

import clip
from clip.model import CLIP
from src.models.finetune import ZSCL, Finetune, LwF
from src.models.modeling import random_tokens
from src.models.training import train

DISTILLATIONS = [dict(zip(("image_loss", "text_loss", "weight_adjust", "feature_mse"), flags, strict=True))
                 for flags in itertools.product([False, True], repeat=4)]


def name_of(flags):
    return "+".join(name for name, given in flags.items() if given) or "no flag"


def tokens(texts):
    return clip.tokenize(list(texts), 14)


def prompts(task, template=0):
    return [task.templates[template].replace("{c}", name) for name in task.classnames]


@torch.no_grad()
def move(model):
    """A student some steps away from where it was, deterministic."""
    generator = torch.Generator().manual_seed(11)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def begin_and_move(hook, state):
    """The first moment of a task, then a student that is no longer its teacher."""
    hook.begin(state)
    move(state.model)


def gradients_of(loss, model):
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), allow_unused=True), strict=True))


def assert_same_gradients(model, loss, expected_loss):
    """Tensor by tensor to 1e-6 of its norm; where a gradient is zero by symmetry, to 1e-12 of the largest one."""
    given, expected = gradients_of(loss, model), gradients_of(expected_loss, model)
    largest = max(gradient.norm() for gradient in expected.values() if gradient is not None)
    assert largest > 1e-3
    for name, gradient in expected.items():
        if gradient is None:
            assert given[name] is None or given[name].norm() == 0, name
        else:
            assert (given[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12 * largest, name


def assert_same(state, losses, expected):
    """Names, values and the gradient of the sum of the terms."""
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=1e-6)
    assert_same_gradients(state.model, sum(losses.values()), sum(expected.values()))


def first_batches(state, stream_of, reference=None, ref_batch_size=4):
    """What the two streams of a task hold at its first step: (training batch, reference images)."""
    batch = next(stream_of(state.task.split("train"), "train", 1, train_transform=True))
    split = (reference or state.task).split("train")
    return batch, next(stream_of(split, "reference", 1, ref_batch_size)).images


def slow_task_loss(state, batch, smoothing=0.0):
    return slow.task_loss(state.model, batch.images, batch.labels, tokens(prompts(state.task)), smoothing, state.scale)


@pytest.mark.parametrize("train_mode", ["whole", "image", "text"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_finetune_equals_the_slow_rendering(kind, smoothing, train_mode, make_model, make_state, stream_of):
    state, hook = make_state(make_model(kind), train_mode), Finetune(smoothing)
    begin_and_move(hook, state)
    batch, _ = first_batches(state, stream_of)
    assert_same(state, hook.losses(state, batch), {"task": slow_task_loss(state, batch, smoothing)})


def test_class_features_are_constant_only_where_the_text_tower_is(make_model, make_state):
    for train_mode, constant in (("whole", False), ("text", False), ("image", True)):
        state, hook = make_state(make_model("vit"), train_mode), Finetune()
        hook.begin(state)
        assert (hook.class_scores.constant is not None) == constant


def check_lwf(state, stream_of, texts, **options):
    """One step of LwF against the slow terms, its teacher being the model as it entered."""
    entered = state.frozen()
    hook = LwF(**options)
    begin_and_move(hook, state)
    size = options.get("ref_batch_size") or 4
    batch, images = first_batches(state, stream_of, ref_batch_size=size)
    both = not (options.get("image_loss") or options.get("text_loss"))
    terms, divergences = slow.distillation_terms(
        state.model, entered, images, texts, state.scale, options.get("T", 2.0), options.get("image_loss") or both,
        options.get("text_loss") or both, 0.5 if options.get("weight_adjust") else 1.0,
        options.get("feature_mse", False))
    expected = {"task": slow_task_loss(state, batch, options.get("ls", 0.0)), **terms}
    assert_same(state, hook.losses(state, batch), expected)
    assert {name: value.item() for name, value in state.metrics.items()} == pytest.approx(
        {name: value.item() for name, value in divergences.items()}, rel=1e-6)
    assert all(value > 1e-3 and not value.requires_grad for value in state.metrics.values())


@pytest.mark.parametrize("flags", DISTILLATIONS, ids=name_of)
def test_lwf_equals_the_slow_rendering(kind, flags, make_model, make_state, stream_of, task):
    check_lwf(make_state(make_model(kind)), stream_of, tokens(prompts(task)), **flags)


@pytest.mark.parametrize("options", [{"T": 1.0}, {"T": 5.0, "ls": 0.2}, {"ref_batch_size": 3}], ids=str)
def test_lwf_equals_the_slow_rendering_with_other_numbers(options, make_model, make_state, stream_of, task):
    check_lwf(make_state(make_model("vit")), stream_of, tokens(prompts(task)), **options)


def test_lwf_with_an_image_tower_alone_equals_the_slow_rendering(kind, make_model, make_state, stream_of, task):
    check_lwf(make_state(make_model(kind), "image"), stream_of, tokens(prompts(task)))


def test_lwf_vr_equals_the_slow_rendering_on_a_thousand_random_texts(make_model, make_state, stream_of):
    state = make_state(make_model("vit"))
    check_lwf(state, stream_of, random_tokens(state.model, 42), ref_sentences="random", ref_batch_size=2)


def test_lwf_on_the_prompts_of_other_datasets_equals_the_slow_rendering(make_model, make_state, stream_of, open_task):
    texts = tokens([*prompts(open_task("tiny-other")), *prompts(open_task("tiny-reference"))])
    check_lwf(make_state(make_model("vit")), stream_of, texts, text_datasets=("tiny-other", "tiny-reference"))


def check_zscl(state, teacher, stream_of, reference, texts, **options):
    hook = ZSCL("tiny-reference", **options)
    begin_and_move(hook, state)
    batch, images = first_batches(state, stream_of, reference)
    both = not (options.get("image_loss") or options.get("text_loss"))
    terms, _ = slow.distillation_terms(
        state.model, teacher, images, texts, state.scale, options.get("T", 2.0), options.get("image_loss") or both,
        options.get("text_loss") or both, 0.5 if options.get("weight_adjust") else 1.0,
        options.get("feature_mse", False))
    expected = {"task": slow_task_loss(state, batch, options.get("ls", 0.0)), **terms}
    assert_same(state, hook.losses(state, batch), expected)


@pytest.mark.parametrize("flags", DISTILLATIONS, ids=name_of)
def test_zscl_equals_the_slow_rendering(kind, flags, make_model, make_state, stream_of, open_task):
    state, teacher = make_state(make_model(kind)), make_model(kind, seed=9)
    state.open_zeroshot = {None: teacher}.__getitem__
    reference = open_task("tiny-reference")
    check_zscl(state, teacher, stream_of, reference, tokens(prompts(reference)), ls=0.2, **flags)


def test_zscl_learns_from_the_given_model(make_model, make_state, stream_of, open_task):
    state, teacher = make_state(make_model("vit")), make_model("vit", seed=8)
    state.open_zeroshot = {"some.pth": teacher}.__getitem__
    reference = open_task("tiny-reference")
    check_zscl(state, teacher, stream_of, reference, tokens(prompts(reference)), ref_model="some.pth")


@pytest.mark.parametrize("given, source", [
    ({}, "class names"),
    ({"ref_sentences": "tiny-reference"}, "sentences"),
    ({"ref_sentences": "random"}, "random"),
    ({"text_datasets": ("tiny-other", "tiny")}, "datasets"),
    ({"text_datasets": ("tiny-other", "tiny"), "ref_sentences": "random"}, "datasets"),
    ({"text_datasets": ("tiny-other", "tiny"), "ref_sentences": "tiny-reference"}, "datasets"),
], ids=str)
def test_reference_texts_come_from_the_first_source_that_is_given(given, source, make_model, make_state, open_task):
    state, reference = make_state(make_model("vit")), open_task("tiny-reference")
    hook = ZSCL("tiny-reference", **given)
    hook.begin(state)
    expected = {"class names": lambda: tokens(prompts(reference)), "sentences": lambda: tokens(reference.sentences),
                "random": lambda: random_tokens(state.model, 42),
                "datasets": lambda: tokens([*prompts(open_task("tiny-other")), *prompts(open_task("tiny"))])}[source]()
    with torch.no_grad():
        features = torch.stack(slow.text_features(hook.teacher, expected))
    torch.testing.assert_close(hook.reference_texts, features, rtol=1e-12, atol=1e-14)


def test_giving_no_loss_flag_means_both_and_giving_one_means_that_one():
    chosen = [(hook.image_loss, hook.text_loss) for hook in (
        LwF(), LwF(image_loss=True), LwF(text_loss=True), LwF(image_loss=True, text_loss=True))]
    assert chosen == [(True, True), (True, False), (False, True), (True, True)]


def test_reference_images_run_on_as_a_stream_of_their_own_size(make_model, make_state, stream_of, open_task):
    state = make_state(make_model("vit"), iterations=5)
    hook = ZSCL("tiny-reference", ref_batch_size=3)
    hook.begin(state)
    assert state.settings.batch_size == 4
    seen = [batch.images for batch in hook.reference_images]
    expected = [batch.images for batch in stream_of(open_task("tiny-reference").split("train"), "reference", 5, 3)]
    assert len(seen) == 5  # more than the three batches of one epoch
    assert all(torch.equal(one, two) for one, two in zip(seen, expected, strict=True))


class CountTexts:
    """Counts how many texts each model has encoded."""

    def __init__(self, monkeypatch):
        self.counts, encode = {}, CLIP.encode_text

        def counting(model, rows):
            self.counts[model] = self.counts.get(model, 0) + len(rows)
            return encode(model, rows)
        monkeypatch.setattr(CLIP, "encode_text", counting)


@pytest.mark.parametrize("method, texts", [(lambda: LwF(), 4), (lambda: ZSCL("tiny-reference"), 3),
                                           (lambda: LwF(ref_sentences="random"), 1000)])
def test_the_teacher_encodes_its_texts_once_a_task_and_never_changes(
        method, texts, make_model, make_state, monkeypatch):
    encoded, hook, state = CountTexts(monkeypatch), method(), make_state(make_model("vit"), iterations=4)
    taught = {}
    begin = hook.begin

    def begin_and_remember(state):
        begin(state)
        taught.update({name: value.clone() for name, value in hook.teacher.state_dict().items()})
    hook.begin = begin_and_remember
    train(state, [hook])
    assert encoded.counts[hook.teacher] == texts
    assert encoded.counts[state.model] == 4 * 4  # the task's prompts at every step
    assert all(torch.equal(value, taught[name]) for name, value in hook.teacher.state_dict().items())
    assert not torch.equal(taught["visual.conv1.weight"], state.model.visual.conv1.weight)


def test_an_image_tower_alone_needs_its_class_prompts_once(make_model, make_state, monkeypatch):
    encoded, state = CountTexts(monkeypatch), make_state(make_model("vit"), "image", iterations=3)
    train(state, [Finetune()])
    assert encoded.counts[state.model] == 4


def test_the_teachers_batch_norms_keep_their_statistics(make_model, make_state):
    state, hook = make_state(make_model("resnet"), iterations=3, batch_norm="train"), LwF()
    entered = make_model("resnet").state_dict()
    train(state, [hook])
    assert not hook.teacher.training
    assert all(torch.equal(value, entered[name]) for name, value in hook.teacher.state_dict().items())


def test_the_teacher_is_no_part_of_what_is_trained_or_saved(make_model, make_state):
    state, hook = make_state(make_model("vit"), iterations=1), LwF()
    names = set(make_model("vit").state_dict())
    train(state, [hook])
    assert set(state.model.state_dict()) == names
    assert hook.teacher is not state.model
    assert not any(parameter.requires_grad for parameter in hook.teacher.parameters())


def test_ref_wise_teaches_from_a_mix_of_zero_shot_and_loaded_weights(make_state, make_model):
    state = make_state(make_model("vit"))
    zeroshot, loaded = state.open_zeroshot().state_dict(), state.model.state_dict()
    method = ZSCL("tiny-reference", ref_wise=True, ref_wise_alpha=0.25)
    method.begin(state)
    for name, value in method.teacher.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.75 * zeroshot[name] + 0.25 * loaded[name], rtol=1e-12, atol=1e-12)
