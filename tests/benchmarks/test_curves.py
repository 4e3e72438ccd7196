"""Each curve has a number for each of its points at the least size; turns, ratios, table and plot."""

import pytest
from clock import Clock

from benchmarks import curves
from src.machine.distributed import World

SIZE = "test"
POINTS = curves.SIZES[SIZE]


def assert_whole(found, points):
    assert [point["at"] for point in found] == list(points)
    assert all(point["least"] <= point["ratio"] <= point["greatest"] and point["ratio"] > 0 for point in found)
    assert all(len(point["seconds"]) == POINTS["rounds"] for point in found)


def test_the_step_against_sentences():
    found = curves.by_sentences(SIZE)
    assert found.keys() == {"ZSCL"} and found["ZSCL"][0]["ratio"] == 1
    assert_whole(found["ZSCL"], POINTS["sentences"])


def test_the_step_against_tasks_learned():
    found = curves.by_tasks(SIZE)
    assert tuple(found) == curves.LEARNED
    for each in found.values():
        assert_whole(each, POINTS["tasks"])


def test_one_process_takes_classes_and_datasets():
    found = curves.shared(SIZE, World())
    assert found.keys() == {"step", "evaluation"}
    assert_whole(found["step"][1], POINTS["classes"])
    assert_whole(found["evaluation"][1], POINTS["datasets"])


@pytest.mark.slow
def test_the_command_measures_two_processes_and_plots(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert curves.main(["--size", SIZE, "--folder", str(tmp_path)]) == 0
    found, = curves.json.loads((tmp_path / "curves.json").read_text())
    assert found["curves"].keys() == curves.PANELS.keys() and found["versions"]["torch"]
    assert found["curves"]["classes"].keys() == {"1 process", "2 processes"}
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert "| evaluation against datasets | 2 processes |" in capsys.readouterr().out


# -- what grows does grow ----------------------------------------------------------------------------------------------


def test_bases_and_memories_are_those_of_so_many_tasks(tmp_path):
    from src.models.bases import read_gradients
    rows = [sum(len(entry["basis"]) for entry in read_gradients(path).values())
            for path in curves.chained_bases(SIZE, 3, tmp_path)]
    assert 0 < rows[0] < rows[1] < rows[2]
    memories = curves.memories_of(SIZE, 2)
    assert [[entry["source"] for entry in memory["memory"]] for memory in memories] == [
        ["task 0"], ["task 0", "task 1"]]


# -- turns and ratios --------------------------------------------------------------------------------------------------


def test_points_take_turns_after_a_round_that_is_not_timed():
    clock = Clock()
    found = curves.turns({1: clock.work("a", 9, 1, 2), 2: clock.work("b", 9, 3, 5)}, 2, clock=clock)
    assert clock.calls == ["a", "b"] * 3 and found == {1: [1, 2], 2: [3, 5]}


def test_ratios_are_to_the_first_point_of_the_same_round():
    first, second = curves.curve({10: [1.0, 2.0, 4.0], 30: [3.0, 4.0, 4.0]})
    assert (first["ratio"], second["ratio"], second["least"], second["greatest"]) == (1, 2, 1, 3)
    halves = curves.split_by_processes({(1, 10): [4.0], (1, 30): [8.0], (2, 10): [2.0], (2, 30): [6.0]})
    assert [[point["ratio"] for point in halves[number]] for number in (1, 2)] == [[1, 2], [0.5, 1.5]]


def test_a_stepper_goes_one_step_a_call_and_tells_errors():
    state = curves.state_of(SIZE, curves.random_task("task", SIZE))
    step = curves.Stepper(state, curves.Finetune())
    for number in (1, 2, 3):
        step()
        assert state.iteration == number
    with pytest.raises(AttributeError):
        curves.Stepper(state, None)()
