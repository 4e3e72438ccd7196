"""Check flags together: each contradiction is one error, each flag without effect one warning. Imports no torch."""

import os
import re
from pathlib import Path

from clip.catalog import architecture_names, is_weights_name
from clip.errors import LoadError
from clip.files import hub
from src.cli.flags import FLAGS
from src.cli.idle_flags import without_effect
from src.cli.kinds import EVAL, EXPORT, FETCH, REPRODUCE, RESCORE, SCORING, SINGLE, STUDY, TRAINING
from src.cli.protocols import PROTOCOLS
from src.cli.remarks import NOTE, WARNING, Remarks
from src.cli.texts import hint_before, shown
from src.cli.training_checks import (
    acting_in_steps,
    check_compiler,
    check_length,
    check_method,
    check_optimizer,
    check_own_values,
    check_parts,
    check_rates,
)
from src.datasets import DATASETS, GIVEN, class_split, comes_from_code, find_entry
from src.datasets.coop import DIKI, DIKI_DRAWS, WORD, is_file
from src.datasets.from_code import allow
from src.datasets.images import named_images
from src.errors import UserError
from src.machine.ending import several_processes
from src.models import METHODS

CONTRADICTIONS = [
    ("iterations", "epochs", "set the training length one way"),
    ("train_dataset", "dataset_order", "train on one dataset, or on a sequence"),
    ("model", "model_config", "take the architecture from one of them; --model-name picks one from --model-config"),
    ("we", "we_wise", "one average is kept"),
    ("we", "moving_avg", "one average is kept"),
    ("we_wise", "moving_avg", "one average is kept"),
    ("ref_wise", "ref_model", "there is one teacher"),
    ("eval_interval", "eval_every_epoch", "choose one evaluation interval"),
    ("resume", "overwrite", "resume, or start again"),
    ("status", "dry_run", "print one of them"),
    ("quiet", "verbose", "print less, or more"),
    ("joint", "dataset_order", "train all at once, or one after the other"),
    ("keep_features", "wise_ft", "mixes of weights leave no checkpoint to score again; --wise-merge does"),
    ("keep_features", "linear_eval", "a linear layer is trained on separate features"),
    ("hooks", "linear_eval", "a linear layer is trained on the plain CLIP, where no hook acts"),
    ("wise_ft", "export", "it scores mixes of weights and keeps none to export; --wise-merge keeps one"),
    ("lora", "orthogonal_gradients", "adapters are drawn again after merging, so a basis would protect nothing"),
    ("lora", "orthogonal_gradients_path", "adapters are drawn again after merging, so a basis would protect nothing"),
]


def check(config):
    """Raise UserError at the first contradiction. -> Remarks

    Each rule takes the configuration and may yield (WARNING or NOTE, text).
    """
    said = []
    try:
        for rule in (_check_contradictions, *RULES_OF.get(config.kind, RULES)):
            said += rule(config) or ()
    except UserError as error:
        raise UserError(f"{error}{_origins_of(config, str(error))}") from None
    warnings, notes = ([text for kind, text in said if kind == wanted] for wanted in (WARNING, NOTE))
    return Remarks(warnings + without_effect(config), notes)


def _origins_of(config, message):
    """Name the recipe behind each flag of a message that the user did not write; it is easily forgotten."""
    named = {flag: flag[2:].replace("-", "_") for flag in re.findall(r"--[A-Za-z][\w-]*", message)}
    sources = [f"{config.origins[key]} sets {flag} {shown(config.values[key])}" for flag, key in named.items()
               if config.origins.get(key, "").startswith("recipe ")]
    return f" ({', '.join(sources)})" if sources else ""


def _check_contradictions(config):
    for first, second, reason in CONTRADICTIONS:
        if config.chosen(first) and config.chosen(second):
            raise UserError(f"{FLAGS[first].name} and {FLAGS[second].name} exclude each other: {reason}")
    if config.cache_images in ("disk", "device") and config.skip_bad_images:
        raise UserError(f"--cache-images {config.cache_images} and --skip-bad-images exclude each other: the cache "
                        "holds every image of a split")


