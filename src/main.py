"""Run the command line: parse, build, then train, evaluate or report.

    python -m src.main --method finetune --train-dataset DTD --iterations 1000 --lr 1e-5 --save ckpt/dtd_ft
    python -m src.main --method ZSCL --dataset-order toy --save ckpt/toy_zscl
    python -m src.main --load ckpt/dtd_ft/DTD.pth --eval-datasets DTD,CIFAR100 --eval-only

With several processes (``torchrun -m src.main ...``) the first prints and writes.
"""

import sys

from src import args  # the rest is imported on demand: --help must not wait for torch
from src.cli import checks, kinds
from src.cli.flags import FLAGS
from src.cli.texts import command_line
from src.machine.ending import first_process, to_its_end
from src.machine.interruption import Signals
from src.machine.notices import warn
from src.machine.systems import refuse_windows


def main(argv=None):
    """Run a command line and return the exit status.

    0; 1 for faulty data, data that --fetch left, a failed cell of a study or a number that is not reproduced; 2 for
    errors that the user can fix; 75 if training was interrupted and resumes with --resume; 130 if it was aborted;
    141 if the reader of its output has ended.
    """
    return to_its_end(lambda: _run(sys.argv[1:] if argv is None else argv))


def check(config):
    """Check a Config, and print warnings and notes about it."""
    remarks = checks.check(config)
    for warning in remarks.warnings:
        warn(warning)
    for note in remarks.notes:
        print(f"note: {note}")


def _run(argv):
    refuse_windows()
    config = args.parse(argv)
    check(config)
    if config.kind not in kinds.SCORING and not first_process():
        return 0
    if config.kind in kinds.SCORING and config.dry_run != "off":
        from src.run.build import command_of
        from src.run.plan import tell_plan
        return tell_plan(command_of(config), args.all_origins(config), probes=config.dry_run == "probe",
                         beside=config.beside_loaded)
    return RUNS[config.kind](config) or 0


def _print_origins(config):
    """Print the values that are not defaults, by origin, if a recipe or a protocol filled some in; all values
    with --verbose."""
    text = args.all_origins(config) if config.verbose else args.origins_text(config)
    if text and not config.quiet:
        print(text + "\n", flush=True)


def run_training(config):
    """Train one task (--train-dataset), from --load or from the initial weights, or a sequence in one process
    with the accuracy matrix (--dataset-order)."""
    with Signals() as signals:
        train(config, signals)


def train(config, signals):
    """Do the work of ``run_training``. -> (names of the trained tasks in files, rows of scores)"""
    from src.datasets import stem
    from src.datasets.pairs import JOINT
    from src.report.sequence import run_sequence
    from src.report.tables import summary_text
    from src.run.build import command_of
    from src.run.export import Export
    from src.run.sequence import Run
    from src.run.weights import starting_checkpoint
    command = command_of(config)
    run = Run(command, signals=signals)
    names = [JOINT] if config.joint else list(config.trained)
    run.open(names)  # refuses all it can before weights are fetched
    start = starting_checkpoint(command.weights)
    export = Export(config.export, run.world.first, config.export_format)
    export.claim(start["architecture"], config.overwrite, config.numbers())
    run.claim(names, start)
    _print_origins(config)
    sequence = config.kind == kinds.SEQUENCE
    with run.folder.ours(), run.shown():
        rows, finished = run_sequence(names, start, run.train, run.score_start if sequence else None)
        summaries = run.summarise(names, rows) if sequence else {}
    if sequence:
        print("\n" + "\n".join(map(summary_text, summaries.values())))
    else:
        print(run.scores_table(rows[-1], finished))
        run.report_task(names[0], rows[-1], finished)
    export.write(finished)
    return list(map(stem, names)), rows


def run_evaluation(config):
    """Score --load, or zero-shot CLIP, on the datasets (--eval-only). Without --save the metrics go beside the
    file of --load."""
    if len(config.loaded) > 1:
        rebuild_sequence(config)
    else:
        evaluate(config, config.save or config.beside_loaded)


def evaluate(config, folder):
    """Score one checkpoint, and write its metrics into ``folder``, or nowhere if it is None.

    -> [(share of the loaded weights in --wise-ft, else None; {dataset: {label space: Scores}})]
    """
    from src.run.build import command_of
    from src.run.export import Export
    from src.run.sequence import Run
    from src.run.weights import starting_checkpoint
    command = command_of(config)
    run = Run(command, folder)
    checkpoint = starting_checkpoint(command.weights)
    export = Export(config.export, run.world.first, config.export_format)
    export.claim(checkpoint["architecture"], config.overwrite)
    with run.shown():
        found = _evaluate(config, run, checkpoint)
    export.write(checkpoint)
    return found


def _evaluate(config, run, checkpoint):
    from src.report.tables import numbers_text
    if config.linear_eval:
        run.open_for_training(config.linear_eval)
        run.folder.prepare()
        scores = run.scorer.linear(checkpoint)
        print(run.scores_table(scores, checkpoint, [config.linear_eval]))
        return [(None, scores)]
    run.adopt(checkpoint)
    run.open([])
    run.claim([], checkpoint)
    if config.wise_ft:
        found = []
        for alpha in config.alpha:
            found.append((alpha, run.evaluate(checkpoint, alpha)))
            table = run.scores_table(found[-1][1], checkpoint)
            print(f"{alpha:g} loaded + {1 - alpha:g} zero-shot\n{table}\n")
        return found
    scores = run.evaluate(checkpoint)
    print(run.scores_table(scores, checkpoint))
    if config.dataset_order and not config.load:  # the first row of a sequence, as if training changed nothing
        summaries = run.summarise(config.dataset_order, [scores] * (1 + len(config.dataset_order)))
        print("\n" + "\n".join(map(numbers_text, summaries.values())))
    return [(None, scores)]


