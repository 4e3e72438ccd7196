"""One command's run: its device, datasets and folder, and the two things done with them, train a task and score."""

import json
import os
import time

from clip import loader
from src.args import FLAGS, shown
from src.build import (
    Datasets,
    build_device,
    build_hooks,
    build_state,
    model_name,
    worker_count,
    zeroshot_opener,
)
from src.checkpoint import finished_checkpoint
from src.datasets import stem
from src.datasets.check import structural_faults
from src.datasets.common import batches_per_epoch
from src.errors import UserError
from src.models import METHODS
from src.models.evaluation import evaluate
from src.models.training import train
from src.records import Journal, RunFolder, describe_run, metrics_row
from src.report import matrix_csv, summary_text
from src.sequence import summarise


class Run:
    """``evaluated`` are the datasets that every evaluation scores: the whole sequence and what --eval-datasets adds,
    or --eval-datasets, or the one trained on."""

    def __init__(self, config, folder=None):
        self.config = config
        self.device = build_device(config)
        self.datasets = Datasets(config)
        self.folder = RunFolder(folder or config.save)
        named = [*(config.dataset_order or ()), *config.eval_datasets] or filter(None, [config.train_dataset])
        self.evaluated = list(dict.fromkeys(named))
        self.began = time.perf_counter()

    def claim(self, names, start):
        """Before anything is written: refuse to replace a finished task of ``names`` that was made with another
        configuration, a teacher that does not fit the checkpoint ``start``, and a folder that cannot be written."""
        if not self.config.overwrite:
            for name in map(stem, names):
                self._refuse_to_replace(name)
        if names and "ref_model" in METHODS[self.config.method].uses:
            zeroshot_opener(self.config, start, self.device)(self.config.ref_model)
        self.folder.prepare()

    def open(self, trained):
        """Open all that the run will read, and refuse what cannot be trained on, scored or compared on."""
        stems = [stem(name) for name in dict.fromkeys([*trained, *self.evaluated])]
        if twice := {name for name in stems if stems.count(name) > 1}:
            raise UserError(f"two datasets of this run would write files named {', '.join(sorted(twice))}; rename one")
        config, reads = self.config, METHODS[self.config.method].uses if trained else ()
        for names, split in ((trained, "train"), (self.evaluated, config.eval_split)):
            for name in names:
                task = self.datasets.open(name)
                if not task.classnames:
                    raise UserError(f"{name} has no classes to tell apart; it serves as --ref-dataset")
                if split not in task.splits and names is self.evaluated:
                    raise UserError(f"--eval-split {split}: {name} has no such split; it has {', '.join(task.splits)}")
                if not len(task.split(split)):
                    raise UserError(f"{name} has no images in its {split} split")
                for fault in structural_faults(task, [split] if split == "train" else []):
                    raise UserError(fault)
        if "ref_sentences" in reads and config.ref_sentences not in (None, "random"):
            if not self.datasets.open(config.ref_sentences).sentences:
                raise UserError(f"--ref-sentences {config.ref_sentences}: this dataset has no sentences; take random, "
                                "conceptual_captions or toy-reference")
        for name in config.text_datasets if "text_datasets" in reads else ():
            if not self.datasets.open(name).classnames:
                raise UserError(f"--text-datasets {name}: has no class names to make prompts of")
        if "ref_dataset" in reads:
            reference = self.datasets.open(config.ref_dataset)
            if not (reference.classnames or config.ref_sentences or config.text_datasets):
                raise UserError(f"--ref-dataset {config.ref_dataset} has no class names to make texts of; "
                                "give --ref-sentences too")

    def _refuse_to_replace(self, name):
        if self.folder.path is None or not os.path.exists(self.folder.file(f"{name}.pth")):
            return
        path = self.folder.file(f"{name}.pth")
        try:
            flags = json.loads(self.folder.file(f"run_{name}.json").read_text(encoding="utf-8"))["flags"]
            before = {key: flag["value"] for key, flag in flags.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} exists and nothing tells how it was made; give --overwrite to replace it, "
                            "or another --save") from None
        changed = [f"{FLAGS[key].name} {shown(before.get(key))} there, {shown(value)} here"
                   for key, value in self.config.numbers().items() if before.get(key) != value]
        if changed:
            raise UserError(f"{path} was made with another configuration ({'; '.join(changed)}); "
                            "give --overwrite to replace it, or another --save")

    def train(self, name, start):
        """Train one task from the checkpoint ``start``. -> (its finished checkpoint, {dataset: Scores})."""
        config, began = self.config, time.perf_counter()
        state = build_state(config, self.datasets, name, start, self.device)
        hooks = build_hooks(config, start)
        due = self._evaluation_rhythm(state)
        file, total = stem(name), state.settings.iterations
        journal = Journal(self.folder, file, total, config.log_interval, config.quiet)
        evaluations = []

        def report(state, losses):
            journal.step(state, losses)
            if due and state.iteration % due == 0 and state.iteration != total:
                self._score_task(state, hooks, file)
                evaluations.append(state.iteration)

        try:
            train(state, hooks, report)
        finally:
            journal.close()
        trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
        seconds = time.perf_counter() - began
        scores = self._score_task(state, hooks, file)
        self.folder.forget_other_iterations(file, [*evaluations, total])
        checkpoint = finished_checkpoint(
            state.final_model, start, dataset=file, task=state.task,
            metrics={dataset: {"top1": score.top1, "top5": score.top5} for dataset, score in scores.items()},
            iteration=state.iteration, carry={type(hook).__name__: hook.carry() for hook in hooks if hook.carry()},
            config=config.numbers(), name=model_name(config, start))
        self.folder.write_json(f"run_{file}.json", describe_run(
            config, self.device, iterations=total, seconds=round(seconds, 2),
            peak_memory_bytes=self.device.peak_memory(), trainable_tensors=len(trained),
            trainable_values=sum(parameter.numel() for parameter in trained)))
        self.folder.write_checkpoint(file, checkpoint)
        print(f"{file}: {total} steps in {seconds:.1f} s, "
              + ", ".join(f"{dataset} {score.top1:.1f}" for dataset, score in scores.items()), flush=True)
        return checkpoint, scores

    def _evaluation_rhythm(self, state):
        if self.config.eval_every_epoch:
            return batches_per_epoch(len(state.task.split("train")), state.settings.batch_size)
        return self.config.eval_interval

    def _score_task(self, state, hooks, task):
        def logits(images, heads):
            given = (hook.logits(state, images, heads) for hook in hooks)
            return next((scores for scores in given if scores is not None), None)
        return self._score(state.final_model, state.iteration, task, state.task.train_data, logits)

    def evaluate(self, checkpoint):
        """Score a checkpoint. -> {dataset: Scores}"""
        model = self.device.place(loader.build(checkpoint)).eval()
        last = (checkpoint.get("history") or [{}])[-1]
        return self._score(model, checkpoint.get("iteration", 0), checkpoint.get("dataset", ""),
                           last.get("train_data", "all"))

    def _score(self, model, iteration, task, train_data, logits=None):
        config, scores = self.config, {}
        for name in self.evaluated:
            opened = self.datasets.open(name)
            scores[name] = evaluate(
                model, opened, self.device, config.eval_split, config.batch_size_eval, config.max_evaluation_size,
                worker_count(config, opened), logits, config.data_location if config.cache_images else None)
            self.folder.add_metrics(stem(name), metrics_row(scores[name], iteration, task, config.eval_split,
                                                            train_data=train_data))
        return scores

    def summarise(self, rows):
        """Print and store the accuracy matrix of a sequence and its summary numbers."""
        order = list(self.config.dataset_order)
        summary = summarise(order, rows, "task", self.device.precision)
        self.folder.write_json("summary.json", summary)
        self.folder.write_text("summary.md", summary_text(summary))
        for score in ("top1", "top5"):
            self.folder.write_text(f"matrix_{score}.csv", matrix_csv(order, rows, score))
        self.folder.write_json("run.json", describe_run(
            self.config, self.device, seconds=round(time.perf_counter() - self.began, 2),
            peak_memory_bytes=self.device.peak_memory()))
        print("\n" + summary_text(summary))
