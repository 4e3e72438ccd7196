"""Progress display: bars on a terminal, a line now and then elsewhere, nothing if quiet. Counts steps and
images on the host and never queries the device, so that no step waits for a bar.

    with progress(quiet=False) as shown:
        shown.plan({"DTD": 1000, "MNIST": 1000})
        shown.task("DTD")
        shown.step()                                                    # after each step
        shown.tell({"iteration": 10, "task": 1.2, "lr": 1e-5, "images_per_second": 512.0}, ["task"])
        shown.end_task()
"""

import contextlib
import os
import sys
import time

from tqdm import tqdm

EVERY = 30  # seconds between lines
NO_TERMS = ("iteration", "lr", "images_per_second")  # of a log line


def progress(quiet=False):
    """Return the Progress that suits stderr, where bars go, and stdout, where lines go. A terminal without
    a known width, as in some containers, gets lines."""
    if quiet:
        return Progress()
    return Bars() if sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns else Lines()


class Progress:
    """Shows nothing, and counts what subclasses show. Call ``plan`` first if there are several tasks; a
    task outside the plan stands alone."""

    def __init__(self):
        self.tasks, self.name, self.number, self.unit = {}, None, 0, "step"
        self.trained = self.left = self.steps = self.after = self.iteration = 0
        self.began = self.task_began = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def plan(self, tasks):
        """Set {name: its steps} of all tasks, in order."""
        self.tasks, self.left, self.began = dict(tasks), sum(tasks.values()), time.monotonic()

    def task(self, name, after=0, steps=None, unit="step"):
        """Begin a task, or resume it ``after`` that many steps; give ``steps`` if it is not in the plan."""
        self.name, self.number, self.unit = name, self.number + 1, unit
        self.steps = self.tasks.get(name, steps)
        self.after = self.iteration = after
        self.left -= after
        self.task_began = time.monotonic()

    def skip(self, name):
        """Skip a task that was finished before."""
        self.number += 1
        self.left -= self.tasks.get(name, 0)

    def step(self):
        self.iteration += 1
        self.trained += 1
        self.left -= 1

    def tell(self, line, terms=("loss",)):
        """Show the log line of the last step: "iteration", terms and metrics by name, "lr",
        "images_per_second". ``terms`` are the names whose sum is the loss."""

    def end_task(self):
        """End the steps of a task, finished or interrupted."""

    def counted(self, name, images, batches):
        """Yield the Batches of a dataset whose ``images`` are being scored, counting them."""
        return batches

    @property
    def title(self):
        return f"task {self.number} of {max(len(self.tasks), self.number)}: {self.name}"

    def seconds_left(self):
        """Return seconds left for this task and for all tasks, from the steps done so far, evaluations
        included; None before the first."""
        now, done = time.monotonic(), self.iteration - self.after
        task = (now - self.task_began) / done * (self.steps - self.iteration) if done else None
        return task, (now - self.began) / self.trained * self.left if self.trained else None


class Lines(Progress):
    """For logs: a line at the start of each task, then the log line of the first step and of one every
    ``EVERY`` seconds."""

    def __init__(self):
        super().__init__()
        self.told = -EVERY

    def task(self, name, after=0, steps=None, unit="step"):
        super().task(name, after, steps, unit)
        _, left = self.seconds_left()
        told = "" if left is None else f", about {clock(left)} left in all"
        print(f"{self.title}, {self.steps} {unit}s{told}", flush=True)

    def tell(self, line, terms=("loss",)):
        if self._is_time():
            left, _ = self.seconds_left()
            print(f"{self.name}: {self.unit} {line['iteration']} of {self.steps}, {long_text(line, terms)}, "
                  f"{clock(left)} left", flush=True)

    def counted(self, name, images, batches):
        seen = 0
        for batch in batches:
            yield batch
            seen += len(batch.labels)
            if seen < images and self._is_time():
                print(f"scoring {name}: {seen} of {images} images", flush=True)

    def _is_time(self):
        now = time.monotonic()
        if now - self.told < EVERY:
            return False
        self.told = now
        return True


