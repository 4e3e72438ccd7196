"""Kinds of runs: each has its command, and each flag acts in some of them."""

from src import main
from src.cli.flags import FLAGS
from src.cli.kinds import (
    CHECK,
    EVAL,
    EXPORT,
    EXPORTING,
    FETCH,
    LIST,
    REPORT,
    REPRODUCE,
    RESCORE,
    SEQUENCE,
    SINGLE,
    STUDY,
    TRAIN,
    WEIGHTS,
)

KINDS = {TRAIN, SEQUENCE, EVAL, SINGLE, REPORT, LIST, CHECK, EXPORT, STUDY, REPRODUCE, RESCORE, FETCH}


def test_each_kind_has_its_command():
    assert set(main.RUNS) == KINDS
    assert {*WEIGHTS, *EXPORTING} <= KINDS


def test_each_flag_acts_in_some_kind():
    for flag in FLAGS.values():
        assert flag.runs and set(flag.runs) <= KINDS, flag.name
