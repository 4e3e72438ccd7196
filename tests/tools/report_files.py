"""Folders of finished sequences, as a run writes them, without running anything."""

import json
from dataclasses import asdict

from src.args import parse
from src.datasets import coop
from src.models.evaluation import Scores
from src.models.retrieval import RetrievalScores
from src.report.conditions import conditions_of, router_of
from src.report.latex import summary_latex
from src.report.measures import RETRIEVAL, measure_of
from src.report.sequence import summarise, summarise_retrieval
from src.report.tables import matrix_csv, rows_csv, summary_markdown

ORDER = ("A", "B", "C")
ZERO_SHOT = (10.0, 20.0, 30.0)
MATRIX = ((80.0, 50.0, 40.0), (60.0, 90.0, 10.0), (70.0, 65.0, 95.0))


def scores(order, cells):
    return {name: value if value is None else Scores(value, 100.0, 5, 10)
            for name, value in zip(order, cells, strict=True)}


def recall(rsum):
    return RetrievalScores(rsum / 10, 80.0, 90.0, rsum / 20, 80.0, 90.0, 1.0, 1.0, 2.0, 2.0, rsum, 9, 18)


def write_run(folder, words="", order=ORDER, matrix=MATRIX, zero_shot=ZERO_SHOT, spaces=("task",), precision="fp32",
              **facts):
    """A sequence over classes; ``words`` of its command line beside the order."""
    rows = [zero_shot and scores(order, zero_shot), *(scores(order, row) for row in matrix)]
    summaries = {space: summarise(order, rows, space, precision) for space in spaces}
    words = f"--dataset-order toy-colours --iterations 1 --label-space {','.join(spaces)} {words}"
    return _write(folder, words, summaries, {space: (order, rows) for space in spaces}, order, precision, facts)


def write_pairs_run(folder, words="", trained=("p_phase1", "p_phase2"), rsums=((300.0, 100.0), (400.0, 200.0),
                                                                            (500.0, 150.0)), **facts):
    """A sequence over phases of image-text pairs, scored on two sets."""
    rows = [{name: recall(rsum) for name, rsum in zip("pq", row, strict=True)} for row in rsums]
    summaries = {RETRIEVAL.space: summarise_retrieval(trained, rows, RETRIEVAL.space, "fp32")}
    words = f"--dataset-order toy-pairs-new --epochs 1 {words}"
    return _write(folder, words, summaries, {RETRIEVAL.space: (["p", "q"], rows)}, trained, "fp32", facts)


def write_task(folder, task="A", words="", **found):
    """A task that was trained by itself. ``found``: {dataset: its top-1}, by default 80 on A and 50 on B."""
    cells = found or {"A": 80.0, "B": 50.0}
    written = write_run(folder / "sequence", words, order=(task,), matrix=((80.0,),), zero_shot=None)
    facts = json.loads((written / f"run_{task}.json").read_text()) | {
        "scores": {name: {"task": asdict(score)} for name, score in scores(cells, cells.values()).items()}}
    for path in [*written.iterdir()]:
        if path.name == f"log_{task}.jsonl":
            path.rename(folder / path.name)
        else:
            path.unlink()
    written.rmdir()
    (folder / f"run_{task}.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def _write(folder, words, summaries, cells, trained, precision, facts):
    """Facts "older" leaves out what earlier versions did not store."""
    config, older = parse(words.split()), facts.pop("older", False)
    values = config.plain()
    if not older:
        no_lists = [name for name in trained if values["split_file"] == coop.WORD and not coop.has_list(name)]
        summaries = {space: summary | {"conditions": asdict(conditions_of(
            trained, values, facts.get("trained_with", [values]),
            [router_of(config.method, values, space == RETRIEVAL.space)], space,
            dict.fromkeys(no_lists, "own split, val 0.2")))} for space, summary in summaries.items()}
    flags = {key: {"value": value, "origin": config.origins[key]} for key, value in config.plain().items()}
    description = {"flags": flags, "command": words.split(), "seed": config.seed, "precision": precision,
                   "hardware": "cpu, 1 threads", "versions": {"torch": "2"}, "commit": "abc", "seconds": 12.5,
                   "peak_memory_bytes": 1000, "date": "2026-11-27T14:05:09+00:00", **facts}
    files = {"run.json": json.dumps(description), "summary.md": summary_markdown(summaries),
             "summary.tex": summary_latex(summaries)}
    for number, (space, summary) in enumerate(summaries.items()):
        mark = f"_{space}" if number else ""
        files[f"summary{mark}.json"] = json.dumps(summary)
        files |= {f"matrix_{score}{mark}.csv": matrix_csv(trained, *cells[space], score)
                  for score in measure_of(space).matrices}
    for number, task in enumerate(trained):
        files[f"run_{task}.json"] = json.dumps({**description, "seconds": 2.0 + number, "trainable_values": 300,
                                                "trainable_tensors": 4, "weight_copies": {"model": 1.0}})
        files[f"log_{task}.jsonl"] = "".join(json.dumps(line) + "\n" for line in (
            {"iteration": 10, "task": 1.0, "lr": 1e-5, "images_per_second": 100.0},
            {"iteration": 30, "task": "nan", "lr": 0.0, "images_per_second": 50.0}))
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_predictions(folder, correct, mark=""):
    """``predictions_<dataset>.csv`` of {dataset: [whether an image is right]}, which then has rank 1, else rank 2."""
    for name, each in correct.items():
        (folder / f"predictions_{name}{mark}.csv").write_text(rows_csv(
            ["image", "label_number", "label", "prediction_number", "prediction", "probability", "rank"],
            [[number, 0, "a", 0 if right else 1, "a" if right else "b", 0.5, 1 if right else 2]
             for number, right in enumerate(each)]), encoding="utf-8")
