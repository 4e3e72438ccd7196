"""What --report finds: named runs, patterns, folders above runs; in which order, and what is left out."""

import os
from pathlib import Path

import pytest
from report_files import write_run

from src.errors import UserError
from src.machine.files import locked_folder
from src.report.folders import find_runs

pytest_plugins = ["cli_fixtures"]


@pytest.fixture
def study(tmp_path):
    """Two finished cells, one that is not, trials, tables and a lock, as a study leaves them."""
    place = tmp_path / "study"
    for name in ("lwf_2", "lwf_1"):
        write_run(place / name, f"--seed {name[-1]}")
    write_run(place / "select" / "lwf_low", "--lr 1e-6")
    for name, file in (("lwf_3", "output.txt"), ("lwf_4", "run_A.json"), ("order_I", "compare.md")):
        (place / name).mkdir()
        (place / name / file).write_text("", encoding="utf-8")
    (place / "compare.md").write_text("", encoding="utf-8")
    (place / "tables_in_use").write_text("", encoding="utf-8")
    return place


def relative(paths, place):
    return [Path(path).relative_to(place).as_posix() for path in paths]


def test_below_a_folder(study):
    found = find_runs([str(study)])
    assert relative(found.runs, study) == ["lwf_1", "lwf_2"]
    assert {why: relative(paths, study) for why, paths in found.skipped.items()} == {
        "without a finished sequence": ["lwf_3", "lwf_4"], "trials below select": ["select/lwf_low"]}
    assert found.note() == (f"left out: 2 without a finished sequence ({study / 'lwf_3'}, {study / 'lwf_4'}); "
                            f"1 trials below select ({study / 'select' / 'lwf_low'})")


def test_by_a_pattern(study):
    found = find_runs([f"{study}/*"])
    assert relative(found.runs, study) == ["lwf_1", "lwf_2"]
    assert relative(found.skipped["files"], study) == ["compare.md", "tables_in_use"]
    assert relative(find_runs([f"{study}/lwf_[23]"]).runs, study) == ["lwf_2"]
    assert relative(find_runs([f"{study.parent}/**"]).runs, study) == ["lwf_1", "lwf_2"]


@pytest.mark.parametrize("text", ["select", "select/*", "select/lwf_low"])
def test_trials_that_are_named(study, text):
    assert relative(find_runs([f"{study}/{text}"]).runs, study) == ["select/lwf_low"]


def test_trials_below_a_path_that_has_the_word_itself(study):
    place = study.rename(study.parent / "select")
    assert relative(find_runs([str(place)]).runs, place) == ["lwf_1", "lwf_2"]


def test_a_run_that_is_named_comes_as_it_was_given(study):
    """Reading it says what is wrong with one that is not finished, or not there."""
    names = [str(study / name) for name in ("lwf_2", "lwf_4", "lwf_1", "none")]
    assert list(map(str, find_runs(names).runs)) == names


def test_a_run_is_taken_once(study):
    found = find_runs([str(study / "lwf_2"), str(study), f"{study}/../study/lwf_*"])
    assert relative(found.runs[:2], study) == ["lwf_2", "lwf_1"] and len(found.runs) == 2
    assert len(found.skipped["named twice"]) == 3


def test_what_a_run_holds_is_not_looked_into(tmp_path):
    write_run(tmp_path / "run")
    write_run(tmp_path / "run" / "inner")
    assert find_runs([str(tmp_path)]).runs == [tmp_path / "run"]


def test_links(tmp_path):
    """One to a run is followed, one to a folder above is not."""
    write_run(tmp_path / "elsewhere" / "run")
    (tmp_path / "study" / "below").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere" / "run", tmp_path / "study" / "linked")
    os.symlink(tmp_path / "study", tmp_path / "study" / "below" / "again")
    assert find_runs([str(tmp_path / "study")]).runs == [tmp_path / "study" / "linked"]


def test_a_run_in_use_is_left_out(study):
    with locked_folder(study / "lwf_1", "--save"):
        found = find_runs([str(study)])
    assert relative(found.runs, study) == ["lwf_2"]
    assert [why.startswith("in use by ") for why in found.skipped] == [True, False, False]


@pytest.mark.parametrize(("text", "said"), [
    ("order_I", "no finished sequence there; give"), ("lwf_[34]", "(left out: 2 without a finished sequence"),
    ("comp*", "(left out: 1 files"), ("x*", "no finished sequence there; give")])
def test_nothing_there(study, text, said):
    with pytest.raises(UserError, match=r"^--report .*quotes") as caught:
        find_runs([str(study / "lwf_1"), f"{study}/{text}"])
    assert said in str(caught.value) and f"{study}/{text}" in str(caught.value)


def test_from_the_command_line(cli, study, tmp_path):
    done = cli("--report", f"{study}/*")
    assert done.status == 0 and "| lwf_* " in done.out and len(done.err.splitlines()) == 1
    assert done.err.startswith("note: left out: ") and "select" in done.err
    assert cli("--report", study).out == done.out
    assert cli("--report", tmp_path / "no*").status == 2
