"""Define the two measures of a sequence, ACCURACY of class data and RETRIEVAL of image-text pairs: files and tables."""

import math
import statistics

from src.report.conditions import are_conditions
from src.report.sequence import dataset_numbers, sequence_metrics, summarise, summarise_retrieval

SUMMARY = ("transfer", "avg", "last", "forgetting", "bwt")
INCREMENTAL = ("incremental_avg", "incremental_last")  # also in the label space "seen"
RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "i2t_medr", "t2i_medr", "rsum")
TITLES = {"transfer": "Transfer", "avg": "Avg", "last": "Last", "forgetting": "Forgetting", "bwt": "BWT",
          "incremental_avg": "Inc. avg", "incremental_last": "Inc. last",
          "mean_rsum": "mean rsum", "i2t_r1": "i2t R@1", "t2i_r1": "t2i R@1", "rsum": "rsum",
          "forgetting_r1": "Forgetting", "recall": "R@k"}
# Definitions of a sequence's numbers, wherever they are shown; src.report.sequence computes them.
DEFINITIONS = {
    "transfer": "mean over j > 1 of the mean over i < j of A[i][j] (Zheng et al., 2023)",
    "avg": "mean of all A[i][j]",
    "last": "mean over j of A[n][j], the row after the last task",
    "forgetting": "mean over j < n of (max over i of A[i][j]) - A[n][j]; lower is better (Chaudhry et al., 2018)",
    "bwt": "mean over j < n of A[n][j] - A[j][j] (Lopez-Paz and Ranzato, 2017)",
    "incremental_avg": "average incremental accuracy: mean over the steps of the accuracy over all images of the "
                       "classes seen so far (Rebuffi et al., 2017); every image counts the same, unlike in Avg",
    "incremental_last": "that accuracy after the last step",
    "recall": "share, in percent, of images with one of their captions among the k nearest, or of captions with their "
              "image among them",
    "rsum": "sum of R@1, R@5 and R@10 from image to text (i2t) and from text to image (t2i), in percent",
    "mean_rsum": "mean of rsum over the sets of image-text pairs",
    "forgetting_r1": "of each set, the best i2t R@1 after any task minus that after the last",
}
LOWER_IS_BETTER = ("forgetting",)              # among the compared numbers
MATRIX = ("A[i][j] is top-1 accuracy in percent on task j after training task i, of n tasks counted from 1, of the "
          "weights that are saved; the zero-shot row is no part of any number.")


