"""Pictures of a sequence: the files, their sizes and bits, what they are drawn of; nothing is imported before."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image
from report_files import write_pairs_run, write_run

from src.report import figures
from src.report.page import write_report
from src.report.runs import read_run

pytestmark = pytest.mark.pictures
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def drawn(folder):
    figures.write_pictures(read_run(folder), folder)
    return {path.name: path for path in folder.glob("*.png")}


def long_run(folder, count):
    order = [f"a-rather-long-name-{number}" for number in range(count)]
    matrix = [[50.0 + (row * 7 + column * 3) % 45 for column in range(count)] for row in range(count)]
    return write_run(folder, order=order, matrix=matrix, zero_shot=[40.0] * count)


def test_a_sequence_has_three_pictures_the_same_each_time(tmp_path):
    first, second = drawn(write_run(tmp_path / "1" / "run")), drawn(write_run(tmp_path / "2" / "run"))
    assert sorted(first) == ["curves.png", "losses.png", "matrix_top1.png"]
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in first)


def test_a_readers_own_settings_change_nothing(tmp_path):
    import matplotlib
    first = drawn(write_run(tmp_path / "1" / "run"))
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 20}):
        second = drawn(write_run(tmp_path / "2" / "run"))
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in first)


def test_no_figure_is_left_to_pyplot(tmp_path):
    drawn(write_run(tmp_path / "run"))
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


@pytest.mark.parametrize("count", [2, 20])
def test_few_and_many_tasks_fit(tmp_path, count):
    """No text reaches over the edge: the border of every picture is white."""
    for path in drawn(long_run(tmp_path / "run", count)).values():
        with Image.open(path) as image:
            image = image.convert("RGB")
            width, height = image.size
            edges = [image.crop(box) for box in ((0, 0, width, 3), (0, height - 3, width, height), (0, 0, 3, height),
                                                 (width - 3, 0, width, height))]
            assert all(edge.getextrema() == ((255, 255),) * 3 for edge in edges), path.name
            assert 300 < width < 3200 and 250 < height < 2200


def test_pairs_have_a_matrix_a_direction(tmp_path):
    assert sorted(drawn(write_pairs_run(tmp_path / "run"))) == ["curves.png", "losses.png", "matrix_i2t_r1.png",
                                                                "matrix_t2i_r1.png"]


def test_a_matrix_shows_its_values_and_frames_what_was_trained(tmp_path):
    run = read_run(write_run(tmp_path / "run", matrix=((80.0, None, None), (60.0, 90.0, None), (70.0, 65.0, 95.0)),
                             zero_shot=(None, None, None)))
    with figures.style():
        figure = figures.draw_matrix(run, "top1")
    [axes] = figure.axes
    assert [text.get_text() for text in axes.texts] == ["–"] * 3 + ["80.0", "–", "–", "60.0", "90.0", "–", "70.0",
                                                                    "65.0", "95.0"]
    assert [patch.get_x() + 0.47 for patch in axes.patches] == pytest.approx([0, 1, 2])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["zero-shot", "after A", "after B", "after C"]


def test_zero_shot_is_dashed(tmp_path):
    with figures.style():
        figure = figures.draw_curves(read_run(write_run(tmp_path / "run")))
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[10.0, 10.0]] and len(figure.axes) == 3


def test_names_are_no_formulas(tmp_path):
    drawn(write_run(tmp_path / "$x^2_{$", order=("$\\frac$", "b_c", "C")))


def test_no_matplotlib_before_something_is_drawn():
    code = ("import sys, src.report.page, src.report.tradeoff\n"
            "print([name for name in ('matplotlib', 'jinja2', 'torch', 'numpy') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          check=True)
    assert done.stdout == "[]\n"


def write_predictions(folder, name, pairs, classes):
    """predictions_<name>.csv of [(label, prediction)] and classes_<name>.csv."""
    (folder / f"predictions_{name}.csv").write_text("image,label_number,label,prediction_number,prediction\n" + "".join(
        f"{index},{label},x,{predicted},y\n" for index, (label, predicted) in enumerate(pairs)), encoding="utf-8")
    (folder / f"classes_{name}.csv").write_text("class,accuracy,support\n" + "".join(
        f"{name},0,1\n" for name in classes), encoding="utf-8")


def test_confusions_are_shares_of_true_classes(tmp_path):
    """Two of three images of the first class are right, and a class without images has no share."""
    folder = write_run(tmp_path / "run")
    write_predictions(folder, "A", [(0, 0), (0, 0), (0, 1), (1, 0)], ["same", "same", "none"])
    counts, names = figures.confusion_of(folder, "A")
    assert counts == {(0, 0): 2, (0, 1): 1, (1, 0): 1} and names == ["same", "same", "none"]
    shown, = figures.draw_confusion("run", counts, names).axes
    table = shown.images[0].get_array().filled(-1).tolist()
    assert table == [pytest.approx([200 / 3, 100 / 3, 0]), [100, 0, 0], [-1, -1, -1]]
    assert sorted(text.get_text() for text in shown.texts) == ["100", "33", "67"]


@pytest.mark.slow
def test_which_confusions_are_drawn(tmp_path):
    """Those of up to a hundred classes whose predictions are there, and they are part of the page."""
    folder = write_run(tmp_path / "run")
    write_predictions(folder, "A", [(0, 0), (99, 1)], map(str, range(100)))
    write_predictions(folder, "B", [(0, 0)], map(str, range(101)))
    write_report(folder)
    assert sorted(path.name for path in folder.glob("confusion_*")) == ["confusion_A.png"]
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 1 and "Confusion matrix of A" in text


def test_the_rate_has_a_row_of_its_own(tmp_path):
    with figures.style():
        figure = figures.draw_losses(read_run(write_run(tmp_path / "run")))
    task, rate = figure.axes
    assert [axes.get_title(loc="left") for axes in (task, rate)] == ["task", "lr"]
    assert rate.get_position().y1 < task.get_position().y0
    figure, charts = figures.panels("head", [str(number) for number in range(6)], alone=1)
    heights = [round(axes.get_position().y0, 4) for axes in charts]
    assert len(set(heights[:4])) == 1 and heights[4] != heights[5] and len(set(heights)) == 3


def test_letters_of_any_script_are_drawn_without_a_warning(tmp_path):
    """Warnings are errors here. What no font has is named on the page."""
    folder = write_run(tmp_path / "run", order=("猫", "\U000f1234", "C"))
    write_report(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "matrix_top1.png").is_file() and "\U000f1234</p>" in text
    assert figures.texts_of(read_run(folder))[:4] == ["run", "猫", "\U000f1234", "C"]
