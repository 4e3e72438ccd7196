"""The one loop: its steps, their order, its optimiser, and ten steps against a slow float64 loop."""

import contextlib
import copy
import dataclasses
import functools
import math

import pytest
import slow_reference as slow
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

import clip
import src.models.finetune
import src.models.modeling
import src.models.resuming
import src.models.state
from src.datasets.common import Split
from src.datasets.seeds import order_of_epoch
from src.errors import UserError
from src.machine.device import Device
from src.models import training
from src.models.averaging import WeightEnsemble
from src.models.evaluation import evaluate
from src.models.finetune import ZSCL, Finetune, LwF
from src.models.hooks import Hooks
from src.models.lora_injection import inject_peft
from src.models.modeling import compile_image_tower, set_training
from src.models.training import train, weighed


class Record(Hooks):
    """Writes down each moment; returns the given loss terms, each a factor times the sum of one tensor."""

    def __init__(self, name, events, **terms):
        self.name, self.events, self.terms = name, events, terms

    def note(self, moment):
        self.events.append(f"{self.name} {moment}")

    def begin(self, state):
        assert state.optimizer is None
        self.note("begin")

    def losses(self, state, batch):
        self.note("losses")
        return {name: factor * state.model.text_projection.sum() for name, factor in self.terms.items()}

    def after_backward(self, state):
        self.note("after_backward")

    def after_step(self, state):
        self.note("after_step")

    def end(self, state):
        self.note("end")


@pytest.fixture
def optimizer_steps():
    """(learning rate, gradients) of each step that any optimiser takes."""
    steps = []

    def note(optimizer, args, kwargs):
        gradients = [parameter.grad.clone() for parameter in optimizer.param_groups[0]["params"]
                     if parameter.grad is not None]
        steps.append((optimizer.param_groups[0]["lr"], gradients))
    handle = register_optimizer_step_pre_hook(note)
    yield steps
    handle.remove()


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("iterations, warmup", [(1, 0), (1, 5), (3, 5), (7, 2), (6, 0)])
def test_a_run_takes_exactly_its_steps_at_the_exact_learning_rates(
        iterations, warmup, make_model, make_state, optimizer_steps):
    state = make_state(make_model("vit"), iterations=iterations, warmup=warmup, lr=3e-3)
    reported = []
    train(state, [Finetune()], lambda state, losses: reported.append(state.iteration))
    expected = [slow.learning_rate(step, iterations, warmup, 3e-3) for step in range(iterations)]
    assert [rate for rate, _ in optimizer_steps] == pytest.approx(expected, rel=1e-12)
    assert reported == list(range(1, iterations + 1)) and state.iteration == iterations


def test_two_hooks_with_the_same_loss_name_are_an_error_that_names_both(make_model, make_state):
    class Second(Finetune):
        pass
    with pytest.raises(UserError, match="'task': Finetune and Second; rename one"):
        train(make_state(make_model("vit")), [Finetune(), Second()])


def test_hooks_are_called_in_order_and_the_method_ends_last(make_model, make_state):
    events = []
    hooks = [Record("method", events, task=1.0), Record("first", events, l2=1.0), Record("second", events)]
    train(make_state(make_model("vit"), iterations=2), hooks, lambda state, losses: events.append("report"))
    names = ("method", "first", "second")
    step = [f"{name} {moment}" for moment in ("losses", "after_backward", "after_step") for name in names] + ["report"]
    ends = ["first end", "second end", "method end"]
    assert events == [f"{name} begin" for name in names] + step + step + ends


def test_gradients_stand_between_backward_and_the_step_and_weights_move_before_after_step(make_model, make_state):
    seen = []

    class Look(Finetune):
        def after_backward(self, state):
            seen.append((state.iteration, state.model.text_projection.grad is not None, weights(state.model)))

        def after_step(self, state):
            seen.append((state.iteration, state.model.text_projection.grad is not None, weights(state.model)))
    train(make_state(make_model("vit"), iterations=1), [Look()])
    (before, with_gradient, old), (after, still_there, new) = seen
    assert (before, with_gradient, after, still_there) == (0, True, 1, False)
    assert not same(old, new)


def test_a_closed_form_method_takes_no_step(make_model, make_state, optimizer_steps):
    model, events = make_model("resnet"), []
    before, reported = weights(model), []
    state = make_state(model, iterations=3)
    train(state, [Record("method", events)], lambda state, losses: reported.append(losses))
    assert optimizer_steps == [] and same(weights(model), before)
    assert state.iteration == 3 and reported == [{}] * 3
    assert events.count("method losses") == events.count("method after_step") == 3