class Accuracy:
    """Measure top-1 and top-5 of class data, with a summary for each label space."""

    matrices = ("top1", "top5")                 # scores written as matrices, matrix_<score>.csv
    curves = {"top1": "top-1"}                  # scores drawn over the tasks, with their titles
    curve_title = "Top-1 accuracy"
    best = "avg"                                # the number that --report ranks by
    paper = ("transfer", "avg", "last")         # numbers that papers print, also per dataset
    axes = {"transfer": "Transfer: accuracy on tasks not yet trained, percent",
            "last": "Last: accuracy on all tasks after the last, percent"}
    explained = SUMMARY                         # numbers defined below a table
    preamble = (MATRIX,)                        # text before these definitions
    header = ("dataset", "classes of", "top-1", "top-5", "k", "images")
    folds_matrices = True                       # the page shows the first matrix and folds the others

    def row(self, dataset, space, scores):
        """Return a row of the table of one evaluation, below ``header``."""
        return [dataset, space, scores.top1, scores.top5, scores.k, scores.n]

    def summarise(self, trained, rows, space, precision):
        """Return the content of ``summary.json``; see ``src.report.sequence``."""
        return summarise(trained, rows, space, precision)

    def is_summary(self, content):
        """Return whether the content of a file is such a summary, given that its "datasets" are names."""
        start, matrix, names = content.get("zero_shot", 0), content.get("matrix"), content["datasets"]
        return (isinstance(content.get("label_space"), str)
                and all(key in content and is_cell(content[key]) for key in SUMMARY)
                and all(is_cell(content.get(key)) for key in INCREMENTAL)
                and (start is None or is_row(start, names, is_cell))
                and isinstance(matrix, list) and len(matrix) == len(names)
                and all(isinstance(row, list) and len(row) == len(names) and all(map(is_cell, row)) for row in matrix))

    def other_spaces(self, first, spaces):
        """Return the label spaces other than the first that have a separate summary."""
        return [space for space in spaces if space != first]

    def trained(self, summary):
        """Return the trained tasks, in order."""
        return list(summary["datasets"])

    def start(self, summary):
        """Return {dataset: score} before training; None if unknown."""
        return summary["zero_shot"]

    def start_numbers(self, start):
        """Return the numbers as if training changed nothing, given [(dataset, score)] before it; None if one is
        missing."""
        cells = [value for _, value in start]
        return None if None in cells else sequence_metrics([cells] * len(cells))

    def numbers_in(self, space):
        """Return the numbers that --report compares in a label space."""
        return (*SUMMARY, *(INCREMENTAL if space == "seen" else ()))

    def numbers_of(self, summary):
        """Return {number: value} that --report compares; None for those that an earlier version did not store."""
        return {key: summary.get(key) for key in self.numbers_in(summary["label_space"])}

    def cells_of(self, summary):
        """Return {(number of ``paper``, dataset): value}; the number is the mean over the datasets."""
        return dataset_numbers(summary["datasets"], summary["matrix"])

    def start_cells(self, start):
        """Return the same for [(dataset, score)] before training, as if nothing changed."""
        names, cells = zip(*start, strict=True)
        return dataset_numbers(names, [cells] * len(cells))

    def explained_by(self, numbers):
        """Return the keys of DEFINITIONS that define these numbers."""
        return numbers

    def line(self, summary):
        """Return [(title, number)] to show below a picture."""
        return [(TITLES[key], summary[key]) for key in SUMMARY]

    def untrained(self, summary):
        """Return the summary of a sequence in which nothing was trained, without the rows after each task: all
        equal the first."""
        return summary | {"matrix": []}

    def tables(self, summary):
        """Return [(header, rows)] of the tables that show a summary."""
        return [self.matrix_cells(summary), self.numbers_cells(summary)]

    def matrix_cells(self, summary):
        """Return (header, rows) of the matrix: one row per trained task, the zero-shot row first if there is one."""
        order, start = summary["datasets"], summary["zero_shot"]
        rows = [] if start is None else [["zero-shot", *(start[name] for name in order)]]
        trained = order[:len(summary["matrix"])]  # none after ``untrained``
        rows += [[f"after {name}", *row] for name, row in zip(trained, summary["matrix"], strict=True)]
        return [f"top-1, classes of {summary['label_space']}", *order], rows

    def numbers_cells(self, summary):
        """Return (header, rows), one row, of Transfer, Avg, Last, forgetting, BWT, and average incremental
        accuracy if known."""
        shown = [*SUMMARY, *(key for key in INCREMENTAL if key in summary)]
        return [TITLES[key] for key in shown], [[summary[key] for key in shown]]

    def first_column(self, space):
        """Return the title of the column that names the runs of a comparison."""
        return f"run, classes of {space}"


