"""Resume points: the last two, whole or recognised as damaged; and that taking one back gives the same bits."""

import contextlib
import copy
import dataclasses
import errno
import hashlib
import os
import random
from types import SimpleNamespace

import numpy
import pytest
import torch
from wrapping import NullCore

from src.args import parse
from src.errors import UserError
from src.machine.interruption import Interrupted
from src.models.averaging import MovingAverage, WeightEnsemble
from src.models.finetune import ZSCL, Finetune
from src.models.hooks import Hooks
from src.models.resuming import state_of_run
from src.models.training import begin, train
from src.run.build import files_of
from src.store.records import RunFolder
from src.store.resume import ResumePoints, TaskPoints, inputs_of, refuse_other_inputs


@pytest.fixture
def points(tmp_path):
    return ResumePoints(RunFolder(tmp_path), "tiny", "2")


def content(step):
    return {"iteration": step, "values": torch.full((50,), float(step)),
            "nested": [{"a": (torch.ones(3), "text")}, None]}


def keep(points, *steps):
    for step in steps:
        points.keep(content(step))
    points.wait()


def damage(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)


def test_the_newest_point_is_read(points):
    assert points.read() is None
    keep(points, 2, 4, 6)
    found = points.read()
    assert found["iteration"] == 6 and torch.equal(found["values"], content(6)["values"])
    assert torch.equal(found["nested"][0]["a"][0], torch.ones(3)) and found["nested"][1] is None
    assert sorted(path.name for path in points.newest.parent.iterdir()) == ["resume_tiny.prev.pth", "resume_tiny.pth"]


