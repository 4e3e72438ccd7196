"""A run's folder as it is read: what a run has written comes back, and what is damaged is named."""

import json
import math
import shutil

import pytest
from cli_files import BATCH, RATE, lines, read_json
from report_files import MATRIX, ORDER, ZERO_SHOT, write_pairs_run, write_run

from src.errors import UserError
from src.report.conditions import Conditions, conditions_of_run
from src.report.measures import ACCURACY, RETRIEVAL
from src.report.runs import TaskFacts, read_run

pytest_plugins = ["cli_fixtures"]


def test_a_sequence_comes_back(tmp_path):
    run = read_run(write_run(tmp_path / "mine", "--method lwf --seed 7"))
    assert (run.name, run.folder, run.order) == ("mine", tmp_path / "mine", [*ORDER])
    assert (run.space, run.measure, run.summary["avg"]) == ("task", ACCURACY, pytest.approx(560 / 9))
    assert run.matrices["task"]["top1"] == {"": [*ZERO_SHOT], **dict(zip(ORDER, map(list, MATRIX), strict=True))}
    assert list(run.matrices["task"]["top1"]) == ["", *ORDER]
    assert run.matrices["task"]["top5"]["A"] == [100.0] * 3
    assert run.value("method") == "lwf" and run.flags["method"]["origin"] == "flag" and run.value("none") is None
    assert (run.seed, run.precision, run.hardware, run.commit) == (7, "fp32", "cpu, 1 threads", "abc")
    assert (run.seconds, run.peak_memory_bytes, run.versions) == (12.5, 1000, {"torch": "2"})
    assert run.command[:2] == ["--dataset-order", "toy-colours"] and run.trained_with == []


def test_logs_and_facts_of_tasks(tmp_path):
    run = read_run(write_run(tmp_path / "mine"))
    first, second = run.losses["A"]
    assert first == {"iteration": 10, "task": 1.0, "lr": 1e-5, "images_per_second": 100.0}
    assert math.isnan(second["task"]) and second["iteration"] == 30
    # 10 steps at 100 images/s and 20 at 50: 30 steps in the time of 50 at 100.
    assert run.tasks["B"] == TaskFacts(3.0, 1000, 300, 4, {"model": 1.0}, pytest.approx(60.0))


def test_what_a_sequence_that_was_only_scored_lacks(tmp_path):
    folder = write_run(tmp_path / "mine", zero_shot=None)
    for task in ORDER:
        (folder / f"log_{task}.jsonl").unlink()
        (folder / f"run_{task}.json").unlink()
    run = read_run(folder)
    assert run.losses == run.tasks == {} and run.summary["zero_shot"] is None
    assert list(run.matrices["task"]["top1"]) == [*ORDER]


def test_each_label_space_and_cells_that_are_not_there(tmp_path):
    gaps = ((80.0, None, None), (60.0, 90.0, None), (70.0, 65.0, 95.0))
    run = read_run(write_run(tmp_path / "mine", matrix=gaps, zero_shot=(None,) * 3, spaces=("seen", "task")))
    assert list(run.spaces) == ["seen", "task"] and run.summary["label_space"] == "seen"
    assert [list(row) for row in run.matrices["task"]["top1"].values()] == [[None] * 3, *map(list, gaps)]


def test_image_text_pairs(tmp_path):
    run = read_run(write_pairs_run(tmp_path / "mine"))
    assert (run.order, run.space, run.measure) == (["p_phase1", "p_phase2"], "retrieval", RETRIEVAL)
    assert run.matrices["retrieval"]["rsum"] == {"": [300.0, 100.0], "p_phase1": [400.0, 200.0],
                                                 "p_phase2": [500.0, 150.0]}
    assert run.matrices["retrieval"]["t2i_r1"]["p_phase2"] == [25.0, 7.5]
    assert [*run.losses] == [*run.tasks] == run.order


def test_what_the_command_line_wrote(cli, world, tmp_path):
    done = cli("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 4,
               "--batch-size", BATCH, "--lr", RATE, "--workers", 0, "--save", tmp_path / "out", "--log-interval", 3,
               "--label-space", "task,all", "--warmup-length", 0)
    assert done.status == 0, done.err
    run, task = read_run(tmp_path / "out"), read_json(tmp_path / "out" / "run_tones.json")
    assert run.order == ["colours", "tones"] and list(run.spaces) == ["task", "all"]
    assert run.losses["tones"] == lines(tmp_path / "out" / "log_tones.jsonl")
    assert [line["iteration"] for line in run.losses["tones"]] == [3, 4]
    for space, summary in run.spaces.items():
        start, *matrix = run.matrices[space]["top1"].values()
        assert start == pytest.approx(list(summary["zero_shot"].values()), abs=1e-4)
        assert matrix == [pytest.approx(row, abs=1e-4) for row in summary["matrix"]]
    assert {space: conditions_of_run(run, space) for space in run.spaces} == {
        "task": Conditions("own", None, "all", "none", "given", "task"),
        "all": Conditions("own", None, "all", "none", "not given", "all")}
    facts = run.tasks["tones"]
    assert (facts.seconds, facts.trainable_values) == (task["seconds"], task["trainable_values"])
    assert facts.copies == task["weight_copies"] and facts.images_per_second > 0
    assert run.seconds >= sum(facts.seconds for facts in run.tasks.values())


