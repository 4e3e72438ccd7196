"""Read a study: a grid of command lines, from a YAML file or from several seeds. Knows flags; runs nothing.

    name: toy
    base: {dataset-order: toy, iterations: 100}                  # flags of every cell
    axes:                                                        # a cell for each combination
      recipe: [finetune, lwf, zscl]                              # a flag and its values
      lr: {low: 1e-5, high: 1e-4}                                # the same with labels
      variant: {plain: {}, pulled: {l2: 1}}                      # labels and several flags each
      seed: [1, 2, 3]
    exclude: [{recipe: zscl, seed: [2, 3]}]
    select: {grid: {wd: [0, 0.1]}, seeds: [101, 102]}            # chosen on val before the test runs
    report: {names: {zscl: ZSCL}, published: [zscl], columns: [transfer, avg, last]}
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from src.cli.axes import Cell, cells_of, exclusion_of, label_of, levels_of, listed, refuse_twice
from src.cli.checks import check
from src.cli.flags import FLAGS
from src.cli.kinds import SEQUENCE, a_run
from src.cli.selection import Selection, read_selection
from src.cli.study_file import (
    NOT_OF_A_CELL,
    PARTS,
    REPORT_PARTS,
    refuse_not_of_a_cell,
    shown_parts,
    texts_of,
)
from src.cli.yaml_file import read_mapping, require_parts
from src.datasets import stem
from src.errors import UserError


@dataclass(frozen=True)
class Study:
    """Hold a study.

    ``cells``: in order. ``names``: {row: its name in tables}. ``published``: the published rows to show, None
    for all that fit. ``columns``: the numbers to show, empty for all. ``select``: what to choose on val before
    the cells run, or None. ``baseline``: the row that others are compared with.
    """

    name: str
    cells: tuple
    names: dict = field(default_factory=dict)
    published: tuple | None = None
    columns: tuple = ()
    select: Selection | None = None
    baseline: str | None = None


@dataclass(frozen=True)
class Job:
    """Describe a cell that may run.

    ``words``: its command line, which writes into ``folder``. ``tasks``: their names in files. ``iterations``:
    per task, None if only the data tell. ``numbers``: {flag key: value} of everything that can change a result.
    ``pairs``: whether it trains on image-text pairs. ``device``: auto, cpu, cuda or mps. ``waits_for``: why its
    flags are not chosen yet, and so it has no words.
    """

    cell: Cell
    folder: Path
    words: tuple
    tasks: tuple
    iterations: int | None
    batch_size: int
    numbers: dict
    pairs: bool
    device: str
    waits_for: str = ""

    @property
    def name(self):
        return self.cell.name


@dataclass(frozen=True)
class Plan:
    """Hold the Jobs of a study.

    ``trials``: those of its selection. ``candidates``: {label of a grid setting: a Job for each cell under this
    setting}; {"": the Jobs} for a study that selects nothing.
    """

    trials: tuple
    candidates: dict

    @property
    def first(self):
        """A Job for each cell, under the first setting if there are several."""
        return next(iter(self.candidates.values()))

    def chosen(self, choices):
        """Return a Job for each cell. ``choices``: {row: (label of the setting, or None; why there is none)}"""
        return tuple(self._chosen(index, job, *choices.get(job.cell.row, ("", ""))) for index, job in
                     enumerate(self.first))

    def _chosen(self, index, job, setting, why):
        return replace(job, words=(), waits_for=why) if setting is None else self.candidates[setting][index]


def plan_of(study, save, parse):
    """Return (the Plan of a Study, texts of warnings).

    ``parse``: words -> Config. Raises UserError, naming the cell, if one would be refused under any choice.
    """
    select = study.select
    if select is None:
        jobs, warnings = _jobs(study.cells, save, parse)
        return Plan((), {"": jobs}), warnings
    trials, warnings = _jobs(select.trials, save, parse)
    candidates = {}
    for setting in select.settings:
        candidates[setting.label], more = _jobs(
            [replace(cell, texts=cell.texts | setting.texts) for cell in study.cells], save, parse)
        warnings += [text for text in more if text not in warnings]
    plan = Plan(trials, candidates)
    _refuse_common_seeds(plan)
    return plan, warnings


def _jobs(cells, save, parse):
    jobs, warnings = [], {}
    for cell in cells:
        folder = os.path.join(save, cell.name)
        try:
            config = parse(cell.words(folder))
            warnings |= dict.fromkeys(check(config).warnings)
            _refuse_unfit(cell, config)
            jobs.append(job_of(cell, Path(folder), config))
        except UserError as error:
            raise UserError(f"cell {cell.name} of the study: {error}") from None
    return tuple(jobs), list(warnings)


def _refuse_unfit(cell, config):
    if config.kind != SEQUENCE:
        raise UserError(f"is {a_run(config.kind)}; a study compares sequences: give --dataset-order, and no flag that "
                        "makes it another kind of run")
    for key, text in cell.texts.items():
        if text is None and config.values[key]:
            raise UserError(f"{FLAGS[key].name} should be off, but {config.origins[key]} switches it on and a flag "
                            "cannot switch it off; write a recipe without it")


def job_of(cell, folder, config):
    """Return the Job of a cell, given the Config of its command line."""
    return Job(cell, folder, config.argv, tuple(map(stem, config.trained)), config.iterations, config.batch_size,
               config.numbers(), config.pairs, config.device)


def _refuse_common_seeds(plan):
    tested = {job.numbers["seed"]: job for job in plan.first}
    for trial in plan.trials:
        if other := tested.get(trial.numbers["seed"]):
            raise UserError(f"select: seeds: {trial.numbers['seed']} is the seed of cell {other.name} too; give the "
                            "trials other seeds")


# -- several seeds -----------------------------------------------------------------------------------------------------


def study_of_seeds(texts):
    """Return the Study of a command line with --seed A,B,...: a cell per seed. ``texts``: {flag key: text} of
    its flags."""
    if "export" in texts:
        refuse_not_of_a_cell(f"--seed {texts['seed']}", ["export"])
    row = label_of("recipe", texts.get("recipe") or texts.get("method") or FLAGS["method"].default)
    levels = [listed("--seed", FLAGS["seed"], seed.strip()) for seed in texts["seed"].split(",")]
    common = {key: text for key, text in texts.items() if key not in NOT_OF_A_CELL}
    return Study(row, cells_of(f"--seed {texts['seed']}", {"seed": levels}, common, (), row))


# -- the file ----------------------------------------------------------------------------------------------------------


def read_study(path, beside=()):
    """Return the study of a YAML file. Raises UserError naming the file and the key.

    ``beside``: {flag key: text} that every cell gets, replacing the file's values.
    """
    where = f"--study {path}"
    content = read_mapping(where, path, "base: and axes:")
    require_parts(where, content, PARTS)
    base = texts_of(f"{where}: base", content.get("base", {}))
    axes = {axis: levels_of(f"{where}: axes: {axis}", axis, values, base)
            for axis, values in content.get("axes", {}).items()}
    if not axes:
        raise UserError(f"{where}: has no axes:, which is a single run; give its flags on the command line")
    if "export" in beside:
        refuse_not_of_a_cell(where, ["export"])
    beside = {key: text for key, text in dict(beside).items() if key not in NOT_OF_A_CELL}
    refuse_twice(where, axes, base, beside)
    excluded = [exclusion_of(f"{where}: exclude", axes, rule) for rule in content.get("exclude", [])]
    name = content.get("name") or Path(path).stem
    cells = cells_of(where, axes, base | beside, excluded, label_of("recipe", name))
    select = read_selection(f"{where}: select", content["select"], axes, base, beside, cells) \
        if "select" in content else None
    report = content.get("report", {})
    require_parts(f"{where}: report", report, REPORT_PARTS)
    return Study(name, cells, report.get("names", {}), *shown_parts(f"{where}: report", report), select,
                 report.get("baseline"))
