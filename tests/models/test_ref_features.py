"""The teacher's image features, kept over a fixed reference set: how often it is asked, and that no number changes."""

from dataclasses import replace

import pytest
import slow_reference as slow
import torch
from test_finetune import assert_same, begin_and_move, prompts, slow_task_loss, slow_terms, tokens

from clip.model import CLIP
from src.datasets.common import Split
from src.datasets.loading import SeededBatches, evaluation_batches, training_batches
from src.datasets.transforms import EvalTransform
from src.machine.batch import Batch
from src.machine.device import Device
from src.machine.distributed import World
from src.models.finetune import ZSCL, LwF, TeacherFeatures
from src.models.icarl import ICaRL
from src.models.modeling import image_features
from src.models.training import train

REFERENCE = 11  # images of tiny-reference
KEPT = {"cache_ref_features": True}


@pytest.fixture
def encoded(monkeypatch):
    """-> {model: sizes of the batches of images that it has encoded}"""
    sizes, encode = {}, CLIP.encode_image

    def counting(model, images):
        sizes.setdefault(model, []).append(len(images))
        return encode(model, images)
    monkeypatch.setattr(CLIP, "encode_image", counting)
    return sizes


@pytest.fixture
def run(make_model, make_state):
    """-> run(method, start=0, kind="vit", train_mode="whole", **settings): (state, its losses step by step)"""
    def run(method, start=0, kind="vit", train_mode="whole", **settings):
        state, losses = make_state(make_model(kind), train_mode, **settings), []
        state.iteration = start
        train(state, [method], lambda state, found: losses.append(
            {name: value.item() for name, value in (*found.items(), *state.metrics.items())}))
        return state, losses
    return run


def bits(state):
    return {name: value.clone() for name, value in state.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def first_visits(size, batch_size, steps, seed):
    """How many images of each step none before had, from the stream's definition."""
    seen, counts = set(), []
    for batch in SeededBatches(size, batch_size, seed, 0, steps):
        rows = {index for _, index in batch}
        counts.append(len(rows - seen))
        seen |= rows
    return counts


# -- how often the teacher is asked ------------------------------------------------------------------------------------


def test_the_teacher_encodes_each_visited_image_once(run, encoded):
    for steps in (1, 2, 3, 5, 9):
        method = ZSCL("tiny-reference", **KEPT)
        state, _ = run(method, iterations=steps)
        fresh = first_visits(REFERENCE, 4, steps, state.seed_of("reference"))
        assert encoded[method.teacher] == [count for count in fresh if count]
        rows = [7 if step == 5 else 8 for step in range(steps)]  # of 23 images of the task the sixth step has 3
        assert encoded[state.model] == rows  # and 4 reference images
    assert sum(encoded[method.teacher]) == REFERENCE


def test_without_a_cache_the_teacher_encodes_each_batch(run, encoded):
    method = ZSCL("tiny-reference")
    run(method, iterations=5)
    assert encoded[method.teacher] == [4] * 5


@pytest.mark.parametrize(("steps", "processes", "keeps"), [(5, 1, False), (6, 1, True), (11, 2, False), (12, 2, True)])
def test_features_are_kept_by_themselves_where_each_image_is_met_more_than_twice(
        steps, processes, keeps, make_model, make_state):
    """11 images, 4 a step: 22 visits of them are 5.5 steps of one process, 11 of two that have 2 of each batch."""
    state, hook = make_state(make_model("vit"), iterations=steps), ZSCL("tiny-reference")
    hook.begin(state)
    assert (hook.teacher_features.table is not None) == (steps > 5)
    state.world = World(rank=0, size=processes)
    assert hook.keeps_features(state, REFERENCE) == keeps
    assert ZSCL("tiny-reference", **KEPT).cache_ref_features


def test_only_a_cache_takes_memory(make_model, make_state):
    for options, dtype, shape in (({}, torch.float64, None), (KEPT, torch.float64, (REFERENCE, 8)),
                                  (KEPT, torch.float32, (REFERENCE, 8))):
        state, hook = make_state(make_model("vit"), iterations=5), ZSCL("tiny-reference", **options)
        teacher = make_model("vit", seed=5, dtype=dtype)
        state.open_zeroshot = {None: teacher}.__getitem__
        hook.begin(state)
        tensors = {name: value for name, value in vars(hook.teacher_features).items() if torch.is_tensor(value)}
        assert {name: tuple(value.shape) for name, value in tensors.items()} == (
            {"table": shape, "known": (REFERENCE,)} if shape else {})
        assert not shape or (tensors["table"].dtype == dtype and not tensors["table"].requires_grad)


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [{}, {"feature_mse": True, "ablation_loss_2": True, "image_loss": True}], ids=str)
def test_losses_from_the_cache_equal_the_slow_rendering(kind, flags, make_model, make_state, stream_of, open_task):
    """At every step, from the first visit of an image to its third, values and gradients."""
    steps = 6
    state, teacher = make_state(make_model(kind), iterations=steps), make_model(kind, seed=9)
    state.open_zeroshot = {None: teacher}.__getitem__
    hook, reference = ZSCL("tiny-reference", **KEPT, **flags), open_task("tiny-reference")
    begin_and_move(hook, state)
    batches = stream_of(state.task.split("train"), "train", steps, train_transform=True)
    references = stream_of(reference.split("train"), "reference", steps)
    for batch, seen in zip(batches, references, strict=True):
        terms = slow_terms(state, teacher, seen.images, tokens(prompts(reference)), flags)
        assert_same(state, hook.losses(state, batch), {"task": slow_task_loss(state, batch), **terms})


