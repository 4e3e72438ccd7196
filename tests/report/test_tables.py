"""Tables: what is stored is what is shown."""

from src.models.evaluation import Scores
from src.models.retrieval import RetrievalScores
from src.report.latex import summary_latex
from src.report.measures import ACCURACY, DEFINITIONS, RETRIEVAL, TITLES
from src.report.sequence import summarise, summarise_retrieval
from src.report.tables import (
    markdown_table,
    matrix_csv,
    numbers_text,
    scores_table,
    summary_markdown,
    summary_text,
)

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


def test_a_name_with_a_bar_or_a_line_break_stays_in_its_cell():
    """As markdown escapes it."""
    assert markdown_table(["run", "n"], [["a|b\nc", 1]]).splitlines()[2] == r"| a\|b c | 1 |"


def test_each_table_of_scores_stands_below_its_head():
    """One of class data, with the label spaces as they come, and one of pairs."""
    rows = {"A": {"task": ROWS[0]["A"], "all": ROWS[1]["A"]}, "p": {RETRIEVAL.space: recall(50.0)},
            "B": {"all": ROWS[0]["B"]}}
    text = scores_table(rows, lambda datasets, spaces: f"{datasets} {spaces}")
    assert [part.splitlines()[0][:8] for part in text.split("\n\n")] == ["['A', 'B", "| datase", "['p'] ['", "| retrie"]
    assert "['A', 'B'] ['task', 'all']\n\n" in text and f"['p'] ['{RETRIEVAL.space}']\n\n" in text
    assert scores_table({}, lambda *_: "head") == ""


def test_matrix():
    assert cells(markdown_table(*ACCURACY.matrix_cells(SUMMARY))) == [
        ["top-1, classes of task", "A", "B"], ["zero-shot", "10.0", "30.0"], ["after A", "50.0", "31.0"],
        ["after B", "45.0", "70.0"]]
    assert matrix_csv(["A", "B"], ["A", "B"], ROWS, "top1").split() == [
        "task,A,B", ",10.0000,30.0000", "A,50.0000,31.0000", "B,45.0000,70.0000"]
    assert matrix_csv(["A", "B"], ["A", "B"], ROWS, "top5").split()[2] == "A,60.0000,41.0000"


def test_summary():
    *_, titles, numbers = cells(summary_text(SUMMARY))
    assert titles == ["Transfer", "Avg", "Last", "Forgetting", "BWT"]
    assert numbers == ["31.0", "49.0", "57.5", "5.0", "-5.0"]


def test_each_table_says_what_it_holds_for():
    head = "data family CoOp; reference set none; shots 16; router sample; task id at test given; label space task"
    known = SUMMARY | {"conditions": {"family": "CoOp", "reference": None, "shots": "16", "router": "sample",
                                      "task_id": "given", "space": "task"}}
    assert summary_text(known).splitlines()[0] == numbers_text(known).splitlines()[0] == head
    assert summary_latex({"task": known}).count(f"{head}.") == 2
    assert "data family unknown" in summary_text(SUMMARY) and "label space task" in summary_text(SUMMARY)


def test_the_document_of_a_sequence_has_its_tables_and_says_what_the_numbers_are():
    other = {**SUMMARY, "label_space": "all"}
    text = summary_markdown({"task": SUMMARY, "all": other})
    assert text.startswith(summary_text(SUMMARY) + "\n" + summary_text(other) + "\n")
    for key in ("transfer", "avg", "last", "forgetting", "bwt"):
        assert text.count(f"- {TITLES[key]}: {DEFINITIONS[key]}\n") == 1
    assert "A[i][j] is top-1" in text and "rsum" not in text


def test_without_a_zero_shot_row():
    summary = summarise(["A", "B"], [None, *ROWS[1:]], "task", "fp32")
    assert summary == {**SUMMARY, "zero_shot": None}
    assert cells(summary_text(summary))[1][0] == "after A"
    assert matrix_csv(["A", "B"], ["A", "B"], [None, *ROWS[1:]], "top1").split() == [
        "task,A,B", "A,50.0000,31.0000", "B,45.0000,70.0000"]


def recall(number):
    return RetrievalScores(number, 0.0, 0.0, 2 * number, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 3 * number, 5, 10)


def test_recall():
    rows = [{"p": recall(1.0), "q": recall(2.0)}, {"p": recall(4.0), "q": recall(6.0)}]
    summary = summarise_retrieval(["p"], rows, "retrieval", "fp32")
    header = ["recall", "p i2t R@1", "p t2i R@1", "p rsum", "q i2t R@1", "q t2i R@1", "q rsum", "mean rsum"]
    assert RETRIEVAL.recall_cells(summary) == (header, [["zero-shot", 1.0, 2.0, 3.0, 2.0, 4.0, 6.0, 4.5],
                                              ["after p", 4.0, 8.0, 12.0, 6.0, 12.0, 18.0, 15.0]])
    text = summary_markdown({"retrieval": summary})
    assert f"- mean rsum: {DEFINITIONS['mean_rsum']}\n" in text and "Transfer" not in text
    assert cells(numbers_text(summary))[0] == header
    assert RETRIEVAL.recall_cells(summarise_retrieval(["p"], [None, *rows[1:]], "retrieval", "fp32"))[1] == [
        ["after p", 4.0, 8.0, 12.0, 6.0, 12.0, 18.0, 15.0]]
