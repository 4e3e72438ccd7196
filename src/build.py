"""From the resolved command line to objects. Only here and in ``src.main`` is the Config read."""

import dataclasses
import functools
import math
import os

import torch

from clip import catalog, loader
from clip.model import CLIP
from src.datasets import open_task, splits
from src.datasets.common import batches_per_epoch, seed_of
from src.device import Device
from src.errors import UserError
from src.models import active_add_ons, find_method
from src.models.modeling import select_trainable
from src.models.training import Settings, TrainingState
from src.templates.collections import SIMPLE, TEMPLATES

MOST_WORKERS = 8


def build_device(config):
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True)
    return Device(config.device, config.precision, config.tf32)


class Datasets:
    """Opens each dataset once a run, with the splits and templates that the flags ask for."""

    def __init__(self, config):
        self._config, self._template = config, _templates(config.template)
        self._trained = config.dataset_order or (config.train_dataset,)
        self.open = functools.cache(self._open)

    def _open(self, name):
        config, root = self._config, self._config.data_location
        task = open_task(name, root)
        if self._template and task.templates is SIMPLE:
            task = dataclasses.replace(task, templates=self._template)
        if config.wilds_split == "ood" and "ood_test" in task.splits:
            task = dataclasses.replace(task, splits={
                **task.splits, "val": task.splits["ood_val"], "test": task.splits["ood_test"]})
        if name in self._trained:
            task = self._trained_splits(task)
        elif config.val_fraction and config.eval_split == "val":
            task = splits.with_validation(task, config.val_fraction, root)
        return splits.tolerant(task) if config.skip_bad_images else task

    def _trained_splits(self, task):
        config, root = self._config, self._config.data_location
        if config.split_file:
            task = splits.with_split_file(task, config.split_file)
        if config.val_fraction:
            task = splits.with_validation(task, config.val_fraction, root)
        if config.shots:
            task = splits.with_shots(task, config.shots, config.shot_seed, root)
        return task


def _templates(name):
    if name is None:
        return None
    if "{c}" in name:
        return [name]
    if name not in TEMPLATES:
        raise UserError(f"--template {name}: there are {', '.join(TEMPLATES)}, or give one prompt with {{c}} in it")
    return TEMPLATES[name]


def starting_checkpoint(config):
    """The checkpoint that the run starts from: ``--load``, random weights, or published ones."""
    if not config.load:
        return _initial_checkpoint(config)
    checkpoint = loader.read_checkpoint(config.load)
    if config.given("model") or config.model_config:
        wanted, name = _architecture(config), config.model_name or config.model
        if not _same_architecture(wanted, checkpoint["architecture"]):
            holds = checkpoint.get("model") or "another architecture"
            raise UserError(f"--load {config.load} holds {holds}, not {name}; leave --model away or load another file")
    return checkpoint


def _initial_checkpoint(config):
    if config.init == "scratch":
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(config.seed, "init"))
            model = CLIP(**_architecture(config))
        return {"architecture": model.architecture, "state_dict": model.state_dict(),
                "model": config.model_name or config.model}
    return {**loader.read_checkpoint(loader.weights_file(config.model, config.clip_cache)), "model": config.model}


def _architecture(config):
    try:
        if config.model_config:
            return catalog.read_architecture(config.model_name, config.model_config)
        return catalog.read_architecture(config.model)
    except ValueError as error:
        raise UserError(f"{'--model-config' if config.model_config else '--model'}: {error}") from None


def _same_architecture(one, other):
    # Heads are not in foreign files, and a YAML may leave them to the rule.
    keys = (set(one) | set(other)) - {"vision_heads", "transformer_heads", "vocabulary"}
    return all((one.get(key) or None) == (other.get(key) or None) for key in keys)


def model_name(config, checkpoint):
    """The name of the architecture in use: the checkpoint's own, the given one, or the published one of its shape."""
    if checkpoint.get("model"):
        return checkpoint["model"]
    shapes = {name: catalog.read_architecture(name) for name in catalog.available_models()}
    return next((name for name, shape in shapes.items() if _same_architecture(shape, checkpoint["architecture"])), None)


def zeroshot_opener(config, checkpoint, device):
    """-> open(path=None): a frozen CLIP with the weights of ``--init``, or of a file; read once a run."""
    @functools.cache
    def open_zeroshot(path=None):
        if path is None and config.init == "scratch":
            raise UserError("--init scratch has no zero-shot weights to teach from; give --ref-model FILE")
        name = model_name(config, checkpoint)
        if path is None and name is None:
            raise UserError("the loaded architecture has no published weights to teach from; give --ref-model FILE")
        source = loader.read_checkpoint(path or loader.weights_file(name, config.clip_cache))
        if source["architecture"]["embed_dim"] != checkpoint["architecture"]["embed_dim"]:
            raise UserError(f"--ref-model {path}: its features have {source['architecture']['embed_dim']} values, "
                            f"the model's {checkpoint['architecture']['embed_dim']}")
        return device.place(loader.build(source)).eval().requires_grad_(False)
    return open_zeroshot


def build_settings(config, task, name=None):
    """``name`` is the dataset as the command line gives it, which is how --lr names it too."""
    size = len(task.split("train"))
    iterations = config.iterations or config.epochs * batches_per_epoch(size, config.batch_size)
    return Settings(
        iterations=iterations, lr=config.lr.get(name or task.name, config.lr[None]), batch_size=config.batch_size,
        wd=config.wd, beta2=config.beta2, eps=config.eps, warmup=warmup_steps(config.warmup_length, iterations),
        max_grad_norm=config.max_grad_norm, seed=config.seed, workers=worker_count(config, task),
        batch_norm=("train" if config.init == "scratch" else "eval") if config.batch_norm == "auto"
        else config.batch_norm)


def warmup_steps(text, iterations):
    """``"100"`` or ``"20%"`` -> steps."""
    return math.ceil(iterations * float(text[:-1]) / 100) if text.endswith("%") else int(text)


def worker_count(config, task):
    if config.workers != "auto":
        return config.workers
    return 0 if task.in_memory else min(MOST_WORKERS, os.cpu_count() or 1)


def build_state(config, datasets, name, checkpoint, device, open_zeroshot):
    """The state of one task, its model on the device with the train mode's parameters free."""
    task = datasets.open(name)
    model = device.place(loader.build(checkpoint))
    select_trainable(model, config.train_mode)
    return TrainingState(model=model, task=task, device=device, settings=build_settings(config, task, name),
                         open_task=datasets.open, open_zeroshot=open_zeroshot,
                         history=list(checkpoint.get("history", [])))


def build_hooks(config, checkpoint):
    """[method, *add_ons] for one task, each with what the previous task carried over for it."""
    rows = [find_method(config.method), *active_add_ons(config.values).values()]
    hooks = [row.build(config.values) for row in rows]
    for hook in hooks:
        hook.load_carry(checkpoint.get("carry", {}).get(type(hook).__name__, {}))
    return hooks
