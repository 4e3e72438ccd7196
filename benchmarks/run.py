"""Measure rows and append each to benchmarks/results/<row>-<size>.json.

    python -m benchmarks.run tiny                 # make bench: all rows at tiny sizes, in this process
    python -m benchmarks.run full --apart         # make bench-full: one process per row; skips measured rows
    python -m benchmarks.run full zscl text       # only these
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import Mismatch, is_measured, keep, result_file, surroundings
from benchmarks.rows import ROWS


def measured(name, size, remark=None):
    """Measure a row and return its result."""
    row, start = ROWS[name], time.perf_counter()
    options, around = row.options(size), surroundings()
    result = row.measure(**options)
    return {"row": name, "size": size, **around, "remark": remark, "options": options, **result,
            "whole_s": time.perf_counter() - start}


def line(result):
    return (f"{result['row']:32} {result['ratio']:8.2f} x  ({result['ratio_min']:.2f} to {result['ratio_max']:.2f}, "
            f"{result['pairs']} pairs)  ours {result['ours_s']:.4g} s, peer {result['peer_s']:.4g} s")


def in_a_process_of_its_own(name, arguments):
    words = [sys.executable, "-m", "benchmarks.run", arguments.size, name, "--folder", str(arguments.folder), "--again"]
    return subprocess.run(words + (["--remark", arguments.remark] if arguments.remark else []), check=False).returncode


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=("tiny", "full", "test"))
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"rows among {', '.join(ROWS)}; default: all")
    parser.add_argument("--apart", action="store_true", help="one process per row")
    parser.add_argument("--again", action="store_true", help="also measure rows that have a result with these versions")
    parser.add_argument("--remark", help="a note kept in the result, such as other load on the machine")
    parser.add_argument("--folder", type=Path, default=result_file("", "").parent, help="folder of the results")
    arguments, failed = parser.parse_intermixed_args(words), []
    unknown = [name for name in arguments.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; choose from {', '.join(ROWS)}")
    for name in arguments.rows or ROWS:
        path = result_file(name, arguments.size, arguments.folder)
        options = json.loads(json.dumps(ROWS[name].options(arguments.size)))
        if not arguments.again and is_measured(path, options):
            print(f"{name:32} has a result with these versions; give --again to repeat it")
        elif arguments.apart:
            failed += [name] if in_a_process_of_its_own(name, arguments) else []
        else:
            failed += _measure_and_keep(name, path, arguments)
    return f"failed: {', '.join(failed)}" if failed else 0


def _measure_and_keep(name, path, arguments):
    """Measure a row and keep its result; return the names that failed, none or this one."""
    try:
        result = measured(name, arguments.size, arguments.remark)
    except Mismatch as error:
        print(f"{name:32} not timed: {error}", file=sys.stderr)
        return [name]
    keep(path, result)
    print(line(result), flush=True)
    return []


if __name__ == "__main__":
    sys.exit(main())
