"""Turn the runs of a reproduction into command lines. Knows flags; runs nothing."""

import os
from dataclasses import replace
from pathlib import Path

from src.cli.axes import Cell
from src.cli.checks import check
from src.cli.flags import FLAGS, unknown_flag
from src.cli.kinds import EVAL, SEQUENCE, a_run
from src.cli.study import job_of
from src.cli.texts import switched
from src.errors import UserError

# Flags allowed beside --reproduce: where files lie on this machine, and what it can do. They change no number.
PLACES = ("data_location", "clip_cache", "image_dir", "annotations")
MACHINE = (*PLACES, "device", "workers", "batch_size_eval", "grad_checkpointing", "save_interval", "keep_carry",
           "cache_images", "log_interval")
OWN = ("reproduce", "save", "resume", "dry_run")
NOT_OF_A_RUN = (*OWN, "study", "jobs", "status", "overwrite", "export", *PLACES)


def cells_of(reproduction):
    """Return the Cell of each run, with the flags that its file gives."""
    return tuple(Cell(label, label, "", _flags_of(f"{reproduction.where}: runs: {label}: flags", words))
                 for label, words in reproduction.runs.items())


def _flags_of(where, words):
    """Convert {flag without dashes: texts} to {flag key: text, True, or a list for a repeatable flag}."""
    found = {}
    for word, texts in words.items():
        flag = FLAGS.get(word.replace("-", "_"))
        if flag is None:
            raise UserError(f"{where}: {unknown_flag(word)}")
        if flag.key in NOT_OF_A_RUN:
            raise UserError(f"{where}: {flag.name} is not part of the published setting; give it on the command line")
        if flag.key in found:
            raise UserError(f"{where}: {flag.name} is given twice")
        found[flag.key] = _text(where, flag, texts)
    return found


def _text(where, flag, texts):
    if flag.repeated:
        return texts
    text = ",".join(texts)
    if not flag.switch:
        return text
    try:
        on = switched(flag, text)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if not on:
        raise UserError(f"{where}: a flag cannot switch {flag.name} off; leave it out")
    return True


def machine_flags(reproduction, texts):
    """Return {flag key: text} of a command line, to pass to every run. Raises UserError for a flag that could
    change a number."""
    if others := [FLAGS[key].name for key in texts if key not in (*MACHINE, *OWN)]:
        raise UserError(f"{reproduction.where} with {', '.join(others)}: the file fixes the runs; only flags about "
                        f"this machine may be added ({', '.join(FLAGS[key].name for key in MACHINE)}). --dry-run "
                        "prints the commands, which take any flag")
    return {key: text for key, text in texts.items() if key in MACHINE}


def jobs_of_reproduction(reproduction, save, beside, parse):
    """Return (a Job for each run, texts of warnings).

    ``beside``: {flag key: text} that every run gets. ``parse``: words -> Config. Raises UserError, naming the
    run, if one of them would be refused.
    """
    jobs, warnings = [], {}
    for cell in cells_of(reproduction):
        folder = os.path.join(save, cell.name)
        try:
            config = _config(replace(cell, texts=cell.texts | beside), folder, parse)
            warnings |= dict.fromkeys(check(config).warnings)
        except UserError as error:
            raise UserError(f"{reproduction.where}: run {cell.name}: {error}") from None
        jobs.append(job_of(cell, Path(folder), config))
    return tuple(jobs), list(warnings)


def _config(cell, folder, parse):
    config = parse(words_of(cell, folder))
    if config.kind not in (SEQUENCE, EVAL):
        raise UserError(f"is {a_run(config.kind)}; give --dataset-order, alone or with --eval-only")
    if config.kind == EVAL and (not config.dataset_order or config.load or config.linear_eval):
        raise UserError("an evaluation writes a summary only with --dataset-order, without --load and --linear-eval")
    return config


def words_of(cell, folder):
    """Return the words of a run's command line, which writes into ``folder``. An evaluation has nothing to resume."""
    unused = FLAGS["resume"].name if "eval_only" in cell.texts else None
    return tuple(word for word in cell.words(folder) if word != unused)
