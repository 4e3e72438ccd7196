"""The command line: parse, build, then train, evaluate or report.

    python -m src.main --method finetune --train-dataset DTD --iterations 1000 --lr 1e-5 --save ckpt/dtd_ft
    python -m src.main --method ZSCL --dataset-order toy --save ckpt/toy_zscl
    python -m src.main --load ckpt/dtd_ft/DTD.pth --eval-datasets DTD,CIFAR100 --eval-only

Of several processes (``torchrun -m src.main ...``) the first speaks and writes.
"""

import sys

from src import args  # all else is imported where a run needs it: --help must not wait for torch
from src.cli import checks, kinds
from src.cli.flags import FLAGS
from src.machine.ending import first_process, to_its_end
from src.machine.interruption import Signals


def main(argv=None):
    """Run a command line; returns the exit status: 0, 1 for faulty data or a cell of a study that failed, 2 for what
    the user can mend, 75 where training was interrupted and resumes with --resume, 130 where it was broken off, 141
    where the reader of its output has ended."""
    return to_its_end(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv):
    config = args.parse(argv)
    remarks = checks.check(config)
    for warning in remarks.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for note in remarks.notes:
        print(f"note: {note}")
    if config.kind not in kinds.SCORING and not first_process():
        return 0
    if config.kind in kinds.SCORING and config.dry_run != "off":
        from src.run.build import command_of
        from src.run.plan import tell_plan
        return tell_plan(command_of(config), args.all_origins(config), probes=config.dry_run == "probe",
                         beside=config.beside_loaded)
    return RUNS[config.kind](config) or 0


def _print_origins(config):
    """Where a recipe or a protocol filled values in, all of them by origin."""
    text = "" if config.quiet else args.origins_text(config)
    if text:
        print(text + "\n", flush=True)


def run_training(config):
    """--train-dataset: one task, from --load or from the initial weights. --dataset-order: one after the other in one
    process, with the accuracy matrix."""
    with Signals() as signals:
        _train(config, signals)


def _train(config, signals):
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
    run.open(names)  # whatever can be refused is refused before weights are fetched
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
    export.write(finished)


def run_evaluation(config):
    """--eval-only: score --load, or zero-shot CLIP, on the datasets."""
    from src.run.build import command_of
    from src.run.export import Export
    from src.run.sequence import Run
    from src.run.weights import starting_checkpoint
    if len(config.loaded) > 1:
        rebuild_sequence(config)
        return
    command = command_of(config)
    run = Run(command, config.save or config.beside_loaded)
    checkpoint = starting_checkpoint(command.weights)
    export = Export(config.export, run.world.first, config.export_format)
    export.claim(checkpoint["architecture"], config.overwrite)
    with run.shown():
        _evaluate(config, run, checkpoint)
    export.write(checkpoint)


def _evaluate(config, run, checkpoint):
    from src.report.tables import numbers_text
    if config.linear_eval:
        run.open_for_training(config.linear_eval)
        run.folder.prepare()
        print(run.scores_table(run.scorer.linear(checkpoint), checkpoint, [config.linear_eval]))
        return
    run.adopt(checkpoint)
    run.open([])
    run.claim([], checkpoint)
    if config.wise_ft:
        for alpha in config.alpha:
            table = run.scores_table(run.evaluate(checkpoint, alpha), checkpoint)
            print(f"{alpha:g} loaded + {1 - alpha:g} zero-shot\n{table}\n")
        return
    scores = run.evaluate(checkpoint)
    print(run.scores_table(scores, checkpoint))
    if config.dataset_order and not config.load:  # the row that a sequence starts from, as if nothing changed it
        summaries = run.summarise(config.dataset_order, [scores] * (1 + len(config.dataset_order)))
        print("\n" + "\n".join(map(numbers_text, summaries.values())))


def rebuild_sequence(config):
    """--load A,B,C --eval-only: the matrix of a sequence that was trained by single runs."""
    from src.report.tables import summary_text
    from src.run.build import command_of
    from src.run.chain import rebuild
    print("\n" + "\n".join(map(summary_text, rebuild(command_of(config)).values())))


def run_export(config):
    """--export without training: a checkpoint, or published weights, in the layout of another library."""
    from src.run.build import weights_of
    from src.run.export import Export
    from src.run.weights import starting_checkpoint
    checkpoint = starting_checkpoint(weights_of(config))
    export = Export(config.export, layout=config.export_format)
    export.claim(checkpoint["architecture"], config.overwrite)
    export.write(checkpoint)


def run_single(config):
    """--eval-single: the five most probable classes of one image, of several, or of those in a folder."""
    from src.run.build import hardware_of, scoring_of, single_of, weights_of
    from src.run.single import classify
    classify(single_of(config), scoring_of(config), weights_of(config), hardware_of(config))


def run_list(config):
    """--list-datasets: the whole table, and what of it is there."""
    from src.datasets import list_datasets
    from src.report.tables import markdown_table
    print(markdown_table(["dataset", "classes", "train", "test", "comes", "here"], list_datasets(config.data_location)))
    print("\nYour own: folder:PATH, csv:FILE, pairs:FILE. Steps for those that come by hand are in datasets.md.")


