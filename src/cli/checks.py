"""Checks over several flags: a contradiction is one error, a flag without effect one warning. Imports no torch."""

import difflib
import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from clip.catalog import architecture_names, is_weights_name
from clip.errors import LoadError
from clip.files import hub
from src.cli.flags import FLAGS
from src.cli.kinds import EVAL, EXPORT, SEQUENCE, SINGLE, STUDY, TRAINING
from src.cli.protocols import PROTOCOLS
from src.cli.texts import shown
from src.datasets import class_split, find_entry, is_pairs, phase_of
from src.datasets.coop import DIKI, WORD
from src.datasets.images import named_images
from src.errors import UserError
from src.models import ADD_ONS, METHODS, active_add_ons, find_method
from src.models.modes import TRAIN_MODES

HIGH_RATE = 1e-4
COMPILERS = ("g++", "clang++", "c++")

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
    ("resume", "overwrite", "resume, or start again"),
    ("status", "dry_run", "one of them is printed"),
    ("joint", "dataset_order", "all at once, or one after the other"),
    ("wise_ft", "export", "mixes of weights are scored, and none of them is the model; --wise-merge keeps one"),
    ("lora", "orthogonal_gradients", "adapters are drawn again after merging, so a basis would protect nothing"),
    ("lora", "orthogonal_gradients_path", "adapters are drawn again after merging, so a basis would protect nothing"),
]


class Remarks(NamedTuple):
    """What is said about a command line that contradicts nothing: texts of warnings and of notes."""

    warnings: list
    notes: list


WARNING, NOTE = Remarks._fields


def check(config):
    """Raise UserError on the first contradiction. -> Remarks

    A rule takes the configuration; it may yield (WARNING or NOTE, text).
    """
    said = []
    try:
        for rule in (_check_contradictions, *(STUDY_RULES if config.kind == STUDY else RULES)):
            said += rule(config) or ()
    except UserError as error:
        raise UserError(f"{error}{_origins_of(config, str(error))}") from None
    warnings, notes = ([text for kind, text in said if kind == wanted] for wanted in (WARNING, NOTE))
    return Remarks(warnings + _without_effect(config), notes)


def _origins_of(config, message):
    """Where the flags of a message come from that the user did not write; a recipe may well have been forgotten."""
    named = {flag: flag[2:].replace("-", "_") for flag in re.findall(r"--[A-Za-z][\w-]*", message)}
    sources = [f"{config.origins[key]} sets {flag} {shown(config.values[key])}" for flag, key in named.items()
               if config.origins.get(key, "").startswith("recipe ")]
    return f" ({', '.join(sources)})" if sources else ""


def _check_contradictions(config):
    for first, second, reason in CONTRADICTIONS:
        if config.chosen(first) and config.chosen(second):
            raise UserError(f"{FLAGS[first].name} and {FLAGS[second].name} exclude each other: {reason}")


def _check_processes(config):
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1 or config.kind not in (*TRAINING, EVAL):
        return
    for key in ("batch_size", "ref_batch_size") if config.kind in TRAINING else ():
        size = config.values[key]
        if size and size % processes:
            raise UserError(f"{FLAGS[key].name} {size}: counts the images of all {processes} processes and must divide "
                            f"by their number; give {max(processes, size - size % processes)}")
    if config.skip_bad_images and config.kind in TRAINING:
        raise UserError("--skip-bad-images with several processes: where one process's rows of a batch were fewer, its "
                        "images would weigh more; run one process, or remove the bad images")