class ClosedForm(Record):
    """Keeps whether its parameters ask for gradients in ``begin`` and ``end``."""

    closed_form = True

    def note(self, moment):
        super().note(moment)
        self.free = [*getattr(self, "free", []), self.state_is_free]

    def begin(self, state):
        self.state_is_free = any(value.requires_grad for value in state.model.parameters())
        super().begin(state)

    def end(self, state):
        self.state_is_free = any(value.requires_grad for value in state.model.parameters())
        super().end(state)


def test_a_closed_form_has_no_step_at_all(make_model, make_state, optimizer_steps):
    """Of its moments only the first and the last come, and no stream is opened."""
    state, events = make_state(make_model("vit"), iterations=3), []
    state.training_stream = lambda: pytest.fail("there is no stream")
    before, hook = weights(state.model), ClosedForm("method", events)
    train(state, [hook], lambda state, losses: events.append("report"))
    assert events == ["method begin", "method end"] and hook.free == [True, False]
    assert optimizer_steps == [] and state.optimizer is None and state.iteration == 0 and state.learning_rate == 0.0
    assert same(before, state.model.state_dict())


def test_a_closed_form_method_needs_no_trainable_parameter(make_model, make_state):
    class Freeze(Hooks):
        def begin(self, state):
            state.model.requires_grad_(False)
    state = make_state(make_model("vit"), iterations=2)
    train(state, [Freeze()])
    assert state.iteration == 2


def test_the_sum_of_all_named_terms_is_differentiated_and_each_is_reported(make_model, make_state, optimizer_steps):
    state, reported = make_state(make_model("vit"), iterations=1), []
    start = state.model.text_projection.detach().sum().item()
    train(state, [Record("method", [], task=2.0), Record("add-on", [], l2=0.5, other=-4.0)],
          lambda state, losses: reported.append(losses))
    (_, [gradient]), = optimizer_steps
    assert torch.equal(gradient, torch.full_like(gradient, 2.0 + 0.5 - 4.0))
    assert {name: value.item() for name, value in reported[0].items()} == pytest.approx(
        {"task": 2 * start, "l2": 0.5 * start, "other": -4 * start})
    assert not any(value.requires_grad for value in reported[0].values())


def norm_of(gradients):
    return math.sqrt(sum(float((gradient ** 2).sum()) for gradient in gradients))


@pytest.mark.parametrize("share, clipped", [(0.25, True), (4.0, False)])
def test_gradients_longer_than_the_limit_are_shortened_to_it(
        share, clipped, make_model, make_state, optimizer_steps):
    train(make_state(make_model("vit"), iterations=1), [Finetune()])
    (_, plain), = optimizer_steps
    limit = share * norm_of(plain)
    optimizer_steps.clear()
    train(make_state(make_model("vit"), iterations=1, max_grad_norm=limit), [Finetune()])
    (_, given), = optimizer_steps
    factor = limit / norm_of(plain) if clipped else 1.0
    for one, other in zip(plain, given, strict=True):
        torch.testing.assert_close(other, factor * one, rtol=1e-5, atol=0)


def test_hooks_see_the_gradient_before_it_is_clipped(make_model, make_state):
    norms = []

    class Look(Finetune):
        def after_backward(self, state):
            norms.append(norm_of([value.grad for value in state.model.parameters() if value.grad is not None]))
    for limit in (None, 1e-3):
        train(make_state(make_model("vit"), iterations=1, max_grad_norm=limit), [Look()])
    assert norms[0] == norms[1] > 1e-3


def test_only_what_is_trained_goes_to_the_optimiser(make_model, make_state):
    state = make_state(make_model("vit"), "image", iterations=1)
    train(state, [Finetune()])
    group, = state.optimizer.param_groups
    image_tower = [parameter for name, parameter in state.model.named_parameters() if name.startswith("visual.")]
    assert {id(parameter) for parameter in group["params"]} == {id(parameter) for parameter in image_tower}


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_the_model_is_in_training_mode_with_batch_norms_as_asked(batch_norm, make_model, make_state):
    modes = []

    class Look(Finetune):
        def losses(self, state, batch):
            modes.append((state.model.training, state.model.visual.bn1.training, state.model.ln_final.training))
            return super().losses(state, batch)
    train(make_state(make_model("resnet"), iterations=1, batch_norm=batch_norm), [Look()])
    assert modes == [(True, batch_norm == "train", True)]


def test_the_state_knows_the_rows_of_the_step(make_model, make_state):
    rows = []
    train(make_state(make_model("vit"), iterations=7), [Finetune()], lambda state, losses: rows.append(state.rows))
    assert rows == [4, 4, 4, 4, 4, 3, 4]


