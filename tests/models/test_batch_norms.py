"""Batch norms in training: which batches they take statistics of."""

import dataclasses
import types

import pytest
import torch
from torch import nn

from src.errors import UserError
from src.machine.distributed import World
from src.models.batch_norms import StepNorms, training_norms
from src.models.finetune import ZSCL, Finetune
from src.models.modeling import set_training
from src.models.training import begin, train


@pytest.mark.parametrize(("rows", "processes", "few"), [
    (0, 1, True), (1, 1, True), (2, 1, False), (1, 4, True), (3, 4, True), (4, 4, False)])
def test_batch_norms_rest_where_a_batch_or_a_share_has_no_statistics(rows, processes, few, make_model):
    model = make_model("resnet").train()
    norms = training_norms(model)
    assert len(norms) > 5
    with pytest.raises(ValueError, match="in a step"), StepNorms(model, processes)(rows):
        assert {norm.training for norm in norms} == {not few}
        raise ValueError("in a step")
    assert {norm.training for norm in norms} == {True}


@pytest.mark.parametrize(("bad", "notes"), [(3, 1), (2, 0), (0, 0)])
def test_a_batch_of_which_skipped_images_leave_one_is_noted_once(bad, notes, make_model, make_state, task, capsys):
    """Of four images, each batch, the last ones cannot be decoded; three steps."""
    four = task.split("train").subset(range(4))
    some = dataclasses.replace(four, image=lambda index: None if index >= 4 - bad else four.image(index))
    state = make_state(make_model("resnet"), batch_norm="train", iterations=3)
    state.task = dataclasses.replace(task, splits={"train": some})
    before = [value.clone() for name, value in state.model.named_buffers() if "running" in name]
    train(state, [Finetune()])
    after = [value for name, value in state.model.named_buffers() if "running" in name]
    assert len(before) > 10 and all(torch.equal(*pair) for pair in zip(before, after, strict=True)) == (notes == 1)
    printed = capsys.readouterr().out
    assert printed.count("the rest is normalised by the running statistics") == notes
    assert printed.count("3 of 4 images of a batch could not be decoded") == notes


@pytest.mark.parametrize(("bad", "notes"), [(3, 1), (2, 0), (0, 0)])
def test_reference_images_of_which_one_is_left_have_no_statistics(bad, notes, make_model, make_state, task, capsys):
    """Three steps, whose batches of the task always have statistics: those of reference images count as well, unless
    one of their four is left."""
    reference = task.split("train").subset(range(4))
    some = dataclasses.replace(reference, image=lambda index: None if index >= 4 - bad else reference.image(index))
    state = make_state(make_model("resnet"), batch_norm="train", iterations=3)
    state.open_task = lambda name: dataclasses.replace(task, name=name, splits={"train": some})
    train(state, [ZSCL("few", ref_batch_size=4)])
    counted = {int(value) for name, value in state.model.named_buffers() if name.endswith("num_batches_tracked")}
    assert counted == {3 if notes else 6}
    assert capsys.readouterr().out.count("3 of 4 reference images of a batch could not be decoded: the rest is "
                                         "normalised by the running statistics") == notes


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


@pytest.mark.parametrize("option", [{"grad_checkpointing": True}, {"grad_accum": 2}], ids=str)
def test_norms_that_see_all_processes_count_as_norms_that_train(option, make_model, make_state, monkeypatch):
    """On CUDA several processes share statistics: a SyncBatchNorm is no BatchNorm2d."""
    state = make_state(make_model("resnet"), batch_norm="train", **option)
    state.world = World(0, 2)
    monkeypatch.setattr(state, "device", types.SimpleNamespace(device=torch.device("cuda"), autocast_type=None))
    with pytest.raises(UserError, match="batch norms that train would count each image twice"):
        begin(state, [])
    shared = [module for module in state.model.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(shared) > 5 and training_norms(state.model) == shared
    set_training(state.model, "eval")
    assert not training_norms(state.model)