def _check_kind(config):
    if config.kind in TRAINING:
        if not config.train_dataset and not config.dataset_order:
            raise UserError("nothing to do: give --train-dataset NAME or --dataset-order NAMES to train, "
                            "--eval-only to evaluate, or see --help")
        if config.method in METHODS:  # of a custom method the class must be imported first
            check_length(config, METHODS[config.method].closed_form, acting_in_steps(config))
        if config.resume and not config.save:
            raise UserError("--resume continues what is in --save DIR; give it")
        if not config.save:
            yield WARNING, "without --save the trained weights and metrics are not kept"
    named = config.eval_datasets or config.dataset_order or config.train_dataset
    if config.kind == EVAL and not (named or config.load or config.linear_eval):
        raise UserError("--eval-only needs --eval-datasets NAMES (or --load of a checkpoint that names its dataset)")
    if config.kind == EVAL and config.wise_ft and not config.load:
        raise UserError("--wise-ft mixes zero-shot weights with those of --load FILE; give it")
    if config.kind == EVAL and config.given("alpha") and not config.wise_ft:
        yield WARNING, "--alpha has no effect without --wise-ft"
    if config.kind == EVAL and "seen" in config.label_space and not config.load:
        raise UserError("--label-space seen: nothing is trained yet; give --load FILE, or task or all")
    if config.kind == EXPORT and not (config.load or config.chosen("model") or config.model_config):
        raise UserError(f"--export {config.export}: of which model? give --load FILE, --model NAME or what to train")
    if config.kind == SINGLE and not config.class_names and not config.load:
        raise UserError("--eval-single needs --class-names FILE with one class name per line (or names joined by "
                        "commas), or --load of a checkpoint that holds its class names")
    if config.kind == SINGLE and "{}" not in config.prompt:
        raise UserError(f"--prompt {config.prompt}: has no {{}} where the class name goes")


# What no closed form reads: it takes no step, and its weights stay.
STEPPING = ("iterations", "epochs", "lr", "optimizer", "schedule", "lr_floor", "wd", "beta2", "eps", "warmup_length",
            "max_grad_norm", "train_mode", "grad_accum", "eval_interval", "eval_every_epoch", "lora")


def acting_in_steps(config):
    """The names of the flags that act and that no closed form reads."""
    acting = [key for key in STEPPING if config.chosen(key)]
    acting += [key for add_on, row in active_add_ons(config.values).items() for key in row.switches or (add_on,)
               if config.values[key]]
    return tuple(FLAGS[key].name for key in acting)


def check_length(settings, closed_form, acting):
    """Refuse a task without a length, and a ``closed_form`` with one or with anything else that acts in steps.
    ``settings`` has the values of --iterations, --epochs and --method; ``acting`` is what ``acting_in_steps``
    returned."""
    if not closed_form and settings.iterations is None and settings.epochs is None:
        raise UserError("set the training length: --iterations N or --epochs N")
    if closed_form and acting:
        raise UserError(f"{' and '.join(acting)} with --method {settings.method}: it is a closed form, which takes no "
                        "step and leaves the weights as they are; leave it out")


def _check_model(config):
    if len(config.loaded) > 1:
        if config.kind != EVAL:
            raise UserError(f"--load {config.load}: several files only with --eval-only, which makes their matrix; "
                            "give the one to start from")
        if len({*map(os.path.realpath, config.loaded)}) < len(config.loaded):
            raise UserError(f"--load {config.load}: names a file twice")
        for key in ("wise_ft", "linear_eval", "export"):
            if config.values[key]:
                raise UserError(f"{FLAGS[key].name} with several files of --load: it scores one; give it")
    if config.model not in architecture_names():
        _check_other_model(config)
    if config.load and config.init == "scratch":
        raise UserError("--load and --init scratch exclude each other: weights are loaded or drawn")
    if config.model_config and not config.model_name:
        raise UserError(f"--model-config {config.model_config} needs --model-name KEY, a name in that file")
    if config.model_name and not config.model_config:
        raise UserError(f"--model-name {config.model_name} needs --model-config FILE")
    if config.model_config and not config.load and config.init != "scratch":
        raise UserError("--model-config has no pretrained weights: give --init scratch or --load FILE")


