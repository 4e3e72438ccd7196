"""The two measures of a sequence: each has what the other has, and knows its own summaries."""

import pytest
from report_files import write_pairs_run, write_run

from src.machine.files import read_json
from src.report.measures import (
    ACCURACY,
    DEFINITIONS,
    INCREMENTAL,
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


def test_a_summary_with_a_broken_incremental_number_is_rejected(tmp_path):
    """They may be missing, as in files of earlier versions."""
    summary = read_json(write_run(tmp_path / "run") / "summary.json")
    assert is_summary(summary) and is_summary(summary | {"incremental_avg": 96.55})
    assert not is_summary(summary | {"incremental_avg": "96.55"})


def test_both_measures_have_the_same_members():
    one, other = ({name for name in dir(measure) if not name.startswith("_") and not name.endswith("_cells")}
                  for measure in (ACCURACY, RETRIEVAL))
    assert other - one == {"space"} and not one - other


def test_what_is_compared_is_titled_and_ranks():
    for measure in (ACCURACY, RETRIEVAL):
        assert {*measure.numbers, measure.best, *measure.axes} <= {*TITLES} and measure.best in measure.numbers
        assert {*measure.curves} <= {*measure.matrices}


def test_summaries_are_known_by_their_label_space(tmp_path):
    """Recall under the name of a label space is no summary, nor is accuracy under that of recall."""
    classes = read_json(write_run(tmp_path / "classes") / "summary.json")
    pairs = read_json(write_pairs_run(tmp_path / "pairs") / "summary.json")
    assert is_summary(classes) and is_summary(pairs)
    assert not is_summary({**classes, "label_space": "retrieval"}) and not is_summary({**pairs, "label_space": "task"})
    assert not is_summary({**classes, "conditions": {"shots": 16}}) and not is_summary({**pairs, "conditions": None})
    assert not is_summary([]) and not is_summary({**classes, "datasets": []})
    for measure, summary in ((ACCURACY, classes), (RETRIEVAL, pairs)):
        assert {*measure.numbers_of(summary)} == {*measure.numbers}
        assert not measure.is_summary(measure.untrained(summary)), "only shown, never stored"
