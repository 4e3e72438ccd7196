"""Choose settings on val images before a study's test runs: the settings of a grid, and the trials of each row.

    select:
      grid: {lr: [1e-5, 3e-5, 1e-4]}      # axes: any flags
      seeds: [101, 102]                   # of the trials only
      on: {orders: [mtil-2]}              # orders and flags of the trials; default: the study's
      by: avg                             # the number that decides
"""

import itertools
import math
from dataclasses import dataclass

from src.cli.axes import (
    ORDER,
    Cell,
    Level,
    keys_of,
    levels_of,
    order_label,
    refuse_folders,
    refuse_twice,
    repeated,
)
from src.cli.flags import FLAGS
from src.cli.study_file import MOST_CELLS, PLURALS, texts_of
from src.cli.yaml_file import require_parts
from src.errors import UserError

FOLDER = "select"  # holds the trials, inside the study's folder
PARTS = {"grid": dict, "seeds": list, "on": dict, "by": str}
# Flags that decide which images train and are scored, and as what: settings that differ in them are not comparable.
NOT_OF_A_GRID = ("seed", ORDER, "eval_datasets", "eval_split", "max_evaluation_size", "wilds_split", "retrieval_split",
                 "label_space", "val_fraction", "split_file", "class_order", "data_location", "image_dir",
                 "annotations")


@dataclass(frozen=True)
class Selection:
    """Hold the selection of a study.

    ``settings``: a Level for each combination of the grid. ``trials``: Cells, equally many for each row and
    setting. ``by``: the number that decides, "" for the one that tables rank by. ``seeds``: texts. ``orders``:
    labels.
    """

    settings: tuple
    trials: tuple
    by: str
    seeds: tuple
    orders: tuple


def read_selection(where, content, axes, base, beside, cells):
    """Return the Selection of a study's file.

    ``axes``: {axis: [Level]}. ``base``, ``beside``: {flag key: text} for all cells. ``cells``: those of the
    study. Raises UserError, which begins with ``where``.
    """
    require_parts(where, content, PARTS)
    for key in ("grid", "seeds"):
        if not content.get(key):
            raise UserError(f"{where}: has no {key}:; expected grid: {{lr: [1e-5, 1e-4]}} and seeds: [101, 102]")
    grid = {f"select: grid: {axis}": levels_of(f"{where}: grid: {axis}", axis, values, base)
            for axis, values in content["grid"].items()}
    seeds = levels_of(f"{where}: seeds", "seed", content["seeds"], base)
    orders, flags = _on(f"{where}: on", content.get("on", {}), base)
    _refuse_others(f"{where}: grid", {key for levels in grid.values() for key in keys_of(levels)}, NOT_OF_A_GRID)
    refuse_twice(where, axes | grid, base, beside)
    _refuse_set(f"{where}: on", flags, {**axes, **grid}, beside)
    settings = _settings(where, grid)
    rows = {cell.row: cell.common for cell in cells}
    if math.prod((len(settings), max(len(cells), len(rows) * len(seeds) * max(1, len(orders))))) > MOST_CELLS:
        raise UserError(f"{where}: more than {MOST_CELLS} trials or test runs; leave values out")
    orders = orders or next((levels for levels in axes.values() if keys_of(levels) == {ORDER}), [None])
    trials = tuple(_trial(row, common | flags, setting, order, seed) for row, common in rows.items()
                   for setting in settings for order in orders for seed in seeds)
    refuse_folders(where, trials)
    if any(cell.name.lower() == FOLDER for cell in cells):
        raise UserError(f"{where}: a cell is called {FOLDER}, like the folder of the trials; give another label")
    return Selection(settings, trials, content.get("by", ""), tuple(seed.written for seed in seeds),
                     tuple(dict.fromkeys(trial.order for trial in trials)))


def _on(where, content, base):
    """Return (Levels of the trials' orders, empty for those of the study; {flag key: text} for trials only)."""
    words = [word for word in content if PLURALS.get(word, word).replace("-", "_") == ORDER]
    if len(words) > 1:
        raise UserError(f"{where}: {words[0]} and {words[1]} are the same; leave one out")
    orders = [level for word in words for level in levels_of(f"{where}: {word}", word, content[word], base)]
    if orders and keys_of(orders) != {ORDER}:
        raise UserError(f"{where}: {words[0]}: expected only orders; put flags of the trials beside them")
    flags = texts_of(where, {word: value for word, value in content.items() if word not in words})
    _refuse_others(where, flags, ("seed", "eval_split"))
    return orders, flags


def _refuse_others(where, keys, refused):
    reasons = {"seed": "trials have the seeds of select: seeds", "eval_split": "trials are scored on val"}
    for key in refused:
        if key in keys:
            reason = reasons.get(key, "settings are compared on the same images and classes")
            raise UserError(f"{where}: {FLAGS[key].name} is not allowed here: {reason}")


def _refuse_set(where, flags, axes, beside):
    for key in flags:
        for axis, levels in axes.items():
            if key in keys_of(levels):
                raise UserError(f"{where}: {FLAGS[key].name} is set by {axis} too; remove one")
        if key in beside:
            raise UserError(f"{where}: {FLAGS[key].name} is set in the file; leave it out of the command line")


def _settings(where, grid):
    settings = []
    for levels in itertools.product(*grid.values()):
        texts = {key: text for level in levels for key, text in level.texts.items()}
        label = "_".join(level.label for level in levels)
        settings.append(Level(label, label, texts))
    twice = repeated(setting.label.lower() for setting in settings)
    if twice is not None:
        raise UserError(f"{where}: grid: two settings are called {twice}; give other labels")
    return tuple(settings)


def _trial(row, texts, setting, order, seed):
    texts = texts | (order.texts if order else {}) | seed.texts | setting.texts | {"eval_split": "val"}
    label = order.label if order else order_label(texts)
    name = "_".join((row, setting.label, label, seed.label))
    return Cell(f"{FOLDER}/{name}", row, label, texts, drawn_from=order.drawn_from if order else "",
                setting=setting.label)
