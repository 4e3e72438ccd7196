"""Hold the settings of each part of a run. Frozen; ``src.run.build`` makes them from a Config.

Unless documented otherwise, a field has the name and the value of a flag.
"""

import os
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from src.datasets import class_split, stem
from src.store.settings import Files
from src.templates.collections import FOR_ALL


def _is_of_one(split_file):
    """Return whether a stored value of --split-file names the file of one dataset, existing or not, rather than
    a folder."""
    return split_file.endswith(".json") or os.path.isfile(split_file)


# Flags that cut data into classes and splits, and prompt them: {flag key: whether a value applies to all scored data}.
# A split file of one dataset applies only to that one.
CUTS = {"seed": lambda value: True, "split_file": lambda value: not _is_of_one(value),
        "class_order": lambda value: True, "template": lambda value: value.startswith(FOR_ALL)}


@dataclass(frozen=True)
class Hardware:
    device: str
    precision: str
    tf32: bool
    deterministic: bool


@dataclass(frozen=True)
class Weights:
    """Choose the weights that a run starts from and is taught by.

    ``loaded``: the files of --load. ``model_chosen``: whether a flag or a recipe gives --model.
    """

    load: str | None
    init: str
    seed: int
    model: str | None
    model_config: str | None
    model_name: str | None
    clip_cache: str
    ref_wise: bool
    wise_ft: bool
    wise_merge: bool
    wise_ft_model: str
    loaded: tuple
    model_chosen: bool


@dataclass(frozen=True)
class Data:
    """Say how datasets are opened.

    ``trained``: those that are trained on. ``split_file_of``: the stem of the dataset that --split-file FILE
    splits, before its classes are split. ``flickr_splits_chosen``: whether a flag or a recipe gives
    --flickr-splits.
    """

    data_location: str
    image_dir: dict
    annotations: dict
    skip_bad_images: bool
    cache_images: str
    template: str | None
    seed: int
    class_order: str
    joint: bool
    wilds_split: str
    eval_split: str
    eval_datasets: tuple
    ref_dataset: str | None
    ddas_reference: str | None
    ref_sentences: str | None
    split_file: str | None
    val_fraction: float | str | None
    shots: int | None
    shot_seed: int
    shots_file: str | None
    flickr_splits: tuple
    caption_choice: str
    num_phases: int
    phase_split: str
    phase_seed: int | None
    trained: tuple
    split_file_of: str | None
    flickr_splits_chosen: bool


class HookRow(NamedTuple):
    """Hold a row of METHODS or ADD_ONS or of a custom class, and {flag key: value} of the keywords that it takes."""

    row: Any
    keywords: dict


@dataclass(frozen=True)
class Training:
    """Say how a task trains.

    ``trained``: the tasks. ``pairs``: whether they are image-text pairs. ``sequence``: whether they form a
    sequence. ``hooks``: [HookRow] of the method, of --hooks and of the add-ons. ``reads``: the flags that the
    method takes. ``acting``: names of given flags that only act in steps. ``averages``: those that average or
    merge weights. ``freeing``: those that choose which of CLIP's weights train. ``fc_init_given``: whether
    --fc-init is given.
    """

    method: str
    iterations: int | None
    epochs: int | dict | None
    lr: dict
    batch_size: int
    wd: float
    beta2: float
    eps: float
    optimizer: str
    schedule: str
    lr_floor: float
    crops: str
    last_batch: str
    warmup_length: str
    max_grad_norm: float | None
    batch_norm: str
    seed: int
    workers: Any
    caption_choice: str
    compile: bool
    grad_checkpointing: bool
    grad_accum: int
    init: str
    train_mode: str
    fc_init: str
    lora: bool
    lora_r: int
    lora_alpha: float
    lora_dropout: float
    lora_target_modules: tuple
    lora_bias: str
    lora_shared: bool
    lora_shared_split_qkvo: bool
    eval_datasets: tuple
    eval_interval: int | None
    eval_every_epoch: bool
    num_phases: int
    joint: bool
    ref_model: str | None
    ref_wise: bool
    ref_dataset: str | None
    ddas_reference: str | None
    ref_sentences: str | None
    text_datasets: tuple
    memory_size: int
    wise_merge: bool
    wise_ft_model: str
    orthogonal_gradients: int | None
    orthogonal_gradients_path: str | None
    trained: tuple
    pairs: bool
    sequence: bool
    hooks: tuple
    reads: tuple
    acting: tuple
    averages: tuple
    freeing: tuple
    fc_init_given: bool

    @property
    def custom(self):
        """The rows of custom classes: of the method, of --hooks."""
        return tuple(row for row, _ in self.hooks if row.custom)


@dataclass(frozen=True)
class Scoring:
    """Say what is scored, and how.

    ``trained``: what is trained on. ``trains_heads``: whether linear heads train. ``pairs``: whether image-text
    pairs are trained on. ``evaluation``: nothing is trained. ``trains``: something is, after which
    it is scored. ``in_order``: the rows of a matrix are scored, with a column for each task. ``hooks``: [HookRow]
    of --hooks. ``keywords``: {flag key: value} of everything that a method of METHODS takes; ``keywords_given``:
    those given by flags. ``method_given`` and ``template_given``: whether --method and --template are given.
    ``eval_split_chosen``: whether a flag or a recipe gives --eval-split.
    """

    label_space: tuple
    retrieval_split: str
    eval_datasets: tuple
    eval_split: str
    wilds_split: str
    max_evaluation_size: int | None
    batch_size_eval: int
    workers: Any
    keep_features: bool
    data_location: str
    save: str | None
    load: str | None
    wise_ft: bool
    method: str
    set: dict
    seed: int
    linear_eval: str | None
    linear_epochs: int
    linear_lr: float
    linear_wd: float
    linear_batch_size: int
    linear_percent: float
    linear_cache_features: bool
    trained: tuple
    trains_heads: bool
    pairs: bool
    evaluation: bool
    trains: bool
    in_order: bool
    hooks: tuple
    keywords: dict
    keywords_given: dict
    method_given: bool
    template_given: bool
    eval_split_chosen: bool


@dataclass(frozen=True)
class Single:
    """Say what --eval-single classifies."""

    eval_single: str
    class_names: str | None
    prompt: str
    batch_size_eval: int
    workers: Any
    skip_bad_images: bool
    save: str | None
    prompt_given: bool


@dataclass(frozen=True)
class Command:
    """Hold the settings of a run. ``cuts_given``: those of CUTS that a flag or a protocol gives."""

    hardware: Hardware
    weights: Weights
    data: Data
    training: Training
    scoring: Scoring
    files: Files
    quiet: bool
    cuts_given: tuple

    def as_trained(self, made, last=None):
        """Return the same with the CUTS that no flag gives taken from ``made``, the stored flags of a
        checkpoint.

        ``last``: the dataset that it was trained on last, to which a split file of one dataset applies.
        """
        stored = {key: made[key] for key in CUTS if key not in self.cuts_given and made.get(key) is not None}
        found = {key: value for key, value in stored.items() if CUTS[key](value)}
        data = replace(self.data, **found)
        if last is not None and "split_file" in stored and "split_file" not in found:
            found["split_file"] = stored["split_file"]
            data = replace(data, split_file=stored["split_file"], split_file_of=stem(class_split(last)[0]))
        if not found:
            return self
        scored = {key: value for key, value in found.items() if hasattr(self.scoring, key)}
        return replace(self, data=data, scoring=replace(self.scoring, **scored),
                       files=self.files.with_values(found))
