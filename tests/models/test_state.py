"""The streams of a task: what a step sees, and what a run that starts later sees."""

import dataclasses
import itertools
import os
import signal
import types

import pytest
import torch

from src.datasets.common import Split
from src.datasets.seeds import order_of_epoch, seed_of
from src.datasets.transforms import EvalTransform, TrainTransform
from src.errors import UserError
from src.machine.distributed import World
from src.machine.interruption import Interrupted, Signals
from src.models.hooks import Hooks
from src.models.modeling import ClassificationHead, image_features
from src.models.training import train


class KeepBatches(Hooks):
    """Keeps the training batches, and those of a second stream."""

    def begin(self, state):
        self.batches, self.own = [], []
        self.stream = state.stream(state.open_task("tiny-reference").split("train"), "own", 3)

    def losses(self, state, batch):
        self.batches.append(batch)
        self.own.append(next(self.stream))
        return {}


def assert_same_batches(one, other):
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left.images, right.images) and torch.equal(left.labels, right.labels)


@pytest.mark.parametrize("last_batch", ["keep", "drop"])
@pytest.mark.parametrize("start", [1, 4, 5, 7])
def test_a_run_that_starts_later_sees_the_batches_of_an_uninterrupted_one(start, last_batch, make_model, make_state):
    whole, rest = KeepBatches(), KeepBatches()
    train(make_state(make_model("vit"), iterations=9, last_batch=last_batch), [whole])
    state = make_state(make_model("vit"), iterations=9, last_batch=last_batch)
    state.iteration = start
    train(state, [rest])
    assert_same_batches(rest.batches, whole.batches[start:])
    assert_same_batches(rest.own, whole.own[start:])
    assert state.iteration == 9


@pytest.mark.parametrize("batch_size", [4, 8, 22, 23, 100])
def test_an_epoch_has_each_image_once(batch_size, make_model, make_state, task):
    """Of 23, and every batch knows its rows; other streams have full batches only."""
    hook, steps = KeepBatches(), len(range(0, 23, batch_size))
    train(make_state(make_model("vit"), iterations=2 * steps, batch_size=batch_size), [hook])
    for epoch in (hook.batches[:steps], hook.batches[steps:]):
        assert sorted(torch.cat([batch.indices for batch in epoch]).tolist()) == list(range(23))
    assert [batch.rows for batch in hook.batches] == [len(batch.labels) for batch in hook.batches]
    assert {batch.weight for batch in hook.batches} == {1.0} and {len(batch.labels) for batch in hook.own} == {3}


def test_pairs_come_in_full_batches(make_model, make_state, task):
    state = make_state(make_model("vit"), iterations=12)
    split = dataclasses.replace(task.split("train"), captions=[("a cat",)] * 23)
    state.task = dataclasses.replace(task, pairs=True, splits={"train": split})
    assert {(len(batch.labels), batch.rows, batch.weight) for batch in state.training_stream()} == {(4, 4, 1.0)}


def test_training_batches_are_those_of_the_definition(make_model, make_state, stream_of, task):
    hook = KeepBatches()
    train(make_state(make_model("vit"), iterations=7), [hook])
    assert_same_batches(hook.batches, list(stream_of(task.split("train"), "train", 7, train_transform=True)))


@pytest.mark.parametrize("other", [{"seed": 43}, {"name": "another task"}], ids=str)
def test_another_seed_or_task_gives_another_stream(other, make_model, make_state, stream_of, task):
    hook = KeepBatches()
    train(make_state(make_model("vit"), iterations=1), [hook])
    changed = next(stream_of(task.split("train"), "train", 1, train_transform=True, **other))
    assert not torch.equal(hook.batches[0].images, changed.images)


# -- one pass over a split ---------------------------------------------------------------------------------------------

def once(state, batch_size=4, purpose="pass", split="train", **options):
    return list(state.once(state.task.split(split), purpose, batch_size, **options))


def indices(batches):
    return torch.cat([batch.indices for batch in batches]).tolist()


