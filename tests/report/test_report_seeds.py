"""Runs that differ only in their seed: which are one row, and what it is called."""

import statistics

import pytest
from comparisons import rows_of, shifted
from report_files import write_run


def test_runs_that_differ_only_in_their_seed_are_one_row(tmp_path):
    folders = [write_run(tmp_path / f"{method}-s{seed}", f"--method {method} --seed {seed}", matrix=shifted(change))
               for method, seed, change in (("finetune", 1, 0), ("finetune", 2, 3), ("lwf", 1, 1), ("finetune", 3, -2),
                                            ("lwf", 2, 2))]
    _, first, second = rows_of(*folders)
    assert (first.name, len(first.runs)) == ("lwf-s*", 2) and (second.name, len(second.runs)) == ("finetune-s*", 3)
    average = 560 / 9
    assert second.numbers["avg"] == pytest.approx(statistics.mean([average, average + 3, average - 2]))
    assert second.deviations["avg"] == pytest.approx(((1 / 3) ** 2 + (8 / 3) ** 2 + (7 / 3) ** 2) ** 0.5 / 2 ** 0.5)
    assert second.deviations["bwt"] == pytest.approx(0, abs=1e-12)
    assert first.flags == {"--method": "lwf"} and second.flags == {"--method": "finetune"}


@pytest.mark.parametrize(("words", "facts"), [
    ("--lr 1e-5", {}), ("--T 3", {}), ("--recipe finetune --iterations 2", {}), ("", {"precision": "bf16"}),
    ("", {"spaces": ("task", "all")})])
def test_what_can_change_a_number_keeps_runs_apart(tmp_path, words, facts):
    folders = [write_run(tmp_path / "one", "--seed 1"), write_run(tmp_path / "two", f"--seed 2 {words}", **facts)]
    assert [len(row.runs) for row in rows_of(*folders)[1:]] == [1, 1]


@pytest.mark.parametrize("words", ["--workers 0 --save elsewhere", "--quiet --log-interval 7 --device cpu", ""])
def test_what_changes_no_number_does_not(tmp_path, words):
    folders = [write_run(tmp_path / "one", "--seed 1"),
               write_run(tmp_path / "two", f"--seed 2 {words}", commit="another", hardware="another", seconds=3.0)]
    assert [len(row.runs) for row in rows_of(*folders)[1:]] == [2]


def test_a_run_and_its_copy_are_not_two_draws(tmp_path):
    folders = [write_run(tmp_path / name, f"--seed {seed}") for name, seed in (("one", 1), ("two", 2), ("copy", 1))]
    assert sorted(row.runs for row in rows_of(*folders)[1:]) == [
        (str(tmp_path / "copy"),), (str(tmp_path / "one"), str(tmp_path / "two"))]


def test_matrices_of_single_runs_are_told_apart_by_how_those_were_trained(tmp_path):
    """Flags of the command that rebuilt the matrix say nothing of it, and its files lie elsewhere for each seed."""
    folders = [write_run(tmp_path / f"{method}{seed}", f"--seed {seed} --load {method}{seed}/A.pth",
                         trained_with=[{"method": method, "seed": seed, "load": f"{method}{seed}", "ls": ls}
                                       for ls in (0.0, 0.1)])
               for method, seed in (("lwf", 1), ("lwf", 2), ("ZSCL", 1))]
    rows = rows_of(*folders)[1:]
    assert sorted((row.name, len(row.runs), row.flags["--method"]) for row in rows) == [
        ("ZSCL1", 1, "ZSCL"), ("lwf*", 2, "lwf")]


@pytest.mark.parametrize(("places", "names"), [
    (["a/zscl", "b/zscl"], ["a/zscl", "b/zscl"]), (["a/b", "a/c"], ["b", "c"]), (["a"], ["a"]),
    (["a", "a/b"], ["a", "a/b"])])
def test_rows_are_named_by_their_folders(tmp_path, places, names):
    folders = [write_run(tmp_path / place, f"--iterations {number + 1}") for number, place in enumerate(places)]
    assert [row.name for row in rows_of(*folders)[1:]] == names


@pytest.mark.parametrize(("places", "names"), [
    (["s1/a", "s2/a", "s1/b", "s2/b"], ["s*/a", "s*/b"]), (["1", "11", "2", "12"], ["1*", "*2"]), (["a", "b"], ["a,b"]),
    (["m1", "m2", "m3", "m4"], ["m1,m2", "m3,m4"])])
def test_groups_are_named_by_what_their_folders_share(tmp_path, places, names):
    folders = [write_run(tmp_path / place, f"--iterations {1 + number // 2} --seed {number}")
               for number, place in enumerate(places)]
    assert [row.name for row in rows_of(*folders)[1:]] == names
