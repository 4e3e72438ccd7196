"""The command line: parse, build, then train, evaluate or report.

    python -m src.main --method finetune --train-dataset DTD --iterations 1000 --lr 1e-5 --save ckpt/dtd_ft
    python -m src.main --method ZSCL --dataset-order toy --save ckpt/toy_zscl
    python -m src.main --load ckpt/dtd_ft/DTD.pth --eval-datasets DTD,CIFAR100 --eval-only

Of several processes (``torchrun -m src.main ...``) the first speaks and writes.
"""

import contextlib
import os
import sys

from src import args, checks, flags  # all else is imported where a run needs it: --help must not wait for torch
from src.errors import UserError, legible
from src.interruption import STATUS, Interrupted, Signals

INTERRUPTED = 130


def main(argv=None):
    """Run a command line; returns the exit status: 0, 1 for faulty data, 2 for what the user can mend, 75 where
    training was interrupted and goes on with --resume, 130 where it was broken off."""
    with contextlib.ExitStack() as leaving:
        if several_processes():
            leaving.callback(_world().stop)
        try:
            with _only_the_first_speaks():
                return _run(sys.argv[1:] if argv is None else argv)
        except (UserError, *_load_errors()) as error:
            return _stopped(f"error: {legible(str(error))}", 2)
        except Interrupted as error:
            return _stopped(str(error), STATUS)
        except KeyboardInterrupt:
            return _stopped("interrupted: no checkpoint of the unfinished task was written", INTERRUPTED)
        except RuntimeError:
            if several_processes() and _world().another_stopped():  # in the midst of an exchange; it has said why
                return 2
            raise


def _run(argv):
    config = args.parse(argv)
    checks.check(config)
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for note in config.notes:
        print(f"note: {note}")
    if config.kind not in flags.SCORING and not first_process():
        return 0
    return RUNS[config.kind](config) or 0


def several_processes():
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def first_process():
    return int(os.environ.get("RANK", 0)) == 0


def _world():
    from src.distributed import this_world
    return this_world()


@contextlib.contextmanager
def _only_the_first_speaks():
    """What the other processes would print is the same. Tracebacks are no print: they come from all."""
    if first_process():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere), \
            contextlib.redirect_stderr(nowhere):
        yield


def _stopped(message, status):
    """The status to end with; of several processes the first that stops tells why."""
    if not several_processes() or _world().first_to_stop():
        print(message, file=sys.stderr, flush=True)
    return status


def _load_errors():
    """``clip.loader.LoadError``, without importing torch for a command line that never got so far."""
    loader = sys.modules.get("clip.loader")
    return (loader.LoadError,) if loader else ()


def _print_origins(config):
    """Where a recipe or a protocol filled values in, all of them by origin."""
    text = "" if config.quiet else args.origins_text(config)
    if text:
        print(text + "\n", flush=True)


def run_task(config):
    """--train-dataset: one task, from --load or from the initial weights."""
    with Signals() as signals:
        _train_task(config, signals)


def _train_task(config, signals):
    from src.build import starting_checkpoint
    from src.datasets.pairs import JOINT
    from src.report.tables import scores_table
    from src.run import Run
    run = Run(config, signals=signals)
    name = JOINT if config.joint else config.train_dataset
    run.open([name])  # whatever can be refused is refused before weights are fetched
    start = starting_checkpoint(config)
    run.claim([name], start)
    _print_origins(config)
    with run.folder.ours():
        _, scores = run.train(name, start)
    print(scores_table(scores))


def run_sequence(config):
    """--dataset-order: the whole sequence in one process, with its accuracy matrix."""
    with Signals() as signals:
        _train_sequence(config, signals)


def _train_sequence(config, signals):
    from src.build import starting_checkpoint
    from src.report.tables import summary_text
    from src.run import Run
    from src.sequence import run_sequence as run_tasks
    run = Run(config, signals=signals)
    run.open(config.dataset_order)
    start = starting_checkpoint(config)
    run.claim(config.dataset_order, start)
    _print_origins(config)
    with run.folder.ours():
        rows, _ = run_tasks(config.dataset_order, start, run.train, run.score_start)
        summaries = run.summarise(rows)
    print("\n" + "\n".join(map(summary_text, summaries.values())))


