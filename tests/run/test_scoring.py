"""What a run scores: histories read, phases named, what is not done twice. Whole runs are in
test_run and test_pairs."""

import dataclasses
import os
from types import SimpleNamespace

import pytest
import torch

from clip.model import CLIP
from src.args import parse
from src.models.classifiers import zeroshot_head
from src.models.hooks import Hooks
from src.run.build import scoring_of
from src.run.scoring import Scorer, class_tasks, task_and_phase


def test_class_data_of_a_history():
    history = [{"dataset": "DTD", "source": "DTD", "classnames": ["a"]}, {"dataset": "coco", "source": "coco"},
               {"dataset": "coco_phase2", "source": "coco_phase2"}, {"dataset": "photos", "source": "folder:/x/photos"},
               {"dataset": "joint", "source": "MNIST,folder:/x/cats"}, {"dataset": "joint", "source": "coco,flickr30k"},
               {"dataset": "old"}]  # an older checkpoint names no source
    found = class_tasks(history)
    assert [(entry["dataset"], entry["source"]) for entry in found] == [
        ("DTD", "DTD"), ("photos", "folder:/x/photos"), ("MNIST", "MNIST"), ("cats", "folder:/x/cats"), ("old", "old")]
    assert found[0]["classnames"] == ["a"]


def test_what_rows_of_retrieval_say_of_a_task():
    assert task_and_phase("coco", "coco") == ("coco", "")
    assert task_and_phase("coco_phase2", "coco_phase2") == ("coco", 2)
    assert task_and_phase("stream_phase3", "pairs:/x/stream.csv_phase3") == ("stream", 3)
    assert task_and_phase("x_phase2", "folder:/data/x_phase2") == ("x_phase2", "")


# -- what is not done twice --------------------------------------------------------------------------------------------


@pytest.fixture
def make_scoring(make_task, device):
    """-> make() of two datasets, scored without worker processes, the rows kept in ``folder.rows``. Their names are
    known ones, their images noise."""
    tasks = {"DTD": make_task(4, "DTD"), "MNIST": make_task(3, "MNIST")}
    told = scoring_of(parse("--eval-only --eval-datasets DTD,MNIST --label-space task,all --batch-size-eval 8 "
                            "--workers 0".split()))

    def make():
        rows = []
        folder = SimpleNamespace(rows=rows, add_metrics=lambda file, row: rows.append((file, row)))
        return Scorer(told, None, SimpleNamespace(open=tasks.__getitem__), device, folder, list(tasks))
    return make


@pytest.fixture
def encoded(monkeypatch):
    """The models whose text tower was asked, call by call."""
    calls, original = [], CLIP.encode_text
    monkeypatch.setattr(CLIP, "encode_text", lambda model, tokens: calls.append(model) or original(model, tokens))
    return calls


@pytest.mark.parametrize("train_mode, builds", [("image", 2), ("image-fc", 1), ("whole", 4)])
def test_only_a_text_tower_that_changed_is_asked_again(train_mode, builds, make_model, make_state, make_scoring,
                                                       encoded):
    """Two evaluations of two datasets, all that trains moving in between; a dataset with a head is scored by it."""
    state, scoring, found, calls = make_state(make_model("vit"), train_mode), make_scoring(), [], []
    state.source = "DTD"
    if train_mode == "image-fc":
        state.model.head = zeroshot_head(state.model, state.task, state.device)
    for _ in range(2):
        with torch.no_grad():
            for parameter in state.model.parameters():
                parameter += 0.05 * parameter.requires_grad
        encoded.clear()
        found.append(scoring.trained(state, [Hooks()], "DTD"))
        calls.extend(encoded)
        assert found[-1] == make_scoring().trained(state, [Hooks()], "DTD")
    assert len(calls) == builds
    assert [list(scores) for scores in found] == [["DTD", "MNIST"]] * 2
    assert [file for file, _ in scoring.folder.rows] == ["DTD", "DTD", "MNIST", "MNIST"] * 2  # two label spaces each


def test_mixes_with_the_zero_shot_weights_ask_once_where_only_images_trained(make_model, make_scoring, encoded):
    zeroshot, trained, scoring = make_model("vit"), make_model("vit", seed=1), make_scoring()
    weights = {name: value if name.startswith("visual.") else zeroshot.state_dict()[name]
               for name, value in trained.state_dict().items()}
    classnames = list(scoring.datasets.open("DTD").classnames)
    checkpoint = {"architecture": zeroshot.architecture, "state_dict": weights, "history": [
        {"dataset": "DTD", "source": "DTD", "classnames": classnames}],
        "heads": {"DTD": torch.randn(4, 9, dtype=torch.float64)}}
    found = [scoring.checkpoint(checkpoint, alpha, zeroshot) for alpha in (0.0, 0.5, 1.0)]
    assert len(encoded) == 2
    alone = [make_scoring().checkpoint(checkpoint, alpha, zeroshot) for alpha in (0.0, 0.5, 1.0)]
    assert found == alone and len({scores["DTD"]["task"].top1 for scores in found}) > 1


def test_class_data_of_one_evaluation_shares_its_worker_processes(make_model, make_state, make_scoring, tmp_path):
    """The processes of both datasets are the same, and the scores those without any."""
    scoring, state = make_scoring(), make_state(make_model("vit"))
    state.source = "DTD"
    expected = make_scoring().trained(state, [Hooks()], "DTD")

    def marked(name, task):
        split = task.split("test")
        (tmp_path / name).mkdir()
        return dataclasses.replace(task, splits={"test": dataclasses.replace(split, image=lambda index: (
            (tmp_path / name / str(os.getpid())).touch() or split.image(index)))})
    tasks = {name: marked(name, scoring.datasets.open(name)) for name in ("DTD", "MNIST")}
    scoring.datasets.open, scoring.settings = tasks.__getitem__, dataclasses.replace(scoring.settings, workers=2)
    assert scoring.trained(state, [Hooks()], "DTD") == expected
    first, second = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in tasks)
    assert first == second and len(first) == 2 and str(os.getpid()) not in first
