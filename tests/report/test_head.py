"""The head of a run's page: what ran, on what, when."""

import dataclasses

import pytest
from report_files import write_run

from src.args import parse
from src.report import head
from src.report.runs import read_run


def values(words):
    return parse(["--dataset-order", "toy", "--iterations", "1", *words.split()]).plain()


@pytest.fixture
def facts(tmp_path):
    """facts(words, ...) -> {name: value}"""
    def call(words="", **options):
        return dict(head.head_facts(read_run(write_run(tmp_path / "run", words, **options))))
    return call


def test_what_a_page_says_first(facts):
    found = facts("--method ZSCL --ref-dataset toy-sizes --we --avg-freq 10")
    assert list(found) == ["method", "model", "trains", "steps per task", "batch", "learning rate", "reference set",
                           "teacher", "averaging", "seed", "precision", "device", "date", "duration"]
    assert (found["reference set"], found["teacher"]) == ("toy-sizes", "zero-shot CLIP")
    assert (found["averaging"], found["device"]) == ("we (avg-freq 10)", "cpu, 1 threads")
    assert (found["date"], found["duration"]) == ("2026-11-27 14:05 UTC", "12.5 s")


def test_what_is_not_there_is_not_said(facts):
    assert not {"reference set", "teacher", "averaging", "date", "device"} & facts(date=None, hardware=None).keys()


@pytest.mark.parametrize(("words", "expected"), [
    ("--method finetune", None), ("--method lwf", head.ENTERED), ("--method icarl --memory-size 8", head.ENTERED),
    ("--method ZSCL --ref-dataset toy-sizes", "zero-shot CLIP"),
    ("--method ZSCL --ref-dataset toy-sizes --ref-model a.pth", "a.pth"),
    ("--method ZSCL --ref-dataset toy-sizes --ref-wise --ref-wise-alpha 0.25",
     f"0.75 zero-shot CLIP + 0.25 {head.ENTERED}"),
    ("--method my.py:Mine", None)])
def test_teachers(words, expected):
    assert head.teacher_of(values(words)) == expected


@pytest.mark.parametrize(("words", "expected"), [
    ("", None), ("--l2 1", None), ("--moving-avg --mv-avg-decay 0.5", "moving-avg (mv-avg-decay 0.5)"),
    ("--we --avg-freq 7 --wise-merge --wise-ft-alpha 0.3",
     "we (avg-freq 7) + wise-merge (wise-ft-alpha 0.3, wise-ft-model n)")])
def test_averages(words, expected):
    assert head.averaging_of(values(words)) == expected


def test_methods_are_named(tmp_path):
    run = read_run(write_run(tmp_path / "run", "--we --lora"))
    assert head.method_title(run) == "finetune + we + lora"
    hooked = read_run(write_run(tmp_path / "hooked", "--l2 1 --hooks my.py:Logger(every=2),my.py:Pull"))
    assert head.method_title(hooked) == "finetune + my.py:Logger(every=2) + my.py:Pull + l2"
    rebuilt = dataclasses.replace(run, trained_with=[{"method": "lwf"}, {"method": "lwf"}, {"method": "icarl"}])
    one = [{"method": "lwf"}, {"method": "lwf", "hooks": ["my.py:Pull"]}]
    assert head.method_title(dataclasses.replace(run, trained_with=one)) == "lwf, lwf + my.py:Pull"
    assert head.method_title(rebuilt) == "lwf, icarl" and dict(head.head_facts(rebuilt))["teacher"] == head.ENTERED


def test_a_resumed_run_says_how_long_it_trained(tmp_path):
    """Its tasks took 2, 3 and 4 seconds."""
    run = read_run(write_run(tmp_path / "run"))
    found = [head.duration_text(dataclasses.replace(run, seconds=seconds)) for seconds in (8.9, 9.0, None)]
    assert found == ["9.0 s of training", "9.0 s", "9.0 s of training"]
    assert head.duration_text(dataclasses.replace(run, seconds=None, tasks={})) is None