class Retrieval:
    """Measure recall of image-text pairs, with one summary whose "label_space" is ``space``. Methods as in
    Accuracy."""

    space = "retrieval"
    matrices = ("i2t_r1", "t2i_r1", "rsum")
    curves = {"i2t_r1": "image to text", "t2i_r1": "text to image"}
    curve_title = "R@1"
    best = "mean_rsum"
    paper = ("i2t_r1", "t2i_r1", "mean_rsum")
    axes = {"i2t_r1": "R@1 from image to text, percent", "t2i_r1": "R@1 from text to image, percent"}
    explained = ("recall", "rsum", "mean_rsum", "forgetting_r1")
    preamble = ()
    header = ("retrieval", *RECALLS, "images", "captions")
    folds_matrices = False

    def row(self, dataset, space, scores):
        return [dataset, *(getattr(scores, key) for key in RECALLS), scores.images, scores.captions]

    def summarise(self, trained, rows, space, precision):
        return summarise_retrieval(trained, rows, space, precision)

    def is_summary(self, content):
        trained, rows, names = content.get("trained"), content.get("rows"), content["datasets"]
        return (are_names(trained) and isinstance(rows, list) and len(rows) == 1 + len(trained)
                and is_number(content.get("mean_rsum"))
                and all(is_row(row, names, self._are_scores) for row in rows[rows[0] is None:]))

    def _are_scores(self, scores):
        return isinstance(scores, dict) and all(is_number(scores.get(score)) for score in self.matrices)

    def other_spaces(self, first, spaces):
        return []

    def trained(self, summary):
        return list(summary["trained"])

    def start(self, summary):
        return summary["rows"][0]

    def start_numbers(self, start):
        return self._means(dict(start))

    def numbers_in(self, space):
        return ("mean_rsum", "i2t_r1", "t2i_r1")

    def numbers_of(self, summary):
        return self._means(summary["rows"][-1])

    def cells_of(self, summary):
        return self.start_cells(summary["rows"][-1].items())

    def start_cells(self, start):
        return {(key, name): scores[key.removeprefix("mean_")] for name, scores in start for key in self.paper}

    def explained_by(self, numbers):
        return [key for key, of in {"recall": ("i2t_r1", "t2i_r1"), "rsum": ("mean_rsum",),
                                    "mean_rsum": ("mean_rsum",)}.items() if {*of} & {*numbers}]

    def _means(self, row):
        """Return the means over the sets of pairs."""
        return {key: statistics.fmean(scores[key.removeprefix("mean_")] for scores in row.values())
                for key in self.numbers_in(self.space)}

    def line(self, summary):
        return [(TITLES["mean_rsum"], summary["mean_rsum"])]

    def untrained(self, summary):
        return summary | {"trained": [], "rows": summary["rows"][:1]}

    def tables(self, summary):
        return [self.recall_cells(summary)]

    def recall_cells(self, summary):
        """Return (header, rows) of recall on each set of pairs before training, if known, and after each task
        or phase, and the mean of rsum over the sets."""
        sets, shown = summary["datasets"], self.matrices
        rows = [[task, *(row[name][score] for name in sets for score in shown),
                 sum(row[name]["rsum"] for name in sets) / len(sets)]
                for task, row in zip(["zero-shot", *(f"after {name}" for name in summary["trained"])], summary["rows"],
                                     strict=True) if row is not None]
        return ["recall", *(f"{name} {TITLES[score]}" for name in sets for score in shown), TITLES["mean_rsum"]], rows

    def first_column(self, space):
        return "run"


ACCURACY, RETRIEVAL = Accuracy(), Retrieval()


def measure_of(space):
    """Return the measure of a label space; image-text pairs use RETRIEVAL.space instead."""
    return RETRIEVAL if space == RETRIEVAL.space else ACCURACY


def defined(space, numbers=None):
    """Return [(title, definition)] of the numbers shown for a label space or image-text pairs: ``numbers``, or
    all of a summary."""
    measure = measure_of(space)
    summary = (*measure.explained, *(INCREMENTAL if space == "seen" else ()))
    keys = summary if numbers is None else measure.explained_by(numbers)
    return [(TITLES[key], DEFINITIONS[key]) for key in keys]


# -- what a file may hold ----------------------------------------------------------------------------------------------


def is_summary(content):
    """Return whether the content of a ``summary.json`` is complete."""
    if not isinstance(content, dict) or not are_names(content.get("datasets")):
        return False
    if not are_conditions(content.get("conditions", {})):
        return False
    return measure_of(content.get("label_space")).is_summary(content)


def are_names(content):
    return isinstance(content, list) and content and all(isinstance(name, str) for name in content)


def is_row(row, names, is_one):
    return isinstance(row, dict) and all(name in row and is_one(row[name]) for name in names)


def is_number(value):
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


def is_cell(value):
    return value is None or is_number(value)
