"""study.html: the numbers of the tables, in one file that needs nothing else, the same bytes each time."""

import dataclasses
import json
import re

import pytest
from markupsafe import escape
from outline import Outline
from report_files import MATRIX, ORDER, ZERO_SHOT, write_pairs_run, write_run

from src.cli.protocols import PROTOCOLS
from src.report import study_page as page
from src.report.measures import TITLES
from src.report.orders import report_markdown, report_of
from src.report.paper_markdown import value_text
from src.report.rows import PUBLISHED, RUN
from src.report.runs import read_run
from src.report.tables import cell_text

pytest_plugins = ["cli_fixtures"]
HOSTILE = '<script>alert("x")</script>&amp;\'"$x^2$'
ORDERS = {"I": ORDER, "II": ORDER[::-1]}


def runs_in(folder, orders=ORDERS, seeds=(1, 2), **options):
    """Two methods in each order with each seed; each run's matrix is its own."""
    found = []
    for order in orders.values():
        for method in ("finetune", "lwf"):
            for seed in seeds:
                matrix = [[value - len(found) for value in row] for row in MATRIX]
                place = folder / f"{method}-{order[0]}-{seed}"
                found.append(read_run(write_run(place, f"--method {method} --seed {seed}", order=order, matrix=matrix,
                                                **options)))
    return found


@pytest.fixture
def shown(tmp_path):
    """shown(missing, report's options, ...) -> (Report, text, Outline)"""
    def show(missing=(), changes=None, **options):
        report = dataclasses.replace(report_of("study", runs_in(tmp_path / "runs", **options)), **(changes or {}))
        text = page.study_page(report, missing)
        return report, text, Outline(text)
    return show


def plain(text):
    return text.replace("**", "").replace("_", "").replace(" ", "")


def rows_of(table):
    """{first cell: the others} of a table of the page, without spaces."""
    return {row[0]: [cell.replace(" ", "") for cell in row[1:]] for row in table[1:]}


def test_numbers_are_those_of_the_comparison(shown):
    report, _, outline = shown(orders={"I": ORDER})
    [[table]] = report.orders.values()
    header = outline.tables[0][0]
    assert header[:6] == ["method", "Transfer", "Avg", "Last", "Forgetting", "BWT"]
    found = rows_of(outline.tables[0])
    assert list(found) == [row.name for row in table.rows]
    for row in table.rows:
        expected = [cell_text(row.numbers[key]) + (f"±{row.deviations[key]:.1f}" if key in row.deviations else "")
                    for key in table.numbers]
        assert found[row.name][:5] == expected
    assert found["lwf-A-*"][header.index("trained values") - 1] == "300" and "n" in header


def test_the_best_is_bold_and_the_second_underlined(shown):
    """The runs of finetune are 0 and 1 below MATRIX, those of lwf 2 and 3: its Avg is 61.7 against 59.7."""
    _, text, _ = shown(orders={"I": ORDER})
    assert "<b>61.7</b>" in text and "<u>59.7</u>" in text and "Among the runs, the best is bold" in text


def test_an_order_is_named_before_the_runs_of_a_second_are_finished(shown):
    """As the tables in other files do."""
    report, text, _ = shown(orders={"I": ORDER})
    assert ">Ranking</h2>" in text and "# order 1\n" not in report_markdown(report)
    report = dataclasses.replace(report, several=True)
    assert ">Order 1</h2>" in page.study_page(report) and "# order 1\n" in report_markdown(report)


def test_each_order_has_a_section_below_the_table_of_all(shown):
    report, text, outline = shown()
    labels = list(report.orders)
    assert len(labels) == 2
    assert re.findall(r'<h2 id="[a-z0-9-]+">([^<]+)<', text) == [
        "All orders", *(f"Order {label}" for label in labels), "What the numbers mean"]
    [compact] = [table for table in page.paper_tables(report) if table.kind == page.COMPACT]
    found = rows_of(outline.tables[0])
    for line in compact.lines:
        values = [plain(value_text(value)) for value in line.values]
        assert found[line.name][:len(values)] == values
    assert text.count('<ol class="order"') == 2


