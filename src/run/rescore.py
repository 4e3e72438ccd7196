"""Rebuild the tables of a run from its kept features (--rescore), without its images.

    python -m src.main --rescore ckpt/run --label-space task,all --save ckpt/run_all

Scores that the run itself computed are repeated to the last digit; everything else comes from the features.
"""

import functools
import os
from dataclasses import replace
from pathlib import Path

from src.datasets import stem
from src.errors import UserError
from src.machine.files import read_json
from src.report.conditions import TASK_IDS, joined, prompt_text, stored
from src.report.measures import is_summary, measure_of
from src.report.predictions import START, kept_tasks, read_description, when
from src.report.tables import numbers_text, rows_csv, summary_text
from src.run.kept_datasets import KeptDatasets
from src.run.rescorer import Rescorer
from src.run.scoring import class_tasks
from src.run.sequence import Run

FLAG = "--rescore"


def rescore(folder, command_of):
    """Score the run in ``folder`` again, and write its tables into --save. -> the text to print

    ``command_of`` makes the Command of the rescoring from the run's own flags.
    """
    kept = kept_evaluations(folder)
    run = Rescoring(command_of(kept[-1]["flags"]), folder, kept)
    order = run.order()
    for found in kept:
        run.scorer.require(found)
    run.folder.prepare()
    run.scorer.spaces.claim(class_tasks(kept[-1]["history"]), [])
    with run.folder.ours(), run.shown():
        rows = {found["task"]: run.scorer.again(found, last=found is kept[-1]) for found in kept}
        text = run.tables(order, rows)
        run.write_details()
    return f"{text}\n{run.scorer.statement()}"


def kept_evaluations(folder):
    """Return the descriptions of a run's kept evaluations, in the order of training.

    Raises UserError if there are none, or if the run's own files hold other scores: the features then belong to
    an earlier run.
    """
    tasks = kept_tasks(folder)
    if not tasks:
        raise UserError(f"{FLAG} {folder}: has no kept features; add --keep-features to its command: a finished run "
                        "is scored again without training")
    found = [read_description(folder, task, FLAG) for task in tasks]
    for described in found:
        _refuse_other_run(folder, described)
    return sorted(found, key=lambda described: (len(described["history"]), described["task"] != START))


def _refuse_other_run(folder, described):
    task = described["task"]
    path = Path(folder) / (f"run_{task}.json" if task else "start.json")
    if not described["evaluation"] and path.is_file() and _content(path).get("scores") != described["scores"]:
        raise UserError(f"{FLAG} {folder}: the features {when(task)} come from another run than {path}; rerun its "
                        "command with --keep-features and --overwrite")


def _content(path):
    """Return the content of a json file that a run wrote."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{FLAG}: {path} cannot be read ({error}); rerun its command with --resume") from None
    return content if isinstance(content, dict) else {}


class Rescoring(Run):
    """Act as a run whose datasets, images and scores are the ``kept`` evaluations of the run in the folder
    ``source``."""

    def __init__(self, command, source, kept):
        self.source, self.kept = Path(source), kept
        super().__init__(command, open_datasets=functools.partial(
            KeptDatasets, kept[-1], command.scoring.template_given))
        summary = self.source / "summary.json"
        self.summary = _content(summary) if summary.is_file() else None
        if self.summary is not None and not is_summary(self.summary):
            raise UserError(f"{FLAG} {source}: {summary} is damaged; rerun its command with --resume")

    def score_on(self, names):
        """Score what the run scored, whatever the flags name."""
        last = self.kept[-1]
        super().score_on([last["datasets"][file]["source"] for file in last["scores"]])

    def scorer_of(self, names):
        return Rescorer(self.source, self.command.weights, self.scoring, self.files, self.datasets, self.device,
                        self.folder, names, self.world, self.progress, self.trackers)

    def order(self):
        """Return the tasks of the sequence, as on the command line; () without one. Raises UserError if
        features of a task are missing."""
        if self.summary is None:
            return ()
        if self.untrained:
            return self.training.trained
        tasks = measure_of(self.summary["label_space"]).trained(self.summary)
        found = {described["task"]: described["history"] for described in self.kept}
        if missing := [task for task in tasks if task not in found]:
            raise UserError(f"{FLAG} {self.source}: lacks the features after {', '.join(missing)}; rerun its command "
                            "with --keep-features")
        return tuple(found[task][-1].get("source", task) for task in tasks)

    @property
    def untrained(self):
        """Return whether it is the zero-shot evaluation of an order."""
        return self.summary is not None and [described["task"] for described in self.kept] == [START]

    def tables(self, order, rows):
        """Write summaries and matrices if the run is a sequence. -> the tables"""
        if not order:
            history = {described["task"]: described["history"] for described in self.kept}
            tables = [f"{when(task)}\n\n{self.scores_table(row, self._made(history[task]))}"
                      for task, row in rows.items() if row is not None]
            return "\n\n".join(tables)
        facts = _content(self.source / "run.json") if (self.source / "run.json").is_file() else {}
        of_training = {} if self.untrained else {
            "trained_with": facts.get("trained_with") or [self._flags()]}
        chosen = [rows[START]] * (1 + len(order)) if self.untrained else [
            rows.get(START), *(rows[stem(name)] for name in order)]
        summaries = self.summarise(order, chosen, self.kept[-1]["history"], **of_training,
                                   precision=self.kept[-1]["precision"], rescored=os.path.abspath(self.source))
        return "\n".join(map(numbers_text if self.untrained else summary_text, summaries.values()))

    def _flags(self):
        return {key: flag["value"] for key, flag in self.kept[-1]["flags"].items()}

    def _made(self, history):
        """Return what a checkpoint would record of its training."""
        return {"history": history, "config": self._flags()}

    def conditions(self, names, trained_with, space, history=()):
        """Return the run's stated conditions, changed to another label space and other prompts."""
        found = super().conditions(names, trained_with, space, history)
        if self.summary is None or "conditions" not in self.summary:
            return found
        own = stored(self.summary["conditions"])
        family = own.family.removesuffix(f", {prompt_text(self._flags())}")
        scored = ", ".join(filter(None, (family, prompt_text(self.files.values()))))
        return replace(own, space=space, task_id=TASK_IDS.get(space),
                       family=joined([scored, *([own.family] if trained_with else [])]))  # training prompts too

    def write_details(self):
        """Write what a run itself does not: per-class accuracy, calibration, and recall in galleries of earlier
        tasks."""
        scorer = self.scorer
        if scorer.per_class:
            self.folder.write_text("per_class.csv", rows_csv(
                ["task", "dataset", "label_space", "class", "accuracy", "support"], scorer.per_class))
            self.folder.write_text("calibration.csv", rows_csv(
                ["task", "dataset", "label_space", "n", "accuracy", "confidence", "ece", "nll"], scorer.calibration))
        for file, rows in scorer.galleries().items():
            self.folder.write_text(f"galleries_{file}.csv", rows_csv(
                ["gallery_after", "queries_after", *(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))],
                rows))
