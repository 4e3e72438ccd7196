"""A study: a grid of command lines, from a YAML file or from several seeds. Knows flags, and runs nothing.

    name: toy
    base: {dataset-order: toy, iterations: 100}                  # flags of every cell
    axes:                                                        # a cell for each combination
      recipe: [finetune, lwf, zscl]                              # a flag and its values
      lr: {low: 1e-5, high: 1e-4}                                # the same with labels
      variant: {plain: {}, pulled: {l2: 1}}                      # labels and several flags each
      seed: [1, 2, 3]
    exclude: [{recipe: zscl, seed: [2, 3]}]
    report: {names: {zscl: ZSCL}, published: [zscl], columns: [transfer, avg, last]}
"""

import itertools
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from src.cli.checks import check
from src.cli.flags import FLAGS
from src.cli.kinds import SEQUENCE, a_run
from src.cli.recipes import SUFFIXES
from src.cli.texts import SWITCHED, nearest, nearest_or_all, plain_texts, switched
from src.datasets import stem
from src.errors import UserError

PARTS = {"name": str, "about": str, "base": dict, "axes": dict, "exclude": list, "report": dict}
REPORT_PARTS = {"names": dict, "published": (list, str), "columns": list, "baseline": str}
KINDS = {str: "a text", dict: "a mapping", list: "a list", (list, str): "a list, true or false"}
PLURALS = {"recipes": "recipe", "methods": "method", "orders": "dataset-order", "seeds": "seed"}
# What a study decides itself, or what all cells would share a folder for.
NOT_OF_A_CELL = ("study", "jobs", "status", "save", "resume", "overwrite", "dry_run", "export")
BARE = ("recipe", "method", "dataset_order")  # axes whose values say by themselves what they are
MOST_CELLS = 10_000
MOST_LETTERS = 60  # of a label
MOST_IN_NAME = 200  # letters of the name of a folder, which file systems limit to 255 bytes


@dataclass(frozen=True)
class Level:
    """One value of an axis. ``written``: as the file has it; ``label``: its part of a cell's name; ``texts``: {flag
    key: text, True, or a list of a flag that may be repeated; None of a switch that is to be off}."""

    written: str
    label: str
    texts: dict


@dataclass(frozen=True)
class Cell:
    """One combination. ``row``: its labels without order and seed, which is the row of a table that it belongs to;
    ``order``: the label of its order; ``texts``: as those of a Level."""

    name: str
    row: str
    order: str
    texts: dict

    def words(self, save):
        """The words of its command line, with the folder ``save``."""
        texts = {key: text for key, text in self.texts.items() if text is not None} | {"save": save, "resume": True}
        return tuple(word for key in FLAGS if key in texts for word in _words_of(FLAGS[key], texts[key]))


@dataclass(frozen=True)
class Study:
    """``cells`` in their order; ``names``: {row: how tables call it}; ``published``: the published rows that are shown,
    None for all that fit; ``columns``: the numbers that are shown, none for all; ``baseline``: the row that others are
    compared with."""

    name: str
    cells: tuple
    names: dict = field(default_factory=dict)
    published: tuple | None = None
    columns: tuple = ()
    baseline: str | None = None


@dataclass(frozen=True)
class Job:
    """A cell that may run. ``words`` of its command line, which writes into ``folder``; ``tasks``: as files call them;
    ``iterations`` of each task, None where only the data say it; ``numbers``: {flag key: value} of what can change a
    result; ``pairs``: whether image-text pairs are trained on; ``device``: auto, cpu, cuda or mps."""

    cell: Cell
    folder: Path
    words: tuple
    tasks: tuple
    iterations: int | None
    batch_size: int
    numbers: dict
    pairs: bool
    device: str

    @property
    def name(self):
        return self.cell.name


