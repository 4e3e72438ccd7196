"""Results of commands as pandas objects with labelled rows and columns."""

import dataclasses
from pathlib import Path

import pandas as pd

from src.datasets import stem
from src.errors import UserError
from src.machine.files import read_json
from src.report.measures import measure_of
from src.report.runs import ZERO_SHOT, read_run

START = "zero-shot"  # the label of the row before training
RENAMED = {"n": "images", "per_class": "mean_per_class"}  # fields of Scores


class Run:
    """A finished run: its folder, and what the files there say.

    ``Run("ckpt/toy_zscl")`` reopens the folder of a sequence; ``Run(folder, "DTD")`` opens a task trained
    by itself. ``log``: the command's output. Without ``save`` a run lives in a temporary folder, which is
    deleted with this object.
    """

    def __init__(self, folder, task=None, log="", owner=None):
        self.folder, self.log = Path(folder), log
        self._task, self._owner = task and stem(task), owner  # the owner of a temporary folder removes it
        self._found = None if task else read_run(self.folder, "Run")

    @property
    def tasks(self):
        """The trained tasks, in order, as named in files."""
        return [self._task] if self._task else list(self._found.order)

    @property
    def spaces(self):
        """The label spaces that were scored, in order; "retrieval" for image-text pairs."""
        if self._task:
            return list(dict.fromkeys(space for spaces in self._scores().values() for space in spaces))
        return list(self._found.spaces)

    def matrix(self, space=None, score=None):
        """Return the scores in percent as a DataFrame: one row per trained task, after a zero-shot row if
        there is one, and one column per dataset. A missing score is NaN.

        ``space``: a label space, by default the first. ``score``: "top1" or "top5"; for image-text pairs
        "i2t_r1", "t2i_r1" or "rsum".
        """
        space = _one_of("space", space, self.spaces)
        score = _one_of("score", score, measure_of(space).matrices)
        if self._task:
            cells = {name: spaces[space][score] for name, spaces in self._scores().items() if space in spaces}
            rows, columns = {self._task: list(cells.values())}, list(cells)
        else:
            rows, columns = self._found.matrices[space][score], self._found.spaces[space]["datasets"]
        table = pd.DataFrame([*rows.values()], [START if task == ZERO_SHOT else task for task in rows], columns, float)
        return table.rename_axis(index="trained", columns="dataset")

    def summary(self, space=None):
        """Return the metrics of a sequence (Transfer, Avg, Last, ...) as a DataFrame: one row per label
        space, or only ``space``. A metric that is undefined for the run is NaN."""
        if self._task:
            raise UserError(f"summary: {self._task} was trained by itself, and summary() is for sequences; "
                            "matrix() has its scores")
        spaces = self.spaces if space is None else [_one_of("space", space, self.spaces)]
        numbers = {name: measure_of(name).numbers_of(self._found.spaces[name]) for name in spaces}
        return pd.DataFrame.from_dict(numbers, "index", float).rename_axis(index="label_space")

    def losses(self, task=None):
        """Return the log of a task, by default the last, as a DataFrame: one row per logged step, with the
        terms of the loss, the learning rate and the speed."""
        name = self._named(task)
        if self._task:
            raise UserError(f"losses: {self._task} was trained by itself; its log is {self.folder}/log_{name}.jsonl")
        return pd.DataFrame(self._found.losses.get(name, ()))

    def checkpoint(self, task=None):
        """Return the path of a task's checkpoint, by default the last task's."""
        path = self.folder / f"{self._named(task)}.pth"
        if not path.is_file():
            raise UserError(f"checkpoint: {path} does not exist")
        return path

    def _named(self, task):
        return self.tasks[-1] if task is None else _one_of("task", stem(str(task)), self.tasks)

    def _scores(self):
        return read_json(self.folder / f"run_{self._task}.json")["scores"]

    def __repr__(self):
        return f"Run({str(self.folder)!r}: {', '.join(self.tasks)})"


def _one_of(what, value, choices):
    """Return ``value`` if it is one of ``choices``; the first of them for None."""
    if not choices:
        raise UserError(f"{what}: the run has no scores, because no images were held out; give the Task a test split")
    if value is None:
        return next(iter(choices))
    if value not in choices:
        raise UserError(f"{what} {value!r}: the run has {', '.join(choices)}")
    return value


def scores_table(found):
    """Convert [(share of the loaded weights or None, {dataset: {label space: Scores}})] to a DataFrame with
    a row per dataset and label space."""
    rows, names = [], []
    for alpha, datasets in found:
        for dataset, spaces in datasets.items():
            for space, scores in spaces.items():
                numbers = {RENAMED.get(key, key): value for key, value in dataclasses.asdict(scores).items()
                           if value is not None}
                rows.append(({} if alpha is None else {"alpha": alpha}) | {"label_space": space} | numbers)
                names.append(dataset)
    return pd.DataFrame(rows, pd.Index(names, name="dataset"))


def report_table(report):
    """Convert a Report to a DataFrame with a row per run, published result and start, with the numbers that
    --report ranks."""
    rows, names = [], []
    for order, tables in report.orders.items():
        for table in tables:
            for row in table.rows:
                deviations = {f"{key}_std": value for key, value in row.deviations.items()}
                rows.append({"kind": row.kind, "order": order, "label_space": table.space, "runs": len(row.runs)}
                            | row.numbers | deviations)
                names.append(row.name)
    found = pd.DataFrame(rows, pd.Index(names, name="run"))
    return found if report.several else found.drop(columns="order")


def probabilities_table(classnames, found, names):
    """Convert {image: [(class name, probability)]} and a label per image to a DataFrame, one row per image,
    one column per class."""
    rows = [dict(ranked) for ranked in found.values()]
    return pd.DataFrame(rows, pd.Index(names, name="image"), list(classnames))
