"""Tables: what is stored is what is shown."""

import json

import pytest

from src.errors import UserError
from src.models.evaluation import Scores
from src.report import compare, markdown_table, matrix_csv, matrix_table, scores_table, summary_text
from src.sequence import summarise

ROWS = [{"A": Scores(10.0, 20.0, 5, 100), "B": Scores(30.0, 40.0, 2, 50)},
        {"A": Scores(50.0, 60.0, 5, 100), "B": Scores(31.0, 41.0, 2, 50)},
        {"A": Scores(45.0, 55.0, 5, 100), "B": Scores(70.0, 80.0, 2, 50)}]
SUMMARY = summarise(["A", "B"], ROWS, "task", "fp32")


def test_markdown():
    assert markdown_table(["name", "x"], [["a", 1.25], ["long one", None]]).splitlines() == [
        "| name     |   x |", "|----------|----:|", "| a        | 1.2 |", "| long one |   - |"]


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
            if line.startswith("|") and not line.startswith("|-")]


def test_scores():
    spaces = {"A": {"task": ROWS[0]["A"], "all": ROWS[1]["A"]}, "B": {"all": ROWS[0]["B"]}}
    assert cells(scores_table(spaces)) == [
        ["dataset", "classes of", "top-1", "top-5", "k", "images"], ["A", "task", "10.0", "20.0", "5", "100"],
        ["A", "all", "50.0", "60.0", "5", "100"], ["B", "all", "30.0", "40.0", "2", "50"]]


def test_matrix():
    assert cells(matrix_table(SUMMARY)) == [
        ["top-1, classes of task", "A", "B"], ["zero-shot", "10.0", "30.0"], ["after A", "50.0", "31.0"],
        ["after B", "45.0", "70.0"]]
    assert matrix_csv(["A", "B"], ["A", "B"], ROWS, "top1").split() == [
        "task,A,B", ",10.0000,30.0000", "A,50.0000,31.0000", "B,45.0000,70.0000"]
    assert matrix_csv(["A", "B"], ["A", "B"], ROWS, "top5").split()[2] == "A,60.0000,41.0000"


def test_summary():
    *_, titles, numbers = cells(summary_text(SUMMARY))
    assert titles == ["Transfer", "Avg", "Last", "Forgetting", "BWT"]
    assert numbers == ["31.0", "49.0", "57.5", "5.0", "-5.0"]


def write(folder, **changes):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, **changes}), encoding="utf-8")
    return str(folder)


def test_compare(tmp_path):
    text = compare([write(tmp_path / "one", last=11.0), write(tmp_path / "two", transfer=None)])
    assert cells(text)[0] == ["run", "Transfer", "Avg", "Last", "Forgetting", "BWT"]
    assert [row[0] for row in cells(text)[1:]] == ["one", "two"]
    assert cells(text)[1][3] == "11.0" and cells(text)[2][1] == "-"


def test_runs_of_one_name_are_all_shown(tmp_path):
    runs = [write(tmp_path / parent / "zscl", last=last) for parent, last in (("a", 1.0), ("b", 2.0))]
    found = cells(compare(runs))[1:]
    assert [row[3] for row in found] == ["1.0", "2.0"]
    assert found[0][0] != found[1][0]


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"transfer": 1}', "\xff"])
def test_a_damaged_summary_is_named(tmp_path, content):
    (tmp_path / "summary.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="--report .*damaged"):
        compare([str(tmp_path)])


def test_a_folder_without_a_summary_is_named(tmp_path):
    with pytest.raises(UserError, match="--report .*--dataset-order"):
        compare([str(tmp_path)])
