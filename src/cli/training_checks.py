"""Check how a task trains: its method, its data, its rates, its parts. Imports no torch."""

import os
import shutil

from clip import catalog
from src.cli.flags import FLAGS
from src.cli.kinds import EVAL, RESCORE, SINGLE, TRAINING
from src.cli.remarks import NOTE, WARNING
from src.datasets import class_split, is_pairs, phase_of
from src.errors import UserError
from src.models import METHODS, active_add_ons, find_hooks, find_method
from src.models.custom import GIVEN, require_given
from src.models.modes import TRAIN_MODES

HIGH_RATE = 1e-4
LENGTHS = ("iterations", "epochs")  # a task has one length: either flag replaces the other
COMPILERS = ("g++", "clang++", "c++")
NO_WARMUP = {"onecycle": "its rise takes 30 % of the steps", "late-cosine": "it starts at its peak"}
# Flags that a closed form ignores: it takes no step and leaves the weights as they are.
STEPPING = (*LENGTHS, "lr", "optimizer", "schedule", "lr_floor", "wd", "beta2", "eps", "warmup_length",
            "max_grad_norm", "train_mode", "grad_accum", "last_batch", "eval_interval", "eval_every_epoch", "lora")


def acting_in_steps(config):
    """Return the names of the given flags that only act in steps and that a closed form ignores."""
    acting = [key for key in (*STEPPING, "hooks") if config.chosen(key)]
    acting += [key for add_on, row in active_add_ons(config.values).items() for key in row.switches or (add_on,)
               if config.values[key]]
    return tuple(FLAGS[key].name for key in acting)


def check_length(settings, closed_form, acting):
    """Refuse a task without a length, and a closed form with a length or with any other flag that acts in
    steps.

    ``settings`` holds the values of --iterations, --epochs and --method; ``acting`` is what ``acting_in_steps``
    returned.
    """
    if not closed_form and settings.iterations is None and settings.epochs is None:
        raise UserError("set the training length: --iterations N or --epochs N")
    if closed_form and acting:
        raise UserError(f"{' and '.join(acting)} with --method {settings.method}: a closed form takes no steps and "
                        "leaves the weights as they are; leave it out")


def check_method(config):
    if config.kind not in (*TRAINING, EVAL, SINGLE, RESCORE):
        return
    if config.given("set") and config.method in METHODS:
        raise UserError(f"--set passes keywords to a custom method, file.py:Class; {config.method} is set by flags")
    if config.method not in METHODS:
        _check_code("--method", config.method)
    for row, _ in find_hooks(config.hooks):
        _check_code(row.flag, row.target)
    if config.kind in TRAINING and config.trained:
        _check_kind_of_data(config)
        yield from _check_combination(config, config.method_row)


def _check_code(flag, target):
    """UserError where the file or the class of Python is not there that ``target`` names."""
    path = target.rpartition(":")[0]
    if path == GIVEN:
        require_given(target, flag)
    elif not os.path.isfile(path):
        raise UserError(f"{flag} {target}: no such file; give path/to/file.py:Class")


def _check_kind_of_data(config):
    kinds = {name: is_pairs(name) for name in config.trained}
    if len(set(kinds.values())) > 1:
        pairs, classes = (next(name for name, kind in kinds.items() if kind == wanted) for wanted in (True, False))
        raise UserError(f"{pairs} has captions and {classes} has classes; train on one kind per run")
    if config.method_row is None:
        there = ", ".join(name for name in METHODS if find_method(name, config.pairs))
        row = METHODS[config.method]
        needs = ("learns classes" if row.closed_form else "distils over class prompts"
                 if "image_loss" in row.uses else "learns over class prompts")
        data = (f"image-text pairs: it {needs}" if config.pairs
                else "class data: it compares the pairs of a batch")
        raise UserError(f"--method {config.method} is not for {data}; there are {there}")
    if config.joint and config.method == "icarl":
        raise UserError("--joint with --method icarl: no earlier task to keep exemplars of")
    if config.joint and config.method_row.closed_form:
        raise UserError(f"--joint with --method {config.method}: a closed form learns each dataset separately; give "
                        "them by --dataset-order, in any order: the result is the same")
    if config.num_phases > 1 and not config.pairs:
        raise UserError(f"--num-phases {config.num_phases}: splits image-text pairs; for class data use class splits, "
                        "as in CIFAR100/10")
    if config.joint and TRAIN_MODES[config.train_mode].head:
        raise UserError(f"--joint with --train-mode {config.train_mode}: images are scored against the prompts of "
                        "their own dataset's classes, so a linear head would not train; give whole, image "
                        "or text")
    if config.pairs and TRAIN_MODES[config.train_mode].head:
        raise UserError(f"--train-mode {config.train_mode}: image-text pairs have no classes for a head; give whole, "
                        "image or text")
    if config.num_phases > 1 and config.joint:
        raise UserError("--joint with --num-phases: it trains on all data at once")
    if config.phase != "all" and config.phase > config.num_phases:
        raise UserError(f"--phase {config.phase}: there are {config.num_phases} (--num-phases)")