@pytest.mark.parametrize("method", [lambda **options: ZSCL("tiny-reference", distill_text_tower=True, **options),
                                    lambda **options: LwF(**options)], ids=["zscl", "lwf"])
def test_a_run_with_a_cache_is_the_run_without(kind, method, run):
    (plain, losses), (kept, others) = (run(method(**options), kind=kind, iterations=5) for options in ({}, KEPT))
    for one, other in zip(losses, others, strict=True):
        assert other == pytest.approx(one, rel=1e-9, abs=1e-12) and one.keys() == other.keys()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(kept.model.state_dict()[name], value, rtol=0, atol=1e-6)


def test_the_same_run_twice_and_with_workers_gives_the_same_bits(run):
    ends = [run(ZSCL("tiny-reference", **KEPT), iterations=6, workers=workers) for workers in (0, 0, 1)]
    assert same(bits(ends[0][0]), bits(ends[1][0])) and same(bits(ends[0][0]), bits(ends[2][0]))
    assert ends[0][1] == ends[1][1] == ends[2][1]


@pytest.mark.parametrize("missing", [(), (2, 5, 9)], ids=["all", "some cannot be decoded"])
@pytest.mark.parametrize("start", [1, 2, 3, 5, 8])
def test_a_later_start_has_the_features_of_an_uninterrupted_run_bit_for_bit(
        start, missing, make_model, make_state, open_task):
    """Whatever step it starts from, the table and what the steps read are the same, and no image is encoded twice."""
    def features_from(start, steps=9):
        state, hook = make_state(make_model("resnet"), iterations=steps), ZSCL("tiny-reference", **KEPT)
        reference = open_task("tiny-reference")
        split = holed(reference.split("train"), missing)
        state.iteration, state.open_task = start, lambda name: replace(reference, splits={"train": split})
        hook.begin(state)
        return hook, [hook.teacher_features(batch) for batch in hook.reference_images]
    (whole, every), (rest, later) = features_from(0), features_from(start)
    assert len(later) == len(every) - start
    assert all(torch.equal(one, other) for one, other in zip(every[start:], later, strict=True))
    known = whole.teacher_features.known
    assert torch.equal(rest.teacher_features.known, known) and known.sum() == REFERENCE - len(missing)
    assert torch.equal(whole.teacher_features.table[known], rest.teacher_features.table[known])


def test_a_later_start_encodes_what_had_been_visited_once(make_model, make_state, encoded):
    state, hook = make_state(make_model("vit"), iterations=9), ZSCL("tiny-reference", **KEPT)
    state.iteration = 5
    hook.begin(state)
    fresh = first_visits(REFERENCE, 4, 9, state.seed_of("reference"))
    assert encoded[hook.teacher] == [count for count in fresh[:5] if count]
    list(map(hook.teacher_features, hook.reference_images))
    assert encoded[hook.teacher] == [count for count in fresh if count]


def test_a_plain_method_goes_through_nothing_again(make_model, make_state, encoded):
    state, hook = make_state(make_model("vit"), iterations=5), ZSCL("tiny-reference")
    state.iteration = 3
    hook.begin(state)
    assert encoded == {}


def test_each_task_has_a_cache_of_its_own(make_model, make_state, run):
    method = LwF(**KEPT)
    run(method, iterations=3)
    first = method.teacher_features
    run(method, iterations=3)
    assert method.teacher_features is not first and first.table is not method.teacher_features.table


# -- which rows a batch has --------------------------------------------------------------------------------------------


def holed(split, missing):
    """As a tolerant split gives it: some images cannot be decoded."""
    return Split(lambda index: None if index in missing else split.image(index), split.labels)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("captions", [None, "random"])
