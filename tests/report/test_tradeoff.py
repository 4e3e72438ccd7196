"""Several runs in one picture: which rows, where, and names that cover nothing."""

import pytest
from PIL import Image
from report_files import MATRIX, ORDER, write_pairs_run, write_run

from src.report import tradeoff
from src.report.compare import compare
from src.report.figures import style
from src.report.measures import ACCURACY, RETRIEVAL
from src.report.runs import read_run

pytest_plugins = ["cli_fixtures"]
pytestmark = pytest.mark.pictures


def moved(matrix, by):
    return [[value - by for value in row] for row in matrix]


def test_one_point_a_group_with_the_deviation_of_its_seeds(tmp_path):
    runs = [read_run(write_run(tmp_path / f"lwf-{seed}", f"--method lwf --seed {seed}", matrix=moved(MATRIX, seed)))
            for seed in (1, 2, 3)] + [read_run(write_run(tmp_path / "finetune"))]
    tables = compare(runs)
    with style():
        figure = tradeoff.draw_tradeoff(tables[0].rows, ACCURACY.axes)
    [axes] = figure.axes
    named = {text.get_text(): text.xy for text in axes.texts}
    # Transfer 37.5 and Last 230 / 3 of MATRIX, less 2 in the mean over the seeds; zero-shot is (20 + 30) / 2 and 20.
    assert named.pop("zero-shot") == pytest.approx((25, 20))
    group, single = named.pop("lwf-*"), named.pop("finetune")
    assert group == pytest.approx((35.5, 230 / 3 - 2)) and single == pytest.approx((37.5, 230 / 3)) and not named
    bars = [container.get_label() for container in axes.containers if container.has_xerr and container.has_yerr]
    assert len(bars) == 1 and "deviation" in axes.get_title(loc="left")


def test_the_same_bytes_each_time_and_what_is_left_out(tmp_path):
    runs = [read_run(write_run(tmp_path / name, f"--method {name}")) for name in ("lwf", "finetune")]
    tables = compare(runs)
    assert tradeoff.write_tradeoff(tables, tmp_path / "1") == tradeoff.write_tradeoff(tables, tmp_path / "2") == []
    first, second = (tmp_path / folder / "tradeoff.png" for folder in "12")
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".svg").read_bytes() == second.with_suffix(".svg").read_bytes()
    with Image.open(first) as image:
        assert image.size == (1125, 780)
    one = [read_run(write_run(tmp_path / "one", order=ORDER[:1], matrix=((80.0,),), zero_shot=(10.0,)))]
    assert tradeoff.write_tradeoff(compare(one), tmp_path / "3") == ["zero-shot", "one"]
    assert not (tmp_path / "3").exists()


def test_tables_that_do_not_rank_together_are_pictures_of_their_own(tmp_path):
    runs = [read_run(write_run(tmp_path / name, words)) for name, words in (("all", ""), ("few", "--shots 5"))]
    assert tradeoff.write_tradeoff(compare(runs), tmp_path / "out") == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "tradeoff.png", "tradeoff.svg", "tradeoff_2.png", "tradeoff_2.svg"]


def test_pairs_are_shown_by_their_directions(tmp_path):
    tables = compare([read_run(write_pairs_run(tmp_path / "pairs"))])
    with style():
        figure = tradeoff.draw_tradeoff(tables[0].rows, RETRIEVAL.axes)
    assert {text.get_text(): text.xy for text in figure.axes[0].texts}["pairs"] == pytest.approx((32.5, 16.25))


def test_a_report_with_a_folder_has_it(cli, tmp_path):
    runs = [write_run(tmp_path / name, f"--method {name}") for name in ("lwf", "finetune")]
    done = cli("--report", ",".join(map(str, runs)), "--save", tmp_path / "out")
    assert done.status == 0 and (tmp_path / "out" / "tradeoff.png").is_file() and done.err == ""
    cli("--report", ",".join(map(str, runs)))
    assert not list(tmp_path.glob("*.png"))
