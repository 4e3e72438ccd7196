"""Resume points, from which an interrupted task continues: ``resume_<DATASET>.pth`` in the run's folder."""

import contextlib
import os
import threading
import time

import torch

from src.cli.values import interval
from src.datasets.loading import rest_of_epoch
from src.errors import UserError
from src.machine.files import digest_of
from src.machine.interruption import Interrupted
from src.machine.notices import warn
from src.models.fingerprints import fingerprint
from src.models.resuming import drawn_by_process, state_of_run
from src.store.checkpoint import CheckpointError, read_checked, write_checked

NOT_SHARED = ("{flag} {folder}: the processes see different files there, so they cannot continue together; give a "
              "folder that all machines share")


class ResumePoints:
    """The last two points of a task. Each is copied to the host at once and written by a thread.

    ``every``: as in --save-interval, steps or a time. A read-only folder keeps nothing.
    """

    def __init__(self, folder, dataset, every):
        self.writes = folder.writes
        if folder.path is not None:
            self.newest, self.previous = (folder.file(f"resume_{dataset}{mark}.pth") for mark in ("", ".prev"))
        self.steps, self.seconds = interval(every)
        self.kept_at, self.iteration, self._writer = time.monotonic(), None, None

    def due(self, iteration):
        """Return whether to keep a point after ``iteration`` steps."""
        if not self.writes:
            return False
        if self.steps is not None:
            return iteration % self.steps == 0
        return time.monotonic() - self.kept_at >= self.seconds

    def keep(self, content):
        """Keep content with its "iteration" as the newest point. If it cannot be written, warn and keep the
        older points."""
        if not self.writes or self.iteration == content["iteration"]:
            return
        self.wait()
        copy = _on_host(content)
        self.kept_at, self.iteration = time.monotonic(), content["iteration"]
        self._writer = threading.Thread(target=self._write, args=(copy,))
        self._writer.start()

    def _write(self, content):
        try:
            if self.newest.exists():
                self.newest.replace(self.previous)
            write_checked(self.newest, content)
        except (OSError, UserError) as error:
            self.iteration = None
            warn(f"the resume point of step {content['iteration']} was not written ({error}); the previous "
                 "one is kept")

    def wait(self):
        """Wait until the last point is written."""
        if self._writer is not None:
            self._writer.join()

    def read(self):
        """Return the newest intact point, with a warning for damaged ones; None if there is none."""
        there = [path for path in (self.newest, self.previous) if path.exists()]
        for path in there:
            try:
                return read_checked(path)
            except CheckpointError as error:
                instead = "the previous one is used" if path != there[-1] else "the task starts again"
                warn(f"{error}; {instead}")
        return None

    def forget(self):
        """Delete the points of a finished task."""
        if self.writes:
            self.wait()
            for path in (self.newest, self.previous):
                path.unlink(missing_ok=True)


