"""Progress: lines in logs, bars on a (pseudo-)terminal, nothing where quiet is asked for."""

import os
import pty
import re
import select
import sys
from types import SimpleNamespace

import pytest

from src.machine import progress as module
from src.machine.progress import Above, Bars, Lines, Progress, clock, long_text, progress, short_text

LINE = {"iteration": 40, "task": 1.2344, "kl": 0.5, "lr": 3e-4, "images_per_second": 511.6}


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until told."""
    time = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time.seconds))
    return time


@pytest.fixture
def terminal():
    """A pseudo-terminal of 24 rows and 100 columns -> stream to write to, read() all that came out of it."""
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    stream = open(theirs, "w", encoding="utf-8", buffering=1)

    def read():
        found = b""
        while select.select([ours], [], [], 0.05)[0]:
            found += os.read(ours, 65536)
        return found.decode()
    yield SimpleNamespace(stream=stream, read=read)
    stream.close()
    os.close(ours)


def screen(text):
    """What a terminal shows after a text with carriage returns, line feeds, cursor up and erasures: its lines."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part.startswith("\x1b"):
            assert part == "\x1b[A", f"unknown sequence {part!r}"
            row -= 1
        else:
            old = lines[row].ljust(column)
            lines[row] = old[:column] + part + old[column + len(part):]
            column += len(part)
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize(("seconds", "text"), [(12, "0:12"), (59.6, "1:00"), (3725.4, "1:02:05"), (0, "0:00")])
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(("line", "terms", "short", "long"), [
    (LINE, ["task", "kl"], "loss 1.734, lr 3e-04, 512 images/s",
     "loss 1.734, task 1.234, kl 0.500, lr 3e-04, 512 images/s"),
    (LINE, ["task"], "loss 1.234, lr 3e-04, 512 images/s", "loss 1.234, kl 0.500, lr 3e-04, 512 images/s"),
    ({"iteration": 1, "lr": 2.5e-5}, [], "lr 2.5e-05", "lr 2.5e-05"),
    (LINE | {"task": float("nan")}, ["task", "kl"], "loss nan, lr 3e-04, 512 images/s",
     "loss nan, task nan, kl 0.500, lr 3e-04, 512 images/s")])
def test_a_line_of_the_log_as_text(line, terms, short, long):
    """A bar has the loss; a line its terms too, and what was measured beside it."""
    assert short_text(line, terms) == short and long_text(line, terms) == long


# -- lines -------------------------------------------------------------------------------------------------------------


def test_lines_of_a_sequence(now, capsys):
    lines = Lines()
    lines.plan({"toy-shapes": 100, "toy-sizes": 100})
    lines.task("toy-shapes")
    for iteration in range(1, 101):
        now.seconds += 1.0
        lines.step()
        if iteration % 10 == 0:
            lines.tell(LINE | {"iteration": iteration}, ["task", "kl"])
    lines.end_task()
    lines.task("toy-sizes")
    told = capsys.readouterr().out.splitlines()
    terms = "loss 1.734, task 1.234, kl 0.500, lr 3e-04, 512 images/s"
    steps = [f"toy-shapes: step {step} of 100, {terms}, {left} left"
             for step, left in ((10, "1:30"), (40, "1:00"), (70, "0:30"), (100, "0:00"))]
    assert told == ["task 1 of 2: toy-shapes, 100 steps", *steps,
                    "task 2 of 2: toy-sizes, 100 steps, about 1:40 left in all"]


def test_steps_of_an_earlier_run_tell_nothing_about_time(now, capsys):
    lines = Lines()
    lines.plan({"one": 50, "two": 100, "three": 100})
    lines.skip("one")
    lines.task("two", after=80)
    for _ in range(10):
        now.seconds += 2
        lines.step()
    assert lines.seconds_left() == (20, 220)  # 10 steps of this task and 100 of the next, 2 s each
    assert capsys.readouterr().out == "task 2 of 3: two, 100 steps\n"


def test_a_task_without_a_plan(now, capsys):
    Lines().task("linear layer on DTD", steps=5, unit="epoch")
    assert capsys.readouterr().out == "task 1 of 1: linear layer on DTD, 5 epochs\n"