def _check_processes(config):
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes == 1 or config.kind not in (*TRAINING, EVAL):
        return
    for key in ("batch_size", "ref_batch_size") if config.kind in TRAINING else ():
        size = config.values[key]
        if size and size % processes:
            raise UserError(f"{FLAGS[key].name} {size}: counts the images of all {processes} processes and must be a "
                            "multiple of that number; "
                            f"give {max(processes, size - size % processes)}")
    if config.skip_bad_images and config.kind in TRAINING:
        raise UserError("--skip-bad-images with several processes: a process left with fewer images of a batch would "
                        "give each more weight; run one process, or remove the bad images")
    if config.method in METHODS and "router" in config.method_row.uses and config.router == "batch":
        raise UserError("--router batch with several processes: they split the batch that must be routed as a whole; "
                        "run one process, or give --router sample")


def _check_kind(config):
    if config.kind in TRAINING:
        if not config.train_dataset and not config.dataset_order:
            raise UserError("nothing to do: give --train-dataset NAME or --dataset-order NAMES to train, "
                            "--eval-only to evaluate, or see --help")
        if config.method in METHODS:  # a custom method's class must be imported first
            check_length(config, METHODS[config.method].closed_form, acting_in_steps(config))
        if config.resume and not config.save:
            raise UserError("--resume continues what is in --save DIR; give it")
        if config.task_cache and not config.save:
            raise UserError(f"--task-cache {config.task_cache}: tasks taken from it are written to --save DIR; give it")
        if not config.save:
            yield WARNING, "without --save the trained weights and metrics are not kept"
    if config.keep_features and config.kind in SCORING and not config.save:
        raise UserError("--keep-features writes features into --save DIR; give it")
    named = config.eval_datasets or config.dataset_order or config.train_dataset
    if config.kind == EVAL and not (named or config.load or config.linear_eval):
        raise UserError("--eval-only needs --eval-datasets NAMES (or --load of a checkpoint that names its dataset)")
    if config.kind == EVAL and config.wise_ft and not config.load:
        raise UserError("--wise-ft mixes zero-shot weights with those of --load FILE; give it")
    if config.kind == EVAL and config.given("alpha") and not config.wise_ft:
        yield WARNING, "--alpha has no effect without --wise-ft"
    if config.kind == EVAL and "seen" in config.label_space and not config.load:
        raise UserError("--label-space seen: no task is trained yet; give --load FILE, or --label-space task or all")
    if config.kind == EXPORT and not (config.load or config.chosen("model") or config.model_config):
        raise UserError(f"--export {config.export}: no model to export; give --load FILE, --model NAME or a dataset "
                        "to train on")
    if config.kind == SINGLE and not config.class_names and not config.load:
        raise UserError("--eval-single needs --class-names FILE with one class name per line (or names joined by "
                        "commas), or --load of a checkpoint that holds its class names")
    if config.kind == SINGLE and "{}" not in config.prompt:
        raise UserError(f"--prompt {config.prompt}: lacks {{}}, which marks where the class name goes")


def _check_model(config):
    if len(config.loaded) > 1:
        if config.kind != EVAL:
            raise UserError(f"--load {config.load}: several files need --eval-only, which computes their matrix; to "
                            "train, give the one to start from")
        if len({*map(os.path.realpath, config.loaded)}) < len(config.loaded):
            raise UserError(f"--load {config.load}: names a file twice")
        for key in ("wise_ft", "linear_eval", "export"):
            if config.values[key]:
                raise UserError(f"{FLAGS[key].name} with several files of --load: it scores one; give one")
    if config.model not in architecture_names():
        _check_other_model(config)
    if config.load and config.init == "scratch":
        raise UserError("--load and --init scratch exclude each other: load weights, or draw them at random")
    if config.model_config and not config.model_name:
        raise UserError(f"--model-config {config.model_config} needs --model-name KEY, one of the names in that file")
    if config.model_name and not config.model_config:
        raise UserError(f"--model-name {config.model_name} needs --model-config FILE")
    if config.model_config and not config.load and config.init != "scratch":
        raise UserError("--model-config has no pretrained weights: give --init scratch or --load FILE")


