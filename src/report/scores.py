"""Prepare the scores of a SequenceRun for the page and the pictures."""

import re

from src.report.measures import measure_of
from src.report.runs import ZERO_SHOT

SCORE_TITLES = {"top1": "Top-1 accuracy", "top5": "Top-5 accuracy", "i2t_r1": "R@1, image to text",
                "t2i_r1": "R@1, text to image", "rsum": "rsum"}
NOT_TERMS = ("iteration", "images_per_second")  # keys of a log line that are not loss terms
RATE = "lr"  # the learning rate in a log line
OLDER = ("image_distillation", "text_distillation", "image_pair_distillation", "text_tower_image", "text_tower_text")
PHASE = re.compile(r"_phase\d+$")


def row_title(task):
    return f"after {task}" if task else "zero-shot"


def trains(task, name):
    """Return whether a task, which may be a phase of a dataset, trains the dataset ``name``."""
    return bool(task) and name in (task, PHASE.sub("", task))


def mean_of(values):
    """Return the mean of the known values, None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def scale_of(rows):
    """Return (low, high): the tens around all cells of a matrix, the range of its colours."""
    values = [value for row in rows.values() for value in row if value is not None]
    low, high = min(values, default=0.0), max(values, default=100.0)
    return 10 * (low // 10), max(-10 * (-high // 10), 10 * (low // 10) + 10)


def curves(run, space):
    """Return {dataset: ({title: [score or None before training, after task 1, ...]}, numbers of the tasks that
    train it)}."""
    found = {}
    for column, name in enumerate(run.spaces[space]["datasets"]):
        series = {}
        for score, title in measure_of(space).curves.items():
            rows = run.matrices[space][score]
            series[title] = [rows[task][column] if task in rows else None for task in (ZERO_SHOT, *run.order)]
        found[name] = series, [number for number, task in enumerate(run.order, 1) if trains(task, name)]
    return found


def term_title(term):
    """Return the title of a loss term in a chart. Earlier versions logged distillation with its constant."""
    return f"{term}, cross-entropy" if term in OLDER else term


def loss_terms(run):
    """Return {term: [[(iteration, value)] of each task of the order]}; the learning rate comes last, named RATE."""
    terms = dict.fromkeys(term for log in run.losses.values() for line in log for term in line if term not in NOT_TERMS)
    return {term: [[(line["iteration"], line[term]) for line in run.losses.get(task, ()) if term in line]
                   for task in run.order] for term in sorted(terms, key=RATE.__eq__)}