def rebuild_sequence(config):
    """Compute the matrix of a sequence trained by single runs (--load A,B,C --eval-only)."""
    from src.report.tables import summary_text
    from src.run.build import command_of
    from src.run.chain import rebuild
    print("\n" + "\n".join(map(summary_text, rebuild(command_of(config)).values())))


def run_export(config):
    """Write a checkpoint, or published weights, in the layout of another library (--export without training)."""
    from src.run.build import weights_of
    from src.run.export import Export
    from src.run.weights import starting_checkpoint
    checkpoint = starting_checkpoint(weights_of(config))
    export = Export(config.export, layout=config.export_format)
    export.claim(checkpoint["architecture"], config.overwrite)
    export.write(checkpoint)


def run_single(config):
    """Print the five most probable classes of one image, of several, or of those in a folder (--eval-single)."""
    from src.run.build import command_of_single
    from src.run.single import classify
    classify(*command_of_single(config))


def run_list(config):
    """Print the whole table of datasets, and which of them are there (--list-datasets)."""
    from src.datasets import list_datasets
    from src.report.tables import markdown_table
    print(markdown_table(["dataset", "classes", "train", "test", "comes", "here"], list_datasets(config.data_location)))
    print("\nYour own: folder:PATH, csv:FILE, pairs:FILE. --fetch NAMES downloads what can be downloaded; "
          "datasets.md has the steps for those fetched by hand.")


def run_check(config):
    """Print every fault of the named datasets, and oddities in custom ones (--check-data)."""
    from src.datasets.check import check_dataset
    clean = True
    for name in config.check_data:
        report = check_dataset(name, config.data_location)
        print("\n".join(report.lines()))
        clean = clean and report.is_clean
    return 0 if clean else 1


def run_fetch(config):
    """--fetch: download the named datasets as far as that goes, check them, and say what is left to do."""
    from src.run.fetch import fetch
    return fetch(config.fetch, config.data_location, only_plan=config.dry_run != "off")


def run_report(config):
    """Compare finished sequences (--report)."""
    report(config)


def report(config):
    """Do the work of ``run_report``. -> (Report, a text on which folders are left out and why)"""
    from pathlib import Path

    from src.report.folders import find_runs
    from src.report.orders import report_markdown, report_of, write_report
    from src.report.runs import read_run
    from src.report.study_page import write_study_page
    found = find_runs(config.report)
    name = Path(config.save).resolve().name if config.save else "report"
    made = report_of(name, [read_run(folder) for folder in found.runs])
    print(report_markdown(made), end="")
    if note := found.note():
        print(f"note: {note}", file=sys.stderr)
    if config.save:
        write_report(made, config.save)
        write_study_page(made, config.save)
    return made, found.note()


def run_rescore(config):
    """Print the tables of a run that has kept its features, changed as the command line asks (--rescore)."""
    from src.run.build import command_of
    from src.run.rescore import rescore
    print(rescore(config.rescore, lambda flags: command_of(args.rescored(config, flags))))


def run_study(config):
    """Run the cells of a grid, each in a separate process, and print their scores in one table (--study FILE,
    or several seeds)."""
    from src.cli.study import plan_of, read_study, study_of_seeds
    from src.report.selection import refuse_what_decides_nothing
    from src.report.study import refuse_unknown_names, refuse_what_no_table_holds
    texts = args.texts_of(config.argv)
    beside = {key: text for key, text in texts.items() if kinds.SEQUENCE in FLAGS[key].runs}
    study = read_study(config.study, beside) if config.study else study_of_seeds(texts)
    plan, warnings = plan_of(study, config.save, args.parse)
    refuse_what_no_table_holds(plan.first)
    refuse_unknown_names(study, plan.first)
    refuse_what_decides_nothing(study.select, plan.trials)
    for warning in warnings:
        warn(warning)
    from src.run.whole_study import commands_of, run_plan, status_of
    if config.dry_run != "off" or config.status:
        print(status_of(study, plan) if config.status else commands_of(study, plan))
        return 0
    return run_plan(study, plan, config.save, config.jobs)


def run_reproduction(config):
    """Rerun a published result, each run in a separate process, and write a certificate (--reproduce NAME)."""
    from src.cli.reproduction_runs import jobs_of_reproduction, machine_flags
    from src.cli.reproductions import read_reproduction
    from src.report.certificate import refuse_unknown_cells
    reproduction = read_reproduction(config.reproduce)
    beside = machine_flags(reproduction, args.texts_of(config.argv))
    jobs, warnings = jobs_of_reproduction(reproduction, config.save, beside, args.parse)
    refuse_unknown_cells(reproduction, jobs)
    for warning in warnings:
        warn(warning)
    if config.dry_run != "off":
        print("\n".join(f"# {job.name}\n{command_line(job.words)}" for job in jobs))
        return 0
    from src.run.build import command_of
    from src.run.reproduce import reproduce
    commands = {job.name: command_of(args.parse(job.words)) for job in jobs}
    with Signals(hang_up=True) as signals:
        return reproduce(reproduction, jobs, commands, config.save, signals)


RUNS = {kinds.TRAIN: run_training, kinds.SEQUENCE: run_training, kinds.EVAL: run_evaluation, kinds.SINGLE: run_single,
        kinds.EXPORT: run_export, kinds.REPORT: run_report, kinds.LIST: run_list, kinds.CHECK: run_check,
        kinds.FETCH: run_fetch, kinds.STUDY: run_study, kinds.RESCORE: run_rescore, kinds.REPRODUCE: run_reproduction}


if __name__ == "__main__":
    sys.exit(main())
