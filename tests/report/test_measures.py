"""The two measures of a sequence: each has what the other has, and knows its own summaries."""

import statistics

import pytest
from report_files import write_pairs_run, write_run

from src.machine.files import read_json
from src.report.measures import (
    ACCURACY,
    DEFINITIONS,
    INCREMENTAL,
    LOWER_IS_BETTER,
    RETRIEVAL,
    TITLES,
    defined,
    is_summary,
    measure_of,
)

MEASURES = {"task": ACCURACY, "seen": ACCURACY, "all": ACCURACY, "retrieval": RETRIEVAL}


@pytest.mark.parametrize(("space", "measure"), MEASURES.items())
def test_the_measure_of_a_label_space(space, measure):
    assert measure_of(space) is measure
    more = INCREMENTAL if space == "seen" else ()
    assert defined(space) == [(TITLES[key], DEFINITIONS[key]) for key in (*measure.explained, *more)]


def test_a_broken_incremental_number_is_no_summary(tmp_path):
    """They may be missing, as in files of earlier versions."""
    summary = read_json(write_run(tmp_path / "run") / "summary.json")
    assert is_summary(summary) and is_summary(summary | {"incremental_avg": 96.55})
    assert not is_summary(summary | {"incremental_avg": "96.55"})


def test_both_measures_have_the_same_members():
    one, other = ({name for name in dir(measure) if not name.startswith("_") and not name.endswith("_cells")}
                  for measure in (ACCURACY, RETRIEVAL))
    assert other - one == {"space"} and not one - other


def test_what_is_compared_is_titled_and_ranks():
    for space, measure in MEASURES.items():
        numbers = measure.numbers_in(space)
        assert {*numbers, measure.best, *measure.axes} <= {*TITLES} and measure.best in numbers
        assert {*measure.paper} <= {*numbers} and {*measure.curves} <= {*measure.matrices}
        assert {*LOWER_IS_BETTER} <= {*ACCURACY.numbers_in("task")}


def test_average_incremental_accuracy_is_compared_in_the_space_seen_alone(tmp_path):
    folder = write_run(tmp_path / "run", spaces=("seen", "task"), zero_shot=(None,) * 3,
                       matrix=((80.0, None, None), (60.0, 90.0, None), (70.0, 65.0, 95.0)))
    seen, task = (read_json(folder / f"summary{mark}.json") for mark in ("", "_task"))
    assert ACCURACY.numbers_of(seen)["incremental_avg"] == pytest.approx((80 + 75 + 230 / 3) / 3)
    assert "incremental_avg" not in ACCURACY.numbers_of(task)
    older = {key: value for key, value in seen.items() if not key.startswith("incremental")}
    assert ACCURACY.numbers_of(older) == ACCURACY.numbers_of(seen) | dict.fromkeys(INCREMENTAL)


@pytest.mark.parametrize(("space", "numbers", "titles"), [
    ("task", ("last", "transfer"), ["Last", "Transfer"]), ("seen", ("incremental_avg",), ["Inc. avg"]),
    ("retrieval", ("i2t_r1",), ["R@k"]), ("retrieval", ("mean_rsum",), ["rsum", "mean rsum"])])
def test_only_numbers_that_are_shown_are_defined(space, numbers, titles):
    assert [title for title, _ in defined(space, numbers)] == titles


def test_numbers_of_each_dataset_have_the_means_that_are_compared(tmp_path):
    summaries = [read_json(write(tmp_path / name) / "summary.json")
                 for name, write in (("classes", write_run), ("pairs", write_pairs_run))]
    for measure, summary in zip((ACCURACY, RETRIEVAL), summaries, strict=True):
        cells, numbers = measure.cells_of(summary), measure.numbers_of(summary)
        assert {number for number, _ in cells} == {*measure.paper}
        for number in measure.paper:
            known = [value for (key, _), value in cells.items() if key == number and value is not None]
            assert statistics.fmean(known) == pytest.approx(numbers[number])


def test_summaries_are_known_by_their_label_space(tmp_path):
    """Recall under the name of a label space is no summary, nor is accuracy under that of recall."""
    classes = read_json(write_run(tmp_path / "classes") / "summary.json")
    pairs = read_json(write_pairs_run(tmp_path / "pairs") / "summary.json")
    assert is_summary(classes) and is_summary(pairs)
    assert not is_summary({**classes, "label_space": "retrieval"}) and not is_summary({**pairs, "label_space": "task"})
    assert not is_summary({**classes, "conditions": {"shots": 16}}) and not is_summary({**pairs, "conditions": None})
    assert not is_summary([]) and not is_summary({**classes, "datasets": []})
    for measure, summary in ((ACCURACY, classes), (RETRIEVAL, pairs)):
        assert {*measure.numbers_of(summary)} == {*measure.numbers_in(summary["label_space"])}
        assert not measure.is_summary(measure.untrained(summary)), "only shown, never stored"
