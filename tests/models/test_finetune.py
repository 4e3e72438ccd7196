"""Every loss and every gradient of the methods on class data, against slow renderings in float64.

The student is moved away from its teacher before each comparison: at its optimum a distillation has no gradient.
"""

import itertools

import pytest
import slow_reference as slow
import torch
from slow_reference import gradients_of, move

import clip
import src.models.finetune
import src.models.helpers
import src.models.state
from clip.model import CLIP
from src.datasets.pairs import joint_task
from src.models.finetune import ZSCL, Distill, Finetune, LwF
from src.models.modeling import random_tokens, set_training
from src.models.training import ready_towers, train

FLAGS = ("image_loss", "text_loss", "weight_adjust", "feature_mse", "ablation_loss_2")
EVERY_CHOICE = [dict(zip(FLAGS, flags, strict=True)) for flags in itertools.product([False, True], repeat=len(FLAGS))]


def name_of(flags):
    return "+".join(name for name, given in flags.items() if given) or "no flag"


# Fast tests: no flag, one of them, all but one, all.
DISTILLATIONS = [pytest.param(flags, id=name_of(flags), marks=pytest.mark.slow if 1 < sum(flags.values()) < 4 else ())
                 for flags in EVERY_CHOICE]


def tokens(texts):
    return clip.tokenize(list(texts), 14)


def prompts(task, template=0):
    return [task.templates[template].replace("{c}", name) for name in task.classnames]


def begin_and_move(hook, state):
    """The first moment of a task, then a student that is no longer its teacher."""
    hook.begin(state)
    move(state.model)


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
        assert (hook.classes.scores[0].constant is not None) == constant


def slow_terms(state, teacher, images, texts, options):
    """What an image tower's distillation must give under a method's ``options``."""
    both = not (options.get("image_loss") or options.get("text_loss"))
    return slow.distillation_terms(
        state.model, teacher, images, texts, state.scale, options.get("T", 2.0), options.get("image_loss") or both,
        options.get("text_loss") or both, 0.5 if options.get("weight_adjust") else 1.0,
        options.get("feature_mse", False), options.get("ablation_loss_2", False))


def check_lwf(state, stream_of, texts, **options):
    """One step of LwF against the slow terms, its teacher being the model as it entered."""
    entered = state.frozen()
    hook = LwF(**options)
    begin_and_move(hook, state)
    size = options.get("ref_batch_size") or 4
    batch, images = first_batches(state, stream_of, ref_batch_size=size)
    terms = slow_terms(state, entered, images, texts, options)
    expected = {"task": slow_task_loss(state, batch, options.get("ls", 0.0)), **terms}
    assert all(value > 1e-3 for value in terms.values()) and not state.metrics
    assert_same(state, hook.losses(state, batch), expected)


@pytest.mark.parametrize("flags", DISTILLATIONS)
def test_lwf_equals_the_slow_rendering(kind, flags, make_model, make_state, stream_of, task):
    check_lwf(make_state(make_model(kind)), stream_of, tokens(prompts(task)), **flags)


@pytest.mark.parametrize("options", [{"T": 1.0}, {"T": 5.0, "ls": 0.2}, {"ref_batch_size": 3}], ids=str)
def test_lwf_equals_the_slow_rendering_with_other_numbers(options, make_model, make_state, stream_of, task):
    check_lwf(make_state(make_model("vit")), stream_of, tokens(prompts(task)), **options)


def test_lwf_with_an_image_tower_alone_equals_the_slow_rendering(kind, make_model, make_state, stream_of, task):
    check_lwf(make_state(make_model(kind), "image"), stream_of, tokens(prompts(task)))


@pytest.mark.slow
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
    terms = slow_terms(state, teacher, images, texts, options)
    expected = {"task": slow_task_loss(state, batch, options.get("ls", 0.0)), **terms}
    assert_same(state, hook.losses(state, batch), expected)


@pytest.mark.parametrize("flags", DISTILLATIONS)
def test_zscl_equals_the_slow_rendering(kind, flags, make_model, make_state, stream_of, open_task):
    state, teacher = make_state(make_model(kind)), make_model(kind, seed=9)
    state.open_zeroshot = {None: teacher}.__getitem__
    reference = open_task("tiny-reference")
    check_zscl(state, teacher, stream_of, reference, tokens(prompts(reference)), ls=0.2, **flags)