def run_check(config):
    """--check-data: every fault of the named datasets, and what is odd in the user's own."""
    from src.datasets.check import check_dataset
    clean = True
    for name in config.check_data:
        report = check_dataset(name, config.data_location)
        print("\n".join(report.lines()))
        clean = clean and report.is_clean
    return 0 if clean else 1


def run_report(config):
    """--report: compare finished sequences."""
    from src.report.compare import compare, comparison_markdown, write_comparison
    from src.report.runs import read_run
    from src.report.tradeoff import write_tradeoff
    tables = compare([read_run(folder) for folder in config.report])
    print(comparison_markdown(tables), end="")
    if config.save:
        write_comparison(tables, config.save)
        for left_out in write_tradeoff(tables, config.save):
            print(f"note: {left_out} lacks a number that tradeoff.png shows", file=sys.stderr)


def run_study(config):
    """--study FILE, or several seeds: run the cells of a grid, each as a separate process; print their scores in one
    table."""
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
        print(f"warning: {warning}", file=sys.stderr)
    if config.dry_run != "off" or config.status:
        _print_study(study, plan, config)
        return 0
    return _launch(study, plan, config)


def _print_study(study, plan, config):
    """--dry-run: the command of each cell. --status: what each is at."""
    from src.run.selection import choices_of, selection_text, settings_of
    from src.run.study import commands_text, status_text
    choices = choices_of(study.select, plan.trials)
    jobs = plan.chosen(settings_of(choices))
    if config.dry_run != "off":
        print(commands_text(study, plan.trials, jobs))
        return
    if plan.trials:
        print(status_text(study.name, plan.trials, "trials"))
        print(f"\n{selection_text(study, plan.trials, choices)}")
    print(status_text(study.name, jobs))


def _launch(study, plan, config):
    from src.report.study import study_markdown, tables_of, write_study
    from src.run.cells import DONE, state_of
    from src.run.selection import choices_of, selection_text, settings_of, write_selection
    from src.run.study import exit_status, launch, one_at_a_time
    slots = _slots(plan.first, config)
    with Signals(hang_up=True) as signals:
        checked = bool(plan.trials) and _run_trials(study, plan, config, slots, signals)
        ready = [job for job in plan.chosen(settings_of(choices_of(study.select, plan.trials))) if not job.waits_for]
        if plan.trials and not checked:
            _require_held_out(plan, ready)
        if ready:
            launch(study.name, ready, slots, signals)
    with Signals(hang_up=True), one_at_a_time(config.save):
        choices = choices_of(study.select, plan.trials)
        jobs = plan.chosen(settings_of(choices))
        states = [state_of(job) for job in jobs]  # another launcher may have ended a cell meanwhile
        done = [job for job, state in zip(jobs, states, strict=True) if state.kind == DONE]
        if done:
            tables = tables_of(study, done)
            print(f"\n{study_markdown(tables)}", end="", flush=True)
            write_study(tables, config.save)
        if plan.trials:
            print(f"\n{selection_text(study, plan.trials, choices)}", end="", flush=True)
            write_selection(study, plan.trials, choices, config.save)  # another launcher may have ended a trial
    return exit_status([*plan.trials, *jobs], [*map(state_of, plan.trials), *states])


def _slots(jobs, config):
    """What each of the processes that run at the same time adds to the environment."""
    from src.run.launcher import environments
    devices = ()
    if config.jobs != 1 and any(job.device in ("auto", "cuda") for job in jobs):
        from src.machine.device import cuda_devices
        devices = cuda_devices()
    return environments(max(1, len(devices)) if config.jobs == "auto" else config.jobs, devices)


def _run_trials(study, plan, config, slots, signals):
    """Run all trials before any cell, so that no test score can reach the choice, and store it. -> whether their images
    were checked"""
    from src.run.selection import choices_of, write_selection
    from src.run.study import launch, one_at_a_time
    checked = _require_held_out(plan, plan.trials)
    launch(study.name, plan.trials, slots, signals, "trials", waits=True)
    with one_at_a_time(config.save):
        write_selection(study, plan.trials, choices_of(study.select, plan.trials), config.save)
    return checked


def _require_held_out(plan, jobs):
    """Check the images of trials and cells where some of the Jobs are still to run. -> whether that was so"""
    from src.run.cells import is_done
    if all(map(is_done, jobs)):
        return False
    from src.run.held_out import refuse_shared_images
    refuse_shared_images(plan.trials, plan.first)
    return True


RUNS = {kinds.TRAIN: run_training, kinds.SEQUENCE: run_training, kinds.EVAL: run_evaluation, kinds.SINGLE: run_single,
        kinds.EXPORT: run_export, kinds.REPORT: run_report, kinds.LIST: run_list, kinds.CHECK: run_check,
        kinds.STUDY: run_study}


if __name__ == "__main__":
    sys.exit(main())
