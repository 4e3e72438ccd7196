"""Checks over several flags: a contradiction is one error, a flag without effect one warning. Imports no torch."""

import difflib
import os

from src.args import EVAL, FLAGS, SINGLE, TRAINING
from src.datasets import find_entry
from src.errors import UserError
from src.models import ADD_ONS, METHODS, active_add_ons, find_method
from src.protocols import PROTOCOLS

HIGH_RATE = 1e-4

CONTRADICTIONS = [
    ("iterations", "epochs", "give the length of a task one way"),
    ("train_dataset", "dataset_order", "train on one dataset, or on a sequence"),
    ("model", "model_config", "an architecture has one source; name it by --model-name"),
    ("we", "we_wise", "one average is kept"),
    ("we", "moving_avg", "one average is kept"),
    ("we_wise", "moving_avg", "one average is kept"),
    ("ref_wise", "ref_model", "there is one teacher"),
    ("cache_images", "skip_bad_images", "the cache holds every image of a split"),
    ("eval_interval", "eval_every_epoch", "evaluate at one rhythm"),
]


def check(config):
    """Raise UserError on the first contradiction; collect warnings in ``config.warnings``."""
    for first, second, reason in CONTRADICTIONS:
        if config.given(first) and config.given(second):
            raise UserError(f"{FLAGS[first].name} and {FLAGS[second].name} exclude each other: {reason}")
    for rule in RULES:
        rule(config)
    config.warnings += _without_effect(config)


def _check_processes(config):
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and config.kind in (*TRAINING, EVAL):
        raise UserError("several processes are not built yet; run one, without torchrun")


def _check_kind(config):
    if config.kind in TRAINING:
        if not config.train_dataset and not config.dataset_order:
            raise UserError("nothing to do: give --train-dataset NAME or --dataset-order NAMES to train, "
                            "--eval-only to evaluate, or see --help")
        if config.iterations is None and config.epochs is None:
            raise UserError("how long? give --iterations N or --epochs N")
        if not config.save:
            config.warnings.append("without --save the trained weights and metrics are not kept")
    named = config.eval_datasets or config.dataset_order or config.train_dataset
    if config.kind == EVAL and not (named or config.load):
        raise UserError("--eval-only needs --eval-datasets NAMES (or --load of a checkpoint that names its dataset)")
    if config.kind == EVAL and config.wise_ft and not config.load:
        raise UserError("--wise-ft mixes zero-shot weights with those of --load FILE; give it")
    if config.kind == EVAL and config.given("alpha") and not config.wise_ft:
        config.warnings.append("--alpha has no effect without --wise-ft")
    if config.kind == SINGLE and not config.class_names:
        raise UserError("--eval-single needs --class-names FILE with one class name a line")
    if config.kind == SINGLE and "{}" not in config.prompt:
        raise UserError(f"--prompt {config.prompt}: has no {{}} where the class name goes")


def _check_model(config):
    if config.load and config.init == "scratch":
        raise UserError("--load and --init scratch exclude each other: weights are loaded or drawn")
    if config.model_config and not config.model_name:
        raise UserError(f"--model-config {config.model_config} needs --model-name KEY, a name in that file")
    if config.model_name and not config.model_config:
        raise UserError(f"--model-name {config.model_name} needs --model-config FILE")
    if config.model_config and not config.load and config.init != "scratch":
        raise UserError("--model-config has no pretrained weights: give --init scratch or --load FILE")


def _check_method(config):
    if config.kind not in TRAINING:
        return
    if config.given("set") and config.method in METHODS:
        raise UserError(f"--set gives keywords to a method of one's own, file.py:Class; {config.method} has flags")
    if config.method not in METHODS and not os.path.isfile(config.method.rpartition(":")[0]):
        raise UserError(f"--method {config.method}: no such file; give path/to/file.py:Class")
    method = find_method(config.method)
    for key in method.needs:
        if not config.values[key]:
            raise UserError(f"--method {config.method} needs {FLAGS[key].name}")
    reason = method.refuses.get(config.train_mode)
    if reason:
        raise UserError(f"--method {config.method} with --train-mode {config.train_mode}: {reason}")