def _check_other_model(config):
    """Check a --model of another library: a file, folder or name.

    A bare architecture needs weights. Beside --load, its weights may be the base of an adapter, which only the
    file shows.
    """
    if not hub.is_name(config.model):
        _check_path("--model", config.model, config.model in hub.open_clip_names() or hub.is_repository(config.model))
    if config.model in hub.open_clip_names():
        if not config.load and config.init != "scratch":
            hint = hint_before(config.model, architecture_names(), most=1)
            raise UserError(f"--model {config.model}: {hint}open_clip has an architecture of that name, without "
                            f"weights; name some by {config.model}:PRETRAINED, or give "
                            "--load FILE")
    elif config.init == "scratch":
        raise UserError(f"--model {config.model} gives weights and --init scratch draws them; leave one out")


def _check_datasets(config):
    sentences = () if config.ref_sentences in (None, "random") else (config.ref_sentences,)
    named = [("--train-dataset", () if config.dataset_order else config.trained),
             ("--dataset-order", config.dataset_order or ()), ("--eval-datasets", config.eval_datasets),
             ("--ref-dataset", (config.ref_dataset,) if config.ref_dataset else ()),
             ("--ddas-reference", (config.ddas_reference,) if config.ddas_reference else ()),
             ("--ref-sentences", sentences), ("--text-datasets", config.text_datasets),
             ("--check-data", config.check_data or ()), ("--image-dir", config.image_dir),
             ("--annotations", config.annotations),
             ("--linear-eval", (config.linear_eval,) if config.linear_eval else ())]
    for flag, datasets in named:
        for name in datasets:
            if comes_from_code(name):
                _check_code(flag, name, config)
            try:
                find_entry(name)
            except UserError as error:
                hint = hint_before(name, PROTOCOLS, most=1) if flag == "--dataset-order" else ""
                raise UserError(f"{flag}: {hint}{error}") from None


def _check_code(flag, name, config):
    """Allow a function that the command line names as data to run from now on."""
    path = name.rpartition(":")[0]
    if path != GIVEN and not os.path.isfile(path):
        raise UserError(f"{flag} {name}: no such file; give path/to/file.py:function")
    if config.cache_images in ("disk", "device"):
        raise UserError(f"--cache-images with {name}: images that code gives may change unnoticed; leave it out")
    allow(name)


def _check_splits(config):
    of_one, bases = is_file(config.split_file), {class_split(name)[0] for name in config.trained}
    if of_one and len(bases) != 1:
        raise UserError("--split-file FILE belongs to one dataset; give --train-dataset NAME with it, or "
                        "--dataset-order with the class splits of one, such as ImageNetR/10, or a folder of split "
                        "files")
    selects = config.kind in TRAINING and config.select_epoch == "val" and "select_epoch" in config.method_row.uses
    if selects and config.eval_split == "val":
        raise UserError("--select-epoch val with --eval-split val: the images that select an epoch would also score "
                        "it; leave one out")
    if config.val_fraction == DIKI and (of_one or not config.split_file):
        raise UserError("--val-fraction diki: splits the datasets without a list in --split-file DIR; give that too")
    if config.split_file and config.val_fraction not in (None, DIKI):
        raise UserError("--split-file fixes the splits; it excludes --val-fraction")
    if config.val_fraction == DIKI and not set(DIKI_DRAWS) & set(config.trained):
        yield WARNING, (f"--val-fraction {DIKI} has no effect: it splits {' and '.join(DIKI_DRAWS)}, with all their "
                        "classes, and neither is trained on")
    if config.kind in TRAINING and config.given("shot_seed") and (config.shots_file or not config.shots):
        yield WARNING, ("--shot-seed has no effect with --shots-file, which lists the images" if config.shots_file else
                        "--shot-seed has no effect without --shots")