def test_the_entropy_that_is_subtracted_changes_no_bit_of_the_weights(make_model, make_state, monkeypatch):
    """A loss that shows the divergence trains what the cross-entropy does, with every term there is."""
    trained, logged = [], []
    for _ in range(2):
        state = make_state(make_model("vit"), iterations=3, lr=1e-2)
        hook = ZSCL("tiny-reference", distill_text_tower=True, feature_mse=True, ablation_loss_2=True)
        train(state, [hook], lambda state, losses: logged.append(losses))
        trained.append(state.model.state_dict())
        monkeypatch.setattr(src.models.helpers, "teacher_entropy", lambda logits, T: torch.zeros(()))
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())
    assert all(logged[0][name] < logged[3][name] for name in Distill.other_terms if name != "feature_mse")


TEXT_TOWER = [{}, {"weight_adjust": True, "text_tower_weight": 0.3}, {"T": 3.0, "ref_batch_size": 3},
              {"image_loss": True, "feature_mse": True, "ablation_loss_2": True, "ls": 0.2}]


def text_tower_terms(state, teacher, images, texts, options, iteration=0):
    """What the text tower's distillation must give at a step of a task."""
    rows = slow.sampled_texts(len(texts), len(images), iteration, state.task.name, state.settings.seed)
    weight = (0.5 if options.get("weight_adjust") else 1.0) * options.get("text_tower_weight", 1.0)
    return slow.text_tower_terms(state.model, teacher, images, texts[rows], state.scale, options.get("T", 2.0), weight)


def assert_reaches_the_text_tower_alone(model, losses):
    gradients = gradients_of(losses["text_tower_image_kl"] + losses["text_tower_text_kl"], model)
    reached = {name for name, gradient in gradients.items() if gradient is not None and gradient.norm() > 1e-6}
    assert {"text_projection", "token_embedding.weight", "ln_final.bias"} <= reached
    assert not any(name.startswith("visual.") for name in reached)


@pytest.mark.parametrize("train_mode", ["whole", "text"])
@pytest.mark.parametrize("options", TEXT_TOWER, ids=str)
@pytest.mark.parametrize("method", ["lwf", "ZSCL"])
def test_distilling_the_text_tower_equals_the_slow_rendering(
        kind, method, options, train_mode, make_model, make_state, stream_of, task, open_task):
    """All terms and every gradient; where only the text tower trains, the terms of the image tower are left out."""
    state, reference = make_state(make_model(kind), train_mode), open_task("tiny-reference")
    teacher = make_model(kind, seed=9) if method == "ZSCL" else state.frozen()
    state.open_zeroshot = {None: teacher}.__getitem__
    hook, source, texts = (LwF(distill_text_tower=True, **options), task, prompts(task)) if method == "lwf" else (
        ZSCL("tiny-reference", ref_sentences="tiny-reference", distill_text_tower=True, **options), reference,
        reference.sentences)
    begin_and_move(hook, state)
    batch, images = first_batches(state, stream_of, source, options.get("ref_batch_size", 4))
    expected = {"task": slow_task_loss(state, batch, options.get("ls", 0.0)),
                **text_tower_terms(state, teacher, images, tokens(texts), options)}
    if train_mode == "whole":
        expected |= slow_terms(state, teacher, images, tokens(texts), options)
    losses = hook.losses(state, batch)
    assert_same(state, losses, expected)
    own = ("text_tower_image_kl", "text_tower_text_kl")
    assert_same(state, {name: losses[name] for name in own}, {name: expected[name] for name in own})
    assert_reaches_the_text_tower_alone(state.model, losses)


def begun_at(iteration, make_state, model):
    """-> (state, method) at a step of a task whose 5 reference texts are more than its batches of 2."""
    state = make_state(model)
    state.iteration = iteration
    hook = ZSCL("tiny-reference", ref_sentences="tiny-reference", distill_text_tower=True, ref_batch_size=2)
    begin_and_move(hook, state)
    return state, hook


