"""Plan a run for --dry-run: print what it would do, without writing or fetching anything.

    python -m src.main --method ZSCL --dataset-order mtil-1 --ref-dataset ImageNet --save ckpt/zscl --dry-run
    python -m src.main --method lwf --dataset-order toy --dry-run=probe        # runs three steps, too
"""

import contextlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path

from src.datasets.pairs import JOINT
from src.errors import UserError
from src.machine.files import reading_only
from src.run.export import Export
from src.run.plan.conditions import conditions_text
from src.run.plan.data import PlannedDatasets, data_table
from src.run.plan.model import PlannedZeroshot, first_task, memory_text, model_text, planned_start
from src.run.plan.probe import probe, probe_text
from src.run.plan.work import files_text, hooks_text, tasks_text
from src.run.sequence import Run


def tell_plan(command, origins, probes, beside=None):
    """Print what a Command's run would do. -> its exit status, 2 if it would be refused

    ``origins``: all values of the command line by origin, as text. ``probes``: run the first steps. ``beside``:
    where an evaluation without --save writes.
    """
    with reading_only():
        plan = make_plan(command, origins, probes, beside)
    for title, text in plan.parts.items():
        print(f"{title}\n{text}\n")
    if plan.refusals:
        print("the run would be refused\n" + "\n".join(f"- {reason}" for reason in plan.refusals))
    else:
        print("the run would start")
    return 2 if plan.refusals else 0


@dataclass
class Plan:
    """Collect ``parts`` {title: text} in printing order, and ``refusals``: the reasons why the run would not
    start."""

    parts: dict = field(default_factory=dict)
    refusals: list = field(default_factory=list)

    @contextlib.contextmanager
    def unless_refused(self):
        """Record a UserError raised inside as a refusal."""
        try:
            yield
        except UserError as error:
            self.refuse(str(error))

    def refuse(self, reason):
        if reason not in self.refusals:
            self.refusals.append(reason)


def make_plan(command, origins, probes, beside):
    plan = Plan()
    run = Run(command, command.files.save or beside, open_datasets=PlannedDatasets)
    start, weights = planned_start(command.weights)
    evaluation, linear = command.scoring.evaluation, command.scoring.linear_eval
    if evaluation and not linear:
        run.adopt(start)
    training, datasets = run.training, run.datasets
    names = [] if evaluation else [JOINT] if training.joint else list(training.trained)
    zeroshot = PlannedZeroshot(command.weights, start, run.device)
    probed = None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        data_table(run, names)  # opens everything, so that anything missing is refused
        refuse(plan, run, names, start, zeroshot)
        table = data_table(run, names)  # without data that are not scored
        first = first_task(run, names[0], start, zeroshot, plan) if names else None
        complete = not (plan.refusals or datasets.fetched or weights or zeroshot.absent)
        if probes and names and complete:
            with plan.unless_refused():
                probed = probe(run, names[0], start, zeroshot)
    lines = [text for text in dict.fromkeys((weights, *zeroshot.absent.values())) if text]
    plan.parts |= {"values by origin": origins,
                   f"data under {command.data.data_location}": "\n".join([table, *datasets.fetched.values()])}
    plan.parts["model"] = "\n".join([model_text(run, start, first), *lines])
    if names:
        plan.parts["method"] = hooks_text(plan, training, start)
        plan.parts["tasks"] = tasks_text(training, datasets, names)
        plan.parts["memory of the first task"] = memory_text(first)
    with plan.unless_refused():
        plan.parts["conditions of the numbers"] = conditions_text(run, names, start)
    plan.parts["files"] = files_text(run, names, plan, start)
    if probes:
        plan.parts["probe"] = probe_text(training, datasets, names, probed)
    if notes := printed.getvalue().strip():
        plan.parts["messages"] = notes
    return plan


def refuse(plan, run, names, start, zeroshot):
    """Collect everything that stops the run before it begins. Missing data have no findings."""
    files, scoring, datasets = run.files, run.scoring, run.datasets
    try:
        run.open_for_training(scoring.linear_eval) if scoring.linear_eval else run.open(names)
    except UserError as error:
        if not datasets.refused:
            plan.refuse(str(error))
    for reason in datasets.refused.values():
        plan.refuse(reason)
    with plan.unless_refused():
        if not datasets.refused:
            run.refuse(names, start, zeroshot)
            if scoring.evaluation and scoring.wise_ft:
                zeroshot()
    with plan.unless_refused():
        export = Export(files.export, layout=files.export_format)
        export.refuse(start["architecture"], files.overwrite, files.numbers if names else None)
    for flag, folder in (("--save", files.save), ("--export", files.export)):
        if folder and not may_be_written(Path(folder)):
            plan.refuse(f"{flag} {folder}: cannot be written; give another")


def may_be_written(folder):
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