def _check_path(flag, path, is_name):
    """Check weights given by path: they exist, and a folder has a known layout."""
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
        if path and not os.path.isfile(path):  # Path.is_file raises if a parent folder is unreadable
            raise UserError(f"{FLAGS[key].name} {path}: no such file")
    if config.kind == SINGLE:
        named_images(config.eval_single)
    _check_save(config)


def _check_save(config):
    for key in ("save", "task_cache"):
        path = config.values[key]
        if path and os.path.exists(path) and not os.path.isdir(path):
            raise UserError(f"{FLAGS[key].name} {path}: is a file, not a folder")


def _refuse_processes(name, reason):
    if several_processes():
        raise UserError(f"{name} with several processes: {reason}")


def _check_study(config):
    """Check the study only; each of its cells is a command line that is checked separately."""
    name = f"--study {config.study}" if config.study else f"--seed {shown(config.seed)}"
    _refuse_processes(name, "a study starts its own processes; run one, with --jobs N")
    if config.study and not os.path.isfile(config.study):
        raise UserError(f"{name}: no such file")
    if not config.save:
        raise UserError(f"{name} writes a folder per run; give --save DIR")
    _check_save(config)
    if config.overwrite:
        raise UserError(f"{name} with --overwrite: the cells of a study resume; delete their folders, or give another "
                        "--save")
    if config.dry_run == "probe":
        raise UserError(f"--dry-run probe with {name}: it probes a single run; --dry-run prints the commands, add it "
                        "to one of them")


def _check_rescore(config):
    """Check the rescoring only; the command line of the run itself was checked when it ran."""
    name = f"--rescore {config.rescore}"
    _refuse_processes(name, "it needs one process and no device")
    if not os.path.isdir(config.rescore):
        raise UserError(f"{name}: no such folder; give the --save folder of a run with --keep-features")
    if not config.save:
        raise UserError(f"{name} writes tables; give --save DIR, another folder than the run's")
    _check_save(config)
    if os.path.realpath(config.save) == os.path.realpath(config.rescore):
        raise UserError(f"--save {config.save}: is the run's own folder, whose tables are kept; give another")
    if any(Path(config.save).glob("*.pth")) or any(Path(config.save).glob("run_*.json")):
        raise UserError(f"--save {config.save}: holds files of another run, which would mix with these; give another")


def _check_reproduction(config):
    """Check the reproduction only; each of its runs is a command line that is checked separately."""
    name = f"--reproduce {config.reproduce}"
    _refuse_processes(name, "a reproduction starts its own processes; run one")
    if not config.save:
        raise UserError(f"{name} writes a folder per run, and a certificate; give --save DIR")
    _check_save(config)
    if config.dry_run == "probe":
        raise UserError(f"--dry-run probe with {name}: it probes a single run; --dry-run prints the commands, add it "
                        "to one of them")


def _check_fetch(config):
    for name in config.fetch:
        try:
            find_entry(name)
        except UserError as error:
            raise UserError(f"--fetch: {hint_before(name, PROTOCOLS, most=1)}{error}") from None
        if name not in DATASETS:
            raise UserError(f"--fetch {name}: your own data lie where their name says; --check-data {name} checks them")
    if config.dry_run == "probe":
        raise UserError("--dry-run probe with --fetch: probes a run; give --dry-run")


# For kinds whose runs have separate command lines or build no model.
RULES_OF = {STUDY: (_check_study,), RESCORE: (_check_rescore, check_method), REPRODUCE: (_check_reproduction,),
            FETCH: (_check_fetch,)}
RULES = (_check_processes, check_parts, check_compiler, _check_kind, _check_model, _check_datasets, check_method,
         _check_splits, check_own_values, check_rates, check_optimizer, _check_files)