def _check_other_model(config):
    """A file, folder or name of other libraries: what has weights is loaded, what is an architecture alone needs some.
    Beside --load weights are the base of an adapter, which only the file tells."""
    if not hub.is_name(config.model):
        _check_path("--model", config.model, config.model in hub.open_clip_names() or hub.is_repository(config.model))
    if config.model in hub.open_clip_names():
        if not config.load and config.init != "scratch":
            near = difflib.get_close_matches(config.model, architecture_names(), n=1)
            raise UserError(f"--model {config.model}: {f'did you mean {near[0]}? ' if near else ''}open_clip calls an "
                            f"architecture so, without weights; name some by {config.model}:PRETRAINED, or give --load "
                            "FILE")
    elif config.init == "scratch":
        raise UserError(f"--model {config.model} names weights, and so does --init scratch; leave one away")


def _check_method(config):
    if config.kind not in (*TRAINING, EVAL):
        return
    if config.given("set") and config.method in METHODS:
        raise UserError(f"--set gives keywords to a custom method, file.py:Class; {config.method} has flags")
    if config.method not in METHODS and not os.path.isfile(config.method.rpartition(":")[0]):
        raise UserError(f"--method {config.method}: no such file; give path/to/file.py:Class")
    if config.kind in TRAINING and config.trained:
        _check_kind_of_data(config)
        yield from _check_combination(config, config.method_row)


def _check_kind_of_data(config):
    kinds = {name: is_pairs(name) for name in config.trained}
    if len(set(kinds.values())) > 1:
        pairs, classes = (next(name for name, kind in kinds.items() if kind == wanted) for wanted in (True, False))
        raise UserError(f"{pairs} has captions, {classes} has classes: one run trains on one kind")
    if config.method_row is None:
        there = ", ".join(name for name in METHODS if find_method(name, config.pairs))
        row = METHODS[config.method]
        needs = ("learns classes" if row.closed_form else "distils over the prompts of classes"
                 if "image_loss" in row.uses else "learns over the prompts of classes")
        data = (f"image-text pairs: it {needs}" if config.pairs
                else "class data: it compares the pairs of a batch")
        raise UserError(f"--method {config.method} is not for {data}; there are {there}")
    if config.joint and config.method == "icarl":
        raise UserError("--joint with --method icarl: there is no earlier task to keep exemplars of")
    if config.joint and config.method_row.closed_form:
        raise UserError(f"--joint with --method {config.method}: a closed form learns each dataset apart; "
                        "give them by --dataset-order, in any order: what it learns is the same")
    if config.num_phases > 1 and not config.pairs:
        raise UserError(f"--num-phases {config.num_phases}: parts image-text pairs; class data have class splits, as "
                        "in CIFAR100/10")
    if config.joint and TRAIN_MODES[config.train_mode].head:
        raise UserError(f"--joint with --train-mode {config.train_mode}: each image is scored over its own dataset's "
                        "classes, by their prompts, so no linear head would train; give whole, image or text")
    if config.pairs and TRAIN_MODES[config.train_mode].head:
        raise UserError(f"--train-mode {config.train_mode}: image-text pairs have no classes for a head; give whole, "
                        "image or text")
    if config.num_phases > 1 and config.joint:
        raise UserError("--joint with --num-phases: all data are trained at once")
    if config.phase != "all" and config.phase > config.num_phases:
        raise UserError(f"--phase {config.phase}: there are {config.num_phases} (--num-phases)")


def _check_combination(config, method):
    """Method x train mode x adapters: what would do nothing is refused with its reason."""
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
        raise UserError(f"--lora with --train-mode {mode}: adapters go to the towers, and this mode trains neither")
    if (config.orthogonal_gradients or config.orthogonal_gradients_path) and not trains.towers:
        raise UserError(f"gradient projection with --train-mode {mode}: it protects the towers, and this mode trains "
                        "neither")
    if config.orthogonal_gradients and not config.save:
        raise UserError("--orthogonal-gradients writes its basis to <save>/grad_<DATASET>.pth; give --save DIR")


