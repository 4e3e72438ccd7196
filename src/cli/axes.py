"""The axes of a study: their values, and a cell for each combination."""

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from src.cli.flags import FLAGS
from src.cli.orders import is_random, label_of_draw, random_orders, values_of_protocol
from src.cli.study_file import MOST_CELLS, flag_of, text_of, texts_of
from src.cli.texts import nearest_or_all, plain_texts
from src.cli.yaml_file import LABEL, MOST_LETTERS, SUFFIXES
from src.datasets import stem
from src.errors import UserError

ORDER = "dataset_order"
BARE = ("recipe", "method", ORDER)  # axes whose values need no flag name in front
MOST_IN_NAME = 200  # characters of a folder name; file systems stop at 255 bytes


@dataclass(frozen=True)
class Level:
    """Describe one value of an axis.

    ``written``: the value as in the file. ``label``: its part of a cell's name. ``texts``: {flag key: text,
    True, a list for a repeatable flag, or None for a switch to turn off}. ``drawn_from``: for a random order,
    the base order that it permutes.
    """

    written: str
    label: str
    texts: dict
    drawn_from: str = ""


@dataclass(frozen=True)
class Cell:
    """Describe one combination of axis values.

    ``row``: its labels without order and seed, which name its table row. ``order``: the label of its order.
    ``texts``: as in Level; ``common``: those that the whole row shares. ``drawn_from``: as in Level.
    ``setting``: for a trial, the label of the grid setting that it tries.
    """

    name: str
    row: str
    order: str
    texts: dict
    common: dict = field(default_factory=dict)
    drawn_from: str = ""
    setting: str = ""

    def words(self, save):
        """Return the words of its command line, writing into the folder ``save``."""
        texts = values_of_protocol(self.drawn_from, self.texts) | self.texts
        texts = {key: text for key, text in texts.items() if text is not None} | {"save": save, "resume": True}
        return tuple(word for key in FLAGS if key in texts for word in _words_of(FLAGS[key], texts[key]))


def _words_of(flag, text):
    if flag.switch:
        return [flag.name]
    texts = text if isinstance(text, list) else [text]
    return [word for each in texts for word in (
        [f"{flag.name}={each}"] if each.startswith("-") else [flag.name, each])]


# -- the values of an axis ---------------------------------------------------------------------------------------------


def levels_of(where, axis, values, base):
    """Return the Levels of an axis: a list of values, {label: value}, or {label: {flag: value}}.

    ``base``: {flag key: text} shared by every cell; random orders permute its tasks.
    """
    if not isinstance(values, list | dict) or not values:
        raise UserError(f"{where}: expected a list of values, or a mapping of labels to values or to flags")
    if isinstance(values, list):
        flag = flag_of(where, axis)
        levels = [level for value in values for level in _listed_or_drawn(where, flag, value, base)]
    elif any(isinstance(value, dict) for value in values.values()):
        levels = [Level(label, _label(where, label), texts_of(f"{where}: {label}", flags))
                  for label, flags in values.items()]
    else:
        flag = flag_of(where, axis)
        levels = [level for label, value in values.items()
                  for level in _labelled_or_drawn(where, flag, _label(where, label), value, base)]
    _refuse_repeated(where, [level.written for level in levels])
    _refuse_repeated(where, [level.label for level in levels])
    _refuse_long(where, levels)
    return levels


def _listed_or_drawn(where, flag, value, base):
    if flag.key == ORDER and is_random(value):
        return _drawn(where, value, label_of_draw(value), base)
    return [listed(where, flag, value)]


def _labelled_or_drawn(where, flag, label, value, base):
    if flag.key == ORDER and is_random(value):
        return _drawn(where, value, label, base)
    return [Level(label, label, {flag.key: text_of(where, flag, value)})]


def _drawn(where, value, label, base):
    """Return a Level for each random order: LABEL-1, LABEL-2, ..."""
    found = random_orders(where, value, base.get(ORDER))
    return [Level(f"{label}-{number}", f"{label}-{number}", {ORDER: ",".join(order)}, base[ORDER])
            for number, order in enumerate(found, 1)]


def listed(where, flag, value):
    """Return the Level of a value without a label."""
    text = text_of(where, flag, value)
    written = ",".join(plain_texts(value))
    return Level(written, label_of(flag.key, written), {flag.key: text})


def _label(where, label):
    if not LABEL.fullmatch(label):
        raise UserError(f"{where}: the label {label} becomes part of a folder name; give at most {MOST_LETTERS} "
                        "letters, digits and any of . _ + = -")
    return label


def label_of(key, text):
    """Return the name of a value within a folder name: its text, prefixed by the flag where that helps.

    A custom dataset or recipe is named after its file, without the folders above it.
    """
    if key in BARE and text.endswith(SUFFIXES):
        text = Path(text).stem
    if key == ORDER:
        text = ",".join(map(stem, text.split(",")))
    text = text if key in BARE else f"{key.replace('_', '-')}-{text}"
    return re.sub(r"[^A-Za-z0-9.+=_-]+", "-", text).strip("-.") or "value"


def _refuse_repeated(where, names):
    if (twice := repeated(names)) is not None:
        raise UserError(f"{where}: {twice} is given twice, or two values give the same folder name; give a mapping of "
                        "labels to values")


