"""Open the datasets of a run, each once, with the splits and templates that the flags ask for."""

import dataclasses
import functools

from src.datasets import class_split, coop, find_entry, open_task, pairs, phase_of, splits, stem
from src.datasets.published_folders import with_remark
from src.datasets.shots import with_shots_file
from src.errors import UserError
from src.templates.collections import FIRST, FOR_ALL, SIMPLE, TEMPLATES

OWN_TABLES = ("csv:", "pairs:")  # lists of images, some of which may be missing


class Datasets:
    """Open each dataset once per run, with the splits and templates that the flags ask for."""

    def __init__(self, data):
        self.data, self._for_all = data, (data.template or "").startswith(FOR_ALL)
        self._first_alone = data.template == FOR_ALL + FIRST
        self._template = None if self._first_alone else templates_of(data.template)
        self._lists = None if data.split_file_of else coop.folder_of(data.split_file, data.data_location)
        self.open, self._opened = functools.cache(self._open), functools.cache(self._as_it_comes)
        self._split, self._remarked = functools.cache(self._with_lists), functools.cache(self._with_remark)

    def _as_it_comes(self, name):
        options = {"images": self.data.image_dir.get(name), "annotations": self.data.annotations.get(name),
                   "skip_missing": self.data.skip_bad_images and name.startswith(OWN_TABLES) or None}
        root = self.data.data_location
        task = open_task(name, root, **{key: value for key, value in options.items() if value is not None})
        if name.startswith("pairs:") and not self._only_refers_to(name):
            task = pairs.with_held_out(task, name, root)
        return task

    def _open(self, name, trained=False):
        data, root = self.data, self.data.data_location
        if name == pairs.JOINT and data.joint:
            return pairs.joint_task([self.open(part) for part in data.trained])
        whole, phase = phase_of(name)
        trained = trained or name in data.trained
        task = self._with_classes(whole, trained)
        if self._first_alone:
            task = dataclasses.replace(task, templates=task.templates[:1])
        elif self._template and (self._for_all or task.templates is SIMPLE):
            task = dataclasses.replace(task, templates=self._template)
        if data.wilds_split == "ood" and "ood_test" in task.splits:
            task = dataclasses.replace(task, splits={
                **task.splits, "val": task.splits["ood_val"], "test": task.splits["ood_test"]})
        if task.pairs:
            task = self._trained_pairs(task, whole, phase) if name in data.trained else task
        elif trained:
            task = self._trained_splits(task)
        elif data.val_fraction not in (None, coop.DIKI) and data.eval_split == "val":
            task = splits.with_validation(task, data.val_fraction, root)
        return splits.tolerant(task) if data.skip_bad_images else task

    def _with_classes(self, name, trained=False):
        """Return the dataset ``name`` with the classes and prompts of its split, and the images of its lists."""
        base, part, parts = class_split(name)
        if self._only_refers_to(name):
            task = self._opened(base)
        else:
            task = self._remarked(base) if trained else self._split(base)
        return task if part is None else splits.with_classes(task, part, parts, self.data.seed, self.data.class_order)

    def has_templates(self, name):
        """Return whether a dataset comes with its own prompts, which --template NAME does not replace."""
        return self._with_classes(phase_of(name)[0]).templates is not SIMPLE

    def _with_lists(self, base):
        """Return the dataset ``base`` split by --split-file, before its classes are split."""
        task = self._opened(base)
        if self._lists:
            return coop.with_lists(task, self._lists)
        return splits.with_split_file(task, self.data.split_file) if stem(base) == self.data.split_file_of else task

    def _with_remark(self, base):
        """Return the same, with a note if it is trained on with PILOT's class order but not PILOT's split."""
        task, data = self._split(base), self.data
        return with_remark(task) if data.class_order == "pilot" and not data.split_file else task

    def lists_of(self, name):
        """Return the ``list_digests`` of a dataset; None if the dataset is not available."""
        return self.open(name).list_digests

    def _only_refers_to(self, name):
        """Return whether a dataset serves only as a reference, which needs no test split."""
        data = self.data
        used = {phase_of(other)[0] for other in (*data.trained, *data.eval_datasets)}
        return name in (data.ref_dataset, data.ref_sentences, data.ddas_reference) and name not in used

    def _trained_pairs(self, task, name, phase):
        data = self.data
        if name == "flickr30k":
            chosen = data.flickr_splits_chosen
            task = pairs.with_parts(task, [part for part in data.flickr_splits if chosen or part in task.splits])
        if phase is not None:
            seed = data.seed if data.phase_seed is None else data.phase_seed
            task = pairs.with_phase(task, phase, data.num_phases, data.phase_split, seed)
        return pairs.with_all_captions(task) if data.caption_choice == "all" else task

    def _trained_splits(self, task):
        data, root = self.data, self.data.data_location
        if self._lists and not coop.has_list(class_split(task.name)[0]) and "val" not in task.splits:
            task = self._own_split(task)
        if data.val_fraction not in (None, coop.DIKI):
            task = splits.with_validation(task, data.val_fraction, root)
        if data.shots_file:
            return with_shots_file(task, data.shots_file, data.shots)
        if data.shots:
            task = splits.with_shots(task, data.shots, data.shot_seed, root)
        return task

    def _own_split(self, task):
        """Split off train and val for a dataset without a list in --split-file DIR."""
        if self.data.val_fraction != coop.DIKI or task.name not in coop.DIKI_DRAWS:
            return coop.with_own_split(task, self.data.data_location)
        drawn = [name for name in self.data.trained if name in coop.DIKI_DRAWS]
        if task.name not in drawn:
            raise UserError(f"--val-fraction {coop.DIKI}: {task.name} is an earlier task, and its draw depends on the "
                            "datasets of its sequence; train them all in "
                            "one --dataset-order")
        return coop.with_diki_split(task, {name: self._opened(name).split("train").labels for name in drawn})


def templates_of(template):
    """Return the prompts that a value of --template names, None for None."""
    if template is None:
        return None
    name = template.removeprefix(FOR_ALL)
    if "{c}" in name:
        return [name]
    if name not in TEMPLATES:
        raise UserError(f"--template {name}: there are {', '.join(TEMPLATES)}, or give one prompt with {{c}} in it, or "
                        f"{FOR_ALL}{FIRST} for the first prompt of each dataset")
    return TEMPLATES[name]


def dataset_of(checkpoint, path):
    """Return the dataset that a checkpoint was trained on last, as on the command line."""
    name = (checkpoint.get("history") or [{}])[-1].get("source") or checkpoint.get("dataset", "")
    try:
        find_entry(name)
    except UserError:
        raise UserError(f"--load {path} does not say which dataset to score; give --eval-datasets NAMES") from None
    return name
