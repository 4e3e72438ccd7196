"""Compute the matrix of a sequence trained by single runs, from the checkpoints that they left.

    python -m src.main --load ckpt/run/DTD.pth,ckpt/run/MNIST.pth --eval-only --save ckpt/run
"""

import dataclasses

from clip.errors import LoadError
from src.cli.flags import FLAGS
from src.datasets import known_pairs, phase_of, stem
from src.errors import UserError
from src.machine.distributed import in_turn
from src.run.build import require_carry
from src.run.sequence import Run, as_trained, note_method
from src.run.weights import starting_checkpoint, weights_before


def rebuild(command):
    """Score each file of --load on everything the sequence trained on, or on --eval-datasets. -> {space:
    summary}

    Raises UserError, before anything is scored, for files that are not a chain.
    """
    weights = command.weights
    chain = {path: _outline(weights, path) for path in weights.loaded}
    trained, last = _trained(chain), list(chain.values())[-1]
    run = Run(as_trained(command, last))
    if not run.evaluated:
        sources = [_source(entry) for entry in last["history"]]
        run.score_on(list(dict.fromkeys(phase_of(name)[0] for name in sources)))
    _require_columns(trained, run.evaluated)
    note_method(command.scoring, last, weights.loaded[-1])
    run.open([])
    run.claim([], last)
    for checkpoint in chain.values():
        require_carry(run.scoring, checkpoint)
    with run.shown():
        rows = [_row_before(run, *next(iter(chain.items())))]
        for path in weights.loaded:
            rows.append(run.evaluate(_read(weights, path, quiet=True)))
            print(f"{path}: {run.scorer.in_words(rows[-1])}", flush=True)
        return run.summarise(trained, rows, last["history"],
                             trained_with=[_flags(checkpoint) for checkpoint in chain.values()])


def _read(weights, path, quiet=False):
    """Read the checkpoint of one file: once for its outline, with the warnings about it, and once to score it.

    All files are outlined before the first is scored, and only one model is in memory at a time.
    """
    return starting_checkpoint(dataclasses.replace(weights, load=path), quiet=quiet)


def _outline(weights, path):
    """Return a checkpoint without its large tensors."""
    checkpoint = _read(weights, path)
    history = checkpoint.get("history")
    if not history or not all(isinstance(entry, dict) and isinstance(entry.get("dataset"), str) for entry in history):
        raise UserError(f"--load {path}: does not say what it was trained on; give the files that the runs of a "
                        "sequence left, <save>/<DATASET>.pth")
    return {key: value for key, value in checkpoint.items() if key not in ("state_dict", "carry")}


def _source(entry):
    return entry.get("source", entry["dataset"])


def _flags(checkpoint):
    """Return the stored flags that a checkpoint was trained with."""
    return {key: value for key, value in checkpoint.get("config", {}).items() if key in FLAGS}


def _trained(chain):
    """Return the dataset that each file was trained on last, as on the command line. Refuses files that are not
    a sequence."""
    first, *_ = histories = {path: list(dict.fromkeys(entry["dataset"] for entry in checkpoint["history"]))
                             for path, checkpoint in chain.items()}
    expected, shape = histories[first][:-1], chain[first]["architecture"]
    for path, history in histories.items():
        if history != [*expected, history[-1]] or history[-1] in expected:
            before = f"after {', '.join(expected)}" if expected else "first"
            raise UserError(f"--load {path}: was trained on {', '.join(history)}, which does not come {before}; give "
                            "one file for each task of a sequence, in the order of training")
        if chain[path]["architecture"] != shape:
            raise UserError(f"--load {path}: holds another architecture than {first}; give the files of one sequence")
        expected = history
    trained = [_source(checkpoint["history"][-1]) for checkpoint in chain.values()]
    if len(set(map(known_pairs, trained))) > 1:
        raise UserError(f"--load {','.join(chain)}: some were trained on image-text pairs, some on classes; a matrix "
                        "takes one kind")
    return trained


def _require_columns(trained, evaluated):
    scored = set(map(stem, evaluated))
    wholes = dict.fromkeys(phase_of(name)[0] for name in trained)
    if missing := [name for name in wholes if stem(name) not in scored]:
        raise UserError(f"--eval-datasets {','.join(evaluated)}: the matrix has a column for each task, also "
                        f"{','.join(missing)}; name them, leave the flag out, or give one file")


def _row_before(run, path, checkpoint):
    """Return the scores of the weights that the sequence started from; None if they are not available."""
    start = _start(run.command.weights, path, checkpoint)
    if start is None:
        return None
    scores = run.evaluate(start, start=True)
    print(f"before {path}: {run.scorer.in_words(scores)}", flush=True)
    return scores


@in_turn  # all processes get the same answer, or all stop
def _start(weights, path, checkpoint):
    try:
        return weights_before(weights, checkpoint)
    except (UserError, LoadError) as error:
        print(f"note: no zero-shot row, since {path} does not lead back to those weights: {error}", flush=True)
        return None