def of_processes(count, state, **options):
    """The batches of each of ``count`` processes."""
    found = []
    for rank in range(count):
        state.world = World(rank, count, store=torch.distributed.HashStore())
        found.append(once(state, **options))
    return found


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4] * 5 + [3]), (22, [22, 1]), (100, [23])])
def test_a_pass_gives_each_image_once(processes, batch_size, sizes, make_model, make_state, task):
    """Of 23, in order; global batches are cut by rank, and every process has as many batches."""
    ranks = of_processes(processes, make_state(make_model("vit")), batch_size=batch_size)
    assert {len(own) for own in ranks} == {len(sizes)}
    rows = [[len(own[number].labels) for own in ranks] for number in range(len(sizes))]
    assert [sum(shares) for shares in rows] == sizes
    assert all(max(shares) - min(shares) <= 1 and shares == sorted(shares, reverse=True) for shares in rows)
    together = [index for shares in zip(*ranks, strict=True) for index in indices(shares)]
    assert together == list(range(23))
    for own in ranks:
        assert [batch.rows for batch in own] == sizes
        assert [batch.weight for batch in own] == [len(batch.labels) * processes / batch.rows for batch in own]
        labels = torch.cat([batch.labels for batch in own]).tolist()
        assert labels == [task.split("train").labels[index] for index in indices(own)]


def test_the_images_of_a_pass_are_those_of_the_evaluation_transform(make_model, make_state, device, task):
    split = task.split("train")
    for batch in once(make_state(make_model("vit"))):
        raw = torch.stack([EvalTransform(16)(split.image(index), 0) for index in batch.indices.tolist()])
        assert torch.equal(batch.images, device.images(raw)) and batch.images.dtype == torch.float64


def test_a_shuffled_pass_is_drawn_by_its_purpose(make_model, make_state):
    state = make_state(make_model("vit"))
    shuffled = once(state, shuffle=True)
    assert indices(shuffled) == order_of_epoch(23, seed_of(42, "tiny", "pass"), 0) != list(range(23))
    assert_same_batches(shuffled, once(state, shuffle=True))
    assert indices(once(state, purpose="other", shuffle=True)) != indices(shuffled)
    state.iteration = 5
    assert indices(once(state, shuffle=True)) == indices(shuffled)
    cut = of_processes(2, state, shuffle=True)
    assert [index for pair in zip(*cut, strict=True) for index in indices(pair)] == indices(shuffled)


@pytest.mark.parametrize("choice", ["first", "random"])
def test_a_pass_over_pairs_gives_numbers_of_captions(choice, make_model, make_state, task):
    """One of the image's own, the first or one drawn by the purpose."""
    split = task.split("train").subset(range(6))
    captions = [("a", "b", "c")[:1 + index % 3] for index in range(6)]
    split = dataclasses.replace(split, captions=captions)
    state = make_state(make_model("vit"))
    found = {batch.indices[row].item(): batch.labels[row].item()
             for batch in state.once(split, "pass", 4, shuffle=True, captions=choice)
             for row in range(len(batch.labels))}
    first = [sum(map(len, captions[:index])) for index in range(6)]
    seed = seed_of(42, "tiny", "pass")
    drawn = [0 if choice == "first" else seed_of(seed, 0, index, "caption") % len(captions[index])
             for index in range(6)]
    assert found == {index: first[index] + drawn[index] for index in range(6)}
    assert choice == "first" or any(drawn)


def test_crops_of_a_pass_are_drawn_by_its_purpose(make_model, make_state, device, task):
    """The same ones however the images are batched and shared."""
    state, split = make_state(make_model("vit")), task.split("train")
    drawn = once(state, batch_size=23, train_transform=True)[0].images
    seed = seed_of(42, "tiny", "pass")
    by_hand = torch.stack([TrainTransform(16)(split.image(index), seed_of(seed, 0, index)) for index in range(23)])
    assert torch.equal(drawn, device.images(by_hand))
    shares = of_processes(3, state, train_transform=True)
    cut = torch.cat([batch.images for batches in zip(*shares, strict=True) for batch in batches])
    assert torch.equal(drawn, cut)
    assert not torch.equal(drawn, once(state, batch_size=23)[0].images)


