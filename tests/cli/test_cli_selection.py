"""`select:` in the file of a study: which trials there are, their commands, and what is refused before any runs."""

import pytest

from src.args import parse
from src.cli.study import plan_of
from src.errors import UserError

pytest_plugins = ["study_fixtures"]

GRID = """
base: {dataset-order: toy, iterations: 7, shots: 4}
axes:
  method: [finetune, lwf]
  variant: {plain: {}, pulled: {l2: 1}}
  orders: {I: [toy-sizes, toy-colours], II: [toy-colours, toy-sizes]}
  seeds: [1, 2]
exclude: [{method: lwf, orders: II}]
"""
SELECT = "select: {grid: {lr: [1e-5, 1e-4], variant2: {bare: {}, smooth: {ls: 0.1}}}, seeds: [101, 102]}\n"


@pytest.fixture
def plan(study):
    return lambda text, beside=(): plan_of(study(text, beside), "out", parse)[0]


ORDERED = GRID.replace("dataset-order: toy, ", "") + SELECT


def test_every_row_has_equally_many_trials(plan):
    """Four settings, both orders and two seeds: also a row that is tested in one order only."""
    found = plan(ORDERED)
    rows = {}
    for trial in found.trials:
        rows.setdefault(trial.cell.row, []).append(trial)
    assert {row: len(trials) for row, trials in rows.items()} == dict.fromkeys(
        ("finetune_plain", "finetune_pulled", "lwf_plain", "lwf_pulled"), 16)
    assert [trial.name for trial in rows["lwf_pulled"]][:5] == [
        "select/lwf_pulled_lr-1e-5_bare_I_seed-101", "select/lwf_pulled_lr-1e-5_bare_I_seed-102",
        "select/lwf_pulled_lr-1e-5_bare_II_seed-101", "select/lwf_pulled_lr-1e-5_bare_II_seed-102",
        "select/lwf_pulled_lr-1e-5_smooth_I_seed-101"]
    assert {trial.numbers["eval_split"] for trial in found.trials} == {"val"}
    assert {trial.numbers["seed"] for trial in found.trials} == {101, 102}
    trial = rows["lwf_pulled"][-1]
    assert (trial.numbers["lr"], trial.numbers["ls"], trial.numbers["l2"], trial.numbers["shots"]) == (
        {"": 1e-4}, 0.1, 1.0, 4)
    assert trial.tasks == ("toy-colours", "toy-sizes") and str(trial.folder) == f"out/{trial.name}"


def test_names_of_cells_and_trials_stay_when_values_are_added(study):
    before, after = study(ORDERED), study(ORDERED.replace("[1e-5, 1e-4]", "[1e-3, 1e-4, 1e-5]").replace("102]", "9]"))
    names = {trial.name for trial in after.select.trials}
    assert {trial.name for trial in before.select.trials if not trial.name.endswith("102")} <= names
    assert [cell.name for cell in before.cells] == [cell.name for cell in after.cells]
    assert not any("lr" in cell.name for cell in after.cells)


def test_a_cell_takes_the_setting_of_its_row(plan):
    found = plan(ORDERED)
    rows = {job.cell.row for job in found.first}
    choices = dict.fromkeys(rows, ("lr-1e-4_smooth", "")) | {"lwf_plain": (None, "waits for 3 of its 16 trials")}
    for job in found.chosen(choices):
        if job.cell.row == "lwf_plain":
            assert job.words == () and job.waits_for == "waits for 3 of its 16 trials"
        else:
            config = parse(job.words)
            assert (config.lr, config.ls, config.eval_split, config.seed in (1, 2)) == ({None: 1e-4}, 0.1, "test", True)
            assert job.numbers == config.numbers() and not job.waits_for


def test_trials_on_other_orders_with_flags_of_theirs(plan):
    text = GRID + ("select:\n  grid: {lr: [1e-5, 1e-4]}\n  seeds: [101]\n  by: last\n"
                   "  on: {orders: ['random:2@3', mtil-2], val-fraction: 0.1, iterations: 3}\n")
    found = plan(text.replace("orders: {I:", "orders: {I: toy-sizes, R: 'random:1@1', J:"))
    orders = [trial.cell.order for trial in found.trials if trial.cell.row == "lwf_plain"]
    assert orders == ["random-3-1", "random-3-2", "mtil-2"] * 2
    assert {(trial.numbers["val_fraction"], trial.iterations) for trial in found.trials} == {(0.1, 3)}
    assert {(job.numbers["val_fraction"], job.iterations) for job in found.first} == {(None, 7)}
    assert len(found.trials[0].tasks) == 8 and found.trials[0].numbers["shots"] == 4


def test_without_an_axis_of_orders_trials_have_the_base_order(plan):
    found = plan("base: {dataset-order: toy}\naxes: {seed: [1]}\nselect: {grid: {lr: [1e-5]}, seeds: [5]}")
    assert [trial.name for trial in found.trials] == ["select/my_lr-1e-5_toy_seed-5"]
    assert found.trials[0].iterations == 100, "a named order has its protocol"


