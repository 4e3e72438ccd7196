"""What a run scores: histories read, phases named, whose scores count. Whole runs are in test_run and test_pairs."""

from types import SimpleNamespace

import torch

from src.models.hooks import Hooks
from src.scoring import MethodScores, class_tasks, task_and_phase


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


def test_the_first_hook_that_gives_scores_is_heard():
    class Second(Hooks):
        def logits(self, state, images, heads):
            return None if state.scored == ("a",) else [images, heads]
    state = SimpleNamespace(scored=())
    scores = MethodScores(state, [Hooks(), Second()])
    assert scores(torch.ones(1), [], ["a"]) is None and scores.by is None
    found = scores(torch.ones(1), ["head"], ["a", "b"])
    assert found[1] == ["head"] and scores.by == "logits:Second" and state.scored == ("a", "b")