def test_a_batch_knows_the_numbers_of_its_images(workers, captions, task):
    split = holed(task.split("train"), {3, 8, 20})
    split = Split(split.image, split.labels, captions=[["a", "b"]] * len(split))
    order = SeededBatches(len(split), 4, 7, 2, 12)
    batches = training_batches(split, EvalTransform(16), 4, 7, 2, 12, workers, captions)
    for batch, rows in zip(batches, order, strict=True):
        expected = [index for _, index in rows if index not in {3, 8, 20}]
        assert batch.indices.tolist() == expected and batch.skipped == len(rows) - len(expected)
        assert captions or batch.labels.tolist() == [split.labels[index] for index in expected]
        assert all(torch.equal(pixels, EvalTransform(16)(split.image(index)))
                   for pixels, index in zip(batch.images, expected, strict=True))


def test_numbers_stay_on_the_host_and_go_with_the_batch(device, task):
    batch = next(evaluation_batches(task.split("test"), EvalTransform(16), 5))
    assert device.batch(batch).indices is batch.indices and batch.indices.tolist() == [0, 1, 2, 3, 4]
    assert Batch(None, None).indices is None


@pytest.mark.parametrize("missing", [{0}, {2, 5, 9}])
def test_images_that_cannot_be_decoded_are_no_rows_of_the_cache(missing, make_model, make_state, open_task):
    state, model = make_state(make_model("resnet"), iterations=12), make_model("resnet", seed=5)
    split, features = holed(open_task("tiny-reference").split("train"), missing), TeacherFeatures(model, REFERENCE)
    for batch in state.stream(split, "reference", 4):
        found = features(batch)
        expected = torch.stack(slow.image_features(model, batch.images))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert features.known.nonzero().flatten().tolist() == [index for index in range(11) if index not in missing]


def test_exemplars_are_a_fixed_set_too(make_model, make_state, open_task, encoded):
    """Their classes stay the labels, their numbers are the rows: the replay is what it was."""
    ends = {}
    for kept in (False, True):
        carry = {}
        for name in ("tiny-other", "tiny"):
            state, losses = make_state(make_model("vit"), iterations=2), []
            state.task, state.source = open_task(name), name
            hook = ICaRL(memory_size=24, cache_ref_features=kept)
            hook.load_carry(carry)
            train(state, [hook], lambda state, found, losses=losses: losses.append(
                {name: value.item() for name, value in found.items()}))
            carry = hook.carry()
        assert (hook.teacher_features.table is not None) == kept
        assert sum(encoded[hook.teacher]) == 8
        ends[kept] = losses
    assert all("replay" in step for step in ends[True])
    for one, other in zip(ends[False], ends[True], strict=True):
        assert other == pytest.approx(one, rel=1e-9)


# -- what else a step need not do --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [LwF, lambda **options: ZSCL("tiny-reference", **options)], ids=["lwf", "zscl"])
@pytest.mark.parametrize(("train_mode", "student"), [("text", [4, 4]), ("image", [8, 8]), ("whole", [8, 8])])
def test_a_text_tower_alone_needs_no_reference_images_of_the_student(method, train_mode, student, run, encoded):
    """In text mode the student encodes the task's images only, and the teacher what it always did."""
    hook = method(distill_text_tower=train_mode != "image")
    state, losses = run(hook, train_mode=train_mode, iterations=2)
    assert encoded[state.model] == student and encoded[hook.teacher] == [4, 4]
    assert any(name.startswith("text_tower") for name in losses[0]) == (train_mode != "image")


def test_a_replay_needs_the_student_in_every_mode(make_model, make_state):
    assert ICaRL().needs_student(make_state(make_model("vit"), "text"))


# -- a device that would have to be waited for -------------------------------------------------------------------------


def test_no_lookup_waits_for_the_device(make_model, make_state, device):
    """Tensors on "meta" have no values: whatever reads one fails."""
    model = make_model("vit").to("meta")
    features, images = TeacherFeatures(model, 5), torch.empty(3, 3, 16, 16, device="meta", dtype=torch.float64)
    for rows in ([0, 1, 2], [2, 3, 0], [0, 1, 2]):
        found = features(Batch(images, None, indices=torch.tensor(rows)))
        assert found.is_meta and found.shape == (3, 8) and not found.requires_grad
    assert features.known.tolist() == [True] * 4 + [False]


def test_under_autocast_the_table_is_of_the_weights_type(make_model, make_state, open_task):
    state = make_state(make_model("vit", dtype=torch.float32), iterations=4)
    teacher = make_model("vit", seed=9, dtype=torch.float32)
    state.device, state.open_zeroshot = Device("cpu", "bf16"), {None: teacher}.__getitem__
    hook = ZSCL("tiny-reference", **KEPT)
    train(state, [hook])
    split = open_task("tiny-reference").split("train")
    images = torch.stack([EvalTransform(16)(split.image(row)) for row in range(REFERENCE)])
    with torch.no_grad(), state.device.autocast():
        expected = image_features(teacher, state.device.images(images))
    known = hook.teacher_features.known
    assert hook.teacher_features.table.dtype == torch.float32 and known.any()
    torch.testing.assert_close(hook.teacher_features.table[known], expected[known], rtol=0, atol=1e-2)
