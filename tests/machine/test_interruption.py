"""Signals: noted while a step is under way, raised elsewhere, and a second SIGINT ends at once."""

import os
import signal

import pytest

from src.machine.interruption import HEARD, Interrupted, Signals

NUMBERS = [getattr(signal, name) for name in HEARD]


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_outside_of_steps_ends_the_run(number):
    with Signals(), pytest.raises(Interrupted, match=f"interrupted by {signal.Signals(number).name}"):
        send(number)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_within_a_step_is_noted(number):
    with Signals() as signals, signals.held():
        assert signals.name is None
        send(number)
        assert signals.name == signal.Signals(number).name
        with pytest.raises(Interrupted), signals.released():
            pytest.fail("what was noted is raised before anything long begins")


def test_between_held_parts_a_signal_is_raised():
    with Signals() as signals, signals.held():
        with pytest.raises(Interrupted), signals.released():
            send(signal.SIGTERM)
        send(signal.SIGUSR1)  # held again; the first one heard keeps its name
        assert signals.name == "SIGTERM"


def test_a_second_sigint_ends_at_once():
    with Signals() as signals, signals.held():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_sigint_after_another_signal_is_the_first_of_its_kind():
    with Signals() as signals, signals.held():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert signals.name == "SIGTERM"


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in NUMBERS]
    with pytest.raises(ZeroDivisionError), Signals():
        assert [signal.getsignal(number) for number in NUMBERS] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize("number", NUMBERS)
def test_what_cannot_hear_signals_is_ended_by_them(number):
    with Signals() as signals:
        pid = os.fork()
        if not pid:
            with signals.unheard():
                send(number)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == number
        with signals.unheard():
            pass
        with pytest.raises(Interrupted):
            send(number)
        with pytest.raises(Interrupted), signals.unheard():
            pytest.fail("it was heard where exceptions are lost, and is raised before anything else")


def test_who_catches_exceptions_does_not_catch_an_interruption():
    with Signals(), pytest.raises(Interrupted):
        try:
            send(signal.SIGTERM)
        except Exception:
            pytest.fail("taken for an exception of what was interrupted")


def test_a_forked_loader_does_not_stop():
    with Signals():
        pid = os.fork()
        if not pid:
            try:
                for number in NUMBERS:
                    send(number)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0


def test_a_hang_up_is_heard_where_that_is_wanted_and_it_is_not_ignored():
    """nohup ignores it."""
    heard = []
    before = signal.signal(signal.SIGHUP, lambda *_: heard.append("before"))
    try:
        with Signals():
            send(signal.SIGHUP)
        assert heard == ["before"]
        with Signals(hang_up=True), pytest.raises(Interrupted, match="interrupted by SIGHUP"):
            send(signal.SIGHUP)
        send(signal.SIGHUP)
        assert heard == ["before"] * 2
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with Signals(hang_up=True) as signals:
            send(signal.SIGHUP)
        assert signals.name is None
    finally:
        signal.signal(signal.SIGHUP, before)