def test_a_grid_over_a_value_of_the_protocol_of_random_orders(plan):
    found = plan("base: {dataset-order: toy}\naxes: {orders: ['random:1@1']}\n"
                 "select: {grid: {epochs: [1, 2]}, seeds: [5]}")
    for job in (*found.trials, *found.first):
        assert job.iterations is None and job.numbers["batch_size"] == 64


BASE = "base: {dataset-order: toy}\naxes: {method: [finetune, lwf], seed: [1, 2], wd: {a: 0.1}}\n"
NUMBERS = [*range(1, 52)]
WRONG = {
    "an unknown key": ("select: {grids: {}}", "select: unknown key grids; did you mean grid?"),
    "no grid": ("select: {seeds: [5]}", "select: has no grid:"),
    "no seeds": ("select: {grid: {lr: [1]}}", "select: has no seeds:"),
    "an empty grid": ("select: {grid: {}, seeds: [5]}", "select: has no grid:"),
    "an unknown flag": ("select: {grid: {lrr: [1]}, seeds: [5]}", "select: grid: lrr: unknown flag lrr; did you mean"),
    "a flag of an axis": ("select: {grid: {wd: [1]}, seeds: [5]}", "axes wd and select: grid: wd both set --wd"),
    "two of one flag": ("select: {grid: {lr: [1], x: {a: {lr: 2}}}, seeds: [5]}", "both set --lr"),
    "a seed of a cell": ("select: {grid: {lr: [1e-5]}, seeds: [5, 2]}",
                         "select: seeds: 2 is the seed of cell lwf_seed-2_a too; give the trials other seeds"),
    "a grid over orders": ("select: {grid: {orders: [toy]}, seeds: [5]}", "grid: --dataset-order is not allowed here"),
    "a grid over seeds": ("select: {grid: {seeds: [3]}, seeds: [5]}", "trials have the seeds of select: seeds"),
    "a grid over label spaces": ("select: {grid: {label-space: [task, all]}, seeds: [5]}",
                                 "--label-space is not allowed here: settings are compared on the same images"),
    "a split": ("select: {grid: {lr: [1]}, seeds: [5], on: {eval-split: test}}", "trials are scored on val"),
    "on a seed": ("select: {grid: {lr: [1]}, seeds: [5], on: {seed: 3}}", "on: --seed is not allowed here"),
    "on a flag of an axis": ("select: {grid: {lr: [1]}, seeds: [5], on: {wd: 3}}", "on: --wd is set by wd too"),
    "on a flag of the grid": ("select: {grid: {lr: [1]}, seeds: [5], on: {lr: 3}}",
                              "on: --lr is set by select: grid: lr too"),
    "orders twice": ("select: {grid: {lr: [1]}, seeds: [5], on: {orders: [toy], dataset-order: [toy]}}",
                     "on: orders and dataset-order are the same"),
    "orders with flags": ("select: {grid: {lr: [1]}, seeds: [5], on: {orders: {a: {dataset-order: toy, wd: 1}}}}",
                          "on: orders: expected only orders"),
    "a flag of the study": ("select: {grid: {save: [a]}, seeds: [5]}", "--save belongs to the whole study"),
    "too many": (f"select: {{grid: {{lr: {NUMBERS}, l2: {NUMBERS}}}, seeds: [5]}}", "select: more than 10000 trials"),
    "a value that is refused": ("select: {grid: {lr: [1e-5, abc]}, seeds: [5]}", "--lr abc: expected a rate"),
    "by a list": ("select: {grid: {lr: [1]}, seeds: [5], by: [avg]}", "select: by must be a text"),
    "two settings of one name": ("select: {grid: {x: {a: {lr: 1}, A: {lr: 2}}, l2: {b: 1}}, seeds: [5]}",
                                 "grid: two settings are called a_b"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_in_a_selection(case, plan):
    text, expected = WRONG[case]
    with pytest.raises(UserError) as caught:
        plan(BASE + text)
    assert expected in str(caught.value), str(caught.value)


def test_a_base_below_the_grid_and_flags_beside(plan):
    text = "base: {dataset-order: toy, lr: 1}\naxes: {seed: [1]}\nselect: {grid: {lr: [2]}, seeds: [5], on: {l2: 1}}"
    with pytest.raises(UserError, match="base has --lr, which axis select: grid: lr replaces in every cell"):
        plan(text)
    text = text.replace(", lr: 1", "")
    for key in ("lr", "l2"):
        with pytest.raises(UserError, match=f"--{key} is set .*; leave it out of the command line"):
            plan(text, {key: "3"})
    found = plan(text, {"device": "cpu"})
    assert [job.device for job in (*found.trials, *found.first)] == ["cpu", "cpu"]


def test_a_cell_called_as_the_folder_of_trials(plan):
    with pytest.raises(UserError, match="a cell is called select, like the folder of the trials"):
        plan("base: {dataset-order: toy}\naxes: {l2: {select: 1}}\nselect: {grid: {lr: [2]}, seeds: [5]}")
