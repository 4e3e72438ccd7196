"""Run the cells of a study, print their commands and states, and return an exit status. Imports no torch."""

import contextlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from src.cli.flags import FLAGS
from src.cli.texts import command_line
from src.machine.files import InUse, locked_folder, sweep
from src.machine.interruption import STATUS as INTERRUPTED
from src.report.tables import markdown_table
from src.run.cells import DONE, FAILED, OUTPUT, RUNNING, WAITING, state_of
from src.run.launcher import LOOK, Launcher

TABLES = "tables_in_use"  # lock of the tables, in the study's folder
NOT_AWAITED = "interrupted without waiting for running cells; rerun the command to continue with what is missing"
ORDERS = "order_*"  # folders of the tables of several orders


def status_text(name, jobs, what="cells"):
    """Return the table of --status."""
    states = [state_of(job) for job in jobs]
    counts = [f"{count} {kind}" for kind in (DONE, RUNNING, FAILED, WAITING)
              if (count := sum(state.kind == kind for state in states))]
    return f"study {name}: {len(jobs)} {what}, {', '.join(counts)}\n\n" + markdown_table(
        ["cell", "state", "what"],
        [[job.name, state.kind, state.text] for job, state in zip(jobs, states, strict=True)])


def commands_text(study, trials, jobs):
    """Return the commands of --dry-run, those of trials first. A cell whose flags are not chosen yet is a comment."""
    lines = [f"# {trial.name}\n{command_line(trial.words)}" for trial in trials]
    for cell, job in zip(study.cells, jobs, strict=True):
        lines.append(_command_text(study, cell, job))
    return "\n".join(lines)


def _command_text(study, cell, job):
    if study.select is None:
        return f"# {job.name}\n{command_line(job.words)}"
    keys = [key for key in FLAGS if any(key in setting.texts for setting in study.select.settings)]
    flags = ", ".join(FLAGS[key].name for key in keys)
    if not job.waits_for:
        return f"# {job.name}: its trials chose {flags}\n{command_line(job.words)}"
    open_ones = replace(cell, texts=cell.texts | {key: None if FLAGS[key].switch else "CHOSEN" for key in keys})
    return (f"# {job.name}: its trials choose {flags}; {job.waits_for}\n"
            f"# {command_line(open_ones.words(str(job.folder)))}")


def launch(name, jobs, slots, signals, what="cells", waits=None):
    """Run what is missing of a study.

    A task of a SLURM array does not wait for what the other tasks run: the last one has the whole table. With
    ``waits`` it does, as for trials, which every task needs.
    """
    waits = not in_an_array() if waits is None else waits
    launcher = Launcher(jobs, slots, signals, lambda text: print(text, flush=True), waits)
    print(f"study {name}: {len(jobs)} {what}, {len(jobs) - len(launcher.left)} done, {len(launcher.left)} to run, "
          f"{len(slots)} at the same time", flush=True)
    if threads := slots[0].get("OMP_NUM_THREADS"):
        print(f"note: {len(slots)} processes share the CPU, each with OMP_NUM_THREADS={threads}; set that variable for "
              "another number", flush=True)
    try:
        launcher.run()
    except KeyboardInterrupt:  # second Ctrl-C
        raise KeyboardInterrupt(NOT_AWAITED) from None


@contextlib.contextmanager
def one_at_a_time(save):
    """Keep other launchers from writing the tables in the folder ``save`` while entered; wait for one that
    does.

    Remove what a killed launcher left half written.
    """
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(locked_folder(save, "--save", TABLES))
                break
            except InUse:
                time.sleep(LOOK)
            except OSError:  # full disk: still print the table; writing it will report the error
                break
        for place in filter(Path.is_dir, Path(save).glob(ORDERS)):
            sweep(place)
        yield


def in_an_array():
    """Return whether this process is one of several tasks that share a study."""
    return "SLURM_ARRAY_TASK_ID" in os.environ


def exit_status(jobs, states):
    """Print which cells are not done, and why. -> 0, 1 if one has failed, or the status of interrupted runs"""
    missing = [(job, state) for job, state in zip(jobs, states, strict=True) if state.kind != DONE]
    if in_an_array() and (elsewhere := [job for job, state in missing if state.kind == RUNNING]):
        missing = [(job, state) for job, state in missing if state.kind != RUNNING]
        print(f"note: {len(elsewhere)} of {len(jobs)} cells still run in other tasks of the array; the last one to end "
              "prints the whole table", flush=True)
    for job, state in missing:
        output = "" if job.waits_for else f" ({job.folder / OUTPUT})"
        print(f"{job.name}: {state.kind}, {state.text or 'not started'}{output}", file=sys.stderr)
    if not missing:
        return 0
    print(f"{len(missing)} of {len(jobs)} cells are not done; rerun the command to try them again", file=sys.stderr)
    return 1 if any(state.kind == FAILED for _, state in missing) else INTERRUPTED
