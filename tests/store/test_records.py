"""Files of a run folder: rows that replace only their equals, logs, the description of a run."""

import json
import platform
from types import SimpleNamespace

import pytest
import torch
from cli_files import lines, listing, rows

from src import __version__
from src.args import parse
from src.errors import UserError
from src.models.evaluation import Scores
from src.run.build import files_of
from src.store.records import Journal, RunFolder, code_changes, describe_run, metrics_row

ROW = metrics_row(Scores(50.0, 75.0, 5, 8), 10, "DTD", "test")


def test_columns():
    assert list(ROW) == ["iteration", "top1", "top5", "task", "label_space", "split", "n", "scored_by", "k",
                         "train_data"]
    assert ROW == {"iteration": 10, "top1": "50.0000", "top5": "75.0000", "task": "DTD", "label_space": "task",
                   "split": "test", "n": 8, "scored_by": "zeroshot", "k": 5, "train_data": "all"}


@pytest.mark.parametrize(("change", "kept"), [
    ({"top1": "99.0000", "top5": "99.5000"}, 1), ({}, 1),
    ({"iteration": 11}, 2), ({"task": ""}, 2), ({"label_space": "all"}, 2), ({"split": "val"}, 2), ({"n": 9}, 2),
    ({"scored_by": "head:DTD"}, 2), ({"k": 4}, 2), ({"train_data": "4 shots"}, 2)])
def test_a_row_replaces_what_differs_only_in_its_scores(tmp_path, change, kept):
    folder = RunFolder(tmp_path)
    folder.add_metrics("MNIST", ROW)
    folder.add_metrics("MNIST", ROW | change)
    found = rows(tmp_path / "metrics_MNIST.csv")
    assert len(found) == kept
    assert found[-1] == {key: str(value) for key, value in (ROW | change).items()}


def test_an_empty_cell_says_as_much_as_no_column(tmp_path):
    """Rows of one file have the columns of all of them."""
    folder, plain = RunFolder(tmp_path), {"iteration": 3, "task": "", "rsum": "1.0"}
    for row in (plain, plain | {"scored_by": "wise 1"}, plain | {"rsum": "2.0"}, {"scored_by": "", **plain}):
        folder.add_metrics("coco", row)
    assert [(row["scored_by"], row["rsum"]) for row in rows(tmp_path / "metrics_coco.csv")] == [
        ("", "1.0"), ("wise 1", "1.0")]


