"""The streams of a task: what a step sees, and what a run that starts later sees."""

import dataclasses

import pytest
import torch

from src.models.hooks import Hooks
from src.models.training import train


class KeepBatches(Hooks):
    """Keeps the training batches, and those of a stream of its own."""

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


@pytest.mark.parametrize("start", [1, 4, 5, 7])
def test_a_run_that_starts_later_sees_the_batches_of_an_uninterrupted_one(start, make_model, make_state):
    whole, rest = KeepBatches(), KeepBatches()
    train(make_state(make_model("vit"), iterations=9), [whole])
    state = make_state(make_model("vit"), iterations=9)
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