def _check_parts(config):
    if config.kind in TRAINING and config.grad_accum > config.batch_size:
        raise UserError(f"--grad-accum {config.grad_accum}: a batch has {config.batch_size} images (--batch-size); "
                        "give no more")


def _check_compiler(config):
    if config.compile and config.kind in TRAINING and not any(
            map(shutil.which, filter(None, (os.environ.get("CXX"), *COMPILERS)))):
        raise UserError(f"--compile: torch needs a C++ compiler, and none of {', '.join(COMPILERS)} is in the path; "
                        "install one, name one by the environment variable CXX, or leave --compile out")


def _check_datasets(config):
    sentences = () if config.ref_sentences in (None, "random") else (config.ref_sentences,)
    named = [("--train-dataset", () if config.dataset_order else config.trained),
             ("--dataset-order", config.dataset_order or ()), ("--eval-datasets", config.eval_datasets),
             ("--ref-dataset", (config.ref_dataset,) if config.ref_dataset else ()),
             ("--ref-sentences", sentences), ("--text-datasets", config.text_datasets),
             ("--check-data", config.check_data or ()), ("--image-dir", config.image_dir),
             ("--annotations", config.annotations),
             ("--linear-eval", (config.linear_eval,) if config.linear_eval else ())]
    for flag, datasets in named:
        for name in datasets:
            try:
                find_entry(name)
            except UserError as error:
                near = difflib.get_close_matches(name, PROTOCOLS, n=1) if flag == "--dataset-order" else ()
                raise UserError(f"{flag}: " + (f"did you mean {near[0]}? " if near else "") + str(error)) from None


def _check_splits(config):
    of_one = config.split_file not in (None, WORD) and os.path.isfile(config.split_file)
    if of_one and not config.train_dataset:
        raise UserError("--split-file FILE belongs to one dataset; give --train-dataset NAME with it, or a folder of "
                        "split files")
    if config.val_fraction == DIKI and (of_one or not config.split_file):
        raise UserError("--val-fraction diki: is for what has no list beside those of --split-file DIR; give it")
    if config.split_file and config.val_fraction not in (None, DIKI):
        raise UserError("--split-file fixes the splits; it excludes --val-fraction")
    if config.kind in TRAINING and config.given("shot_seed") and (config.shots_file or not config.shots):
        yield WARNING, ("--shot-seed has no effect with --shots-file, which lists the images" if config.shots_file else
                        "--shot-seed has no effect without --shots")


def _check_rates(config):
    trained = config.trained
    known = {*trained, *(class_split(phase_of(name)[0])[0] for name in trained)}
    strangers = [name for name in config.lr if name is not None and name not in known]
    if config.given("lr") and strangers:
        raise UserError(f"--lr names {', '.join(strangers)}, which is not trained on here")
    highest = max(config.lr.values())
    by_protocol = config.origins["lr"].startswith(("protocol", "recipe"))  # both are trusted
    if config.kind in TRAINING and config.init != "scratch" and config.model != "toy" and not by_protocol \
            and _moves_weights(config) and highest >= HIGH_RATE and config.optimizer != "sgd":
        which = "is the default, and high" if config.origins["lr"] == "default" else "is high"
        yield WARNING, (f"--lr {highest:g} {which} for pretrained weights in a full train mode; published runs take "
                        "1e-5, or 5e-5 for Aircraft and MNIST: give --lr 1e-5")


def _moves_weights(config):
    """Whether an optimiser moves pretrained weights themselves, and not factors beside them or a head alone."""
    row = config.method_row
    return TRAIN_MODES[config.train_mode].towers and not (config.lora or row.wraps or row.closed_form)


