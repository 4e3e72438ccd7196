"""benchmarks/results/*.json -> markdown tables, between the marks of the documents that have them:

    python -m benchmarks.table           # print
    python -m benchmarks.table --write   # README.md (full sizes), benchmarks/README.md (tiny sizes)
"""

import argparse
import json
from pathlib import Path

from benchmarks.harness import RESULTS, read_results, result_file
from benchmarks.rows import ROWS
from scripts.marks import between_marks

ROOT = Path(__file__).parents[1]
DOCUMENTS = {ROOT / "README.md": "full", ROOT / "benchmarks" / "README.md": "tiny"}
MARK = "benchmarks"
HEAD = ("| work | against | times faster (least to greatest) | pairs | ours | peer | asked |\n"
        "|---|---|---|---:|---:|---:|---:|\n")


def text_of(size):
    """What a document holds: the table of a size, with the full sizes also what a GPU gave, with the tiny ones what was
    predicted of it."""
    return table(size) + "\n" + (gpu_table() if size == "full" else predictions_table())


def table(size, folder=RESULTS):
    """All rows of a size, in the order of ROWS, and where they were measured."""
    results = {name: (read_results(result_file(name, size, folder)) or [None])[-1] for name in ROWS}
    lines = [_line(name, result, size) for name, result in results.items()]
    return HEAD + "\n".join(lines) + "\n" + _places([result for result in results.values() if result])


def _line(name, result, size):
    row = ROWS[name]
    asked = "" if row.asked is None or size != "full" else f"{row.asked:g}"
    if result is None:
        return f"| {row.work} | {row.peer} | not measured: `make bench-full ROW={name}` | | | | {asked} |" \
            if size == "full" else f"| {row.work} | {row.peer} | not measured: `make bench` | | | | |"
    ratio = f"{number(result['ratio'])} ({number(result['ratio_min'])} to {number(result['ratio_max'])})"
    scaled = ", scaled" if result.get("scaled") else ""
    return (f"| {row.work} | {row.peer}{scaled} | {ratio} | {result['pairs']} | {duration(result['ours_s'])} | "
            f"{duration(result['peer_s'])} | {asked} |")


def gpu_table(path=RESULTS / "gpu.json"):
    """What ``benchmarks.gpu`` wrote, or how to have it measured."""
    if not path.is_file():
        return "On a GPU: not measured. `make bench-gpu` on a machine with CUDA measures it and writes one file.\n"
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = [f"| {name} | {_figures(part)} |" for name, part in found["results"].items()]
    lines += [f"| {name} | not measured: {error} |" for name, error in found["failed"].items()]
    return (f"On {found['machine']['device']}, torch {found['versions']['torch']}, {found['date'][:10]}, sizes "
            f"{json.dumps(found['sizes'])}:\n\n| part | figures |\n|---|---|\n" + "\n".join(lines) + "\n")


def _figures(part):
    numbers = [f"{name} {value:.4g}" for name, value in part.items() if isinstance(value, int | float)]
    return ", ".join([*numbers, *([part["precisions"]] if "precisions" in part else [])])


def predictions_table(folder=RESULTS):
    """Every prediction beside its measurement: the verdicts of all results/one_gpu*.json."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("one_gpu*.json"))]
    rows = {}
    for row in (row for found in files for row in found["predictions"]):
        if row["measured"] is not None or row["name"] not in rows:
            rows[row["name"]] = row
    lines = [f"| {name} | {_range(row)} | {_measured(row)} | {row['verdict']} |" for name, row in rows.items()]
    return "| predicted for one GPU | range | measured | |\n|---|---|---:|---|\n" + "\n".join(lines) + "\n"


def _range(row):
    low, high = row["low"], row["high"]
    if low is None:
        text = f"at most {high:g}"
    elif high is None:
        text = f"at least {low:g}"
    else:
        text = f"{low:g} to {high:g}"
    return f"{text} {row['unit']}".rstrip()


def _measured(row):
    measured = row["measured"]
    if measured is None:
        return ""
    return f"{measured:.0f}" if abs(measured) >= 100 else f"{measured:.3g}"


def number(value):
    """Three digits at most: 0.956 -> 0.96, 12.34 -> 12.3, 123.4 -> 123."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def duration(seconds):
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(1000 * seconds)} ms"


def _places(results):
    """One line for each machine with its versions: the dates, and what else it did then."""
    places = {}
    for result in results:
        machine, found = result["machine"], result["versions"]
        place = (f"{machine['model']} ({machine['processor']}), {machine['threads']} threads of {machine['cores']} "
                 f"cores, torch {found['torch']}")
        remark = f" ({result['remark']})" if result.get("remark") else ""
        places.setdefault(place, set()).add(result["date"][:10] + remark)
    return "".join(f"\n{place}; {', '.join(sorted(dates))}.\n" for place, dates in places.items())


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into the documents")
    write = parser.parse_args(words).write
    for path, size in DOCUMENTS.items():
        if write:
            path.write_text(between_marks(path.read_text(encoding="utf-8"), MARK, text_of(size)), encoding="utf-8")
        else:
            print(text_of(size))


if __name__ == "__main__":
    main()