def _on_host(content):
    """Copy nested dicts, lists and tuples of tensors and plain values to the host, as they are now."""
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, dict):
        return {key: _on_host(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(_on_host, content))
    return content


def inputs_of(start, teacher=None, basis=None, teachers=None):
    """Return {flag: digest} of a task's inputs that no resume point holds, since the file behind a name may
    change: the weights of the checkpoint ``start``, a teacher's, a basis. ``teacher``: the value of
    --ref-model. ``teachers``: {value of --ref-model: digest} for those that are not a single file."""
    named = [*start["state_dict"].items(), *start.get("heads", {}).items()]
    found = {"--load": fingerprint(named)}
    if teacher and teacher in (teachers or {}):
        found["--ref-model"] = teachers[teacher]
    elif teacher and os.path.isfile(teacher):  # others, which no method reads, have no digest
        found["--ref-model"] = digest_of(teacher)
    return found | ({"--orthogonal-gradients-path": digest_of(basis)} if basis else {})


def refuse_other_configuration(files, content, path):
    """Refuse a resume point made with other values of flags that can change a result."""
    if changed := files.differences(content["config"]):
        raise UserError(f"--resume: {path} was made with another configuration ({'; '.join(changed)}); give that one, "
                        "or leave --resume out to start again")


def refuse_other_batches(content, task, batch_size, path):
    """Refuse a resume point of versions that dropped the rest of an epoch, if the Task has one: the
    remaining steps would have other images, and with --epochs other rates."""
    left = rest_of_epoch(task, batch_size)
    if left and not content.get("rest"):
        raise UserError(f"--resume: {path} is of a version that left out the last {left} of {len(task.split('train'))} "
                        f"images of each epoch (batches of {batch_size}); now they form a smaller batch, which changes "
                        "the remaining steps. Leave --resume out to start again, or finish it with that version")


def refuse_other_inputs(before, now, what):
    """Refuse to continue from ``what`` if an input file of its task has changed. Inputs that were not
    recorded are trusted."""
    before = before if isinstance(before, dict) else {}
    changed = [flag for flag in now if before.get(flag, now[flag]) != now[flag]]
    if changed:
        raise UserError(f"{what} began with another content of {' and '.join(changed)} (in a sequence: of the previous "
                        "task); give the file as it was, or --overwrite without --resume")


def points_left(files, folder, dataset, inputs):
    """Return the leftover ResumePoints of a task that needs none. Raise UserError if --resume would refuse
    to continue from them."""
    points = ResumePoints(folder, dataset, files.save_interval)
    if files.resume and (content := points.read()):
        refuse_other_configuration(files, content, points.newest)
        refuse_other_inputs(content.get("inputs"), inputs, f"--resume: {points.newest}")
    return points


class TaskPoints:
    """Resume points of a running task, and the one that --resume continues from: ``interrupted``, after
    ``iteration`` steps. ``inputs``: from ``inputs_of``. ``key``: identifies all that the task depends on,
    if known; the task keeps it only if all its steps run under it."""

    def __init__(self, files, folder, state, hooks, file, inputs, key=None):
        self.files, self.folder, self.state, self.hooks, self.file = files, folder, state, hooks, file
        self.inputs = inputs
        self.points = ResumePoints(folder, file, files.save_interval)
        self.interrupted = self._read() if files.resume else None
        self.key = key if self.interrupted is None or self.interrupted.get("key") == key else None
        found = self.interrupted or {"iteration": 0, "seconds": 0.0}
        self.iteration, self._before, self._began = found["iteration"], found["seconds"], time.perf_counter()
        self.unscored = found.get("unscored", False)  # scores of the resumed step are missing

    @property
    def seconds(self):
        """Seconds since the task began, without interruptions."""
        return self._before + time.perf_counter() - self._began

    def _read(self):
        content = self.points.read()
        if content:
            refuse_other_configuration(self.files, content, self.points.newest)
            refuse_other_batches(content, self.state.task, self.state.settings.batch_size, self.points.newest)
        self.state.world.require_same(content and content["iteration"],
                                      NOT_SHARED.format(flag="--save", folder=self.folder.path))
        if content:
            refuse_other_inputs(content.get("inputs"), self.inputs, f"--resume: {self.points.newest}")
            self._refuse_other_processes(content)
        return content

    def _refuse_other_processes(self, content):
        """Refuse another number of processes if they draw random numbers. Otherwise batches do not depend
        on it, and numbers only up to rounding."""
        reason = drawn_by_process(self.state, self.hooks)
        if reason and self._processes_of(content) != self.state.world.size:
            raise UserError(f"--resume: {self.points.newest} is of {self._processes_of(content)} processes, here are "
                            f"{self.state.world.size}, and {reason}; run as many as then, or leave --resume out to "
                            "start again")

    def _processes_of(self, content):
        return content.get("processes", self.state.world.size)  # points of older versions do not record it

    def begin(self):
        """Announce the resumed task, or delete old points; call before the first step."""
        if self.interrupted:
            self._refuse_other_processes(self.interrupted)  # begin may have put dropout into the towers
            before, now = self._processes_of(self.interrupted), self.state.world.size
            others = "" if before == now else f", with {now} processes instead of {before}: the same up to rounding"
            print(f"{self.file}: resumes after step {self.iteration} of {self.state.settings.iterations}{others}",
                  flush=True)
        else:
            self.points.forget()
        self.interrupted = None  # its tensors have been restored

    def keep(self, unscored=False):
        self.points.keep({"config": self.files.numbers, "inputs": self.inputs, "seconds": self.seconds,
                          "unscored": unscored, "processes": self.state.world.size, "rest": True,
                          **({"key": self.key} if self.key else {}),
                          **state_of_run(self.state, self.hooks)})

    def keep_where_due(self, last):
        """Keep a point after a step if one is due. Also after the last step, if the task was long enough to
        keep any, since bases, exemplars and scores still take a while."""
        if self.points.due(self.state.iteration) or last and self.points.iteration is not None:
            self.keep()

    @contextlib.contextmanager
    def kept_if_interrupted(self, while_scoring=False):
        """Keep a point if a signal ends the code inside the context between two steps; ``while_scoring``
        marks scores to be repeated."""
        try:
            yield
        except Interrupted:
            self.keep(unscored=while_scoring)
            raise

    @contextlib.contextmanager
    def told_if_interrupted(self):
        try:
            yield
        except Interrupted as error:
            self.points.wait()
            raise Interrupted(f"{error}: {self._what_is_kept()}") from None

    def _what_is_kept(self):
        if self.folder.path is None:
            return "nothing is kept without --save"
        if not self.state.settings.iterations:
            return f"{self.file} has no steps to resume from, and starts again with the same command and --resume"
        kept = self.points.iteration or self.iteration
        return (f"{self.file} resumes after step {kept} of {self.state.settings.iterations} with the same command and "
                "--resume")

    def forget(self):
        """Delete the points of the finished task."""
        self.points.forget()