def _check_optimizer(config):
    """What the optimiser or the schedule would not read is a contradiction."""
    if config.kind not in TRAINING:
        return
    for key in ("beta2", "eps") if config.optimizer == "sgd" else ():
        if config.chosen(key):
            raise UserError(f"{FLAGS[key].name} with --optimizer sgd: SGD has none; leave it out, or give adam(w)")
    if config.schedule == "onecycle" and config.chosen("warmup_length"):
        raise UserError("--warmup-length with --schedule onecycle: its rise takes 30 % of the steps; leave it out, or "
                        "give cosine or constant")
    if config.lr_floor and config.schedule != "cosine":
        raise UserError(f"--lr-floor with --schedule {config.schedule}: only the cosine ends at it; leave it out, or "
                        "give --schedule cosine")
    lowest = min(config.lr.values())
    if config.lr_floor > lowest:
        raise UserError(f"--lr-floor {config.lr_floor:g}: is above --lr {lowest:g}, and the rate would rise; give at "
                        "most that")


def _check_path(flag, path, is_name):
    """Weights that a flag gives by a path: there, and of a folder a layout that is known."""
    if os.path.isdir(path):
        try:
            hub.weights_of_folder(Path(path))
        except LoadError as error:
            raise UserError(f"{flag} {error}") from None
    elif not (os.path.exists(path) or is_name):
        hint = f"; a model of the Hugging Face hub is {hub.HUB}{path}" if hub.is_repository(path) else ""
        raise UserError(f"{flag} {path}: no such file or folder{hint}")


def _check_files(config):
    for path in config.loaded:
        _check_path("--load", path, is_weights_name(path))
    if config.ref_model:
        _check_path("--ref-model", config.ref_model,
                    is_weights_name(config.ref_model) or hub.is_repository(config.ref_model))
    if config.split_file and config.split_file != WORD and not os.path.exists(config.split_file):
        raise UserError(f"--split-file {config.split_file}: no such file or folder; {WORD} means the lists under "
                        "--data-location")
    for key in ("model_config", "orthogonal_gradients_path", "shots_file"):
        path = config.values[key]
        if path and not os.path.isfile(path):  # Path.is_file raises where a folder on the way may not be read
            raise UserError(f"{FLAGS[key].name} {path}: no such file")
    if config.kind == SINGLE:
        named_images(config.eval_single)
    _check_save(config)


def _check_save(config):
    if config.save and os.path.exists(config.save) and not os.path.isdir(config.save):
        raise UserError(f"--save {config.save}: is a file, not a folder")


def _check_study(config):
    """Of the study alone: each of its cells is a command line, which is checked by itself."""
    name = f"--study {config.study}" if config.study else f"--seed {shown(config.seed)}"
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(f"{name} with several processes: a study starts its own; run one, with --jobs N")
    if config.study and not os.path.isfile(config.study):
        raise UserError(f"{name}: no such file")
    if not config.save:
        raise UserError(f"{name} writes a folder for each run; give --save DIR")
    _check_save(config)
    if config.dry_run == "probe":
        raise UserError(f"--dry-run probe with {name}: probes one run; add it to a command of --dry-run")


STUDY_RULES = (_check_study,)
RULES = (_check_processes, _check_parts, _check_compiler, _check_kind, _check_model, _check_datasets, _check_method,
         _check_splits, _check_rates, _check_optimizer, _check_files)


