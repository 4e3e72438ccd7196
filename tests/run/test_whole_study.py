"""Whole studies from the command line: killed, asked to end, shared by two launchers. They end with the files of one
that was left alone, and no finished cell and no finished task is run again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_files import listing, read_json, same_weights, weights
from instants import Instant
from this_machine import ROOT
from whole_studies import (
    CELLS,
    COMPARISON,
    FIRST,
    SECOND,
    Study,
    assert_same_study,
    ended,
    one_row_selected,
    point_of,
    resumed_from,
    shortened,
    without_seconds,
)

from src.run.study import NOT_AWAITED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A Study that was left alone, one cell after the other."""
    study = Study(tmp_path_factory.mktemp("alone"), shortened())
    done = study.run()
    assert done.status == 0, done.err
    assert done.started == set(CELLS) and [study.starts(cell) for cell in CELLS] == [1, 1, 1]
    for order in ("known-first", "new-first"):
        assert COMPARISON <= listing(study.folder / f"order_{order}")
    return study


def test_killed_at_three_instants_it_ends_with_the_same_files(alone, tmp_path):
    """Once a first cell trains, with its process; between two cells; and while tables are written. Cells that a killed
    launcher leaves run on."""
    study = Study(tmp_path, shortened())
    killed = study.run("--jobs", "2", instants=[Instant(f"*/{FIRST}/resume_toy-sizes.pth", to=("parent", "itself"))])
    assert killed.status == -signal.SIGKILL and killed.started == {FIRST, SECOND}
    point = point_of(study, FIRST)
    assert point == {"toy-sizes": 2} and not study.done()

    killed = study.run("--jobs", "2", instants=[Instant(f"*/{FIRST}/cell.json")])
    before = study.done()
    assert killed.status == -signal.SIGKILL and FIRST in killed.started & before
    assert resumed_from(study, FIRST) == point

    killed = study.run("--jobs", "2", instants=[Instant("*/compare.csv", "before")])
    assert killed.status == -signal.SIGKILL and killed.started == set(CELLS) - before
    assert study.done() == set(CELLS)
    assert [name for name in listing(study.folder) if ".compare.csv." in name], "half written"

    starts = [study.starts(cell) for cell in CELLS]
    done = study.run("--jobs", "2")
    assert done.status == 0 and not done.started and done.err == "", done.err
    assert starts == [study.starts(cell) for cell in CELLS]
    assert_same_study(study, alone)


def test_two_launchers_share_the_cells(alone, tmp_path):
    study = Study(tmp_path, shortened())
    meeting = Instant("*/resume_*.pth", awaits=f"{study.folder}/*/output.txt", count=2)
    both = [study.start(instants=[meeting]) for _ in range(2)]
    one, other = [ended(process) for process in both]
    assert (one.status, other.status) == (0, 0), one.err + other.err
    assert one.started and other.started and not one.started & other.started
    assert one.started | other.started == set(CELLS) and [study.starts(cell) for cell in CELLS] == [1, 1, 1]
    assert table_in(one.out) == table_in(other.out) and "# order new-first" in one.out
    assert_same_study(study, alone)


def table_in(output):
    return output[output.index("\n# order "):]


def test_asked_to_end_it_loses_no_step(alone, tmp_path):
    """By SIGTERM, SIGINT and two SIGINTs while cells train, and by SIGTERM while tables are written."""
    study = Study(tmp_path, shortened())
    done = study.run(instants=[Instant(f"*/{FIRST}/resume_toy-sizes.pth", signal="SIGTERM", to=("parent",))])
    assert (done.status, done.err) == (
        75, "interrupted by SIGTERM: rerun the command to continue with what is missing\n")
    done = study.run(instants=[Instant(f"*/{FIRST}/resume_toy-new-shapes.pth", signal="SIGINT", to=("parent",))])
    assert (done.status, done.err) == (
        75, "interrupted by SIGINT: rerun the command to continue with what is missing\n")
    twice = [Instant(f"*/{SECOND}/resume_toy-new-shapes.pth", signal="SIGINT", to=("parent",))] * 2
    done = study.run(instants=twice)
    assert (done.status, done.err) == (130, f"{NOT_AWAITED}\n") and FIRST in study.done()
    done = study.run(instants=[Instant("*/compare.csv", "before", "SIGTERM")])
    assert (done.status, done.err) == (75, "interrupted by SIGTERM\n") and study.done() == set(CELLS)
    done = study.run()
    assert done.status == 0 and not done.started
    assert_same_study(study, alone)


def test_killed_between_trials_and_test_runs_it_chooses_the_same(tmp_path):
    (tmp_path / "whole").mkdir()
    whole, study = Study(tmp_path / "whole", one_row_selected()), Study(tmp_path, one_row_selected())
    done = whole.run("--jobs", "2")
    assert done.status == 0, done.err
    killed = study.run("--jobs", "2", instants=[Instant("*/selection.json", "before")])
    trials = ["select/" + path.name for path in (study.folder / "select").iterdir()]
    assert killed.status == -signal.SIGKILL and killed.started == set(trials) == study.done(trials)
    killed = study.run("--jobs", "2", instants=[Instant("*/selection.json")])
    assert killed.status == -signal.SIGKILL and not killed.started
    chosen = read_json(study.folder / "selection.json")
    assert without_seconds(chosen) == without_seconds(read_json(whole.folder / "selection.json"))
    done = study.run("--jobs", "2")
    assert done.status == 0 and done.started == {FIRST}, done.err
    assert chosen == read_json(study.folder / "selection.json")
    cells = [*trials, FIRST]
    assert [study.starts(cell) for cell in cells] == [1, 1, 1]
    assert_same_study(study, whole, cells)


def test_a_printed_command_trains_what_its_cell_trains(alone, tmp_path):
    study = Study(tmp_path, shortened())
    head, command, *_ = study.run("--dry-run").out.splitlines()
    assert head == f"# {FIRST}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True, timeout=1800,
                   env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": path})
    assert listing(study.folder / FIRST) == listing(alone.folder / FIRST) - {"cell.json", "output.txt"}
    for task in ("toy-sizes", "toy-new-shapes"):
        assert same_weights(*(weights(one.folder / FIRST / f"{task}.pth") for one in (study, alone))), task