def test_differences_stand_above_where_a_baseline_is_named(shown):
    report, _, _ = shown(orders={"I": ORDER})
    name = next(row.name for table in report.tables for row in table.rows if row.kind == RUN)
    text = page.study_page(dataclasses.replace(report, baseline=name))
    assert '<h2 id="overview">Differences</h2>' in text and f"Transfer, Avg and Last minus {name}" in text
    assert "-2.0" in text or "+2.0" in text


def test_matrices_are_means_over_seeds_with_the_same_colours(shown):
    _, text, outline = shown(orders={"I": ORDER})
    matrices = [table for table in outline.tables if table[0][0] == "After"]
    assert [matrix[0] for matrix in matrices] == [["After", *ORDER, "Mean"]] * 2
    assert matrices[0][1] == ["0 zero-shot", "10.0", "20.0", "30.0", "20.0"]
    assert matrices[0][2] == ["1 A", "79.5", "49.5", "39.5", "56.2"]
    assert matrices[1][4] == ["3 C", "67.5", "62.5", "92.5", "74.2"]
    assert text.count("mean of 2 runs") == 2


def test_charts_are_there_whole_and_zoomed(shown):
    """Transfer against Last, two costs, a curve a method; each over 0 to 100 and over the data."""
    _, text, outline = shown(orders={"I": ORDER})
    assert text.count('<svg class="whole"') == text.count('<svg class="zoomed"') == 1 + 2 + 2
    assert text.count('class="zoom"') == 1 and "script" not in outline.tags
    for whole in re.findall(r'<svg class="whole".*?</svg>', text, re.DOTALL):
        ticks = re.findall(r'class="y"[^>]*>([^<]+)<', whole)
        assert (ticks[0], ticks[-1]) == ("0", "100")
    assert "lwf-A-*: 14.0 s" not in text and "lwf-A-*: 9.0 s, Avg 59.7" in text  # 2 + 3 + 4 seconds
    assert "The band spans the lowest to the highest run" in text
    assert "after task 3: 76.2 (75.7 to 76.7)" in text


def test_the_head_counts_runs_and_methods(shown):
    _, text, _ = shown()
    assert re.findall(r"<dt>(\w+)</dt><dd>([^<]+)</dd>", text[:text.index("</header>")]) == [
        ("runs", "8"), ("methods", "2"), ("orders", "2"), ("seeds", "1, 2")]


def test_published_rows_stand_below_with_their_source(tmp_path):
    order = PROTOCOLS["mtil-1"].order
    folder = write_run(tmp_path / "run", order=order, matrix=[[50.0] * 11] * 11, zero_shot=[40.0] * 11)
    report = report_of("study", [read_run(folder)])
    text = page.study_page(report)
    published = [row for table in report.tables for row in table.rows if row.kind == PUBLISHED and row.source]
    assert published and all(f'title="{escape(row.source)}"' in text for row in published)
    assert text.count('<tr class="published">') == len(published)


def test_one_seed_has_no_band(shown):
    _, text, _ = shown(orders={"I": ORDER}, seeds=(1,))
    assert "The band spans" not in text and 'class="band' not in text and "sample deviation" not in text


def test_missing_cells_are_named(shown):
    missing = [("lwf_I_seed-3", "failed", "error: no <memory>"), ("zscl_I_seed-1", "waiting", "")]
    _, text, outline = shown(missing)
    assert outline.tables[0][1:] == [["lwf_I_seed-3", "failed", "error: no <memory>"], ["zscl_I_seed-1", "waiting", ""]]
    assert "no number here includes them" in text
    assert 'id="missing"' not in shown_without(text)


def shown_without(text):
    """The page from its first order on."""
    return text[text.index('<h2 id="overview"'):]


def test_pairs_have_their_numbers(tmp_path):
    runs = [read_run(write_pairs_run(tmp_path / name, words)) for name, words in (("a", ""), ("b", "--lr 1e-4"))]
    report = report_of("pairs", runs)
    outline = Outline(text := page.study_page(report))
    assert outline.tables[0][0][1:4] == [TITLES[key] for key in ("mean_rsum", "i2t_r1", "t2i_r1")]
    assert "R@1, text to image of each dataset" in text and "BWT" not in text
    scales = [re.findall(r'class="y"[^>]*>([^<]+)<', chart)[-1]
              for chart in re.findall(r'<svg class="whole".*?</svg>', text, re.DOTALL)]
    assert scales[:3] == ["100", "600", "600"]  # R@1 against R@1, then costs against rsum