def test_each_step_samples_other_texts_and_the_same_step_the_same_ones(make_model, make_state, stream_of, open_task):
    state, hook = begun_at(0, make_state, make_model("vit"))
    reference, found = open_task("tiny-reference"), []
    streams = zip(stream_of(state.task.split("train"), "train", 4, train_transform=True),
                  stream_of(reference.split("train"), "reference", 4, 2), strict=True)
    for step, (batch, reference_batch) in enumerate(streams):
        state.iteration = step
        found.append(hook.losses(state, batch))
        expected = text_tower_terms(state, hook.teacher, reference_batch.images, tokens(reference.sentences), {}, step)
        for name, value in expected.items():
            assert found[step][name].item() == pytest.approx(value.item(), rel=1e-6)
        later, other = begun_at(step, make_state, make_model("vit"))
        again = other.losses(later, batch)
        assert {name: value.item() for name, value in again.items()} == {
            name: value.item() for name, value in found[step].items()}
    assert len({tuple(slow.sampled_texts(5, 2, step)) for step in range(4)}) > 2, "else the test shows nothing"


def test_another_task_or_seed_samples_other_texts():
    """What the definition that the tests above hold on to promises."""
    drawn = [[slow.sampled_texts(50, 5, step, *key) for step in range(3)]
             for key in (("tiny", 42), ("tiny", 43), ("other", 42))]
    assert all(one != other for one, other in itertools.combinations(drawn, 2))


def test_zscl_learns_from_the_given_model(make_model, make_state, stream_of, open_task):
    state, teacher = make_state(make_model("vit")), make_model("vit", seed=8)
    state.open_zeroshot = {"some.pth": teacher}.__getitem__
    reference = open_task("tiny-reference")
    check_zscl(state, teacher, stream_of, reference, tokens(prompts(reference)), ref_model="some.pth")


