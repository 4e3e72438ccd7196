"""Pictures of a comparison as SVG: which, and the same bytes each time."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from report_files import MATRIX, ORDER, write_pairs_run, write_run

from src.report.figures import style
from src.report.orders import report_of, write_report
from src.report.rows import RUN
from src.report.runs import read_run
from src.report.study_pictures import draw_curves, draw_matrices, write_study_pictures

pytestmark = pytest.mark.pictures
FILES = {"cost_training_time.svg", "cost_trained_values.svg", "curves_top1.svg", "matrices_top1.svg"}


@pytest.fixture
def rows(tmp_path):
    runs = [read_run(write_run(tmp_path / str(seed), f"--seed {seed}",
                               matrix=[[value - seed for value in row] for row in MATRIX])) for seed in (1, 3)]
    [[table]] = report_of("study", runs).orders.values()
    return [row for row in table.rows if row.kind == RUN]


def test_curves_show_the_mean_and_its_band(rows):
    with style():
        [axes] = draw_curves(rows, "top1").axes
    [line] = axes.lines
    assert list(line.get_ydata()) == pytest.approx([20, 170 / 3 - 2, 160 / 3 - 2, 230 / 3 - 2])
    [band] = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(230 / 3 - 1) and heights.min() == pytest.approx(20)


def test_matrices_show_the_mean_and_write_it(rows):
    with style():
        [axes] = draw_matrices(rows, "top1").axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["10", "20", "30", "78", "48", "38", "58", "88", "8", "68", "63", "93"]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(ORDER)


def test_files_are_svg_and_have_the_same_bytes_each_time(tmp_path):
    report = report_of("study", [read_run(write_run(tmp_path / "run"))])
    for place in ("one", "two"):
        write_study_pictures(report, tmp_path / place)
    found = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert found.keys() == FILES
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    for content in found.values():
        assert ElementTree.fromstring(content).tag.endswith("svg") and b"matplotlib.org" not in content


@pytest.mark.slow
def test_several_orders_have_a_folder_each_and_pairs_their_scores(tmp_path):
    runs = [read_run(write_run(tmp_path / order[0], order=order)) for order in (ORDER, ORDER[::-1])]
    write_study_pictures(report_of("study", runs), tmp_path / "out")
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").glob("*/*")} == {
        f"order_{label}/{name}" for label in "12" for name in FILES}
    write_study_pictures(report_of("pairs", [read_run(write_pairs_run(tmp_path / "pairs"))]), tmp_path / "pairs_out")
    assert {path.name for path in (tmp_path / "pairs_out").iterdir()} == {
        "cost_training_time.svg", "cost_trained_values.svg",
        *(f"{kind}_{score}.svg" for kind in ("curves", "matrices") for score in ("i2t_r1", "t2i_r1"))}


@pytest.mark.parametrize("several", [False, True])
def test_pictures_lie_beside_the_comparison_of_their_order(several, tmp_path):
    """Before the runs of a second order are finished too."""
    report = replace(report_of("study", [read_run(write_run(tmp_path / "run"))]), several=several)
    write_report(report, tmp_path / "out")
    write_study_pictures(report, tmp_path / "out")
    place = tmp_path / "out" / ("order_1" if several else "")
    assert FILES | {"compare.md", "tradeoff.svg"} <= {path.name for path in place.iterdir()}