def repeated(names):
    """Return the first repeated name, or None if there is none."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _refuse_long(where, levels):
    if long := [level.label for level in levels if len(level.label) > MOST_LETTERS]:
        raise UserError(f"{where}: {long[0]} is too long for a folder name; give a mapping of labels to values")


def refuse_twice(where, axes, base, beside):
    """Refuse a flag that two axes set, and one that an axis replaces in every cell."""
    setters = {}
    for axis, levels in axes.items():
        for key in dict.fromkeys(key for level in levels for key in level.texts):
            name = FLAGS[key].name
            if key in setters:
                raise UserError(f"{where}: axes {setters[key]} and {axis} both set {name}; remove one")
            drawn = any(level.drawn_from for level in levels)  # from the base order
            if key in base and not drawn and all(key in level.texts for level in levels):
                raise UserError(f"{where}: base has {name}, which axis {axis} replaces in every cell; leave it out of "
                                "base")
            if key in beside:
                raise UserError(f"{where}: {name} is set by axis {axis}; leave it out of the command line")
            setters[key] = axis


def exclusion_of(where, axes, rule):
    """Return {axis: labels}, which exclude a cell that has one of the labels on every axis."""
    if not isinstance(rule, dict) or not rule:
        raise UserError(f"{where}: expected mappings of axes to values, as in {{recipe: zscl, seed: [2, 3]}}")
    found = {}
    for axis, values in rule.items():
        if axis not in axes:
            raise UserError(f"{where}: unknown axis {axis}; {nearest_or_all(axis, axes)}")
        known = {level.written: level.label for level in axes[axis]}
        texts = [_excluded(f"{where}: {axis}", value) for value in (values if isinstance(values, list) else [values])]
        for text in texts:
            if text not in known:
                raise UserError(f"{where}: {axis} has no value {text}; {nearest_or_all(text, known)}")
        found[axis] = {known[text] for text in texts}
    return found


def _excluded(where, value):
    """Return a value of an axis in the form of ``Level.written``."""
    texts = plain_texts(value)
    if texts is None:
        raise UserError(f"{where}: expected a value of the axis, or a list of values; where the axis has labels, give "
                        "labels")
    return ",".join(texts)


def cells_of(where, axes, base, excluded, rowless):
    """Return a cell for every combination, the last axis varying fastest.

    ``rowless``: the row name of cells that differ only in order and seed.
    """
    if math.prod(map(len, axes.values())) > MOST_CELLS:
        raise UserError(f"{where}: more than {MOST_CELLS} cells; leave values out")
    keys = {axis: keys_of(levels) for axis, levels in axes.items()}
    cells, hits = [], [0] * len(excluded)
    for levels in itertools.product(*axes.values()):
        labels = dict(zip(axes, (level.label for level in levels), strict=True))
        matching = [index for index, rule in enumerate(excluded)
                    if all(labels[axis] in wanted for axis, wanted in rule.items())]
        for index in matching:
            hits[index] += 1
        if not matching:
            cells.append(_cell(keys.values(), levels, base, rowless))
    if 0 in hits:
        raise UserError(f"{where}: exclude: rule {hits.index(0) + 1} excludes no cell; leave it out")
    if not cells:
        raise UserError(f"{where}: exclude: excludes every cell")
    refuse_folders(f"{where}: axes", cells)
    return tuple(cells)


def refuse_folders(where, cells):
    """Refuse two cells that would write into one folder, and names that are too long for one."""
    seen = {}
    for cell in cells:
        other = seen.setdefault(cell.name.lower(), cell.name)  # for case-insensitive file systems
        if other != cell.name:
            raise UserError(f"{where}: two cells are called {cell.name}, but for upper and lower case; give other "
                            "labels")
    names = [cell.name for cell in cells]
    if len(seen) < len(names):
        raise UserError(f"{where}: two cells are called {repeated(names)}; give other labels")
    orders = {cell.order for cell in cells}  # with several, the tables of each get a folder
    for name in [*names, *(sorted(orders) if len(orders) > 1 else ())]:
        if len(name) > MOST_IN_NAME:
            raise UserError(f"{where}: {name} is too long for a folder name, {len(name)} characters; give shorter "
                            "labels")


def _cell(keys, levels, base, rowless):
    """Build a cell. ``keys``: what ``keys_of`` returns for each level's axis."""
    chosen = list(zip(keys, levels, strict=True))
    order = next((level for set_there, level in chosen if set_there == {ORDER}), None)
    apart = [level for set_there, level in chosen if set_there not in ({ORDER}, {"seed"})]
    common = dict(base)
    for level in apart:
        common |= level.texts
    texts = dict(common)
    for level in levels:
        texts |= level.texts
    return Cell("_".join(level.label for level in levels), "_".join(level.label for level in apart) or rowless,
                order.label if order else order_label(texts), texts, common, order.drawn_from if order else "")


def keys_of(levels):
    """Return the flags that an axis sets."""
    return {key for level in levels for key in level.texts}


def order_label(texts):
    """Return the label of a cell's order where no axis sets orders."""
    return label_of(ORDER, texts.get(ORDER) or "")
