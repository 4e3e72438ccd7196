"""Runs a reproduction: looks for what it reads, starts the missing runs, compares, and writes the certificate.

What the runs read is digested before the first of them and again after the last, and stored in between: a certificate
is of one state of weights, data and code, however often its runs were interrupted.
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

INPUTS, CERTIFICATE = "inputs.json", "certificate.json"  # in the folder of a reproduction
# Keys of what describes a run.
MADE_BY = ("hardware", "machine", "precision", "python", "versions", "version", "commit")
SHOWN = 5  # changes that a message names
PASSED, FAILED, LACKING = 0, 1, 2  # exit statuses


def reproduce(reproduction, jobs, commands, save, signals):
    """Run the Jobs that are not done, write <save>/certificate.json and print it. -> the exit status: 0 where every
    cell passes, 1 where one fails or a run did, 2 where weights or data are missing, 75 after an interruption.

    ``commands``: {name of a job: the Command of its run}. Raises UserError where weights, data or code are not those
    that the runs began with.
    """
    if lines := _lines_of_missing(jobs, commands):
        print(f"{reproduction.where} lacks weights or data; nothing was run:\n" + "\n".join(lines), file=sys.stderr)
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
        _refuse_changed(inputs, _inputs(commands), f"--save {save}: no certificate, since this changed while the runs "
                        "went on")
    content = _certificate(reproduction, jobs, inputs)
    _write(Path(save) / CERTIFICATE, content)
    print(f"\n{certificate.certificate_text(content)}\n{Path(save) / CERTIFICATE}", flush=True)
    return PASSED if content["passed"] else FAILED


def _run(reproduction, jobs, launcher):
    print(f"reproduction {reproduction.name}: {len(jobs)} run{'s' * (len(jobs) > 1)}, {len(launcher.left)} to do; what "
          f"a run prints is in output.txt of its folder", flush=True)
    launcher.run()


# -- what the runs read ------------------------------------------------------------------------------------------------


def _lines_of_missing(jobs, commands):
    """All that the runs lack, a line each, each thing once, and how to fetch what can be."""
    lines, fetched = {}, {}
    for job in jobs:
        names, sentences = missing(commands[job.name])
        lines |= dict.fromkeys(f"- {sentence}" for sentence in sentences)
        fetched |= dict.fromkeys(names)
    if fetched:
        root = commands[jobs[0].name].data.data_location
        words = ("--check-data", ",".join(fetched), "--data-location", root)
        lines[f"Fetch {len(fetched)} of these by: {command_line(words)}"] = None
    return list(lines)


def _inputs(commands):
    return {"code": code_digest(), "runs": {name: digests_of(command) for name, command in commands.items()}}


def _begin(reproduction, jobs, save, inputs):
    """Store what the runs are about to read. Where they began before, refuse what is not as it was then."""
    path = Path(save) / INPUTS
    if path.exists():
        try:
            before = read_json(path)
        except (OSError, ValueError):
            before = None
        if not isinstance(before, dict):
            raise UserError(f"{path}: is damaged, so nothing says what its runs read; give another --save")
        _refuse_changed(before, inputs, f"--save {save}: its runs began with other inputs; restore them, or give "
                        "another --save")
        return
    if begun := [str(job.folder) for job in jobs if job.folder.exists()]:
        raise UserError(f"--save {save}: {begun[0]} is there and {INPUTS} is not, so nothing says what its run read; "
                        f"give another --save than one that {reproduction.where} did not begin")
    _write(path, inputs)


def _refuse_changed(before, now, message):
    changed = changes(before, now)
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise UserError(f"{message} ({', '.join(changed[:SHOWN])}{more})")


# -- the certificate ---------------------------------------------------------------------------------------------------


def _certificate(reproduction, jobs, inputs):
    """What <save>/certificate.json holds, as types that json knows. No place of this machine is in it."""
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
        raise UserError(f"{job.folder / 'summary.json'} is damaged; the same command writes it again")
    return content


def _run_facts(reproduction, job, cell, summary):
    """Command, flags, time and machines of a run. A sequence that was interrupted may have been on several."""
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
