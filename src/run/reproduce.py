"""Run a reproduction: find what it reads, start the missing runs, compare, and write the certificate.

Inputs are digested before the first run, stored, and digested again after the last: a certificate covers one
state of weights, data and code, however often its runs were interrupted.
"""

import datetime
import json
import sys
from pathlib import Path

from src.cli.reproduction_runs import PLACES, cells_of, words_of
from src.cli.texts import command_line
from src.errors import UserError
from src.machine.files import atomic_file, read_json
from src.report import certificate
from src.report.measures import is_summary
from src.run.digests import code_digest
from src.run.inputs import changes, digests_of, missing
from src.run.study import DONE, Launcher, exit_status, state_of

INPUTS, CERTIFICATE = "inputs.json", "certificate.json"  # in a reproduction's folder
# Keys of a run's description.
MADE_BY = ("hardware", "machine", "precision", "python", "versions", "version", "commit")
SHOWN = 5  # changes named in a message
PASSED, FAILED, LACKING = 0, 1, 2  # exit statuses


def reproduce(reproduction, jobs, commands, save, signals):
    """Run the Jobs that are not done, write <save>/certificate.json and print it.

    Returns the exit status: 0 if every cell passes, 1 if one fails or a run did, 2 if weights or data are
    missing, 75 after an interruption. ``commands``: {name of a job: the Command of its run}. Raises UserError
    if weights, data or code are not those that the runs began with.
    """
    if lines := _lines_of_missing(jobs, commands):
        print(f"{reproduction.where}: weights or data are missing; nothing was run:\n" + "\n".join(lines),
              file=sys.stderr)
        return LACKING
    print(f"reproduction {reproduction.name}: reading weights, data and code for their digests", flush=True)
    inputs = _inputs(commands)
    _begin(reproduction, jobs, save, inputs)
    launcher = Launcher(jobs, [{}], signals, lambda text: print(text, flush=True))
    if launcher.left:
        _run(reproduction, jobs, launcher)
        states = [state_of(job) for job in jobs]
        if any(state.kind != DONE for state in states):
            return exit_status(jobs, states)
        _refuse_changed(inputs, _inputs(commands), f"--save {save}: no certificate, because inputs changed during the "
                        "runs")
    content = _certificate(reproduction, jobs, inputs)
    _write(Path(save) / CERTIFICATE, content)
    print(f"\n{certificate.certificate_text(content)}\n{Path(save) / CERTIFICATE}", flush=True)
    return PASSED if content["passed"] else FAILED


def _run(reproduction, jobs, launcher):
    print(f"reproduction {reproduction.name}: {len(jobs)} run{'s' * (len(jobs) > 1)}, {len(launcher.left)} to do; the "
          "output of each is in output.txt in its folder", flush=True)
    launcher.run()


# -- what the runs read ------------------------------------------------------------------------------------------------


def _lines_of_missing(jobs, commands):
    """Return a line for each thing that the runs lack, without repeats, and how to fetch what can be fetched."""
    lines, fetched = {}, {}
    for job in jobs:
        names, sentences = missing(commands[job.name])
        lines |= dict.fromkeys(f"- {sentence}" for sentence in sentences)
        fetched |= dict.fromkeys(names)
    if fetched:
        root = commands[jobs[0].name].data.data_location
        words = ("--check-data", ",".join(fetched), "--data-location", root)
        lines[f"Fetch {len(fetched)} of these with: {command_line(words)}"] = None
    return list(lines)


def _inputs(commands):
    return {"code": code_digest(), "runs": {name: digests_of(command) for name, command in commands.items()}}


def _begin(reproduction, jobs, save, inputs):
    """Store the inputs of the runs. If they began before, refuse any that changed since."""
    path = Path(save) / INPUTS
    if path.exists():
        try:
            before = read_json(path)
        except (OSError, ValueError):
            before = None
        if not isinstance(before, dict):
            raise UserError(f"{path}: is damaged, so what its runs read is unknown; give another --save")
        _refuse_changed(before, inputs, f"--save {save}: its runs began with other inputs; restore them, or give "
                        "another --save")
        return
    if begun := [str(job.folder) for job in jobs if job.folder.exists()]:
        raise UserError(f"--save {save}: {begun[0]} is there but {INPUTS} is not, so what its run read is unknown; "
                        f"give another --save, a folder that {reproduction.where} began or a "
                        "new one")
    _write(path, inputs)


def _refuse_changed(before, now, message):
    changed = changes(before, now)
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise UserError(f"{message} ({', '.join(changed[:SHOWN])}{more})")


# -- the certificate ---------------------------------------------------------------------------------------------------


def _certificate(reproduction, jobs, inputs):
    """Return the content of <save>/certificate.json, as json types. It names no path of this machine."""
    summaries = {job.name: _summary(job) for job in jobs}
    cells = certificate.cells_of(reproduction, summaries)
    named = {cell.name: cell for cell in cells_of(reproduction)}
    return {"format": certificate.FORMAT, "name": reproduction.name, "stage": reproduction.stage,
            "about": reproduction.about, "source": reproduction.source, "why": reproduction.why,
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "passed": all(cell["pass"] for cell in cells), "cells": cells,
            "runs": {job.name: _run_facts(reproduction, job, named[job.name], summaries[job.name])
                     | inputs["runs"][job.name] for job in jobs},
            "code": inputs["code"]}


def _summary(job):
    content = read_json(job.folder / "summary.json")
    if not is_summary(content):
        raise UserError(f"{job.folder / 'summary.json'} is damaged; rerun the command to write it again")
    return content


def _run_facts(reproduction, job, cell, summary):
    """Return command, flags, time and machines of a run. An interrupted sequence may have used several machines."""
    tasks = [read_json(job.folder / f"run_{task}.json") for task in job.tasks
             if (job.folder / f"run_{task}.json").exists()]
    whole = read_json(job.folder / "run.json")
    made_by = []
    for facts in (*tasks, whole):
        found = {key: facts.get(key) for key in MADE_BY}
        if found not in made_by:
            made_by.append(found)
    return {"command": command_line(words_of(cell, f"{reproduction.name}/{job.name}")),
            "flags": {key: value for key, value in job.numbers.items() if key not in PLACES},
            "conditions": summary.get("conditions"), "seconds": round(sum(facts["seconds"] for facts in tasks), 2)
            if tasks else whole["seconds"], "made_by": made_by}


def _write(path, content):
    with atomic_file(path, "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
