"""What surrounds a command that Python calls."""

import sys
import warnings

import pytest
import torch

from clip.errors import LoadError
from src.api.session import RunWarning, session, torch_as_before
from src.errors import UserError
from src.machine.interruption import Interrupted
from src.machine.notices import warn


def speak():
    print("a line")
    print("an error", file=sys.stderr)


def test_nothing_is_printed_unless_asked(capsys):
    with session() as printed:
        speak()
    assert capsys.readouterr() == ("", "") and printed.text == "a line\nan error\n"
    with session(verbose=True) as printed:
        speak()
    assert capsys.readouterr() == ("a line\n", "an error\n") and printed.text == "a line\n"


def test_warnings_are_of_python_and_point_at_the_caller(capsys):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with session():
            warn("--lr 1 is high")
    [found] = caught
    assert found.category is RunWarning and str(found.message) == "`lr` 1 is high" and found.filename == __file__
    with session(verbose=True):
        warn("--lr 1 is high")
    assert capsys.readouterr().err == "warning: --lr 1 is high\n"


def test_a_warning_may_be_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RunWarning), session():
            warn("high")
    with warnings.catch_warnings(record=True) as caught, session():
        warnings.simplefilter("always")
        warn("again")
    assert len(caught) == 1  # the receiver of the session that failed is gone


@pytest.mark.parametrize(("raised", "kind", "text"), [
    (UserError("--save x: no"), UserError, "`save` x: no"), (LoadError("--load x: no"), UserError, "`load` x: no"),
    (Interrupted("interrupted by SIGINT: with --resume"), KeyboardInterrupt, "interrupted by SIGINT: with `resume`"),
    (Interrupted("interrupted by SIGTERM: kept"), Interrupted, "interrupted by SIGTERM: kept"),
    (KeyboardInterrupt(), KeyboardInterrupt, ""), (ValueError("mine"), ValueError, "mine")])
def test_how_it_ends(raised, kind, text):
    with pytest.raises(BaseException) as caught, session():
        raise raised
    assert type(caught.value) is kind and str(caught.value) == text


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="torchrun"), session():
        pass


def test_torch_is_left_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with torch_as_before():
        torch.manual_seed(8)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.allow_tf32 = not torch.backends.cudnn.allow_tf32
        before = torch.backends.cudnn.allow_tf32
    assert torch.equal(torch.rand(2), expected) and not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.allow_tf32 is not before
