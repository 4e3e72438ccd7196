"""Tests of differences: over seeds against the formula of t, over images against drawing them one by one."""

import itertools
import math
import random
import statistics

import numpy
import pytest
from report_files import write_predictions, write_run

from src.report.paired import over_images, over_seeds, paired_bootstrap, paired_t, stored_predictions
from src.report.runs import read_run


@pytest.mark.parametrize("found", [[1.0, 2.0], [0.5, -0.25, 1.0], [3.0, 2.5, 4.0, 3.25, 2.0]], ids=len)
def test_t_of_the_formula(found):
    """The density of t is integrated by small steps, from |t| to where nothing is left."""
    n = len(found)
    t = abs(statistics.fmean(found)) / (statistics.stdev(found) / math.sqrt(n))
    x = numpy.geomspace(max(t, 1e-12), 1e9, 100_001)
    factor = math.gamma(n / 2) / (math.sqrt((n - 1) * math.pi) * math.gamma((n - 1) / 2))
    density = factor * (1 + x ** 2 / (n - 1)) ** (-n / 2)
    assert paired_t(found) == pytest.approx(2 * ((density[1:] + density[:-1]) / 2 * numpy.diff(x)).sum(), abs=1e-5)


def test_seeds_that_both_have():
    found = over_seeds({1: 50.0, 2: 53.0, 4: 90.0}, {2: 50.0, 1: 49.0, 3: 0.0})
    assert (found.mean, found.n, found.interval) == (2.0, 2, None)
    assert found.deviation == pytest.approx(2 ** 0.5) and found.p == pytest.approx(paired_t([1.0, 3.0]))
    one = over_seeds({1: 50.0, 5: 1.0}, {1: 49.0})
    assert (one.mean, one.deviation, one.n, one.p) == (1.0, None, 1, None)
    assert over_seeds({1: 50.0}, {2: 50.0}) is None


def test_differences_that_are_all_the_same_have_no_p():
    """Their deviation is rounding, which a test would take for certainty."""
    found = over_seeds({1: 0.1 + 0.2, 2: 1.3}, {1: 0.0, 2: 1.0})
    assert found.mean == pytest.approx(0.3) and found.p is None


def test_the_interval_of_every_possible_draw():
    """Of three images and of two, all 27 and 4 draws, each pair of which is as likely as another."""
    sets = [([True, True, False], [False, True, True]), ([True, False], [False, False])]
    means = []
    for first in itertools.product(range(3), repeat=3):
        for second in itertools.product(range(2), repeat=2):
            parts = [statistics.fmean(int(one[image]) - int(other[image]) for image in draw)
                     for draw, (one, other) in zip((first, second), sets, strict=True)]
            means.append(100 * statistics.fmean(parts))
    low, high = numpy.percentile(means, [2.5, 97.5])
    found = paired_bootstrap(sets, draws=200_000)
    assert found == pytest.approx((low, high), abs=1e-9), "few values are possible, so quantiles agree exactly"


def test_the_interval_of_images_drawn_one_by_one():
    drawn = random.Random(0)
    sets = [tuple([drawn.random() < share for _ in range(size)] for share in (0.7, 0.6)) for size in (80, 150)]
    generator = numpy.random.default_rng(5)
    means = []
    for _ in range(2000):
        parts = []
        for one, other in sets:
            images = generator.integers(len(one), size=len(one))
            parts.append(100 * (numpy.array(one)[images].mean() - numpy.array(other)[images].mean()))
        means.append(numpy.mean(parts))
    assert paired_bootstrap(sets, draws=100_000) == pytest.approx(tuple(numpy.percentile(means, [2.5, 97.5])), abs=0.6)


def test_the_same_seed_gives_the_same_interval():
    sets = [([True, False] * size, [True, True] * size) for size in (21, 50, 83)]
    assert paired_bootstrap(sets, seed=1) == paired_bootstrap(sets, seed=1)
    assert len({paired_bootstrap(sets, seed=seed, draws=1000) for seed in range(5)}) > 1


@pytest.fixture
def two(tmp_path):
    """Two runs of two tasks of ten images with predictions after the last task: 7 and 6 right against 5 and 6."""
    runs = []
    for name, last in (("a", (70.0, 60.0)), ("b", (50.0, 60.0))):
        folder = write_run(tmp_path / name, order=("A", "B"), matrix=((80.0, 10.0), last), zero_shot=None)
        write_predictions(folder, {"A": [True] * int(last[0] / 10) + [False] * (10 - int(last[0] / 10)),
                                   "B": [True] * 6 + [False] * 4})
        runs.append(read_run(folder))
    return runs


def test_predictions_that_a_run_stores(two):
    found = stored_predictions(two[0], "task")
    assert found["A"] == ([str(number) for number in range(10)], [True] * 7 + [False] * 3)
    assert over_images(*two, "task") == paired_bootstrap([
        (found["A"][1], [True] * 5 + [False] * 5), (found["B"][1], found["B"][1])])
    assert over_images(*two, "task")[0] == 0.0 < over_images(*two, "task")[1]


@pytest.mark.parametrize("damage", ["missing", "text", "other accuracy", "other images"])
def test_predictions_that_do_not_serve(two, damage):
    path = two[1].folder / "predictions_B.csv"
    text = path.read_text(encoding="utf-8")
    path.unlink()
    if damage != "missing":
        texts = {"text": "x\n1\n", "other accuracy": text.replace("0.5,1", "0.5,2", 1),
                 "other images": text.replace("\n3,", "\n33,")}
        assert texts[damage] != text
        path.write_text(texts[damage], encoding="utf-8")
    assert over_images(*two, "task") is None