def test_means_are_weighed_by_rows():
    """The mean over no rows counts 0, and its gradient is 0."""
    values = torch.tensor([2.0, 4.0], requires_grad=True)
    assert weighed(values, 1.0) is values
    weighed(values.mean(), 0.5).backward()
    assert values.grad.tolist() == [0.25, 0.25]
    values.grad = None
    none = weighed(values[:0].mean() + values.sum(), 0.0)
    none.backward()
    assert none.item() == 0 and values.grad.tolist() == [0, 0]


class Modes(Finetune):
    """Keeps whether batch norms train at each step, and the rows."""

    def losses(self, state, batch):
        self.__dict__.setdefault("seen", []).append((len(batch.labels), state.model.visual.bn1.training))
        return super().losses(state, batch)


def test_a_batch_of_one_image_meets_no_batch_norm_that_trains(make_model, make_state):
    """The last of 23 images after batches of 22: running statistics act and stay, and weights move all the same."""
    state = make_state(make_model("resnet"), batch_size=22, iterations=3, batch_norm="train")
    hook, statistics = Modes(), []
    train(state, [hook], lambda state, losses: statistics.append(
        (state.model.visual.bn1.running_mean.clone(), state.model.visual.conv1.weight.detach().clone())))
    assert hook.seen == [(22, True), (1, False), (22, True)]
    means, kernels = zip(*statistics, strict=True)
    assert torch.equal(means[0], means[1]) and not torch.equal(means[1], means[2])
    assert not torch.equal(kernels[0], kernels[1]) and state.model.visual.bn1.training
    assert state.model.visual.bn1.num_batches_tracked == 2


def test_images_that_are_skipped_may_leave_one(make_model, make_state, task):
    state, hook = make_state(make_model("resnet"), batch_size=21, iterations=2, batch_norm="train"), Modes()
    split, bad = task.split("train"), order_of_epoch(23, state.seed_of("train"), 0)[21]
    tolerant = Split(lambda index: None if index == bad else split.image(index), split.labels)
    state.task = dataclasses.replace(task, splits={"train": tolerant})
    train(state, [hook])
    assert hook.seen == [(21, True), (1, False)]


def test_the_same_run_gives_the_same_bits_whatever_was_drawn_before(make_model, make_state):
    ends = []
    for _ in range(2):
        state = make_state(make_model("vit"), iterations=3)
        train(state, [LwF()])
        ends.append(weights(state.model))
        torch.rand(7)
    assert same(*ends)


def tokens_of_prompts(task):
    return clip.tokenize([task.templates[0].replace("{c}", name) for name in task.classnames], 14)


def train_slowly(state, loss_of, stream_of, **options):
    """Ten steps of the slow loop on the streams' batches, by the slow AdamW at the slow learning rates."""
    settings = state.settings
    set_training(state.model, settings.batch_norm)
    rates = [slow.learning_rate(step, settings.iterations, settings.warmup, settings.lr)
             for step in range(settings.iterations)]
    batches = stream_of(state.task.split("train"), "train", settings.iterations, train_transform=True)
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    slow.train(parameters, loss_of, batches, rates, **options)


def assert_same_weights(one, other):
    for name, value in one.named_parameters():
        assert (value - other.state_dict()[name]).norm() <= 1e-6 * value.norm(), name


def test_ten_steps_of_finetuning_equal_a_slow_loop(kind, make_model, make_state, stream_of, task):
    settings = {"iterations": 10, "lr": 1e-3, "warmup": 3, "wd": 0.1}
    fast, slowly = (make_state(make_model(kind), **settings) for _ in range(2))
    train(fast, [Finetune(ls=0.1)])

    def loss_of(step, batch):
        return slow.task_loss(slowly.model, batch.images, batch.labels, tokens_of_prompts(task), 0.1, slowly.scale)
    train_slowly(slowly, loss_of, stream_of, decay=0.1)
    assert_same_weights(fast.model, slowly.model)
    assert not same(weights(fast.model), make_model(kind).state_dict())


def test_ten_steps_of_zscl_equal_a_slow_loop(make_model, make_state, stream_of, task, open_task):
    settings = {"iterations": 10, "lr": 1e-3, "warmup": 0}
    fast, slowly = (make_state(make_model("resnet"), **settings) for _ in range(2))
    train(fast, [ZSCL("tiny-reference", ls=0.2, weight_adjust=True)])
    reference, teacher = open_task("tiny-reference"), slowly.open_zeroshot()
    images = [batch.images for batch in stream_of(reference.split("train"), "reference", 10)]

    def loss_of(step, batch):
        terms = slow.distillation_terms(slowly.model, teacher, images[step], tokens_of_prompts(reference),
                                        slowly.scale, 2.0, True, True, 0.5)
        return sum(terms.values()) + slow.task_loss(
            slowly.model, batch.images, batch.labels, tokens_of_prompts(task), 0.2, slowly.scale)
    train_slowly(slowly, loss_of, stream_of)
    assert_same_weights(fast.model, slowly.model)