# -- what cannot be read -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "mine", spaces=("task", "all"))


BROKEN = ["", "{", "[]", "3", "{}", '{"transfer": 1}', "\xff", "[" * 100000]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("name", ["summary.json", "summary_all.json", "run.json", "run_B.json", "matrix_top1.csv",
                                  "matrix_top5_all.csv", "log_B.jsonl"])
def test_a_damaged_file_is_named_with_the_way_out(whole, tmp_path, name, content):
    if name == "log_B.jsonl" and not content:
        return  # nothing was logged
    folder = shutil.copytree(whole, tmp_path / "mine")
    (folder / name).write_bytes(content.encode("latin-1"))
    out = "remove it" if name.startswith("log") else "--resume"
    with pytest.raises(UserError, match=f"^--report {folder}: {folder / name} is damaged .*{out}") as error:
        read_run(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [
    {"matrix": [[1.0]]}, {"matrix": [[1.0, 2.0, "3"]] * 3}, {"zero_shot": {"A": 1.0}}, {"zero_shot": [1.0, 2.0, 3.0]},
    {"avg": "high"}, {"avg": float("nan")}, {"datasets": []}, {"datasets": [1, 2, 3]}, {"label_space": None},
    {"label_space": "retrieval"}], ids=str)
def test_a_summary_that_does_not_hold_together(whole, tmp_path, changes):
    folder = shutil.copytree(whole, tmp_path / "mine")
    summary = read_json(folder / "summary.json")
    (folder / "summary.json").write_text(json.dumps({**summary, **changes}), encoding="utf-8")
    with pytest.raises(UserError, match=r"summary\.json is damaged"):
        read_run(folder)


@pytest.mark.parametrize("changes", [{"rows": [{}, {}, {}]}, {"rows": []}, {"trained": ["p_phase1"]},
                                     {"mean_rsum": None}], ids=str)
def test_a_summary_of_pairs_that_does_not_hold_together(tmp_path, changes):
    folder = write_pairs_run(tmp_path / "mine")
    summary = read_json(folder / "summary.json")
    (folder / "summary.json").write_text(json.dumps({**summary, **changes}), encoding="utf-8")
    with pytest.raises(UserError, match=r"summary\.json is damaged"):
        read_run(folder)


@pytest.mark.parametrize("text", ["task,A,B\n,1,2\n", "task,A,B,C\n", "task,A,B,C\n,1,2,3\nA,1,2,3\nB,1,2,3\n",
                                  "task,A,B,C\nA,1,2,3\nB,1,2,x\nC,1,2,3\n", "task,A,B,C\nA,1,2\nB,1,2,3\nC,1,2,3\n"],
                         ids=range(5))
def test_a_matrix_of_other_rows_or_columns(whole, tmp_path, text):
    folder = shutil.copytree(whole, tmp_path / "mine")
    (folder / "matrix_top1.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"matrix_top1\.csv is damaged"):
        read_run(folder)


@pytest.mark.parametrize(("cell", "reason"), [("2\0", "it contains NUL"), ("2" * 200_000, "field larger than")])
def test_a_matrix_that_is_no_csv(whole, tmp_path, cell, reason):
    """On every version of Python, although csv accepts NUL since 3.11."""
    folder = shutil.copytree(whole, tmp_path / "mine")
    (folder / "matrix_top1.csv").write_text(f"task,A,B,C\n,1,{cell},3\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"matrix_top1\.csv is damaged \({reason}"):
        read_run(folder)


@pytest.mark.parametrize("name", ["run.json", "matrix_top1.csv", "summary_all.json"])
def test_a_missing_file_is_named(whole, tmp_path, name):
    folder = shutil.copytree(whole, tmp_path / "mine")
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{folder / name} cannot be read .*--resume"):
        read_run(folder)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="--mine .*nowhere: no such folder; give"):
        read_run(tmp_path / "nowhere", "--mine")
    with pytest.raises(UserError, match=r"--report .*summary\.json; only a sequence \(--dataset-order with --save\)"):
        read_run(tmp_path)


def test_single_runs_are_told_how_to_become_a_sequence(train, tmp_path):
    train(tmp_path / "out")
    with pytest.raises(UserError, match=rf"single runs \(colours\).*--load {tmp_path / 'out' / 'colours.pth'},? .*"
                                        "--eval-only --save"):
        read_run(tmp_path / "out")