def test_metrics_with_nul_are_refused(tmp_path):
    """On every version of Python, although csv accepts NUL since 3.11."""
    (tmp_path / "metrics_MNIST.csv").write_text("iteration,task,top1\n1,DTD,5\0\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"metrics_MNIST\.csv cannot be read as csv \(it contains NUL characters"):
        RunFolder(tmp_path).add_metrics("MNIST", ROW)


def test_rows_of_an_overwritten_run_are_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    for task, iteration in (("", 0), ("DTD", 5), ("DTD", 10), ("MNIST", 5)):
        folder.add_metrics("DTD", ROW | {"task": task, "iteration": iteration})
    folder.forget_other_iterations({("DTD", "")}, [10])
    assert [(row["task"], row["iteration"]) for row in rows(tmp_path / "metrics_DTD.csv")] == [
        ("", "0"), ("DTD", "10"), ("MNIST", "5")]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(None)
    folder.prepare()
    folder.add_metrics("DTD", ROW)
    folder.forget_other_iterations({("DTD", "")}, [])
    folder.write_json("a.json", {})
    folder.write_text("a.md", "")
    folder.write_checkpoint("DTD", {})
    assert folder.open_log("DTD") is None and listing(tmp_path) == set()


def test_what_is_added_is_heard(tmp_path):
    """Rows and tensors beside the checkpoints, and only while they are recorded; by a process that only reads too."""
    for folder in (RunFolder(tmp_path), RunFolder(tmp_path, writes=False)):
        folder.write_tensors("grad_before.pth", {})
        with folder.heard() as heard:
            folder.add_metrics("DTD", {"iteration": 3, "task": "DTD", "top1": "1.0"})
            folder.add_metrics("DTD", {"iteration": 3, "task": "DTD", "top1": "2.0"})
            folder.write_tensors("grad_DTD.pth", {})
            folder.write_tensors("grad_DTD.raw.pth", None)
            folder.write_checkpoint("DTD", {})
        folder.write_tensors("grad_after.pth", {})
        assert [row["top1"] for row in heard.rows["DTD"]] == ["1.0", "2.0"] and list(heard.rows) == ["DTD"]
        assert heard.tensors == {"grad_DTD.pth": True, "grad_DTD.raw.pth": False}


def test_preparing_leaves_no_file(tmp_path):
    RunFolder(tmp_path / "a" / "b").prepare()
    assert listing(tmp_path) <= {"a", "a/b"}


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be(tmp_path, name):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="--save .*cannot be written"):
        RunFolder(tmp_path / name).prepare()
    assert listing(tmp_path) == {"file"}


def journal_state(iteration, metrics=None):
    return SimpleNamespace(iteration=iteration, rows=4, learning_rate=0.5,
                           metrics=metrics or {})


@pytest.mark.parametrize(("interval", "total", "logged"), [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (9, 4, [4])])
def test_journal(tmp_path, interval, total, logged):
    journal = Journal(RunFolder(tmp_path), "DTD", total, interval)
    for iteration in range(1, total + 1):
        journal.step(journal_state(iteration, {"kl": torch.tensor(0.25)}), {"task": torch.tensor(1.5)})
    journal.close()
    found = lines(tmp_path / "log_DTD.jsonl")
    assert [line["iteration"] for line in found] == logged
    assert all(line["task"] == 1.5 and line["kl"] == 0.25 and line["lr"] == 0.5 for line in found)


def test_a_log_is_not_touched_before_there_is_something_to_write(tmp_path):
    (tmp_path / "log_DTD.jsonl").write_text("old\n", encoding="utf-8")
    journal = Journal(RunFolder(tmp_path), "DTD", 9, 5)
    journal.step(journal_state(1), {})
    journal.close()
    assert (tmp_path / "log_DTD.jsonl").read_text(encoding="utf-8") == "old\n"


def test_lines_are_json_also_where_training_diverges(tmp_path):
    journal = Journal(RunFolder(tmp_path), "DTD", 1, 1)
    journal.step(journal_state(1), {"task": torch.tensor(float("nan"))})
    journal.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")
    json.loads((tmp_path / "log_DTD.jsonl").read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_log_that_the_disk_refuses_is_told_once(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    folder.open_log = lambda dataset, after: open("/dev/full", "a", encoding="utf-8", buffering=1)
    journal = Journal(folder, "DTD", 3, 1)
    for iteration in range(1, 4):
        journal.step(journal_state(iteration), {"task": torch.tensor(1.5)})
    journal.close()
    assert capsys.readouterr().err.splitlines() == [
        "warning: the log of this task cannot be written and ends here (No space left on device)"]


def test_description(monkeypatch):
    config = parse(["--train-dataset", "DTD", "--epochs", "2", "--text-datasets", "A,B"])
    device = SimpleNamespace(precision="fp32", describe=lambda: "cpu")
    found = describe_run(files_of(config), device, seconds=3)
    assert json.loads(json.dumps(found)) == found
    assert found["flags"]["text_datasets"] == {"value": ["A", "B"], "origin": "flag"}
    assert found["version"] == __version__
    assert found["seconds"] == 3 and found["hardware"] == "cpu" and found["command"] == list(config.argv)
    monkeypatch.setattr("src.store.records.PACKAGES", ("torch", "no-such-package"))
    versions = describe_run(files_of(config), device)["versions"]
    assert versions["torch"] and versions["no-such-package"] is None


def test_other_code_behind_a_run_is_found(monkeypatch):
    """Whatever differs, and nothing that either side does not have."""
    monkeypatch.setattr("src.store.records._commit", lambda: "b" * 40)
    monkeypatch.setattr("src.store.records.versions", lambda: {"torch": "2.0", "numpy": "1.0", "peft": None})
    here = platform.python_version()
    same = {"version": __version__, "commit": "b" * 40, "python": here,
            "versions": {"torch": "2.0", "numpy": "1.0", "peft": "0.1"}}
    assert code_changes(same) == code_changes({}) == code_changes({"versions": "damaged"}) == []
    other = {"version": "0.0.1", "commit": "a" * 40, "python": "3.0.0", "versions": {"torch": "1.9", "old": "1"}}
    assert code_changes(other) == [
        f"version 0.0.1 there, {__version__} here", f"commit {'a' * 12} there, {'b' * 12} here",
        f"Python 3.0.0 there, {here} here", "torch 1.9 there, 2.0 here"]


def test_description_without_git(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("git")
    monkeypatch.setattr("subprocess.run", missing)
    device = SimpleNamespace(precision="fp32", describe=lambda: "cpu")
    assert describe_run(files_of(parse([])), device)["commit"] is None
