"""The choice of a row from the numbers of its trials, and its texts."""

import json
import random

import numpy
import pytest

from src.args import parse
from src.cli.axes import Level
from src.cli.selection import Selection
from src.cli.study import plan_of, read_study
from src.errors import UserError
from src.report.selection import choice_of, refuse_what_decides_nothing, selection_json, selection_markdown

SELECT = Selection((Level("a", "a", {"lr": "1e-5"}), Level("b", "b", {"lr": "1e-4", "we": None})), (), "", ("7", "8"),
                   ("I", "II"))


def values(**numbers):
    return {setting: {f"{setting}-{index}": number for index, number in enumerate(found)}
            for setting, found in numbers.items()}


def test_the_best_mean_is_taken():
    draw = random.Random(0).random
    for _ in range(50):
        numbers = {name: [100 * draw() for _ in range(4)] for name in "abc"}
        means = numpy.array(list(numbers.values())).mean(axis=1)
        assert choice_of("r", values(**numbers), "avg").setting == "abc"[means.argmax()]
        assert choice_of("r", values(**numbers), "forgetting").setting == "abc"[means.argmin()]


def test_of_equal_means_the_first_in_the_file_is_taken_and_announced():
    choice = choice_of("r", values(c=[1.0, 2.0], b=[3.0, 5.0], a=[5.0, 3.0]), "avg")
    assert (choice.setting, choice.tied) == ("b", ("b", "a"))
    text = selection_markdown(SELECT, {"r": choice_of("r", values(b=[3.0], a=[3.0]), "last")}, "last", "task", {})
    assert text.endswith("note: r: b and a tie at last 3; the first in the file is taken\n")


def test_without_all_trials_there_is_no_choice():
    waiting = choice_of("r", values(a=[1.0, None], b=[None, 2.0]), "avg")
    assert (waiting.setting, waiting.why) == (None, "waits for 2 of its 4 trials")
    assert waiting.means == {"a": None, "b": None}
    failed = choice_of("r", values(a=[1.0, None], b=[None, None]), "avg", failed={"a-1", "b-0"})
    assert failed.why == "no choice, because trial a-1 and 1 more failed: fix it, or remove its value from the grid"


def test_the_table_says_what_decided():
    choices = {"r": choice_of("r", values(a=[1.0, 3.0], b=[2.0, 3.0]), "forgetting", 5400.0),
               "s": choice_of("s", values(a=[1.0, None], b=[2.0, 4.0]), "forgetting")}
    text = selection_markdown(SELECT, choices, "forgetting", "all", {"r": "Row"})
    assert text.splitlines()[0] == ("chosen on val images by Forgetting (classes of all, lower is better), the mean "
                                    "over orders I, II and seeds 7, 8")
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert table[0] == ["row", "chosen", "a", "b", "trials", "hours"]
    assert table[2] == ["Row", "a", "2.0", "2.5", "4 of 4", "1.5"] and table[3] == ["s", "-", "-", "3.0", "3 of 4", "0"]
    content = json.loads(json.dumps(selection_json(SELECT, choices, "forgetting", "all")))
    assert content["settings"] == {"a": {"--lr": "1e-5"}, "b": {"--lr": "1e-4", "--we": False}}
    assert content["rows"]["r"]["flags"] == {"--lr": "1e-5"} and content["rows"]["s"]["flags"] is None
    assert "classes of" not in selection_markdown(SELECT, {}, "mean_rsum", "retrieval", {})


TWO = "base: {dataset-order: [toy-sizes, toy-colours], iterations: 1}\naxes: {seed: [1]}\n"
PAIRS = "base: {dataset-order: toy-pairs}\naxes: {seed: [1]}\n"
ONE = "base: {dataset-order: toy-sizes, iterations: 1}\naxes: {seed: [1]}\n"


@pytest.mark.parametrize(("text", "expected"), [
    (TWO + "select: {grid: {lr: [1]}, seeds: [5], by: average}", "by: average is not a number of trial select/my_lr-1"),
    (PAIRS + "select: {grid: {lr: [1]}, seeds: [5], by: avg}", "there are mean_rsum, i2t_r1, t2i_r1"),
    (ONE + "select: {grid: {lr: [1]}, seeds: [5], by: transfer}", "is not defined: a sequence of one task has none"),
    (ONE + "select: {grid: {lr: [1]}, seeds: [5]}", ""),
    (PAIRS + "select: {grid: {lr: [1]}, seeds: [5]}", ""),
    (TWO + "select: {grid: {x: {a: {recipe: BOTH}, b: {}}}, seeds: [5]}", "with --label-space task, trial")])
def test_numbers_that_decide_nothing(text, expected, tmp_path):
    (tmp_path / "both.yaml").write_text("flags: {label-space: all}", encoding="utf-8")
    (tmp_path / "my.yaml").write_text(text.replace("BOTH", str(tmp_path / "both.yaml")), encoding="utf-8")
    study = read_study(str(tmp_path / "my.yaml"))
    plan, _ = plan_of(study, "out", parse)
    if not expected:
        refuse_what_decides_nothing(study.select, plan.trials)
        return
    with pytest.raises(UserError) as caught:
        refuse_what_decides_nothing(study.select, plan.trials)
    assert expected in str(caught.value), str(caught.value)