class Bars(Progress):
    """For terminals: the whole sequence, below it the task's steps, below that what is scored. Inside the
    context, printed text goes above the bars."""

    def __init__(self):
        super().__init__()
        self.terminal, self._open, self._leaving = sys.stderr, [], contextlib.ExitStack()
        self._all = self._steps = None

    def __enter__(self):
        self._leaving.enter_context(contextlib.redirect_stderr(Above(sys.stderr, self.terminal)))
        if sys.stdout.isatty():
            self._leaving.enter_context(contextlib.redirect_stdout(Above(sys.stdout, self.terminal)))
        return self

    def __exit__(self, *error):
        while self._open:
            self._close(self._open[-1])
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Above):
                stream.close_line()
        self._leaving.close()

    def task(self, name, after=0, steps=None, unit="step"):
        super().task(name, after, steps, unit)
        if len(self.tasks) > 1:
            self._all = self._all or self._bar(sum(self.tasks.values()), self.title, "step", smoothing=0)
            self._pass_over(after)
            self._all.set_description_str(self.title)
        self._steps = self._bar(self.steps, name, unit, initial=after)

    def skip(self, name):
        super().skip(name)
        if len(self.tasks) > 1:
            self._all = self._all or self._bar(sum(self.tasks.values()), "", "step", smoothing=0)
            self._pass_over(self.tasks.get(name, 0))

    def _pass_over(self, steps):
        """Skip steps of an earlier run, which say nothing about the time left."""
        self._all.initial += steps
        self._all.n += steps

    def step(self):
        super().step()
        self._steps.update()
        if self._all is not None:
            self._all.update()

    def tell(self, line, terms=("loss",)):
        self._steps.set_postfix_str(short_text(line, terms), refresh=False)

    def end_task(self):
        self._close(self._steps)

    def counted(self, name, images, batches):
        bar = self._bar(images, f"scoring {name}", "image")
        for batch in batches:
            yield batch
            bar.update(len(batch.labels))
        self._close(bar)

    def _bar(self, total, text, unit, **options):
        bar = tqdm(total=total, desc=text, unit=unit, file=self.terminal, dynamic_ncols=True, leave=False, **options)
        self._open.append(bar)
        return bar

    def _close(self, bar):
        if bar in self._open:
            self._open.remove(bar)
            bar.close()


class Above:
    """A text stream whose whole lines are printed above the bars on ``terminal``; everything else goes
    through unchanged."""

    def __init__(self, stream, terminal):
        self._stream, self._terminal, self._line = stream, terminal, ""

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        whole, newline, self._line = (self._line + text).rpartition("\n")
        if newline:
            with tqdm.external_write_mode(file=self._terminal):
                self._stream.write(whole + newline)
                self._stream.flush()
        return len(text)

    def close_line(self):
        """Print an unfinished line as it is."""
        self._stream.write(self._line)
        self._line = ""


def short_text(line, terms):
    """Format a log line for a bar: the loss, the rate, and images per second if known."""
    return ", ".join([*_loss(line, terms), *_pace(line)])


def long_text(line, terms):
    """Format a log line like ``short_text``, plus the terms, if the loss has several, and the metrics."""
    several = terms if len(terms) > 1 else ()
    others = [name for name in line if name not in (*NO_TERMS, *terms)]
    named = [f"{name} {line[name]:.3f}" for name in (*several, *others)]
    return ", ".join([*_loss(line, terms), *named, *_pace(line)])


def _loss(line, terms):
    return [f"loss {sum(line[name] for name in terms):.3f}"] if terms else []  # a method may have no term


def _pace(line):
    rate = f"lr {line['lr']:.1e}".replace(".0e", "e")
    return [rate, f"{line['images_per_second']:.0f} images/s"] if "images_per_second" in line else [rate]


def clock(seconds):
    """Format seconds: 3725.4 -> "1:02:05", 12 -> "0:12"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