def _check_combination(config, method):
    """Refuse a combination of method, train mode and adapters that would have no effect, with its reason."""
    for key in method.needs:
        if not config.values[key]:
            raise UserError(f"--method {config.method} needs {FLAGS[key].name}")
    for key, reason in method.excludes.items():
        if config.values[key]:
            raise UserError(f"--method {config.method} with {FLAGS[key].name}: {reason}")
    mode, trains = config.train_mode, TRAIN_MODES[config.train_mode]
    if trains.head and not trains.head_trains and config.fc_init == "zero":
        raise UserError(f"--fc-init zero with --train-mode {mode}: a head that stays zero gives the image tower "
                        "no gradient")
    texts_distilled = config.distill_text_tower and "distill_text_tower" in method.uses
    if mode in method.refuses and not (mode == "text" and texts_distilled):
        raise UserError(f"--method {config.method} with --train-mode {mode}: {method.refuses[mode]}")
    if texts_distilled and "text" not in trains.towers:
        raise UserError(f"--distill-text-tower with --train-mode {mode}: this mode does not train the text tower")
    if "image_loss" in method.uses and "image" in trains.towers and not (config.image_loss or config.text_loss):
        yield NOTE, "neither --image-loss nor --text-loss is given: both are used"
    if config.lora and not trains.towers:
        raise UserError(f"--lora with --train-mode {mode}: adapters sit in the towers, and this mode trains neither")
    if (config.orthogonal_gradients or config.orthogonal_gradients_path) and not trains.towers:
        raise UserError(f"gradient projection with --train-mode {mode}: it protects the towers, and this mode trains "
                        "neither")
    if config.orthogonal_gradients and not config.save:
        raise UserError("--orthogonal-gradients writes its basis to <save>/grad_<DATASET>.pth; give --save DIR")


def check_parts(config):
    if config.kind in TRAINING and config.grad_accum > config.batch_size:
        raise UserError(f"--grad-accum {config.grad_accum}: exceeds the {config.batch_size} images of a batch "
                        "(--batch-size); give at most that")


def check_compiler(config):
    if config.compile and config.kind in TRAINING and not any(
            map(shutil.which, filter(None, (os.environ.get("CXX"), *COMPILERS)))):
        raise UserError(f"--compile: torch needs a C++ compiler, and none of {', '.join(COMPILERS)} is on the path; "
                        "install one, set the environment variable CXX to one, or leave "
                        "--compile out")


def check_own_values(config):
    """Refuse a value that a flag gives to a dataset which is not a task."""
    trained = config.trained
    known = {*trained, *(class_split(phase_of(name)[0])[0] for name in trained)}
    for key in ("lr", "epochs"):
        value, flag = config.values[key], FLAGS[key].name
        named = [name for name in value if name is not None] if isinstance(value, dict) and config.given(key) else []
        if strangers := [name for name in named if name not in known]:
            raise UserError(f"{flag} names {', '.join(strangers)}, which is not trained on here")
        if named and config.joint:
            raise UserError(f"{flag} names {', '.join(named)}: --joint trains all datasets as one; give a single "
                            "number")


def check_rates(config):
    highest = max(config.lr.values())
    by_protocol = config.origins["lr"].startswith(("protocol", "recipe"))  # both are trusted
    small = config.model in catalog.shipped_names()  # embedded weights want rates of their size
    if config.kind in TRAINING and config.init != "scratch" and not small and not by_protocol \
            and _moves_weights(config) and highest >= HIGH_RATE and config.optimizer != "sgd":
        which = "is the default, and high" if config.origins["lr"] == "default" else "is high"
        yield WARNING, (f"--lr {highest:g} {which} for pretrained weights in a full train mode; published runs take "
                        "1e-5, or 5e-5 for Aircraft and MNIST: give --lr 1e-5")


def _moves_weights(config):
    """Return whether an optimiser moves pretrained weights themselves, rather than factors beside them or only
    a head."""
    row = config.method_row
    return TRAIN_MODES[config.train_mode].towers and not (config.lora or row.wraps or row.frozen or row.closed_form)


def check_optimizer(config):
    """Refuse values that the optimiser or the schedule would ignore."""
    if config.kind not in TRAINING:
        return
    for key in ("beta2", "eps") if config.optimizer == "sgd" else ():
        if config.chosen(key):
            raise UserError(f"{FLAGS[key].name} with --optimizer sgd: SGD has no such value; leave it out, or give "
                            "--optimizer adam or adamw")
    if config.schedule in NO_WARMUP and config.chosen("warmup_length"):
        raise UserError(f"--warmup-length with --schedule {config.schedule}: {NO_WARMUP[config.schedule]}; leave it "
                        "out, or give cosine or constant")
    if config.schedule == "late-cosine" and config.iterations:
        raise UserError(f"--schedule late-cosine with --iterations {config.iterations}: its rate changes once per "
                        "epoch; give --epochs N")
    if config.lr_floor and config.schedule != "cosine":
        raise UserError(f"--lr-floor with --schedule {config.schedule}: only the cosine has a floor; leave it out, or "
                        "give --schedule cosine")
    lowest = min(config.lr.values())
    if config.lr_floor > lowest:
        raise UserError(f"--lr-floor {config.lr_floor:g}: is above --lr {lowest:g}, so the rate would rise; give at "
                        "most that")
