"""Refuse, before anything is written, unusable data and the loss of finished work."""

import os

from src.datasets import class_split, is_pairs, phase_of, stem
from src.datasets.check import findings_of, is_own, outside_faults, structural_faults
from src.errors import UserError
from src.machine.files import read_json
from src.machine.notices import warn


def open_data(training, scoring, datasets, trained, evaluated):
    """Open everything that a run will read, and refuse what cannot be trained on, scored or compared with."""
    stems = [stem(name) for name in dict.fromkeys([*trained, *evaluated])]
    if twice := {name for name in stems if stems.count(name) > 1}:
        raise UserError(f"two datasets of this run would write files named {', '.join(sorted(twice))}; rename one")
    references = _references(training) if trained else []
    for name in dict.fromkeys(phase_of(name)[0] for name in [*trained, *evaluated, *references]):
        _warn_of_findings(name, datasets.open(name))
    for name in trained:
        task = datasets.open(name)
        require_images(task, name, "train")
        for fault in () if task.pairs else structural_faults(task, ["train"]):
            raise UserError(fault)
    for name in evaluated:
        if scoring.eval_split not in datasets.open(name).splits:
            raise UserError(f"--eval-split {scoring.eval_split}: {name} has no such split; it has "
                            f"{', '.join(datasets.open(name).splits)}; --eval-datasets names what to score instead")
        require_images(datasets.open(name), name, scoring.eval_split)
        if is_own(name) and not is_pairs(name):
            _warn(structural_faults(datasets.open(name), [scoring.eval_split]))
    if trained:
        _open_references(training, datasets, trained)


def open_for_layer(split, datasets, name):
    """Open the data of a linear layer, and refuse those that cannot be trained on, or scored in ``split``."""
    if is_pairs(name):
        raise UserError(f"--linear-eval {name}: has captions, not classes")
    task = datasets.open(name)
    _warn_of_findings(name, task)
    require_images(task, name, "train")
    if not {split, "val"} & set(task.splits):
        raise UserError(f"--linear-eval {name}: has no {split} split to score the layer on; it has "
                        f"{', '.join(task.splits)}")


def scorable(scoring, datasets, evaluated):
    """Return ``evaluated`` without datasets that lack the split to score, unless the user named them for
    evaluation.

    They are still trained on. A note names each.
    """
    kept = []
    for name in evaluated:
        unasked = name not in scoring.eval_datasets and not scoring.eval_split_chosen
        task = datasets.open(name)
        lacks = bool(task.splits) and scoring.eval_split not in task.splits
        # The matrix of a sequence of class data has a column for each task.
        if unasked and lacks and not (scoring.in_order and not task.pairs):
            print(f"note: {name} has no {scoring.eval_split} split: it is trained on but not scored; --eval-datasets "
                  "names what to score")
        else:
            kept.append(name)
    return kept


def refuse_other_lists(history, datasets, evaluated, chosen):
    """Refuse to score a dataset that --split-file splits differently than in training: training images may be
    scored.

    Only warn if --split-file is ``chosen`` for this run. ``history``: the checkpoint's; entries of earlier
    versions do not name their lists.
    """
    for entry in history:
        base, before = class_split(entry["dataset"])[0], _split_files(entry.get("lists"))
        for name in evaluated:
            now = _split_files(datasets.lists_of(name)) if class_split(stem(name))[0] == base else None
            if None not in (before, now) and before != now:
                changed = "the same list with another content" if before.keys() == now.keys() else _named(now)
                text = (f"{name}: was trained on with {_named(before)} and is scored with {changed}, so training "
                        "images may be scored")
                if not chosen:
                    raise UserError(f"{text}; restore the lists, give --split-file to choose the split, or leave "
                                    f"{name} out of --eval-datasets")
                _warn([text])


def _split_files(lists):
    """Return the part of {flag and file: digest} about --split-file; None for None."""
    if lists is None:
        return None
    return {flag: digest for flag, digest in lists.items() if flag.startswith("--split-file")}


def _named(lists):
    return ", ".join(lists) or "no --split-file"


def require_images(task, name, split):
    """Refuse a dataset whose split cannot be trained on or scored."""
    if not task.classnames and not task.pairs:
        raise UserError(f"{name} has no classes; it can only serve as --ref-dataset")
    if not len(task.split(split)):
        raise UserError(f"{name} has no images in its {split} split")
    for fault in () if task.pairs else outside_faults(task, split):
        raise UserError(fault)


def _references(training):
    """Return the names of custom data that the method reads as references."""
    flags = {"ref_dataset": [training.ref_dataset], "ref_sentences": [training.ref_sentences],
             "text_datasets": training.text_datasets or (), "ddas_reference": [training.ddas_reference]}
    names = [name for flag, named in flags.items() if flag in training.reads for name in named]
    return [name for name in names if name and is_own(name)]


def _warn_of_findings(name, task):
    """Print oddities in custom data that were not printed yet, and files of a folder that are not read."""
    if task.left_out:
        print(f"{name}: left out: {task.left_out}")
    _warn(text for text in findings_of(name, task) if text not in task.noted)


def _warn(sentences):
    for sentence in sentences:
        warn(sentence)


def _open_references(training, datasets, trained):
    reads = training.reads
    if "ref_sentences" in reads and training.ref_sentences not in (None, "random"):
        task = datasets.open(training.ref_sentences)
        if not (task.sentences or task.classnames):
            raise UserError(f"--ref-sentences {training.ref_sentences}: the dataset has neither sentences nor class "
                            "names; give random, conceptual_captions or toy-reference")
    for name in training.text_datasets if "text_datasets" in reads else ():
        if not datasets.open(name).classnames:
            raise UserError(f"--text-datasets {name}: has no class names to build prompts from")
    if "memory_size" in reads:
        classes = sum(len(datasets.open(name).classnames) for name in trained)
        if training.memory_size < classes:
            raise UserError(f"--memory-size {training.memory_size}: less than one exemplar for each of the {classes} "
                            "classes to train")
    if "ddas_reference" in reads and training.ddas_reference:
        if not len(datasets.open(training.ddas_reference).reference_split):
            raise UserError(f"--ddas-reference {training.ddas_reference} has no images")
    if "ref_dataset" in reads:
        reference = datasets.open(training.ref_dataset)
        if not len(reference.reference_split):
            raise UserError(f"--ref-dataset {training.ref_dataset} has no images")
        if not (reference.classnames or training.ref_sentences or training.text_datasets):
            raise UserError(f"--ref-dataset {training.ref_dataset} has no class names to build texts from; give "
                            "--ref-sentences too")


def refuse_to_replace(files, folder, name):
    """Refuse to overwrite a finished task ``name`` in a RunFolder that was made with another configuration."""
    if folder.path is None or not os.path.exists(folder.file(f"{name}.pth")):
        return
    path = folder.file(f"{name}.pth")
    try:
        flags = read_json(folder.file(f"run_{name}.json"))["flags"]
        before = {key: flag["value"] for key, flag in flags.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} exists, but how it was made is unknown; give --overwrite to replace it, or another "
                        "--save") from None
    if changed := files.differences(before):
        raise UserError(f"{path} was made with another configuration ({'; '.join(changed)}); "
                        "give --overwrite to replace it, or another --save")
