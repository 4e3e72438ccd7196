"""report.html: what a finished sequence says, in one file; numbers against those of its summary and hand arithmetic."""

import dataclasses
import html
import json
import re

import pytest
from golden_numbers import CONTENT, ROWS, matrix_of, order_of
from outline import Outline
from report_files import ORDER, ZERO_SHOT, write_pairs_run, write_run, write_task

from src.args import parse
from src.models.evaluation import Scores
from src.report import measures, page
from src.report.conditions import Conditions
from src.report.figures import write_pictures
from src.report.runs import read_run
from src.run.build import command_of
from src.run.sequence import Run
from src.store.records import RunFolder

pytest_plugins = ["cli_fixtures"]
HOSTILE = '<script>alert("x")</script>&amp;\'"$x^2$'


@pytest.fixture
def shown(tmp_path):
    """shown(write, ...) -> (SequenceRun, text of its page, Outline)"""
    def show(write=write_run, *words, name="run", **options):
        run = read_run(write(tmp_path / name, *words, **options))
        text = page.page(run)
        return run, text, Outline(text)
    return show


def test_the_matrix_stands_in_a_table(shown):
    _, _, outline = shown()
    header, start, *rest = outline.tables[0]
    assert header == ["After", *ORDER, "Mean"]
    assert start == ["0 zero-shot", "10.0", "20.0", "30.0", "20.0"]
    assert rest[:3] == [["1 A", "80.0", "50.0", "40.0", "56.7"], ["2 B", "60.0", "90.0", "10.0", "53.3"],
                        ["3 C", "70.0", "65.0", "95.0", "76.7"]]
    # Transfer of B: 50; of C: (40 + 10) / 2.
    assert rest[3:] == [["Transfer", "–", "50.0", "25.0", "37.5"], ["Avg", "70.0", "68.3", "48.3", "62.2"],
                        ["Forgetting", "10.0", "25.0", "–", "17.5"]]


def test_the_means_of_the_columns_are_the_summary(shown):
    run, _, _ = shown()
    for title, values, total in page.heat_map(run, "task", "top1")["foot"]:
        known = [value for value in values if value is not None]
        assert sum(known) / len(known) == pytest.approx(total) == pytest.approx(run.summary[title.lower()])


@pytest.mark.parametrize("row", [row for row in ROWS if "avg" in row["numbers"]], ids=lambda row: row["method"])
def test_the_numbers_of_each_dataset_are_the_published_ones(shown, row):
    run, _, _ = shown(order=order_of(row), matrix=matrix_of(row), zero_shot=None)
    foot = {title: values for title, values, _ in page.heat_map(run, "task", "top1")["foot"]}
    assert foot["Transfer"] == [None, *(pytest.approx(cell) for cell in row["numbers"]["transfer"]["cells"])]
    *averages, last = foot["Avg"]
    *published, published_last = row["numbers"]["avg"]["cells"]
    assert averages == pytest.approx(published) and last == pytest.approx(published_last, abs=0.1)


def test_means_of_the_rows_of_seen_classes_are_the_published_steps(shown):
    """Where all parts have equally many images, a row's mean is the accuracy over the classes seen so far."""
    steps = CONTENT["class_incremental"]
    first, second = steps["accuracy_over_seen_classes"]
    run, _, _ = shown(order=("A", "B"), matrix=((first, None), (second - 2, second + 2)), zero_shot=(None, None),
                      spaces=("seen",))
    means = [found["mean"] for found in page.heat_map(run, "seen", "top1")["rows"] if found["task"]]
    assert means == pytest.approx([first, second])
    assert sum(means) / len(means) == pytest.approx(steps["average_incremental"])


@pytest.mark.parametrize(("words", "head"), [
    ("", "data family own; reference set none; shots all; router none; task id at test given; label space task"),
    ("--shots 5", "shots 5; router")])
def test_each_section_has_a_head(shown, words, head):
    _, text, _ = shown(write_run, words)
    assert head in text


def test_cells_tell_the_level_the_change_and_the_trained(shown):
    run, _, _ = shown()
    found = page.heat_map(run, "task", "top1")
    assert (found["low"], found["high"], found["reach"]) == (10, 100, 70)
    start, first, *_ = (row["cells"] for row in found["rows"])
    assert [cell.change for cell in start] == [10, 10, 10] and not any(cell.own for cell in start)
    assert (first[0].value, first[0].change, first[0].own) == (round(20 * 70 / 90), 20, True)
    assert first[0].title == "A after A: 80.00, zero-shot +70.00" and "own" in first[0].classes
    assert [row["number"] for row in found["rows"]] == [0, 1, 2, 3]