def jobs_of(study, save, parse):
    """(a Job for each cell, texts of warnings), by ``parse``: words -> Config. Raises UserError, naming the cell, where
    one of them would be refused."""
    jobs, warnings = [], {}
    for cell in study.cells:
        folder = os.path.join(save, cell.name)
        try:
            config = parse(cell.words(folder))
            warnings |= dict.fromkeys(check(config).warnings)
            jobs.append(_job(cell, Path(folder), config))
        except UserError as error:
            raise UserError(f"cell {cell.name} of the study: {error}") from None
    return tuple(jobs), list(warnings)


def _job(cell, folder, config):
    if config.kind != SEQUENCE:
        raise UserError(f"is {a_run(config.kind)}; a study compares sequences: give --dataset-order, and nothing that "
                        "makes it another kind of run")
    for key, text in cell.texts.items():
        if text is None and config.values[key]:
            raise UserError(f"{FLAGS[key].name} is to be off, and {config.origins[key]} switches it on; a flag cannot "
                            "switch it off: write a recipe without it")
    return Job(cell, folder, config.argv, tuple(map(stem, config.trained)), config.iterations, config.batch_size,
               config.numbers(), config.pairs, config.device)


def _words_of(flag, text):
    if flag.switch:
        return [flag.name]
    texts = text if isinstance(text, list) else [text]
    return [word for each in texts for word in (
        [f"{flag.name}={each}"] if each.startswith("-") else [flag.name, each])]


# -- several seeds -----------------------------------------------------------------------------------------------------


def study_of_seeds(texts):
    """The Study of a command line with --seed A,B,...: a cell for each. ``texts``: {flag key: text} of its flags."""
    if "export" in texts:
        _refuse_not_of_a_cell(f"--seed {texts['seed']}", ["export"])
    row = label_of("recipe", texts.get("recipe") or texts.get("method") or FLAGS["method"].default)
    levels = [_listed("--seed", FLAGS["seed"], seed.strip()) for seed in texts["seed"].split(",")]
    common = {key: text for key, text in texts.items() if key not in NOT_OF_A_CELL}
    return Study(row, _cells(f"--seed {texts['seed']}", {"seed": levels}, common, (), row))


# -- the file ----------------------------------------------------------------------------------------------------------


def read_study(path, beside=()):
    """The study of a YAML file. ``beside``: {flag key: text} of flags that every cell gets, in the place of what the
    file has of them. Raises UserError naming the file and the key."""
    where = f"--study {path}"
    content = _read(path, where)
    _require_parts(where, content, PARTS)
    base = _texts(f"{where}: base", content.get("base", {}))
    axes = {axis: _levels(f"{where}: axes: {axis}", axis, values) for axis, values in content.get("axes", {}).items()}
    if not axes:
        raise UserError(f"{where}: has no axes:, so there is one run; give its flags on the command line")
    if "export" in beside:
        _refuse_not_of_a_cell(where, ["export"])
    beside = {key: text for key, text in dict(beside).items() if key not in NOT_OF_A_CELL}
    _refuse_twice(where, axes, base, beside)
    excluded = [_exclusion(f"{where}: exclude", axes, rule) for rule in content.get("exclude", [])]
    name = content.get("name") or Path(path).stem
    cells = _cells(where, axes, base | beside, excluded, label_of("recipe", name))
    report = content.get("report", {})
    _require_parts(f"{where}: report", report, REPORT_PARTS)
    return Study(name, cells, report.get("names", {}), *_shown(f"{where}: report", report),
                 report.get("baseline"))


def _read(path, where):
    from clip.files.plain_yaml import read_yaml  # a command line without a file reads no YAML
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected a mapping with base: and axes:")
    return content


def _require_parts(where, content, parts):
    for key, value in content.items():
        if key not in parts:
            raise UserError(f"{where}: unknown key {key}; {nearest_or_all(key, parts)}")
        if not isinstance(value, parts[key]):
            raise UserError(f"{where}: {key} is to be {KINDS[parts[key]]}")