def run_evaluation(config):
    """--eval-only: score --load, or zero-shot CLIP, on the datasets."""
    from pathlib import Path

    from src.build import starting_checkpoint
    from src.report.tables import numbers_table, scores_table
    from src.run import Run
    run = Run(config, config.save or (Path(config.load).parent if config.load else None))
    checkpoint = starting_checkpoint(config)
    if config.linear_eval:
        run.open_for_training(config.linear_eval)
        run.folder.prepare()
        print(scores_table(run.scoring.linear(checkpoint)))
        return
    if not run.evaluated:
        run.score_on([_dataset_of(checkpoint, config.load)])
    if not config.given("seed"):  # which cuts class splits: as they were trained
        config.values["seed"] = checkpoint.get("config", {}).get("seed", config.seed)
    if ".py:" in checkpoint.get("config", {}).get("method", "") and not config.given("method"):
        print(f"note: {config.load} was trained by {checkpoint['config']['method']}; give --method for its own scores",
              file=sys.stderr)
    run.open([])
    run.claim([], checkpoint)
    if config.wise_ft:
        for alpha in config.alpha:
            print(f"{alpha:g} loaded + {1 - alpha:g} zero-shot\n{scores_table(run.evaluate(checkpoint, alpha))}\n")
        return
    scores = run.evaluate(checkpoint)
    print(scores_table(scores))
    if config.dataset_order and not config.load:  # the row that a sequence starts from, as if nothing changed it
        summaries = run.summarise([scores] * (1 + len(config.dataset_order)))
        print("\n" + "\n".join(map(numbers_table, summaries.values())))


def _dataset_of(checkpoint, path):
    """The dataset that a checkpoint was trained on last, as the command line names it."""
    from src.datasets import find_entry
    name = (checkpoint.get("history") or [{}])[-1].get("source") or checkpoint.get("dataset", "")
    try:
        find_entry(name)
    except UserError:
        raise UserError(f"--load {path} does not say which dataset to score; give --eval-datasets NAMES") from None
    return name


def run_single(config):
    """--eval-single: the five most probable classes of one image."""
    from pathlib import Path

    from clip.loader import build
    from src.build import build_device, starting_checkpoint
    from src.datasets.imagenet import read_class_names
    from src.datasets.images import open_image
    from src.models.evaluation import classify_image
    from src.records import RunFolder
    from src.report.tables import markdown_table, rows_csv
    classnames = read_class_names(config.class_names)
    image = open_image(Path(config.eval_single))
    device = build_device(config)
    model = device.place(build(starting_checkpoint(config))).eval()
    rows = classify_image(model, image, classnames, device, config.prompt.replace("{}", "{c}"))
    print(markdown_table(["class", "probability %"], [[name, 100 * value] for name, value in rows]))
    RunFolder(config.save).write_text(f"{Path(config.eval_single).stem}.csv", rows_csv(["class", "probability"], rows))


def run_list(config):
    """--list-datasets: the whole table, and what of it is there."""
    from src.datasets import list_datasets
    from src.report.tables import markdown_table
    print(markdown_table(["dataset", "classes", "train", "test", "comes", "here"], list_datasets(config.data_location)))
    print("\nYour own: folder:PATH, csv:FILE, pairs:FILE. Steps for those that come by hand are in datasets.md.")


def run_check(config):
    """--check-data: every fault of the named datasets."""
    from src.datasets.check import check_dataset
    faulty = False
    for name in config.check_data:
        counts, faults = check_dataset(name, config.data_location)
        print(counts + ("" if faults else ": as expected"))
        for fault in faults:
            print(f"  fault: {fault}")
        faulty = faulty or bool(faults)
    return 1 if faulty else 0


def run_report(config):
    """--report: compare finished sequences."""
    from src.report.compare import compare
    print(compare(config.report))


RUNS = {flags.TRAIN: run_task, flags.SEQUENCE: run_sequence, flags.EVAL: run_evaluation, flags.SINGLE: run_single,
        flags.REPORT: run_report, flags.LIST: run_list, flags.CHECK: run_check}


if __name__ == "__main__":
    sys.exit(main())