def test_label_spaces_and_conditions_have_tables_of_their_own(tmp_path):
    runs = [read_run(write_run(tmp_path / name, words, spaces=("task", "all")))
            for name, words in (("all", ""), ("few", "--shots 5"))]
    text = page.study_page(report_of("study", runs))
    assert text.count("<h3>Each task among its own classes</h3>") == 2
    assert text.count("<h3>Each task among the classes of the whole sequence</h3>") == 2
    assert len(set(ids := Outline(text).ids)) == len(ids)


def test_runs_without_costs_or_a_start(tmp_path):
    folder = write_run(tmp_path / "run", zero_shot=None)
    for path in folder.glob("run_*.json"):
        path.unlink()
    text = page.study_page(report_of("study", [read_run(folder)]))
    assert "Training time" not in text and "Trained values" not in text and "zero-shot <" not in text
    Outline(text)


def test_zero_shot_alone_is_one_row(tmp_path):
    folder = write_run(tmp_path / "run", matrix=(ZERO_SHOT,) * 3)
    for path in [*folder.glob("run_*.json"), *folder.glob("log_*")]:
        path.unlink()
    outline = Outline(page.study_page(report_of("study", [read_run(folder)])))
    assert [len(table) for table in outline.tables if table[0][0] == "After"] == [2]


def test_no_text_of_a_file_is_html(tmp_path):
    folder = write_run(tmp_path / "<b>one & co")
    order, quoted = (HOSTILE, "B", "C"), '"' + HOSTILE.replace('"', '""') + '"'
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8")
        if path.name == "summary.json":
            path.write_text(json.dumps(json.loads(text) | {
                "datasets": list(order), "zero_shot": dict(zip(order, ZERO_SHOT, strict=True))}), encoding="utf-8")
        if path.suffix == ".csv":
            path.write_text(re.sub(r"(?m)(^|(?<=,))A(?=,)", lambda _: quoted, text), encoding="utf-8")
    report = report_of(HOSTILE, [read_run(folder), read_run(write_run(tmp_path / "two"))])
    text = page.study_page(report, [(HOSTILE, HOSTILE, HOSTILE)])
    outline = Outline(text)
    assert "<script" not in text and "<b>one" not in text and "script" not in outline.tags
    assert text.count("&lt;script&gt;alert") > 5


def test_it_needs_nothing_else(shown):
    _, text, outline = shown([("a", "failed", "b")])
    assert set(outline.addresses) == {"data:,"} and not re.search(r"https?://|url\(|@import", text)
    assert '<html lang="en">' in text and "viewport" in text and outline.tags.count("h1") == 1
    assert len(set(outline.ids)) == len(outline.ids)
    assert text.count("scrolls sideways") == 3 + 2


def test_the_same_runs_give_the_same_bytes(shown, tmp_path):
    report, text, _ = shown()
    again = report_of("study", [read_run(folder) for table in report.tables for row in table.rows
                                for folder in row.runs])
    assert page.study_page(again) == text
    page.write_study_page(report, tmp_path / "one")
    page.write_study_page(report, tmp_path / "two")
    assert (tmp_path / "one" / page.FILE).read_bytes() == (tmp_path / "two" / page.FILE).read_bytes() == text.encode()


def test_a_report_with_a_folder_has_it(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("src.report.tradeoff.write_picture", lambda figure, path: None)
    monkeypatch.setattr("src.report.tradeoff.draw_tradeoff", lambda *args: None)
    runs = runs_in(tmp_path / "runs", orders={"I": ORDER})
    done = cli("--report", ",".join(str(run.folder) for run in runs), "--save", tmp_path / "out")
    assert done.status == 0 and done.err == ""
    assert "<h1>out</h1>" in (tmp_path / "out" / page.FILE).read_text(encoding="utf-8")
