"""Generate Markdown tables from benchmarks/results/*.json, between the marks of the documents that have
them:

    python -m benchmarks.table           # print
    python -m benchmarks.table --write   # docs/speed.md (full sizes), benchmarks/README.md (tiny sizes)
"""

import argparse
import json
from pathlib import Path

from benchmarks.harness import RESULTS, read_results, result_file
from benchmarks.rows import ROWS
from scripts.marks import between_marks

ROOT = Path(__file__).parents[1]
DOCUMENTS = {ROOT / "docs" / "speed.md": "full", ROOT / "benchmarks" / "README.md": "tiny"}
MARK = "benchmarks"
HEAD = ("| work | against | times faster (least to greatest) | pairs | ours | peer | asked |\n"
        "|---|---|---|---:|---:|---:|---:|\n")


def text_of(size):
    """Return a document's text: the table of a size, plus the GPU results (full sizes) or the GPU
    predictions (tiny sizes)."""
    return table(size) + "\n" + (gpu_table() if size == "full" else predictions_table())


def table(size, folder=RESULTS):
    """Return all rows of a size, in the order of ROWS, and where they were measured."""
    results = {name: (read_results(result_file(name, size, folder)) or [None])[-1] for name in ROWS}
    lines = [_line(name, result, size) for name, result in results.items()]
    return HEAD + "\n".join(lines) + "\n" + _places([result for result in results.values() if result])


def _line(name, result, size):
    row = ROWS[name]
    asked = "" if row.asked is None or size != "full" else f"{row.asked:g}"
    if result is None:
        return f"| {row.work} | {row.peer} | not measured: `make bench-full ROW={name}` | | | | {asked} |" \
            if size == "full" else f"| {row.work} | {row.peer} | not measured: `make bench` | | | | |"
    scaled = ", scaled" if result.get("scaled") else ""
    return (f"| {row.work} | {row.peer}{scaled} | {ratio(result)} | {result['pairs']} | {duration(result['ours_s'])} | "
            f"{duration(result['peer_s'])} | {asked} |")


def gpu_table(path=RESULTS / "gpu.json"):
    """Return the results of ``benchmarks.gpu``, or how to measure them."""
    if not path.is_file():
        return "On a GPU: not measured. `make bench-gpu` on a machine with CUDA measures it and writes one file.\n"
    found = json.loads(path.read_text(encoding="utf-8"))
    sizes = found["sizes"]
    lines = [f"| {name} | {_gpu_figures(name, part)} |" for name, part in found["results"].items()]
    lines += [f"| {name} | not measured: {error} |" for name, error in found["failed"].items()]
    return (f"On {found['machine']['device']}, torch {found['versions']['torch']}, {found['date'][:10]}; "
            f"{sizes['model']}, batch {sizes['batch']}, {sizes['classes']} classes, {sizes['sentences']} sentences:\n\n"
            "| part | measured |\n|---|---|\n" + "\n".join(lines) + "\n")


def _gpu_figures(name, part):
    """Return the figures of a part in readable units."""
    if name.startswith("zscl-"):
        return _zscl(part)
    return {"matrix_rate": _matrix_rate, "image_tower": _image_tower, "mtil": _mtil, "compile": _compiled}[name](part)


def _matrix_rate(part):
    return "products of large matrices: " + ", ".join(f"{kind} {teraflops(rate)}" for kind, rate in part.items())


def _image_tower(part):
    return (f"{part['images']} images forward and backward in {duration(part['seconds'])}: "
            f"{part['images_per_s']:,.0f} images/s, {teraflops(part['flops_per_s'])}, "
            f"{100 * part['utilisation']:.0f} % of the bf16 rate above")


def _zscl(part):
    peak = f", peak {number(part['peak_bytes'] / 1e9)} GB" if "peak_bytes" in part else ""
    back_to_back = f"{duration(part['ours_back_to_back_s'])}, peer {duration(part['peer_back_to_back_s'])}"
    return (f"{_faster(part)}; back to back {back_to_back}; {part['images_per_s']:,.0f} images/s{peak}; "
            f"{part['precisions']}")


def _mtil(part):
    return (f"computed, not run: {part['steps']:,} steps at the times of {part['of']} take {number(part['ours_h'])} h, "
            f"the published loop's {number(part['published_h'])} h")


def _compiled(part):
    return f"towers compiled against eager: {_faster(part)}; the first step took {duration(part['first_step_s'])}"


def _faster(part):
    return (f"{ratio(part)} times faster, {part['pairs']} pairs: {duration(part['ours_s'])}, "
            f"peer {duration(part['peer_s'])}")


def predictions_table(folder=RESULTS):
    """Return every prediction with its first measurement, from all results/one_gpu*.json, oldest first.
    Later runs have newer code, which was not predicted."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("one_gpu*.json")]
    files.sort(key=lambda found: found["surroundings"]["date"])
    rows = {}
    for row in (row for found in files for row in found["predictions"]):
        if row["name"] not in rows or rows[row["name"]]["measured"] is None:
            rows[row["name"]] = row
    lines = [f"| {name} | {_range(row)} | {_measured(row)} | {row['verdict']} |" for name, row in rows.items()]
    return "| predicted for one GPU | range | measured | verdict |\n|---|---|---:|---|\n" + "\n".join(lines) + "\n"


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
    digits = f"{measured:.0f}" if abs(measured) >= 100 else f"{measured:.3g}"
    return f"{digits} {row['unit']}".rstrip()


def number(value):
    """Format with at most three digits: 0.956 -> 0.96, 12.34 -> 12.3, 123.4 -> 123."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def ratio(result):
    """Return the median ratio with its range."""
    return f"{number(result['ratio'])} ({number(result['ratio_min'])} to {number(result['ratio_max'])})"


def teraflops(rate):
    return f"{rate / 1e12:.3g} TFLOP/s"


def duration(seconds):
    return f"{number(seconds)} s" if seconds >= 1 else f"{number(1000 * seconds)} ms"


def _places(results):
    """Return one line per machine and versions, with the dates and remarks."""
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
    parser.add_argument("--write", action="store_true", help="write into the documents")
    write = parser.parse_args(words).write
    for path, size in DOCUMENTS.items():
        if write:
            path.write_text(between_marks(path.read_text(encoding="utf-8"), MARK, text_of(size)), encoding="utf-8")
        else:
            print(text_of(size))


if __name__ == "__main__":
    main()
