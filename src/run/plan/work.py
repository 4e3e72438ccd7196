"""Describe the work of a planned run: its hooks in order, the steps of its tasks, the files that it leaves."""

import contextlib

from src.datasets import stem
from src.datasets.loading import rest_of_epoch, steps_per_epoch
from src.errors import UserError
from src.models import OwnHook
from src.models.custom import call_text
from src.report.tables import markdown_table
from src.run.build import build_hooks, build_settings
from src.run.kept import kept_text
from src.run.plan.data import images_of
from src.store.checkpoint import carry_bytes, in_words
from src.store.resume import ResumePoints, refuse_other_batches, refuse_other_configuration

RATES = {  # how a task's rate changes, by --schedule
    "cosine": "the rate rises linearly to its peak over the warm-up, then falls by cosine to {floor:g}",
    "onecycle": "the rate rises by half a cosine to its peak over 30 % of the steps, then falls to nothing by another",
    "late-cosine": "the rate is at its peak in the first two epochs, then falls once per epoch, by a quarter of a "
                   "cosine",
    "constant": "the rate rises linearly to its peak over the warm-up and stays there"}


def hooks_text(plan, training, start):
    with plan.unless_refused():
        hooks = build_hooks(training, start)
        names = [call_text(row.target, keywords["set"]) if isinstance(row, OwnHook) else type(hook).__name__
                 for hook, (row, keywords) in zip(hooks, training.hooks, strict=True)]
        if hooks[0].closed_form:
            return f"{names[0]}, a closed form: it takes no steps"
        last = f"; at the end of a task {names[0]} comes last" if len(names) > 1 else ""
        return f"{' -> '.join(names)}, in this order at each step{last}"
    return "cannot be built"


def settings_of(training, datasets, name):
    """Return the Settings of a task; None if its number of steps is unknown."""
    with contextlib.suppress(UserError):
        return build_settings(training, datasets.open(name), name)


def tasks_text(training, datasets, names):
    rows, total, unfinished, smaller = [], 0, False, False
    for number, name in enumerate(names, 1):
        settings, images = settings_of(training, datasets, name), images_of(datasets, name, "train")
        if settings is None or not settings.iterations:
            steps = training.iterations if settings is None else 0
            rows.append([f"{number} {name}", images, steps, None, None, None])
        else:
            task, steps = datasets.open(name), settings.iterations
            cut = task, settings.batch_size, settings.last_batch
            each, left = steps_per_epoch(*cut), rest_of_epoch(*cut)
            smaller = smaller or 0 < left and each <= steps
            rows.append([f"{number} {name}", images, steps, f"{steps / each:.1f}", f"{settings.peak_rate:g}",
                         settings.warmup])
            unfinished = unfinished or training.schedule == "cosine" and settings.warmup >= steps
        total = None if steps is None or total is None else total + steps
    table = markdown_table(["task", "images", "steps", "epochs", "peak lr", "warm-up"], rows)
    if total == 0:
        return f"{table}\nno steps: a closed form passes over the images"
    ends = "; it never falls if the warm-up is not shorter than the task" if unfinished else ""
    each = f"{training.batch_size} images each{', fewer in the last step of an epoch' if smaller else ''}"
    return (f"{table}\n{'unknown' if total is None else total} steps in all, {each}; "
            f"{RATES[training.schedule].format(floor=training.lr_floor)}{ends}")


def files_text(run, names, plan, start):
    scoring = run.scoring
    if run.folder.path is None or scoring.evaluation and not scoring.save and not scoring.load:
        return "nothing is kept without --save"
    if scoring.evaluation:
        scored = [scoring.linear_eval] if scoring.linear_eval else run.evaluated
        return "\n".join([*(f"{run.folder.file(f'metrics_{stem(name)}.csv')}" for name in scored),
                          *kept_lines(run, names, start)])
    lines = []
    for name in names:
        with plan.unless_refused():
            lines.append(f"{run.folder.file(f'{stem(name)}.pth')}: {state_of_task(run, name)}")
    page = ", summary, matrices and report.html" if run.training.sequence else ", report_<DATASET>.html"
    beside = f"metrics, logs and run_<DATASET>.json{page}"
    return "\n".join([*lines, *carry_lines(run, names, start), *kept_lines(run, names, start),
                      f"{run.folder.path}: {beside} beside them"])


def kept_lines(run, names, start):
    """Return [how many bytes --keep-features writes]; empty without the flag, or if a dataset is unknown."""
    with contextlib.suppress(UserError):
        return list(filter(None, [kept_text(run, names, start)]))
    return ["--keep-features: its size is unknown; see the reasons below"]


def carry_lines(run, names, start):
    """Return [how many bytes of the hooks' carry a checkpoint holds].

    Known from the last finished task or from the checkpoint that the run starts from.
    """
    finished = [run.folder.read_json(f"run_{stem(name)}.json") for name in names]
    known = [sizes for facts in finished if _are_sizes(sizes := facts.get("carry_bytes"))]
    sizes = known[-1] if known else carry_bytes(start)
    if not sizes:
        return []
    last = run.training.sequence and run.files.keep_carry == "last"
    where = "only in the checkpoint of the last task" if last else "in the checkpoint of each task"
    source = "so far" if known else "in the weights that the run starts from"
    return [f"{in_words(sizes)} ({source}) are stored {where} (--keep-carry {run.files.keep_carry})"]


def _are_sizes(found):
    return isinstance(found, dict) and found and all(isinstance(number, int) for number in found.values())


def state_of_task(run, name):
    """Return what an earlier run left of a task, and what happens to it."""
    folder, files, file = run.folder, run.files, stem(name)
    if folder.has(f"{file}.pth"):
        return "finished, and replaced" if files.overwrite else "finished, and skipped"
    points = ResumePoints(folder, file, files.save_interval)
    if not (points.newest.exists() or points.previous.exists()):
        return "new"
    kept = points.read() if files.resume else None
    if kept is None:
        return "unfinished, and started again"
    refuse_other_configuration(files, kept, points.newest)
    refuse_other_batches(kept, run.datasets.open(name), run.training.batch_size, points.newest)
    return f"unfinished, resumes after step {kept['iteration']}"
