"""Make the choices of a study from the files of its trials. Never reads the files of cells, which score test data."""

import contextlib
import json
from pathlib import Path

from src.machine.files import atomic_file, read_json
from src.report.measures import measure_of
from src.report.selection import by_of, choice_of, selection_json, selection_markdown, space_of
from src.run.cells import FAILED, is_done, state_of

NAME = "selection"  # name of its files, in the study's folder


def choices_of(select, trials):
    """Return {row: Choice} of a Selection and the Jobs of its trials; {} without a selection."""
    if select is None:
        return {}
    by, found = by_of(select, trials), {}
    for job in trials:
        values = found.setdefault(job.cell.row, ({}, []))
        values[0].setdefault(job.cell.setting, {})[job.name] = _number(job, by)
        values[1].append(job)
    return {row: choice_of(row, values, by, sum(map(_seconds, jobs)),
                           {job.name for job in jobs if state_of(job).kind == FAILED})
            for row, (values, jobs) in found.items()}


def _number(job, by):
    """Return the number of a finished trial, in its first label space; None if it is not finished."""
    if not is_done(job):
        return None
    summary = read_json(job.folder / "summary.json")
    return measure_of(summary["label_space"]).numbers_of(summary)[by]


def _seconds(job):
    """Return the seconds of its finished tasks, over all attempts."""
    return sum(_seconds_of(job.folder / f"run_{task}.json") for task in job.tasks)


def _seconds_of(path):
    with contextlib.suppress(OSError, ValueError, AttributeError):
        seconds = read_json(path).get("seconds")
        return seconds if isinstance(seconds, int | float) else 0.0
    return 0.0


def settings_of(choices):
    """Return {row: (label of the setting or None, why there is none)}, the form that ``Plan.chosen`` takes."""
    return {row: (choice.setting, choice.why) for row, choice in choices.items()}


def selection_text(study, trials, choices):
    """Return the table of the choices, under the names of the study."""
    return selection_markdown(study.select, choices, by_of(study.select, trials), space_of(trials[0]), study.names)


def write_selection(study, trials, choices, folder):
    """Write selection.json and selection.md into the folder of the study."""
    content = selection_json(study.select, choices, by_of(study.select, trials), space_of(trials[0]))
    texts = {"json": json.dumps(content, indent=1) + "\n", "md": selection_text(study, trials, choices)}
    for suffix, text in texts.items():
        with atomic_file(Path(folder) / f"{NAME}.{suffix}", "w") as file:
            file.write(text)