def _check_datasets(config):
    sentences = () if config.ref_sentences in (None, "random") else (config.ref_sentences,)
    named = [("--train-dataset", (config.train_dataset,) if config.train_dataset else ()),
             ("--dataset-order", config.dataset_order or ()), ("--eval-datasets", config.eval_datasets),
             ("--ref-dataset", (config.ref_dataset,) if config.ref_dataset else ()),
             ("--ref-sentences", sentences), ("--text-datasets", config.text_datasets),
             ("--check-data", config.check_data or ())]
    for flag, datasets in named:
        for name in datasets:
            try:
                find_entry(name)
            except UserError as error:
                near = difflib.get_close_matches(name, PROTOCOLS, n=1) if flag == "--dataset-order" else ()
                raise UserError(f"{flag}: " + (f"did you mean {near[0]}? " if near else "") + str(error)) from None


def _check_splits(config):
    if config.split_file and not config.train_dataset:
        raise UserError("--split-file belongs to one dataset; give --train-dataset NAME with it")
    if config.split_file and (config.shots or config.val_fraction):
        raise UserError("--split-file fixes the splits; it excludes --shots and --val-fraction")
    if config.kind in TRAINING and config.given("shot_seed") and not config.shots:
        config.warnings.append("--shot-seed has no effect without --shots")


def _check_rates(config):
    trained = config.dataset_order or (config.train_dataset,)
    strangers = [name for name in config.lr if name is not None and name not in trained]
    if config.given("lr") and strangers:
        raise UserError(f"--lr names {', '.join(strangers)}, which is not trained on here")
    highest = max(config.lr.values())
    by_protocol = config.origins["lr"].startswith("protocol")
    if config.kind in TRAINING and config.init != "scratch" and config.model != "toy" and not by_protocol \
            and highest >= HIGH_RATE:
        config.warnings.append(f"--lr {highest:g} is high for pretrained weights in a full train mode; "
                               "published runs take 1e-5 to 5e-5")


def _check_files(config):
    for key in ("load", "ref_model", "eval_single", "model_config", "split_file"):
        path = config.values[key]
        if path and not os.path.isfile(path):  # Path.is_file raises where a folder on the way may not be read
            raise UserError(f"{FLAGS[key].name} {path}: no such file")
    if config.save and os.path.exists(config.save) and not os.path.isdir(config.save):
        raise UserError(f"--save {config.save}: is a file, not a folder")


RULES = (_check_processes, _check_kind, _check_model, _check_method, _check_datasets, _check_splits, _check_rates,
         _check_files)


def _without_effect(config):
    given = [flag for key, flag in FLAGS.items() if config.given(key)]
    idle = {flag.name: f"has no effect in a {config.kind} run" for flag in given if config.kind not in flag.runs}
    if config.kind in TRAINING:
        owned = {key for method in METHODS.values() for key in method.uses}
        idle |= {flag.name: f"has no effect with --method {config.method}" for flag in given
                 if flag.key in owned and flag.key not in find_method(config.method).uses}
        active = {key for add_on in active_add_ons(config.values).values() for key in add_on.uses}
        for flag in given:
            switches = [FLAGS[key].name for key, add_on in ADD_ONS.items() if flag.key in add_on.uses]
            if switches and flag.key not in active and flag.key not in ADD_ONS:
                idle[flag.name] = f"has no effect without {' or '.join(switches)}"
        if config.given("ref_wise_alpha") and not config.ref_wise:
            idle.setdefault("--ref-wise-alpha", "has no effect without --ref-wise")
        if config.text_datasets and config.given("ref_sentences"):
            idle.setdefault("--ref-sentences", "has no effect with --text-datasets, which comes first")
    return [f"{name} {reason}" for name, reason in idle.items()]