def _flag(where, word):
    flag = FLAGS.get(PLURALS.get(word, word).replace("-", "_"))
    if flag is None:
        hint = nearest(word, [*PLURALS, *(flag.name[2:] for flag in FLAGS.values())])
        raise UserError(f"{where}: unknown flag {word}; {hint or 'see --help'}")
    _refuse_not_of_a_cell(where, [flag.key])
    return flag


def _refuse_not_of_a_cell(where, keys):
    if "export" in keys:
        raise UserError(f"{where}: --export would write every cell into one folder; export a checkpoint of a cell by "
                        "--load FILE --export DIR")
    if found := [FLAGS[key].name for key in keys if key in NOT_OF_A_CELL]:
        raise UserError(f"{where}: {found[0]} belongs to the whole study, not to its cells; give it on the command "
                        "line")


def _texts(where, flags):
    """{word: value} of a file -> {flag key: text, True, list, or None for a switch that is off}"""
    if not isinstance(flags, dict):
        raise UserError(f"{where}: expected a mapping of flags")
    found = {}
    for word, value in flags.items():
        flag = _flag(where, word)
        if flag.key in found:
            raise UserError(f"{where}: {flag.name} stands there twice")
        found[flag.key] = _text(where, flag, value)
    return found


def _text(where, flag, value):
    texts = plain_texts(value)
    if texts is None:
        raise UserError(f"{where}: {flag.name}: expected a value, as on the command line, or a list of values")
    if flag.repeated:
        return texts
    text = ",".join(texts)
    if not flag.switch:
        return text
    try:
        return switched(flag, text) or None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


# -- axes --------------------------------------------------------------------------------------------------------------


def _levels(where, axis, values):
    """The Levels of an axis: a list of values, {label: value}, or {label: {flag: value}}."""
    if not isinstance(values, list | dict) or not values:
        raise UserError(f"{where}: expected a list of values, or a mapping of labels to values or to flags")
    if isinstance(values, list):
        flag = _flag(where, axis)
        levels = [_listed(where, flag, value) for value in values]
    elif any(isinstance(value, dict) for value in values.values()):
        levels = [Level(label, _label(where, label), _texts(f"{where}: {label}", flags))
                  for label, flags in values.items()]
    else:
        flag = _flag(where, axis)
        levels = [Level(label, _label(where, label), {flag.key: _text(where, flag, value)})
                  for label, value in values.items()]
    _refuse_repeated(where, [level.written for level in levels])
    _refuse_repeated(where, [level.label for level in levels])
    _refuse_long(where, levels)
    return levels


def _listed(where, flag, value):
    text = _text(where, flag, value)
    written = ",".join(plain_texts(value))
    return Level(written, label_of(flag.key, written), {flag.key: text})


def _label(where, label):
    if not re.fullmatch(rf"[A-Za-z0-9][\w.+=-]{{0,{MOST_LETTERS - 1}}}", label, re.ASCII):
        raise UserError(f"{where}: the label {label} is to be part of a folder's name: at most {MOST_LETTERS} letters, "
                        "digits and any of . _ + = -")
    return label


def label_of(key, text):
    """What a value is called in the name of a folder: its text, behind the flag where that says more."""
    if key in BARE and text.endswith(SUFFIXES):
        text = Path(text).stem
    text = text if key in BARE else f"{key.replace('_', '-')}-{text}"
    return re.sub(r"[^A-Za-z0-9.+=_-]+", "-", text).strip("-.") or "value"


def _refuse_repeated(where, names):
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"{where}: {twice[0]} stands there twice, or two values look alike as names of folders; give "
                        "a mapping of labels to values")


def _refuse_long(where, levels):
    if long := [level.label for level in levels if len(level.label) > MOST_LETTERS]:
        raise UserError(f"{where}: {long[0]} is too long for the name of a folder; give a mapping of labels to values")