@pytest.mark.parametrize(("batch_size", "given"), [(4, 20), (22, 22), (23, 23)])
def test_a_pass_may_drop_what_is_left(batch_size, given, make_model, make_state):
    batches = once(make_state(make_model("vit")), batch_size=batch_size, drop_last=True)
    assert {len(batch.labels) for batch in batches} == {batch_size} and indices(batches) == list(range(given))


def test_a_pass_allows_gradients(make_model, make_state):
    state = make_state(make_model("vit"))
    for batch in state.once(state.task.split("train"), "gradient", 8):
        image_features(state.model, batch.images)[:, 0].sum().backward()
    assert state.model.visual.proj.grad.abs().sum() > 0


def test_skipped_images_of_a_pass(make_model, make_state, task, capsys):
    """Of one batch all: it is left out. Of another one."""
    state, split, bad = make_state(make_model("vit")), task.split("train"), {4, 5, 6, 7, 9}
    tolerant = Split(lambda index: None if index in bad else split.image(index), split.labels)
    state.task = dataclasses.replace(task, splits={"train": tolerant})
    batches = once(state)
    assert indices(batches) == [index for index in range(23) if index not in bad]
    assert [(batch.rows, batch.weight) for batch in batches] == [(rows, 1.0) for rows in (4, 3, 4, 4, 3)]
    assert "5 images could not be decoded" in capsys.readouterr().out
    state.task = dataclasses.replace(task, splits={"train": Split(lambda index: None, split.labels)})
    with pytest.raises(UserError, match="none of the images could be decoded"):
        once(state)


@pytest.mark.parametrize("planned", [False, True])
def test_a_pass_with_nothing_to_give(planned, make_model, make_state, task):
    """Before the first batch, in a dry run too."""
    state, empty = make_state(make_model("vit")), task.split("test").subset([])
    state.planned = planned
    state.task = dataclasses.replace(task, splits={"train": task.split("train"), "val": empty})
    with pytest.raises(UserError, match="^the val split of tiny has 0 images, and the pass 'Fisher' over it needs"):
        state.once(empty, "Fisher", 4)
    with pytest.raises(UserError, match="^the train split of tiny has 23 images, .*needs a full batch of 24; give"):
        state.once(state.task.split("train"), "Fisher", 24, drop_last=True)
    with pytest.raises(UserError, match="^a split that tiny does not have has 0 images"):
        make_state(make_model("vit")).once(empty, "Fisher", 4)


def test_a_pass_of_a_dry_run_gives_nothing(make_model, make_state):
    state = make_state(make_model("vit"))
    state.planned = True
    assert once(state) == []


class Passing(Hooks):
    """A pass in ``begin`` and one in ``end``; the signal comes while batch ``number`` of ``moment`` is used."""

    def __init__(self, moment=None, number=2):
        self.moment, self.number, self.given = moment, number, []

    def begin(self, state):
        self.look(state, "begin")

    def end(self, state):
        self.look(state, "end")

    def look(self, state, moment):
        for number, batch in enumerate(state.once(state.task.split("train"), moment, 4), start=1):
            self.given.append((moment, batch.indices.tolist()))
            if (moment, number) == (self.moment, self.number):
                os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("moment", ["begin", "end"])
def test_a_signal_ends_a_run_between_two_batches_of_a_pass(moment, make_model, make_state):
    state, hook = make_state(make_model("vit")), Passing(moment)
    with Signals() as state.signals, state.signals.held(), pytest.raises(Interrupted, match="interrupted by SIGUSR1"):
        train(state, [hook])
    assert [name for name, _ in hook.given].count(moment) == 2 and hook.given[-1] == (moment, [4, 5, 6, 7])
    assert state.iteration == (6 if moment == "end" else 0)


