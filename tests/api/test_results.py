"""What a run's files say, as tables with labels."""

import json

import numpy as np
import pytest
from report_files import MATRIX, ORDER, ZERO_SHOT, write_pairs_run, write_run, write_task

import clip_continual as cc
from src.api.results import scores_table
from src.models.evaluation import Scores


@pytest.fixture
def run(tmp_path):
    return cc.Run(write_run(tmp_path / "run", spaces=("task", "all")))


def test_a_matrix_has_its_labels(run):
    table = run.matrix()
    assert list(table.index) == ["zero-shot", *ORDER] and list(table.columns) == list(ORDER)
    assert (table.index.name, table.columns.name) == ("trained", "dataset")
    assert table.to_numpy().tolist() == [list(row) for row in (ZERO_SHOT, *MATRIX)]
    assert table.loc["B", "A"] == 60 and (run.matrix("all", "top5") == 100).all(axis=None)


def test_without_a_start_and_with_cells_that_are_missing(tmp_path):
    folder = write_run(tmp_path / "run", matrix=((80.0, None, None), (60.0, 90.0, None), MATRIX[2]), zero_shot=None,
                       spaces=("seen",))
    table = cc.Run(folder).matrix()
    assert list(table.index) == list(ORDER) and np.isnan(table.loc["A", "B"]) and table.dtypes.eq(float).all()


def test_a_summary_has_a_row_for_each_label_space(run):
    table = run.summary()
    assert list(table.index) == ["task", "all"] and list(table.columns) == ["transfer", "avg", "last", "forgetting",
                                                                           "bwt"]
    assert table.loc["task", "last"] == pytest.approx(np.mean(MATRIX[2]))
    assert list(run.summary("all").index) == ["all"]


def test_image_text_pairs(tmp_path):
    run = cc.Run(write_pairs_run(tmp_path / "run"))
    assert run.spaces == ["retrieval"] and list(run.matrix().columns) == ["p", "q"]
    assert run.matrix(score="rsum").loc["p_phase2"].tolist() == [500, 150]
    assert run.summary().loc["retrieval", "mean_rsum"] == 325


def test_a_task_by_itself(tmp_path):
    write_task(tmp_path)
    run = cc.Run(tmp_path, "A")
    assert run.tasks == ["A"] and run.matrix().loc["A"].to_dict() == {"A": 80, "B": 50}
    for call in (run.summary, run.losses):
        with pytest.raises(cc.UserError, match="A was trained by itself"):
            call()


def test_a_task_of_which_nothing_was_held_out_has_no_matrix(tmp_path):
    write_task(tmp_path)
    facts = json.loads((tmp_path / "run_A.json").read_text())
    (tmp_path / "run_A.json").write_text(json.dumps(facts | {"scores": {}}), encoding="utf-8")
    with pytest.raises(cc.UserError, match="the run has no scores, because no images were held out"):
        cc.Run(tmp_path, "A").matrix()


def test_what_a_run_does_not_have(run, tmp_path):
    for call, message in ((lambda: run.matrix("seen"), "space 'seen': the run has task, all"),
                          (lambda: run.matrix(score="top3"), "score 'top3': the run has top1, top5"),
                          (lambda: run.summary("x"), "space 'x'"), (lambda: run.checkpoint("D"), "task 'D'"),
                          (lambda: run.checkpoint(), "C.pth does not exist"),
                          (lambda: cc.Run(tmp_path / "nothing"), "no such folder")):
        with pytest.raises(cc.UserError, match=message):
            call()
    assert repr(run) == f"Run({str(run.folder)!r}: A, B, C)"


def test_losses_are_the_log(run):
    assert {"iteration", "lr"} <= set(run.losses().columns) and run.losses("A").iteration.is_monotonic_increasing


def test_scores_by_dataset_space_and_share():
    scores = Scores(50.0, 90.0, 5, 10, per_class=40.0)
    table = scores_table([(0.5, {"A": {"task": scores, "all": scores}})])
    assert table.index.tolist() == ["A", "A"] and table.columns.tolist() == [
        "alpha", "label_space", "top1", "top5", "k", "images", "mean_per_class"]
    assert "alpha" not in scores_table([(None, {"A": {"task": scores}})])