@pytest.mark.parametrize("given, source", [
    ({}, "class names"),
    ({"ref_sentences": "tiny-reference"}, "sentences"),
    ({"ref_sentences": "random"}, "random"),
    ({"ref_sentences": "tiny-other"}, "prompts of classes"),
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
                "prompts of classes": lambda: tokens(prompts(open_task("tiny-other"))),
                "datasets": lambda: tokens([*prompts(open_task("tiny-other")), *prompts(open_task("tiny"))])}[source]()
    with torch.no_grad():
        features = torch.stack(slow.text_features(hook.teacher, expected))
    torch.testing.assert_close(hook.reference_texts, features, rtol=1e-12, atol=1e-14)


def test_giving_no_loss_flag_means_both_and_giving_one_means_that_one():
    chosen = [(hook.image_loss, hook.text_loss) for hook in (
        LwF(), LwF(image_loss=True), LwF(text_loss=True), LwF(image_loss=True, text_loss=True))]
    assert chosen == [(True, True), (True, False), (False, True), (True, True)]


def gradients_with(alter, make_model, make_state, stream_of, kind="vit", **settings):
    """Forwards of the student's image tower, and gradients, of a step of LwF whose student ``alter`` has altered."""
    state, hook = make_state(make_model(kind), **settings), LwF(ref_batch_size=3)
    begin_and_move(hook, state)
    ready_towers(state)
    set_training(state.model, settings.get("batch_norm", "eval"))
    alter(state.model)
    sizes = []
    state.model.visual.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    batch, _ = first_batches(state, stream_of, ref_batch_size=3)
    loss = sum(hook.losses(state, batch).values())
    return sizes, gradients_of(loss, state.model)


@pytest.mark.parametrize("settings", [{}, {"grad_checkpointing": True}], ids=str)
def test_both_batches_in_one_forward_give_the_gradients_of_two(settings, kind, make_model, make_state, stream_of,
                                                               monkeypatch):
    """In fp64 to 1e-12: products round by the number of their rows."""
    one, found = gradients_with(lambda model: None, make_model, make_state, stream_of, kind, **settings)
    monkeypatch.setattr(src.models.state, "encodes_rows_alone", lambda model: False)
    two, expected = gradients_with(lambda model: None, make_model, make_state, stream_of, kind, **settings)
    assert one == [7] and two == [3, 4]
    for name, gradient in expected.items():
        assert (gradient is None) == (found[name] is None)
        if gradient is not None:
            assert (found[name] - gradient).norm() <= 1e-12 * max(1, gradient.norm()), name


def with_dropout(model):
    model.visual.transformer.resblocks[0].mlp.append(torch.nn.Dropout(0.5))


@pytest.mark.parametrize(("kind", "alter", "settings", "forwards"), [
    ("resnet", None, {"batch_norm": "train"}, [3, 4]), ("vit", with_dropout, {}, [3, 4]),
    ("vit", None, {"grad_accum": 2}, [2, 1, 2, 2])], ids=["batch norms train", "dropout", "in parts"])
def test_each_batch_has_its_forward_where_that_matters(kind, alter, settings, forwards, make_model, make_state,
                                                       stream_of):
    """Statistics of a batch, draws by the place in it, the memory of one part of one batch."""
    sizes, _ = gradients_with(alter or (lambda model: None), make_model, make_state, stream_of, kind, **settings)
    assert sizes[:len(forwards)] == forwards  # parts are computed again by backward


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


def reference_images(state, reference, **options):
    """Which images of the reference set a method compares on, by their numbers, in their order."""
    known = [id(reference.split("train").image(index)) for index in range(11)]
    images = ZSCL("tiny-reference", **options).reference(state).images
    numbers = [known.index(id(images.image(position))) for position in range(len(images))]
    assert list(images.labels) == [reference.split("train").labels[number] for number in numbers]
    return numbers


def test_ref_size_takes_so_many_images_the_same_in_every_task(make_model, make_state, make_task, open_task):
    model, reference = make_model("vit"), open_task("tiny-reference")
    state, found = make_state(model), {}
    for size in (1, 4, 10):
        found[size] = reference_images(state, reference, ref_size=size)
        assert len(found[size]) == len(set(found[size])) == size
    for name, classes in (("another task", 4), ("tiny-other", 2)):
        state = make_state(model)
        state.task = make_task(classes, name)
        state.source, state.iteration = name, 3
        assert reference_images(state, reference, ref_size=4) == found[4]
    others = [reference_images(make_state(model, seed=seed), reference, ref_size=4) for seed in (1, 2, 3)]
    assert all(other != found[4] and len(set(other)) == 4 for other in others)


@pytest.mark.parametrize("options", [{}, {"ref_size": 11}, {"ref_size": 500}], ids=str)
def test_more_reference_images_than_there_are_means_all(options, make_model, make_state, open_task):
    found = reference_images(make_state(make_model("vit")), open_task("tiny-reference"), **options)
    assert sorted(found) == list(range(11))


def test_the_images_of_ref_size_are_those_that_are_streamed(make_model, make_state, stream_of, open_task):
    state, reference = make_state(make_model("vit"), iterations=5), open_task("tiny-reference")
    numbers = reference_images(state, reference, ref_size=5)
    hook = ZSCL("tiny-reference", ref_size=5, ref_batch_size=2)
    hook.begin(state)
    expected = stream_of(reference.split("train").subset(numbers), "reference", 5, 2)
    assert all(torch.equal(one.images, two.images) for one, two in zip(hook.reference_images, expected, strict=True))


def test_joint_training_tells_each_image_apart_among_its_own_dataset_s_classes(kind, make_model, make_state, stream_of,
                                                                               open_task):
    tasks = [open_task("tiny"), open_task("tiny-other")]
    state = make_state(make_model(kind))
    state.task = joint_task(tasks)
    hook = Finetune(0.1)
    begin_and_move(hook, state)
    batch, = stream_of(state.task.split("train"), "train", 1, batch_size=12, train_transform=True, name="joint")
    sizes = [len(task.classnames) for task in tasks]
    owners = [int(label >= sizes[0]) for label in batch.labels]
    assert 0 < sum(owners) < 12, "both datasets are in the batch"
    rows = []
    for image, label, owner in zip(batch.images, batch.labels.tolist(), owners, strict=True):
        texts = slow.text_features(state.model, tokens(prompts(tasks[owner])))
        scores = slow.scores([slow.image_feature(state.model, image)], texts, state.scale)[0]
        rows.append(slow.smoothed_cross_entropy(scores, label - owner * sizes[0], 0.1))
    assert_same(state, hook.losses(state, batch), {"task": slow.mean(rows)})
