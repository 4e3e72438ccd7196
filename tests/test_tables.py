"""Tables: what is stored is what is shown."""

from src.models.evaluation import Scores
from src.report.tables import markdown_table, matrix_csv, matrix_table, scores_table, summary_text
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
