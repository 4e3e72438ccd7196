"""The runs of a reproduction as commands: what a file gives, what the machine adds, what is refused."""

import pytest

from src.args import parse
from src.cli.reproduction_runs import MACHINE, cells_of, jobs_of_reproduction, machine_flags, words_of
from src.cli.reproductions import Reproduction, read_reproduction, reproduction_names
from src.errors import UserError
from src.main import main

EVALUATION = {"eval-only": ["true"], "dataset-order": ["toy-sizes,toy-colours"], "model": ["toy"]}
SEQUENCE = {"recipe": ["finetune"], "dataset-order": ["toy-sizes", "toy-colours"], "iterations": ["3"],
            "lr": ["1e-5"], "warmup-length": ["0"]}


def of(**runs):
    return Reproduction("mine", "nobody", runs, ())


def jobs(reproduction, **beside):
    return jobs_of_reproduction(reproduction, "out", beside, parse)


def test_each_run_is_an_ordinary_command():
    (zero, trained), warnings = jobs(of(zero=EVALUATION, trained=SEQUENCE), device="cpu", data_location="d")
    assert zero.words == tuple("--dataset-order toy-sizes,toy-colours --save out/zero --model toy --device cpu "
                               "--eval-only --data-location d".split())
    assert trained.words == tuple("--dataset-order toy-sizes,toy-colours --recipe finetune --iterations 3 "
                                  "--lr 1e-5 --warmup-length 0 --save out/trained --resume --device cpu "
                                  "--data-location d".split())
    assert zero.tasks == trained.tasks == ("toy-sizes", "toy-colours") and trained.iterations == 3
    assert parse(trained.words).numbers() == trained.numbers and not warnings


def test_a_flag_that_acts_in_no_run_is_warned_of():
    _, warnings = jobs(of(zero=EVALUATION), log_interval="5")
    assert warnings == ["--log-interval has no effect in an evaluation run"]


def test_repeated_flags_and_values_that_look_like_flags():
    [cell] = cells_of(of(one=SEQUENCE | {"set": ["a=1", "b=2"], "template": ["-{c}"]}))
    words = words_of(cell, "out")
    assert "--template=-{c}" in words and " ".join(words).count("--set") == 2


@pytest.mark.parametrize(("flags", "message"), [
    ({"iterration": ["1"]}, "unknown flag iterration; did you mean iterations"),
    ({"save": ["x"]}, "--save is not part of the published setting"),
    ({"data-location": ["x"]}, "--data-location is not part of the published setting"),
    ({"we": ["false"]}, "a flag cannot switch --we off"), ({"we": ["maybe"]}, "--we maybe: expected true or false"),
    ({"lr": ["1"], "batch_size": ["1"], "batch-size": ["2"]}, "--batch-size is given twice")])
def test_flags_that_no_file_may_have(flags, message):
    with pytest.raises(UserError, match=message):
        cells_of(of(one=SEQUENCE | flags))


@pytest.mark.parametrize(("flags", "message"), [
    ({"train-dataset": ["toy-sizes"], "iterations": ["1"]}, "is a training run"),
    (SEQUENCE | {"seed": ["1,2"]}, "is a study run"),
    ({"eval-only": ["true"], "eval-datasets": ["toy-sizes"]}, "with --dataset-order, without --load"),
    (EVALUATION | {"linear-eval": ["toy-sizes"]}, "without --load and --linear-eval"),
    (SEQUENCE | {"lr": ["0"]}, "--lr 0: expected a rate above 0"),
    (SEQUENCE | {"epochs": ["1"]}, "exclude each other")])
def test_runs_that_leave_no_summary_or_are_refused(flags, message):
    with pytest.raises(UserError, match=message) as caught:
        jobs(of(one=flags))
    assert str(caught.value).startswith("--reproduce mine: run one: ")


def test_only_flags_of_the_machine_go_beside_it():
    mine = of(one=SEQUENCE)
    texts = {"reproduce": "mine", "save": "out", "resume": True, "dry_run": "on", "device": "cpu", "workers": "0"}
    assert machine_flags(mine, texts) == {"device": "cpu", "workers": "0"}
    with pytest.raises(UserError, match="--reproduce mine with --lr, --recipe: the file fixes the runs"):
        machine_flags(mine, texts | {"lr": "1", "recipe": "lwf"})


def test_no_flag_of_the_machine_changes_a_number_but_places():
    from src.cli.flags import FLAGS
    assert {key for key in MACHINE if FLAGS[key].numbers} == {"image_dir", "annotations"}


@pytest.mark.parametrize("name", reproduction_names())
def test_ours_are_runs_without_a_warning(name):
    found, warnings = jobs(read_reproduction(name))
    assert len(found) == 1 and not warnings
    assert found[0].numbers["precision"] == "fp32" and found[0].numbers["model"] == "ViT-B/16"


# -- the command line --------------------------------------------------------------------------------------------------


def test_dry_run_prints_the_commands(capsys):
    assert main(["--reproduce", "mtil-1-zeroshot", "--save", "out", "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        "# zero-shot\npython -m src.main --dataset-order mtil-1 --save out/zero-shot --eval-only\n")


@pytest.mark.parametrize(("words", "message"), [
    ("", "give --save DIR"), ("--save setup.py", "is a file"), ("--save out --dry-run probe", "probes a single run"),
    ("--save out --seed 1", "with --seed: the file fixes the runs"),
    ("--save out --jobs 2", "with --jobs: the file fixes the runs")])
def test_what_the_command_line_may_not_say(words, message, capsys):
    assert main(["--reproduce", "mtil-1-zeroshot", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_processes_of_torchrun_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    from src.cli.checks import check
    with pytest.raises(UserError, match="a reproduction starts its own"):
        check(parse(["--reproduce", "mtil-1-zeroshot", "--save", "out"]))