def test_headlines_stand_beside_zero_shot(shown):
    run, text, _ = shown()
    numbers = {number.title: number for number in page.headlines(run)}
    assert [number.title for number in numbers.values()] == ["Transfer", "Avg", "Last", "Forgetting", "BWT"]
    # Had nothing changed: Transfer (20 + 30) / 2, Avg and Last 20.
    assert [number.zero_shot for number in numbers.values()] == [25, 20, 20, 0, 0]
    assert numbers["Transfer"].verdict == "▲ 12.5 better" and numbers["Transfer"].tone == "good"
    assert numbers["Forgetting"].note == "most: B, 25.0" and numbers["Forgetting"].verdict == ""
    assert "▲ 12.5 better" in text and "−17.5" in text


def test_worse_and_equal_are_told(shown):
    run, _, _ = shown(zero_shot=(80.0, 50.0, 25.0))
    verdicts = {number.title: (number.verdict, number.tone) for number in page.headlines(run)}
    assert verdicts["Transfer"] == ("no change", "") and verdicts["Avg"] == ("▲ 10.5 better", "good")  # 62.2 - 51.7
    run, _, _ = shown(zero_shot=(80.0, 90.0, 95.0), name="worse")
    assert page.headlines(run)[0].tone == "bad"


def test_a_run_without_a_start(shown):
    run, text, outline = shown(zero_shot=None)
    assert outline.tables[0][1][0] == "1 A" and "the change from zero-shot" not in text
    assert all(number.zero_shot is None for number in page.headlines(run))


def test_one_task(shown):
    run, _, outline = shown(order=("A",), matrix=((80.0,),), zero_shot=(10.0,))
    assert outline.tables[0][-3:] == [["Transfer", "–", "–"], ["Avg", "80.0", "80.0"], ["Forgetting", "–", "–"]]
    assert [number.value for number in page.headlines(run)] == [None, 80.0, 80.0, None, None]


def test_label_spaces_have_a_section_each(shown):
    matrix = ((80.0, None, None), (60.0, 90.0, None), (70.0, 65.0, 95.0))
    run, text, outline = shown(matrix=matrix, zero_shot=(None, None, None), spaces=("seen", "all"))
    assert re.findall(r'<h2 id="space-(\w+)"', text) == ["seen", "all"]
    assert outline.tables[0][2] == ["1 A", "80.0", "–", "–", "80.0"]
    assert page.headlines(run)[0].value is None and page.headlines(run)[2].value == pytest.approx(230 / 3)


def test_retrieval_has_its_own_matrices_and_words(shown):
    run, text, outline = shown(write_pairs_run)
    image_to_text = outline.tables[0]
    assert image_to_text == [["After", "p", "q", "Mean"], ["0 zero-shot", "30.0", "10.0", "20.0"],
                             ["1 p_phase1", "40.0", "20.0", "30.0"], ["2 p_phase2", "50.0", "15.0", "32.5"]]
    assert len(outline.tables) == 4 and "rsum" in text and "BWT" not in text
    values = {number.title: (number.value, number.zero_shot) for number in page.headlines(run)}
    assert values == {"rsum": (325.0, 200.0), "R@1 image to text": (32.5, 20.0), "R@1 text to image": (16.25, 10.0),
                      "Forgetting": (2.5, None)}
    assert [cell.own for row in page.heat_map(run, "retrieval", "rsum")["rows"] for cell in row["cells"]] == [
        False, False, True, False, True, False]


def test_the_numbers_are_explained_as_in_the_tables(shown):
    for write, space in ((write_run, "task"), (write_pairs_run, "retrieval")):
        _, text, _ = shown(write, name=space)
        told = html.unescape(text)
        assert all(f"<dt>{title}</dt><dd>{meaning}</dd>" in told for title, meaning in measures.defined(space))
        assert (f"<p>{measures.MATRIX}</p>" in told) == (space == "task")


def test_costs_flags_and_origins(shown):
    run, text, outline = shown(write_run, "--method lwf --l2 0.5")
    assert outline.tables[-1][1:] == [
        ["A", "2.0 s", "60", "1000 B", "300", "model 1"], ["B", "3.0 s", "60", "1000 B", "300", "model 1"],
        ["C", "4.0 s", "60", "1000 B", "300", "model 1"],
        ["Whole run, with evaluation", "12.5 s", "", "1000 B", "", ""]]
    assert "lwf + l2" in text and "python -m src.main --dataset-order toy-colours" in text
    (given, values), *_, (last, _) = page._flags(run)
    assert (given, last) == ("flag", "default") and ("--method", "lwf") in values and ("--l2", "0.5") in values
    assert text.count("<details open>") >= 1 and "Flags at their defaults" in text
    for known in ("abc", "cpu,<wbr> 1 threads", "fp32"):
        assert known in text