@pytest.mark.parametrize("harm", [damage, lambda path: path.write_bytes(path.read_bytes()[:-1]),
                                  lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_where_the_newest_is_damaged_the_one_before_is_taken(harm, points, capsys):
    keep(points, 2, 4)
    harm(points.newest)
    assert points.read()["iteration"] == 2
    assert capsys.readouterr().err.count("the previous one is used") == points.newest.exists()
    damage(points.previous)
    assert points.read() is None and "the task starts again" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_told_and_loses_nothing(call, points, monkeypatch, capsys):
    keep(points, 2, 4)
    real, calls = getattr(os, call), []

    def full(*arguments, **options):
        calls.append(arguments)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, call, full)
    keep(points, 6)
    monkeypatch.setattr(os, call, real)
    assert calls and "step 6 was not written" in (told := capsys.readouterr().err) and "No space left" in told
    assert points.read()["iteration"] == 4
    keep(points, 8)  # and there is room again
    assert points.read()["iteration"] == 8


def test_a_point_is_as_the_run_was_when_it_was_kept(points):
    values = torch.ones(1000)
    points.keep({"iteration": 1, "values": values})
    values.zero_()
    points.wait()
    assert torch.equal(points.read()["values"], torch.ones(1000))


def test_points_are_due_by_steps_or_by_time(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    assert [step for step in range(1, 8) if ResumePoints(folder, "tiny", "3").due(step)] == [3, 6]
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    points = ResumePoints(folder, "tiny", "2m")
    assert not points.due(1)
    now[0] += 120
    assert points.due(2)
    points.keep(content(2))
    assert not points.due(3)
    points.wait()


def test_a_process_that_does_not_write_keeps_nothing(tmp_path):
    for folder in (RunFolder(None), RunFolder(tmp_path, writes=False)):
        points = ResumePoints(folder, "tiny", "1")
        assert not points.due(1)
        keep(points, 1)
        points.forget()
    assert not list(tmp_path.iterdir())


def test_a_finished_task_leaves_no_points(points):
    keep(points, 2, 4)
    points.forget()
    assert not list(points.newest.parent.iterdir())


@pytest.mark.parametrize("hooks", [
    lambda: [Finetune(), WeightEnsemble(2)], lambda: [Finetune(), MovingAverage(0.9)],
    lambda: [ZSCL("tiny-reference", cache_ref_features=True)]], ids=["we", "ema", "zscl"])
@pytest.mark.parametrize("step", [1, 3, 5, 6])
def test_going_on_from_any_step_gives_the_same_bits(hooks, step, make_model, make_state, points):
    """The sixth step of an epoch is a smaller batch."""
    alone, first, second = (make_state(make_model("vit"), iterations=7) for _ in range(3))
    alone_hooks, first_hooks = hooks(), hooks()
    train(alone, alone_hooks)

    def stop(state, losses):
        if state.iteration == step:
            points.keep(state_of_run(state, first_hooks))
            raise Interrupted
    with pytest.raises(Interrupted):
        train(first, first_hooks, stop)
    points.wait()
    train(second, hooks(), interrupted=points.read())
    assert second.iteration == alone.iteration
    for one, other in zip(second.final_model.state_dict().values(), alone.final_model.state_dict().values(),
                          strict=True):
        assert torch.equal(one, other)


class Draws(Hooks):
    """A method of one's own that draws without a generator: a fixed direction as it begins, noise at each step."""

    def begin(self, state):
        self.direction = torch.randn(state.model.text_projection.shape, dtype=torch.float64) + random.random()

    def losses(self, state, batch):
        noise = random.random() + torch.rand((), dtype=torch.float64) + numpy.random.random()
        return {"drawn": noise * (state.model.text_projection * self.direction).sum()}


@pytest.mark.parametrize("step", [0, 1, 4])
def test_draws_without_a_generator_do_not_tell_how_long_a_process_has_lived(step, make_model, make_state):
    alone, first, second = (make_state(make_model("vit")) for _ in range(3))
    train(alone, [Draws()])
    kept = {}

    def stop(state, losses):
        if state.iteration == step:
            kept.update(copy.deepcopy(state_of_run(state, hooks)))
            raise Interrupted
    hooks = [Draws()]
    with pytest.raises(Interrupted) if step else contextlib.nullcontext():
        train(first, hooks, stop)
    torch.rand(3), random.random(), numpy.random.random()
    train(second, [Draws()], interrupted=kept)
    assert torch.equal(second.model.text_projection, alone.model.text_projection)
    assert not torch.equal(alone.model.text_projection, make_model("vit").text_projection)


def test_a_point_of_another_configuration_is_refused(tmp_path, make_model, make_state):
    def files(rate):
        told = files_of(parse(["--train-dataset", "DTD", "--save", str(tmp_path), "--resume", "--save-interval", "1"]))
        return dataclasses.replace(told, numbers={"wd": rate, "seed": 1})
    state, folder = make_state(make_model("vit")), RunFolder(tmp_path)
    first = TaskPoints(files(0.1), folder, state, [Finetune()], "tiny", {"--load": "a"})
    train(state, first.hooks, lambda state, losses: first.keep_where_due(last=False))
    first.points.wait()
    assert TaskPoints(files(0.1), folder, state, [], "tiny", {"--load": "a"}).iteration == 6
    with pytest.raises(UserError, match=r"--resume.*resume_tiny.pth.*--wd 0.1 there, 0.2 here.*start again"):
        TaskPoints(files(0.2), folder, state, [], "tiny", {"--load": "a"})
    with pytest.raises(UserError, match=r"--resume: .*resume_tiny.pth began with another content of --load "):
        TaskPoints(files(0.1), folder, state, [], "tiny", {"--load": "b"})


def test_a_key_lasts_while_every_step_is_made_under_it(tmp_path, make_model, make_state):
    """Also where the run is interrupted again after it has resumed under another."""
    def points(key, steps=0, resume=True):
        files = SimpleNamespace(resume=resume, save_interval="1", numbers={}, differences=lambda other: [])
        found = TaskPoints(files, RunFolder(tmp_path), state, [], "tiny", {}, key)
        if steps:
            found.interrupted = None
            state.iteration = steps
            found.keep()
            found.points.wait()
        return found
    state = make_state(make_model("vit"), batch_size=23)
    state.optimizer = torch.optim.SGD(state.trained(), 0.1)
    state.scaler = state.device.scaler()
    assert points("a", 1, resume=False).key == "a" and points("a").key == "a"
    assert points("b").key is None and points(None).key is None
    assert points("b", 2).key is None and points("b").key is None and points("a").key is None


@pytest.mark.parametrize(("batch_size", "pairs", "refused"), [
    (4, False, True), (22, False, True), (23, False, False), (24, False, False), (4, True, False)])
def test_a_point_of_a_version_that_dropped_the_rest_of_an_epoch(batch_size, pairs, refused, make_state, make_model,
                                                                 tmp_path):
    """Of 23 images; where there is no rest, or it is dropped as then, its steps are today's."""
    state = make_state(make_model("vit"), batch_size=batch_size, iterations=1)
    state.task = dataclasses.replace(state.task, pairs=pairs)
    files = SimpleNamespace(resume=True, save_interval="1", numbers={}, differences=lambda other: [])
    points = TaskPoints(files, RunFolder(tmp_path), state, [], "tiny", {})
    points.points.keep({"iteration": 1, "config": {}, "seconds": 1.0})
    points.points.wait()
    with pytest.raises(UserError, match=f"left out the last {23 % batch_size} of 23 images of each epoch .*--resume") \
            if refused else contextlib.nullcontext():
        assert TaskPoints(files, RunFolder(tmp_path), state, [], "tiny", {}).iteration == 1


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_dropout_that_a_method_brings_as_it_begins_needs_as_many_processes(dropout, make_state, make_model, tmp_path):
    """Hooks begin after the point is read: only then are its wrapped layers there."""
    state = make_state(make_model("vit"), iterations=2)
    files = SimpleNamespace(resume=True, save_interval="1", numbers={}, differences=lambda other: [])
    points = TaskPoints(files, RunFolder(tmp_path), state, [], "tiny", {})
    points.points.keep({"iteration": 1, "config": {}, "seconds": 1.0, "rest": True, "processes": 2})
    points.points.wait()
    resumed = TaskPoints(files, RunFolder(tmp_path), state, [], "tiny", {})
    begin(state, [NullCore(dropout=dropout)])
    with pytest.raises(UserError, match="is of 2 processes, here are 1, and each process draws the dropout") \
            if dropout else contextlib.nullcontext():
        resumed.begin()


def test_inputs_are_told_by_their_content(tmp_path):
    def inputs(start, basis=None):
        return inputs_of(start, basis=basis)
    start, file = {"state_dict": {"a": torch.zeros(3)}, "heads": {"x": torch.ones(2, 2)}}, tmp_path / "basis.pth"
    again = {"state_dict": {"a": torch.zeros(3)}, "heads": {"x": torch.ones(2, 2)}}
    assert inputs(start) == inputs(again) and list(inputs(start)) == ["--load"]
    again["heads"]["x"][0, 0] += 2 ** -23
    assert inputs(start) != inputs(again)
    file.write_bytes(b"one")
    before = inputs(start, file)
    assert before["--orthogonal-gradients-path"] == hashlib.sha256(b"one").hexdigest()
    for nothing in ({}, None, ["an edited file"]):
        refuse_other_inputs(nothing, before, "a task that does not say how it began")
    file.write_bytes(b"two")
    with pytest.raises(UserError, match="it began with another content of --orthogonal-gradients-path "):
        refuse_other_inputs(before, inputs(start, file), "it")
