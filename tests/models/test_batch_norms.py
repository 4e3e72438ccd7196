"""Batch norms in training: which batches they take statistics of."""

import dataclasses

import pytest

from src.errors import UserError
from src.models.batch_norms import resting, training_norms
from src.models.finetune import ZSCL, Finetune
from src.models.training import train


@pytest.mark.parametrize(("rows", "processes", "few"), [
    (0, 1, True), (1, 1, True), (2, 1, False), (1, 4, True), (3, 4, True), (4, 4, False)])
def test_batch_norms_rest_where_a_batch_or_a_share_has_no_statistics(rows, processes, few, make_model):
    model = make_model("resnet").train()
    norms = training_norms(model)
    assert len(norms) > 5
    with pytest.raises(ValueError, match="in a step"), resting(norms, rows, processes):
        assert {norm.training for norm in norms} == {not few}
        raise ValueError("in a step")
    assert {norm.training for norm in norms} == {True}


@pytest.mark.parametrize(("options", "size"), [({"batch_size": 1}, 23), ({}, 1)])
def test_batches_that_batch_norms_cannot_train_on_are_refused(options, size, make_model, make_state, task):
    state = make_state(make_model("resnet"), batch_norm="train", iterations=1, **options)
    state.task = dataclasses.replace(task, splits={"train": task.split("train").subset(range(size))})
    with pytest.raises(UserError, match="--batch-norm train with batches of 1 image: .*--batch-norm eval"):
        train(state, [Finetune()])
    for kind, mode, batch_norm in (("vit", "whole", "train"), ("resnet", "whole", "eval"), ("resnet", "text", "train")):
        other = make_state(make_model(kind), mode, batch_norm=batch_norm, iterations=1, **options)
        other.task = state.task
        train(other, [Finetune()])


def test_reference_images_that_batch_norms_cannot_train_on_are_refused(make_model, make_state):
    with pytest.raises(UserError, match="--batch-norm train with batches of 1 image"):
        train(make_state(make_model("resnet"), batch_norm="train", iterations=1),
              [ZSCL("tiny-reference", ref_batch_size=1)])