def test_a_resumed_sequence_does_not_tell_its_last_part_as_the_whole(shown):
    """Its tasks took 2, 3 and 4 seconds, those that were finished before too."""
    run = shown()[0]
    assert [page._costs(dataclasses.replace(run, seconds=seconds))["total"][0] for seconds in (8.9, 9.0, None)] == [
        "–", "9.0 s", "–"]


def test_a_sequence_that_only_scored(shown, tmp_path):
    run = write_run(tmp_path / "scored")
    for path in [*run.glob("run_*.json"), *run.glob("log_*")]:
        path.unlink()
    text = page.page(read_run(run))
    assert "zero-shot, nothing trained" in text and "Loss terms" not in text


def test_zero_shot_is_one_row(tmp_path):
    """Weights that nothing changed have one row, and no flag of training says how."""
    folder = write_run(tmp_path / "scored", "--lr 1e-5 --eval-split val", matrix=(ZERO_SHOT,) * 3)
    for path in [*folder.glob("run_*.json"), *folder.glob("log_*")]:
        path.unlink()
    run = read_run(folder)
    table = page.heat_map(run, "task", "top1")
    assert [row["task"] for row in table["rows"]] == [""] and table["foot"] == []
    text = page.page(run)
    assert text.count("<th scope=\"row\">") == 2 and "after A" not in text  # of top-1 and of top-5, which is folded
    assert "--eval-split" in text and "--lr<" not in text and "trained by this row" not in text
    assert "Each dataset over the tasks" not in text and "Forgetting</dt>\n  <dd class" not in text
    write_pictures(run, folder)
    assert [path.name for path in folder.glob("*.png")] == ["matrix_top1.png"]


def test_no_text_of_a_file_is_html(shown):
    order, quoted = (HOSTILE, "B", "C"), '"' + HOSTILE.replace('"', '""') + '"'

    def write(folder):
        write_run(folder)
        for path in folder.iterdir():
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".json":
                content = json.loads(text)
                content |= {"commit": HOSTILE, "hardware": HOSTILE, "command": [HOSTILE]} if "flags" in content else {}
                if "datasets" in content:
                    content |= {"datasets": list(order), "zero_shot": dict(zip(order, ZERO_SHOT, strict=True))}
                path.write_text(json.dumps(content), encoding="utf-8")
            if path.suffix == ".csv":
                path.write_text(re.sub(r"(?m)(^|(?<=,))A(?=,)", lambda _: quoted, text), encoding="utf-8")
        return folder
    _, text, outline = shown(write, name="<b>run & co")
    assert "<script" not in text and "<b>" not in text and "script" not in outline.tags
    assert "&lt;b&gt;run &amp; co" in text and outline.tables[0][2][0] == f"1 {HOSTILE}"
    assert text.count("&lt;script&gt;alert") > 5


def test_it_needs_nothing_else(shown):
    _, text, outline = shown(spaces=("task", "all"))
    assert set(outline.addresses) == {"data:,"} and not re.search(r"https?://|url\(|@import", text)
    assert '<html lang="en">' in text and "<title>" in text and "viewport" in text
    assert len(set(outline.ids)) == len(outline.ids)
    assert outline.tags.count("caption") == outline.tags.count("table")
    assert outline.tags.count("h1") == 1 and len(text) < 150_000


def test_the_same_run_gives_the_same_page(shown, tmp_path):
    run, text, _ = shown()
    assert page.page(read_run(run.folder)) == text


def test_a_report_that_fails_is_told_and_loses_nothing(tmp_path, capsys, monkeypatch):
    run = write_run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    def broken(run, folder):
        raise ImportError("no matplotlib here")
    monkeypatch.setattr(page, "write_pictures", broken)
    page.write_report(run)
    assert "warning: no full report" in capsys.readouterr().err
    assert before.items() <= {path.name: path.read_bytes() for path in run.iterdir()}.items()
    assert (run / "report.html").is_file()


def test_a_sequence_leaves_its_report(cli, tmp_path, world):
    words = ["--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 2,
             "--batch-size", 4, "--lr", 1e-4, "--workers", 0]
    assert cli(*words, "--save", tmp_path / "run").status == 0
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert page.one_decimal(summary["last"]) in text and Outline(text).tables[0][-4][0] == "2 tones"


def test_the_rate_has_a_chart_of_its_own_row(shown):
    _, text, _ = shown()
    terms, rate = re.findall(r'<div class="charts[^"]*">(.*?)</div>', text[text.index('id="losses"'):], re.DOTALL)[:2]
    assert terms.count("<strong>task</strong>") == terms.count("<figure") == 1
    assert rate.count("<strong>lr</strong>") == rate.count("<figure") == 1 and "<h3>Learning rate</h3>" in text