def _without_effect(config):
    given = [flag for key, flag in FLAGS.items() if config.given(key)]
    acting = {config.kind, SEQUENCE} if config.kind == STUDY else {config.kind}  # they go to its cells
    idle = {flag.name: f"has no effect in {a_run(config.kind)}" for flag in given if acting.isdisjoint(flag.runs)}
    if config.kind == EVAL and not config.linear_eval:
        idle |= {FLAGS[key].name: "has no effect without --linear-eval" for key in (*LINEAR, *RESUMING)
                 if config.given(key)}
    if config.kind == EVAL and config.linear_eval and config.eval_datasets:
        idle["--eval-datasets"] = "has no effect with --linear-eval, which scores its own dataset"
    if config.given("export_format") and not config.export:
        idle.setdefault("--export-format", "has no effect without --export")
    if config.kind == EVAL and config.overwrite and not (config.export or config.linear_eval):
        idle["--overwrite"] = "has no effect without --export or --linear-eval in an evaluation run"
    if config.kind in TRAINING:
        owned = {key for method in METHODS.values() for key in method.uses}
        idle |= {flag.name: f"has no effect with --method {config.method}" for flag in given
                 if flag.key in owned and flag.key not in config.method_row.uses}
        active = {key for add_on in active_add_ons(config.values).values() for key in add_on.uses}
        for flag in given:
            rows = {key: add_on for key, add_on in ADD_ONS.items() if flag.key in add_on.uses}
            switches = [FLAGS[name].name for key, add_on in rows.items() for name in add_on.switches or (key,)]
            if switches and flag.key not in active and flag.name not in switches:
                idle[flag.name] = f"has no effect without {' or '.join(switches)}"
        for needed, works, keys in DEPENDENT:
            for flag in given:
                if flag.key in keys and not works(config):
                    idle.setdefault(flag.name, f"has no effect {needed}")
    return [f"{name} {reason}" for name, reason in idle.items()]


def a_run(kind):
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} run"


RESUMING = ("resume", "save_interval")  # of evaluations only a linear layer resumes
# What a flag needs beside it: the words of the warning, whether it is there, the flags that need it.
LINEAR = ("linear_epochs", "linear_lr", "linear_wd", "linear_batch_size", "linear_percent", "linear_cache_features")
DEPENDENT = [
    ("without --num-phases", lambda config: config.num_phases > 1, ("phase", "phase_split", "phase_seed")),
    ("with --phase-split contiguous", lambda config: config.phase_split == "random", ("phase_seed",)),
    ("without class splits, such as CIFAR100/10", lambda config: any(class_split(name)[1] for name in config.trained),
     ("class_order",)),
    ("on class data", lambda config: config.pairs, ("caption_choice", "flickr_splits")),
    ("on image-text pairs: they have no classes", lambda config: not config.pairs,
     ("shots", "shots_file", "val_fraction", "ls")),
    ("on image-text pairs: they have the transform of evaluation", lambda config: not config.pairs, ("crops",)),
    ("with a bound on frozen features, which takes the transform of evaluation",
     lambda config: config.method not in ("ridge", "class-means"), ("crops",)),
    ("without --ref-wise", lambda config: config.ref_wise, ("ref_wise_alpha",)),
    ("with --text-datasets, which comes first", lambda config: not config.text_datasets, ("ref_sentences",)),
    ("without --distill-text-tower", lambda config: config.distill_text_tower, ("text_tower_weight",)),
    ("with --train-mode text: it reaches the image tower", lambda config: config.train_mode != "text",
     ("image_loss", "text_loss", "feature_mse", "ablation_loss_2")),
    ("without --orthogonal-gradients", lambda config: config.orthogonal_gradients,
     ("orthogonal_energy", "orthogonal_dtype", "orthogonal_budget")),
    ("where nothing is projected: give --orthogonal-gradients-path, or a sequence",
     lambda config: config.orthogonal_gradients_path or config.dataset_order, ("orthogonal_target",)),
    ("with --train-mode fc: no tower trains", lambda config: TRAIN_MODES[config.train_mode].towers,
     ("compile", "grad_checkpointing", "grad_accum", "crops")),
    ("without --lora", lambda config: config.lora,
     ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_bias", "lora_shared",
      "lora_shared_split_qkvo")),
    ("with --rail-form dual", lambda config: config.rail_form == "primal", ("rail_width", "rail_projection")),
    ("with --rail-form primal: it has no kernel", lambda config: config.rail_form == "dual", ("rail_gamma",)),
    ("without --lora-shared", lambda config: config.lora_shared, ("lora_shared_split_qkvo",)),
    ("with --lora-shared: it is peft's", lambda config: not config.lora_shared, ("lora_dropout", "lora_bias")),
    ("with --train-mode whole, image or text: there is no head", lambda config: config.train_mode.endswith(
        ("fc", "fixed")), ("fc_init",)),
]
