"""Finished runs side by side."""

import os
from pathlib import Path

from src.errors import UserError
from src.files import read_json
from src.report.tables import SUMMARY, TITLES, markdown_table


def compare(runs):
    """Run folders -> one table: a row a run, zero-shot first where all share it."""
    names = [Path(run).resolve().name for run in runs]
    shown = [name if names.count(name) == 1 else str(run) for name, run in zip(names, runs, strict=True)]
    rows = [[name, *(_read_summary(run)[key] for key in SUMMARY)] for name, run in zip(shown, runs, strict=True)]
    return markdown_table(["run", *(TITLES[key] for key in SUMMARY)], rows)


def _read_summary(run):
    path = Path(run) / "summary.json"
    if not os.path.isfile(path):
        raise UserError(f"--report {run}: no {path}; only a sequence (--dataset-order with --save) writes one")
    try:
        summary = read_json(path)
        return {key: summary[key] for key in (*SUMMARY, "datasets", "matrix", "zero_shot")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--report {run}: {path} is damaged ({error})") from None