def batches(*sizes):
    return [SimpleNamespace(labels=range(size)) for size in sizes]


def test_a_long_evaluation_is_told_of(now, capsys):
    lines, given = Lines(), batches(128, 128, 128, 16)
    lines.told = now.seconds
    for batch in lines.counted("DTD", 400, tuple(given)):
        now.seconds += 20
        assert batch is given.pop(0)
    assert capsys.readouterr().out == "scoring DTD: 256 of 400 images\n" and not given


def test_quiet_says_nothing(capsys):
    with progress(quiet=True) as shown:
        shown.plan({"one": 2, "two": 2})
        shown.task("one")
        shown.step()
        shown.tell(LINE, ["task", "kl"])
        assert list(shown.counted("DTD", 4, batches(4)))
        shown.end_task()
        shown.skip("two")
    assert type(shown) is Progress and capsys.readouterr() == ("", "")


def test_what_is_no_terminal_gets_lines(capsys):
    assert type(progress()) is Lines


def test_a_terminal_without_a_width_gets_lines(monkeypatch):
    ours, theirs = pty.openpty()  # of no size
    with open(theirs, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert type(progress()) is Lines
    os.close(ours)


# -- bars --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def start(terminal, monkeypatch):
    """start() -> Bars on the terminal, with stdout and stderr there as well, drawn at every step."""
    def start():
        monkeypatch.setattr(sys, "stderr", terminal.stream)
        monkeypatch.setattr(sys, "stdout", terminal.stream)
        monkeypatch.setattr(module, "tqdm", eager(module.tqdm))
        shown = progress()
        assert type(shown) is Bars
        return shown
    return start


def eager(original):
    class Eager(original):
        def __init__(self, *args, **options):
            super().__init__(*args, **options, mininterval=0, miniters=1)
    return Eager


def test_bars(start, terminal):
    with start() as bars:
        bars.plan({"toy-shapes": 4, "toy-sizes": 4})
        bars.skip("toy-shapes")
        bars.task("toy-sizes")
        bars.step()
        bars.tell(LINE, ["task", "kl"])
        bars.step()
        whole, task = screen(terminal.read())[:2]
        assert whole.startswith("task 2 of 2: toy-sizes:  75%") and "6/8" in whole
        assert task.startswith("toy-sizes:  50%") and "2/4" in task and "loss 1.734" in task
        for _ in bars.counted("DTD", 8, batches(4, 4)):
            pass
        assert "scoring DTD:  50%" in terminal.read()
        bars.end_task()
    assert screen(terminal.read())[-1] == ""


def test_one_task_has_one_bar(start, terminal):
    with start() as bars:
        bars.plan({"DTD": 4})
        bars.task("DTD", after=2)
        bars.step()
        assert [line[:10] for line in screen(terminal.read()) if line] == ["DTD:  75%|"]


def test_what_is_printed_comes_above_the_bars(start, terminal):
    with start() as bars:
        bars.plan({"one": 4, "two": 4})
        bars.task("one")
        for step in range(3):
            bars.step()
            print(f"warning {step}", file=sys.stderr)
            print("in two", end=" ")
            print("parts")
        shown = [line for line in screen(terminal.read()) if line]
    assert shown[:6] == [line for step in range(3) for line in (f"warning {step}", "in two parts")]
    assert shown[6].startswith("task 1 of 2: one:  38%") and shown[7].startswith("one:  75%") and len(shown) == 8


def test_an_error_leaves_no_bars(start, terminal):
    with pytest.raises(KeyboardInterrupt), start() as bars:
        bars.plan({"one": 4, "two": 4})
        bars.task("one")
        bars.step()
        for _ in bars.counted("DTD", 8, batches(4, 4)):
            print("no end", end="")
            raise KeyboardInterrupt
    assert sys.stdout is sys.stderr is terminal.stream and not bars._open
    print("Traceback")
    assert [line for line in screen(terminal.read()) if line] == ["no endTraceback"]


def test_other_properties_of_a_stream_stay(terminal):
    stream = Above(terminal.stream, terminal.stream)
    assert stream.isatty() and stream.encoding == "utf-8" and stream.write("abc") == 3