@pytest.mark.parametrize(("term", "title", "said"), [
    ("image_kl", "image_kl", True), ("text_distillation", "text_distillation, cross-entropy", False)])
def test_distillation_is_called_what_the_log_has(shown, term, title, said):
    def write(folder):
        write_run(folder)
        (folder / "log_B.jsonl").write_text(json.dumps({"iteration": 5, term: 0.5, "lr": 1e-5}) + "\n")
        return folder
    _, text, _ = shown(write)
    assert f"<strong>{title}</strong>" in text
    assert ("KL divergences from the teacher: 0 where the student agrees" in text) == said


def test_letters_that_pictures_lack_are_named(shown):
    run, text, _ = shown()
    assert "show boxes" not in text
    assert "no font on the drawing machine has: &lt;流" in page.page(run, letters="<流")


# -- a task by itself --------------------------------------------------------------------------------------------------


CONDITIONS = {"task": Conditions("own", None, "all", "none", "given", "task")}


def page_of_task(folder, **conditions):
    page.write_task_report(folder, "A", {**CONDITIONS, **conditions})
    return (folder / "report_A.html").read_text(encoding="utf-8")


def test_a_task_by_itself_has_a_page(tmp_path):
    text = page_of_task(write_task(tmp_path / "run", A=80.0, B=50.0, C=20.0))
    outline = Outline(text)
    assert outline.tables[0] == [["After", "A", "B", "C", "Mean"], ["1 A", "80.0", "50.0", "20.0", "50.0"]]
    tiles = re.findall(r'<dt>([^<]+)</dt>\s*<dd class="big">([^<]+)</dd>', text)
    assert tiles == [("Top-1 accuracy", "80.0"), ("Top-5 accuracy", "100.0"), ("Top-1 accuracy elsewhere", "35.0")]
    assert "<h1>run: A</h1>" in text and "data family own; reference set none; shots all" in text
    assert outline.tables[-1][1:] == [["A", "2.0 s", "60", "1000 B", "300", "model 1"]]
    assert "Across: the steps." in text and "Transfer" not in text and "What the numbers mean" not in text
    assert not re.search(r"https?://|url\(|@import", text) and "script" not in outline.tags
    assert text == page_of_task(tmp_path / "run")


def test_a_task_that_is_not_scored_itself_has_the_mean(tmp_path):
    text = page_of_task(write_task(tmp_path / "run", B=50.0, C=20.0))
    assert re.findall(r'<dd class="big">([^<]+)</dd>', text) == ["35.0"] and "mean over 2 other datasets" in text


def test_a_page_of_a_task_that_fails_is_told(tmp_path, capsys):
    folder = write_task(tmp_path / "run")
    (folder / "run_A.json").write_text("{", encoding="utf-8")
    page.write_task_report(folder, "A", CONDITIONS)
    assert "warning: no report of A in" in capsys.readouterr().err and not (folder / "report_A.html").exists()


def test_the_command_line_leaves_it(cli, tmp_path, world):
    words = ["--load", world.model, "--iterations", 2, "--batch-size", 4, "--lr", 1e-4, "--workers", 0]
    done = cli(*words, "--train-dataset", world.colours, "--eval-datasets", f"{world.colours},{world.tones}",
               "--label-space", "task,all", "--save", tmp_path / "run")
    assert done.status == 0 and done.err == ""
    text = (tmp_path / "run" / "report_colours.html").read_text(encoding="utf-8")
    facts = json.loads((tmp_path / "run" / "run_colours.json").read_text(encoding="utf-8"))
    assert page.one_decimal(facts["scores"]["colours"]["task"]["top1"]) in text
    assert re.findall(r'<h2 id="space-(\w+)"', text) == ["task", "all"] and "reference set none; shots all" in text


def test_what_writes_no_folder_has_no_report(cli, world, monkeypatch):
    def refused(folder):
        raise AssertionError(f"a report in {folder}")
    monkeypatch.setattr("src.run.sequence.write_report", refused)
    words = ["--eval-only", "--model", "toy", "--dataset-order", "toy-colours,toy-sizes", "--max-evaluation-size", 8]
    assert cli(*words).status == 0


def test_only_the_first_process_writes_a_report(world, tmp_path, monkeypatch):
    reports = []
    monkeypatch.setattr("src.run.sequence.write_report", reports.append)
    rows = [{"toy-colours": {"task": Scores(50.0, 90.0, 5, 10)}}] * 2
    for first in (False, True):
        run = Run(command_of(parse(["--dataset-order", "toy-colours", "--iterations", "1", "--model", "toy"])))
        run.folder = RunFolder(tmp_path / "run", writes=first)
        run.summarise(["toy-colours"], rows)
        assert reports == ([tmp_path / "run"] if first else [])