@pytest.fixture
def meta_device(device, monkeypatch):
    """A device whose tensors have shapes and no values: a tensor left on the host does not mix with them, and
    whatever waits for the device to read a value fails."""
    device.device = torch.device("meta")
    device._mean, device._std = device._mean.to("meta"), device._std.to("meta")
    monkeypatch.setattr(src.models.modeling, "_note_unknown_words", lambda *args: None)  # once a task, may wait
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # meta has none
    monkeypatch.setattr(Device, "waits", True)  # losses are read a step later
    monkeypatch.setattr(Device, "read", lambda device, values: lambda: [1.0] * len(values))
    return device


@pytest.mark.parametrize("limit", [None, 1.0])
@pytest.mark.parametrize("method", [Finetune, LwF])
def test_no_step_waits_for_the_device_or_leaves_a_tensor_on_the_host(
        kind, method, limit, meta_device, make_model, make_state, monkeypatch):
    monkeypatch.setattr(src.models.finetune, "constant_text_features",  # once a task, and may wait
                        lambda model, tokens: torch.empty(len(tokens), 8, device="meta", dtype=torch.float64))
    monkeypatch.setattr(src.models.state, "packed_where_shorter", lambda model, tokens: tokens)  # likewise
    monkeypatch.setattr(src.models.resuming, "digests", lambda tensors: [0] * len(tensors))  # likewise
    state = make_state(make_model(kind).to("meta"), iterations=3, max_grad_norm=limit)
    state.device, reported = meta_device, []
    train(state, [method(0.1)], lambda state, losses: reported.append(losses))
    assert state.iteration == 3
    assert all(value.is_meta for losses in reported for value in losses.values())
    assert all(value.is_meta for value in state.metrics.values())
    assert all(value.is_meta for value in state.model.state_dict().values())


# -- how the towers run ------------------------------------------------------------------------------------------------