def test_a_process_ends_its_pass_where_another_one_was_asked_to(make_model, make_state):
    store = torch.distributed.HashStore()
    state, other = make_state(make_model("vit")), World(0, 2, store=store)
    state.world = World(1, 2, store=store)
    passed = state.once(state.task.split("train"), "pass", 4)
    next(passed)
    with pytest.raises(Interrupted), other.interrupted_together():
        raise Interrupted("interrupted by SIGTERM")
    with pytest.raises(Interrupted, match="by SIGTERM"):
        next(passed)


@pytest.mark.parametrize("mode", ["whole", "fc"])
@pytest.mark.parametrize(("last_batch", "rows"), [("keep", [10, 10, 3, 10, 10, 3]), ("drop", [10] * 6)])
def test_the_last_batch_of_an_epoch_is_kept_or_dropped(last_batch, rows, mode, make_model, make_state):
    """Of 23 images in batches of 10: without the last one an epoch has two steps and 20 of the images."""
    model = make_model("vit")
    if mode == "fc":
        model.head = ClassificationHead(torch.zeros(3, 8), torch.zeros(3))
    state = make_state(model, mode, batch_size=10, last_batch=last_batch)
    order = state._order(23, 0)
    batches = list(itertools.islice(state.training_stream(), 6))
    assert [len(batch.labels) for batch in batches] == [batch.rows for batch in batches] == rows
    per_epoch = 2 if last_batch == "drop" else 3
    assert [epoch for (epoch, _), *_ in order.whole()] == [step // per_epoch for step in range(6)]


@pytest.mark.parametrize("last_batch", ["keep", "drop"])
def test_fewer_images_than_a_batch_are_one_batch_a_step(last_batch, make_model, make_state):
    state = make_state(make_model("vit"), batch_size=24, iterations=2, last_batch=last_batch)
    assert [len(batch.labels) for batch in state.training_stream()] == [23, 23]


@pytest.mark.parametrize(("crops", "trains_on"), [("random", TrainTransform), ("none", EvalTransform)])
def test_crops_or_the_transform_of_evaluation(crops, trains_on, make_model, make_state, monkeypatch):
    """In the training stream, and in passes that ask for what training has."""
    built = []
    for kind in (TrainTransform, EvalTransform):
        monkeypatch.setattr(f"src.models.state.{kind.__name__}",
                            lambda size, kind=kind: built.append(kind) or kind(size))
    state = make_state(make_model("vit"), crops=crops)
    next(state.training_stream())
    split = state.task.split("train")
    for as_trained in (True, False):
        next(state.once(split, "pass", 4, train_transform=as_trained))
    next(state.stream(split, "reference", 4))
    assert built == [trains_on, trains_on, EvalTransform, EvalTransform]


def test_each_split_is_read_by_processes_of_its_own(make_model, make_state, open_task):
    """Of a task in memory and reference images in files, which this process must not decode; and the other way
    round. An image has the number of the process that reads it."""
    def reading(name, in_memory):
        task = open_task(name)

        def image(index):
            pixels = torch.full((3, 16, 16), 7, dtype=torch.uint8)
            pixels.view(-1)[:8] = torch.tensor([os.getpid()]).view(torch.uint8)
            return pixels
        splits = {part: dataclasses.replace(task.split(part), image=image, in_memory=in_memory) for part in task.splits}
        return dataclasses.replace(task, splits=splits, in_memory=in_memory)

    def pids(batch):
        return {int(pixels.flatten()[:8].clone().view(torch.int64)) for pixels in batch.images}
    for in_memory in (True, False):
        state = make_state(make_model("vit"), iterations=2, workers="auto", crops="none")
        state.device = types.SimpleNamespace(batches=lambda found: found)  # pixels as the loader gives them
        state.task, reference = reading("tiny", in_memory), reading("tiny-reference", not in_memory)
        own, others = ({pid for batch in batches for pid in pids(batch)} for batches in (
            state.training_stream(), state.stream(reference.split("train"), "reference", 4)))
        here = {os.getpid()}
        assert (own == here, others == here) == (in_memory, not in_memory)