def _refuse_twice(where, axes, base, beside):
    """Refuse a flag that two axes set, and one that an axis replaces in every cell."""
    setters = {}
    for axis, levels in axes.items():
        for key in dict.fromkeys(key for level in levels for key in level.texts):
            name = FLAGS[key].name
            if key in setters:
                raise UserError(f"{where}: axes {setters[key]} and {axis} both set {name}; let one of them")
            if key in base and all(key in level.texts for level in levels):
                raise UserError(f"{where}: base has {name}, which axis {axis} replaces in every cell; leave it out")
            if key in beside:
                raise UserError(f"{where}: {name} is set by axis {axis}; leave it out of the command line")
            setters[key] = axis


def _exclusion(where, axes, rule):
    """{axis: the labels that a cell has to have to be left out}"""
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
    """A value of an axis as ``Level.written`` has it."""
    texts = plain_texts(value)
    if texts is None:
        raise UserError(f"{where}: expected a value of the axis, or a list of values; where the axis has labels, these "
                        "are its values")
    return ",".join(texts)


def _cells(where, axes, base, excluded, rowless):
    """The cells of all combinations, the last axis fastest. ``rowless``: the row of cells that differ only in order and
    seed."""
    if math.prod(map(len, axes.values())) > MOST_CELLS:
        raise UserError(f"{where}: more than {MOST_CELLS} cells; leave values out")
    cells, hits = [], [0] * len(excluded)
    for levels in itertools.product(*axes.values()):
        labels = dict(zip(axes, (level.label for level in levels), strict=True))
        matching = [index for index, rule in enumerate(excluded)
                    if all(labels[axis] in wanted for axis, wanted in rule.items())]
        for index in matching:
            hits[index] += 1
        if not matching:
            cells.append(_cell(axes, levels, base, rowless))
    if 0 in hits:
        raise UserError(f"{where}: exclude: rule {hits.index(0) + 1} excludes no cell; leave it out")
    if not cells:
        raise UserError(f"{where}: exclude: excludes every cell")
    _refuse_folders(f"{where}: axes", cells)
    return tuple(cells)


def _refuse_folders(where, cells):
    """Refuse two cells that would write into one folder, and names that are too long for one."""
    seen = {}
    for cell in cells:
        other = seen.setdefault(cell.name.lower(), cell.name)  # for file systems without capitals
        if other != cell.name:
            raise UserError(f"{where}: two cells are called {cell.name}, apart from capitals; give other labels")
    names = [cell.name for cell in cells]
    if len(seen) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{where}: two cells are called {twice}; give other labels")
    orders = {cell.order for cell in cells}  # of several the tables of each have a folder
    for name in [*names, *(sorted(orders) if len(orders) > 1 else ())]:
        if len(name) > MOST_IN_NAME:
            raise UserError(f"{where}: {name} is too long for the name of a folder, {len(name)} letters; give shorter "
                            "labels")


def _cell(axes, levels, base, rowless):
    chosen = dict(zip(axes, levels, strict=True))
    keys = {axis: {key for level in axes[axis] for key in level.texts} for axis in axes}
    orders = [level.label for axis, level in chosen.items() if keys[axis] == {"dataset_order"}]
    rows = [level.label for axis, level in chosen.items() if keys[axis] not in ({"dataset_order"}, {"seed"})]
    texts = dict(base)
    for level in levels:
        texts |= level.texts
    order = orders[0] if orders else label_of("dataset_order", texts.get("dataset_order") or "")
    return Cell("_".join(level.label for level in levels), "_".join(rows) or rowless, order, texts)


# -- what tables show --------------------------------------------------------------------------------------------------


def _shown(where, report):
    """(the published rows that are shown or None, the columns)"""
    for key in ("published", "columns"):
        for name in report.get(key, []) if isinstance(report.get(key), list) else []:
            if not isinstance(name, str):
                raise UserError(f"{where}: {key}: expected names")
    for row, name in report.get("names", {}).items():
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: names: {row}: expected how tables call it")
    published = report.get("published", "true")
    if isinstance(published, str):
        if published.lower() not in SWITCHED:
            raise UserError(f"{where}: published {published}: expected a list of names, true or false")
        published = None if SWITCHED[published.lower()] else ()
    return None if published is None else tuple(published), tuple(report.get("columns", ()))