def kept_values(model, images):
    """How many values autograd keeps of a forward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value.numel()), lambda value: None):
        model.encode_image(images)
    return sum(kept)


def test_gradient_checkpointing_keeps_less_and_gives_the_same_bits(kind, make_model, make_state):
    states = [make_state(make_model(kind), grad_checkpointing=on) for on in (False, True)]
    for state in states:
        train(state, [Finetune()])
    plain, checkpointed = (state.model for state in states)
    assert all(torch.equal(value, other) for value, other in zip(
        plain.state_dict().values(), checkpointed.state_dict().values(), strict=True))
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert kept_values(checkpointed, images) < 0.7 * kept_values(plain, images)


def test_gradient_checkpointing_draws_dropout_once(make_model, make_state):
    """The draws of adapters are the same when a block is computed again."""
    weights = []
    for on in (False, True):
        state = make_state(make_model("vit"), grad_checkpointing=on)
        inject_peft(state.model, ("mlp.c_fc", "mlp.c_proj"), 2, 4.0, 0.5, "none", 0)
        train(state, [Finetune()])
        weights.append([value.detach() for value in state.model.parameters() if value.requires_grad])
    assert all(map(torch.equal, *weights))


@pytest.mark.parametrize("option", [{"grad_checkpointing": True}, {"grad_accum": 2}], ids=str)
def test_statistics_that_would_see_a_batch_twice_are_refused(option, make_model, make_state):
    with pytest.raises(UserError, match=rf"--{next(iter(option)).replace('_', '-')}.*--batch-norm eval"):
        train(make_state(make_model("resnet"), batch_norm="train", **option), [Finetune()])
    train(make_state(make_model("vit"), batch_norm="train", **option), [Finetune()])


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("method", [Finetune, lambda: ZSCL("tiny-reference", ablation_loss_2=True)],
                         ids=["task", "zscl"])
def test_parts_of_a_batch_give_the_whole_batch_gradient(method, parts, kind, make_model, make_state):
    """Also for losses that compare the images of a batch with each other; 3 does not divide it."""
    class KeepGradients(Hooks):
        def after_backward(self, state):
            self.found = [value.grad.clone() for value in state.model.parameters() if value.grad is not None]

    states, gradients, sizes = [], [KeepGradients(), KeepGradients()], []
    for count, keep in zip((1, parts), gradients, strict=True):
        states.append(make_state(make_model(kind), grad_accum=count, iterations=1))
        train(states[-1], [method(), keep])
    for value, other in zip(*(keep.found for keep in gradients), strict=True):
        torch.testing.assert_close(value, other, atol=1e-11, rtol=1e-9)
    states[1].model.visual.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    states[1].model.encode_image(torch.randn(4, 3, 16, 16, dtype=torch.float64)).sum().backward()
    assert max(sizes) < 4 and sum(sizes) == 8


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("batch_size", [5, 22])
@pytest.mark.parametrize("method", [Finetune, lambda: ZSCL("tiny-reference", ablation_loss_2=True, ref_batch_size=4)],
                         ids=["task", "zscl"])
def test_parts_of_the_rest_of_an_epoch_give_its_gradient(method, batch_size, parts, make_model, make_state):
    """3 images or one, in unequal parts, of which some are empty; a slow loop, one image at a time, agrees."""
    found, last = [], -(-23 // batch_size)

    class KeepGradients(Hooks):
        def after_backward(self, state):
            self.found = [value.grad.clone() for value in state.model.parameters() if value.grad is not None]
    for count in (1, parts):
        keep = KeepGradients()
        state = make_state(make_model("vit"), grad_accum=count, batch_size=batch_size, iterations=last)
        state.iteration = last - 1  # the last step of an epoch, from the weights at load
        train(state, [method(), keep])
        assert state.rows == 23 % batch_size
        found.append(keep.found)
    for value, other in zip(*found, strict=True):
        torch.testing.assert_close(value, other, atol=1e-12, rtol=1e-10)


def graphs_of_an_order(make_model, make_state, monkeypatch, precision, modes=("whole",) * 3):
    """-> graphs compiled after each of three tasks of ZSCL with an average, each scored at its end, whose models are
    others and whose prompts have other lengths; and the losses."""
    graphs, counts, losses = [], [], []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward
    monkeypatch.setattr(training, "compile_image_tower", functools.partial(compile_image_tower, backend=backend))
    torch._dynamo.reset()
    try:
        for number, mode in enumerate(modes):
            state = make_state(make_model("vit", seed=number, dtype=torch.float32), mode, compile=True, iterations=7)
            state.device = Device("cpu", precision)
            zeroshot = make_model("vit", seed=9, dtype=torch.float32).eval().requires_grad_(False)
            state.open_zeroshot = lambda path=None, zeroshot=zeroshot: zeroshot
            state.open_teacher = lambda path=None, lower=state.lowered, zeroshot=zeroshot: lower(
                copy.deepcopy(zeroshot))
            names = [f"{name}{' dog' * number}" for name in state.task.classnames]
            state.task = dataclasses.replace(state.task, classnames=names)
            train(state, [ZSCL("tiny-reference"), WeightEnsemble(avg_freq=2)],
                  lambda state, found: losses.append({name: float(value) for name, value in found.items()}))
            for model in (state.final_model, state.model):
                evaluate(model, state.task, state.device, "test", batch_size=4)
            counts.append(len(graphs))
    finally:
        torch._dynamo.reset()
    return counts, losses


@pytest.mark.parametrize(("precision", "graphs"), [("fp32", 2), ("bf16", 3)])
def test_an_order_compiles_a_graph_that_trains_and_one_that_does_not(precision, graphs, make_model, make_state,
                                                                     monkeypatch):
    """One for the student; one for its teacher and for evaluation, or one each where the teacher is kept in bf16."""
    counts, found = graphs_of_an_order(make_model, make_state, monkeypatch, precision)
    assert counts == [graphs] * 3
    monkeypatch.setattr(training, "_clips_of", lambda state, hooks: [])
    none, expected = graphs_of_an_order(make_model, make_state, monkeypatch, precision)
    assert none == [0] * 3 and len(found) == len(expected) == 21
    for one, other in zip(found, expected, strict=True):
        near = 1e-4 if precision == "fp32" else 0.03
        assert one == pytest.approx(other, rel=near, abs=near)


def test_compile_takes_every_image_tower_of_a_task(make_model, make_state, monkeypatch):
    taken = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, backend: taken.append(module) or setattr(
        module, "_compiled_call_impl", module._call_impl))
    state = make_state(make_model("vit"), compile=True, iterations=1)
    hooks = [ZSCL("tiny-reference"), WeightEnsemble(avg_freq=1)]
    train(state, hooks)
    assert {id(module) for module in taken} == {id(model.visual) for model in (state.model, state.ensemble,
                                                                              hooks[0].teacher)}
    train(make_state(make_model("vit"), iterations=1), [Finetune()])
    assert len(taken) == 3
