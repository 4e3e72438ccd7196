"""Stands in for ``python -m src.main`` in the tests of the scripts: steps that only count, with the same promises. It
saves and ends with status 75 on a signal, --resume continues, and <DATASET>.pth is written when the task is finished.

What happened is in --save: ``began_<RANK>.txt`` has a line for each start, the step that it continued from.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

SECONDS_PER_STEP = 0.01


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--train-dataset", required=True)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--status", type=int, default=0, help="of the process of rank 0 at its last step")
    parser.add_argument("--resume", action="store_true")
    config, others = parser.parse_known_args()
    asked = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: asked.append(number))
    rank = int(os.environ.get("RANK", 0))
    config.save.mkdir(parents=True, exist_ok=True)
    state = config.save / f"resume_{config.train_dataset}_{rank}.json"
    step = json.loads(state.read_text(encoding="utf-8")) if config.resume and state.exists() else 0
    with (config.save / f"began_{rank}.txt").open("a", encoding="utf-8") as file:
        file.write(f"{step}\n")
    while step < config.iterations:
        time.sleep(SECONDS_PER_STEP)
        step += 1
        if asked:
            state.write_text(str(step), encoding="utf-8")
            return 75
    if config.status and rank == 0:
        return config.status
    state.unlink(missing_ok=True)
    if rank == 0:
        result = {"steps": step, "seed": config.seed, "processes": int(os.environ.get("WORLD_SIZE", 1)),
                  "words": others}
        (config.save / f"{config.train_dataset}.pth").write_text(json.dumps(result), encoding="utf-8")
    return 0


def install(folder):
    """A folder for PATH whose ``python`` runs this file for ``-m src.main``, and all else as it is."""
    folder.mkdir(parents=True)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nif [ "$1 $2" = "-m src.main" ]; then shift 2; set -- "{__file__}" "$@"; fi\n'
                      f'exec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return folder


if __name__ == "__main__":
    sys.exit(main())
