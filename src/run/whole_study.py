"""Run a study, from its first trial to its last table. Imports no torch until there is something to run."""

from src.machine.interruption import Signals
from src.run.cells import DONE, is_done, state_of
from src.run.launcher import environments
from src.run.selection import choices_of, selection_text, settings_of, write_selection
from src.run.study import commands_text, exit_status, launch, one_at_a_time, status_text


def commands_of(study, plan):
    """Return the text of --dry-run: the command of each cell."""
    return commands_text(study, plan.trials, _chosen(study, plan)[1])


def status_of(study, plan):
    """Return the text of --status: the state of each cell."""
    choices, jobs = _chosen(study, plan)
    cells = status_text(study.name, jobs)
    if not plan.trials:
        return cells
    return "\n".join([status_text(study.name, plan.trials, "trials"), "",
                      selection_text(study, plan.trials, choices), cells])


def run_plan(study, plan, save, jobs):
    """Run what is missing of a Study, following its Plan, and write the tables into ``save``. -> the exit
    status

    ``jobs``: the number of cells to run in parallel, or "auto".
    """
    slots = _slots(plan.first, jobs)
    with Signals(hang_up=True) as signals:
        checked = bool(plan.trials) and _run_trials(study, plan, save, slots, signals)
        ready = [job for job in _chosen(study, plan)[1] if not job.waits_for]
        if plan.trials and not checked:
            _require_held_out(plan, ready)
        if ready:
            launch(study.name, ready, slots, signals)
    with Signals(hang_up=True), one_at_a_time(save):
        choices, jobs = _chosen(study, plan)
        states = [state_of(job) for job in jobs]  # another launcher may have ended a cell in the meantime
        _write_tables(study, list(zip(jobs, states, strict=True)), save)
        if plan.trials:
            print(f"\n{selection_text(study, plan.trials, choices)}", end="", flush=True)
            write_selection(study, plan.trials, choices, save)  # another launcher may have ended a trial since
    return exit_status([*plan.trials, *jobs], [*map(state_of, plan.trials), *states])


def _chosen(study, plan):
    """Return ({row: Choice}, the Jobs of the cells with what their trials chose)."""
    choices = choices_of(study.select, plan.trials)
    return choices, plan.chosen(settings_of(choices))


def _slots(jobs, number):
    """Return what each of the parallel processes adds to the environment."""
    devices = ()
    if number != 1 and any(job.device in ("auto", "cuda") for job in jobs):
        from src.machine.device import cuda_devices  # imports torch
        devices = cuda_devices()
    return environments(max(1, len(devices)) if number == "auto" else number, devices)


def _run_trials(study, plan, save, slots, signals):
    """Run all trials before any cell, so that no test score can reach the choice, and store it. -> whether
    their images were checked"""
    checked = _require_held_out(plan, plan.trials)
    launch(study.name, plan.trials, slots, signals, "trials", waits=True)
    with one_at_a_time(save):
        write_selection(study, plan.trials, choices_of(study.select, plan.trials), save)
    return checked


def _require_held_out(plan, jobs):
    """Check the images of trials and cells if some of the Jobs still have to run. -> whether it checked"""
    if all(map(is_done, jobs)):
        return False
    from src.run.held_out import refuse_shared_images  # imports torch
    refuse_shared_images(plan.trials, plan.first)
    return True


def _write_tables(study, cells, save):
    """Print and write the tables of [(Job, State)], and their page, which names missing cells."""
    from src.report.orders import report_markdown, write_report
    from src.report.study import tables_of
    from src.report.study_page import write_study_page  # imports the drawing library
    done = [job for job, state in cells if state.kind == DONE]
    if not done:
        return
    tables = tables_of(study, done)
    print(f"\n{report_markdown(tables)}", end="", flush=True)
    write_report(tables, save)
    write_study_page(tables, save, [(job.name, state.kind, state.text) for job, state in cells if state.kind != DONE])
