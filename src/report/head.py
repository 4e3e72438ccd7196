"""Build the head of a run's page: what ran, on what, when, for how long."""

from src.cli.flags import FLAGS
from src.cli.texts import shown
from src.models import METHODS, active_add_ons
from src.report.conditions import conditions_of_run, joined
from src.report.durations import duration

AVERAGES = ("we", "we_wise", "moving_avg", "wise_merge")  # add-ons that average
ENTERED = "the weights before each task"


def head_facts(run):
    """Return [(name, value)] of the line below the title of a SequenceRun, without unknown values."""
    found = [("method", method_title(run)), *_settings(run)]
    if run.tasks or run.trained_with:
        made = _made_with(run)
        found += [("reference set", conditions_of_run(run, run.space).reference),
                  ("teacher", joined(map(teacher_of, made))), ("averaging", joined(map(averaging_of, made)))]
    found += [("seed", run.seed), ("precision", run.precision), ("device", run.hardware), ("date", date_text(run.date)),
              ("duration", duration_text(run))]
    return [(name, value) for name, value in found if value is not None]


def method_title(run):
    """Return the method and its add-ons, or that nothing was trained."""
    if run.trained_with:  # rebuilt from the checkpoints of single runs
        return ", ".join(dict.fromkeys(" + ".join([str(flags.get("method", "unknown")), *(flags.get("hooks") or ())])
                                       for flags in run.trained_with))
    if not run.tasks:
        return "zero-shot, nothing trained"
    values = {key: run.value(key) for key in FLAGS}
    return " + ".join([str(run.value("method")), *(run.value("hooks") or ()),
                       *(FLAGS[key].name[2:] for key in active_add_ons(values)),
                       *(["lora"] if run.value("lora") else [])])


def _settings(run):
    length = ("epochs", "epochs") if run.value("epochs") else ("steps per task", "iterations")
    chosen = [("model", "model"), ("trains", "train_mode"), length, ("batch", "batch_size"), ("learning rate", "lr")]
    if not run.tasks:
        chosen = chosen[:1]
    elif all(facts.iterations == 0 for facts in run.tasks.values()):  # a closed form ignores the others
        chosen = [chosen[0], chosen[3]]
    return [(name, shown(run.value(key))) for name, key in chosen if run.value(key) is not None]


def _made_with(run):
    """Return [{flag key: value}] of the runs that trained; None for a flag that the run predates."""
    own = {key: run.value(key) for key in FLAGS}
    return [dict.fromkeys(FLAGS) | trained for trained in run.trained_with] or [own]


def teacher_of(values):
    """Return which weights a distilling method learns from, by its flags; None without distillation or for an
    unknown method."""
    uses = METHODS[values["method"]].uses if values.get("method") in METHODS else ()
    if "ref_model" in uses:
        model = values["ref_model"] or "zero-shot CLIP"
        share = values["ref_wise_alpha"] if values["ref_wise"] else 0.0
        return f"{1 - share:g} {model} + {share:g} {ENTERED}" if share else model
    return ENTERED if {"T", "modx_alpha"} & {*uses} else None


def averaging_of(values):
    """Return which weight averages are taken, each with its flags; None without any."""
    found = [_averaging_text(key, add_on, values) for key, add_on in active_add_ons(values).items() if key in AVERAGES]
    return " + ".join(found) or None


def _averaging_text(key, add_on, values):
    flags = ", ".join(f"{FLAGS[flag].name[2:]} {shown(values[flag])}" for flag in add_on.uses)
    return f"{FLAGS[key].name[2:]} ({flags})"


def date_text(date):
    """Return "2026-11-27 14:05 UTC" for a date in ISO 8601; None without one."""
    return None if date is None else f"{str(date)[:16].replace('T', ' ')} UTC"


def whole_seconds(run):
    """Return the time of a run with its evaluations; None for a resumed run, which only knows that of its last
    part."""
    return run.seconds if (run.seconds or 0) >= training_seconds(run) else None


def training_seconds(run):
    return sum(facts.seconds or 0 for facts in run.tasks.values())


def duration_text(run):
    """Return the duration of the whole run, else of its training; None if neither is known."""
    if whole_seconds(run) is not None:
        return duration(run.seconds)
    return f"{duration(training_seconds(run))} of training" if training_seconds(run) else None
