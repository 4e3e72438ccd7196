"""--dry-run: what a run would do, printed before anything is done. Nothing is written and nothing is fetched.

    python -m src.main --method ZSCL --dataset-order mtil-1 --ref-dataset ImageNet --save ckpt/zscl --dry-run
    python -m src.main --method lwf --dataset-order toy --dry-run=probe        # runs three steps, too
"""

import contextlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path

from src.args import all_origins
from src.cli.kinds import EVAL
from src.datasets.pairs import JOINT
from src.errors import UserError
from src.machine.files import reading_only
from src.run.export import Export
from src.run.plan.data import PlannedDatasets, data_table
from src.run.plan.model import PlannedZeroshot, first_task, memory_text, model_text, planned_start
from src.run.plan.probe import probe, probe_text
from src.run.plan.work import files_text, hooks_text, tasks_text
from src.run.sequence import Run


def tell_plan(config):
    """Print what the run of a checked Config would do. -> its exit status, 2 where it would be refused."""
    with reading_only():
        plan = make_plan(config)
    for title, text in plan.parts.items():
        print(f"{title}\n{text}\n")
    if plan.refusals:
        print("the run would be refused\n" + "\n".join(f"- {reason}" for reason in plan.refusals))
    else:
        print("the run would start")
    return 2 if plan.refusals else 0


@dataclass
class Plan:
    """``parts`` {title: text} in the order in which they are printed; ``refusals``: why the run would not start."""

    parts: dict = field(default_factory=dict)
    refusals: list = field(default_factory=list)

    @contextlib.contextmanager
    def unless_refused(self):
        """What ends within with a UserError is a refusal."""
        try:
            yield
        except UserError as error:
            self.refuse(str(error))

    def refuse(self, reason):
        if reason not in self.refusals:
            self.refusals.append(reason)


def make_plan(config):
    plan, datasets = Plan(), PlannedDatasets(config)
    run = Run(config, config.save or config.beside_loaded, datasets=datasets)
    start, weights = planned_start(config)
    if config.kind == EVAL and not config.linear_eval:
        run.adopt(start)
    names = [] if config.kind == EVAL else [JOINT] if config.joint else list(config.trained)
    zeroshot = PlannedZeroshot(config, start, run.device)
    probed = None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        data_table(config, datasets, run, names)  # opens all, so that whatever is missing is refused
        refuse(plan, run, datasets, names, start, zeroshot)
        table = data_table(config, datasets, run, names)  # without what is not scored
        first = first_task(config, run, names[0], start, zeroshot, plan) if names else None
        complete = not (plan.refusals or datasets.fetched or weights or zeroshot.absent)
        if config.dry_run == "probe" and names and complete:
            with plan.unless_refused():
                probed = probe(config, run, names[0], start, zeroshot)
    lines = [text for text in dict.fromkeys((weights, *zeroshot.absent.values())) if text]
    plan.parts |= {"values by origin": all_origins(config),
                   f"data under {config.data_location}": "\n".join([table, *datasets.fetched.values()])}
    plan.parts["model"] = "\n".join([model_text(config, start, run.device, first), *lines])
    if names:
        plan.parts["method"] = hooks_text(plan, config, start)
        plan.parts["tasks"] = tasks_text(config, datasets, names)
        plan.parts["memory of the first task"] = memory_text(first)
    plan.parts["files"] = files_text(config, run, names, plan)
    if config.dry_run == "probe":
        plan.parts["probe"] = probe_text(config, datasets, names, probed)
    if notes := printed.getvalue().strip():
        plan.parts["messages on the way"] = notes
    return plan


def refuse(plan, run, datasets, names, start, zeroshot):
    """All that stops the run before it begins. Data that is not there has no findings."""
    config = run.config
    try:
        run.open_for_training(config.linear_eval) if config.linear_eval else run.open(names)
    except UserError as error:
        if not datasets.refused:
            plan.refuse(str(error))
    for reason in datasets.refused.values():
        plan.refuse(reason)
    with plan.unless_refused():
        if not datasets.refused:
            run.refuse(names, start, zeroshot)
            if config.kind == EVAL and config.wise_ft:
                zeroshot()
    with plan.unless_refused():
        export = Export(config.export, layout=config.export_format)
        export.refuse(start["architecture"], config.overwrite, config.numbers() if names else None)
    for flag, folder in (("--save", config.save), ("--export", config.export)):
        if folder and not may_be_written(Path(folder)):
            plan.refuse(f"{flag} {folder}: cannot be written; give another")


def may_be_written(folder):
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
