"""A flag by itself."""

import pytest

from src.cli.definition import Flag, switch
from src.cli.kinds import TRAINING


@pytest.mark.parametrize(("name", "key"), [("--lr", "lr"), ("--batch-size", "batch_size"), ("--T", "T")])
def test_the_key_of_a_flag_is_a_name_in_python(name, key):
    assert Flag(name, "").key == key


def test_a_switch_is_off_unless_given():
    flag = switch("--s", "help", numbers=False)
    assert flag.switch and flag.default is False and not flag.numbers and flag.runs == TRAINING
