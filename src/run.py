"""One command's run: its device, datasets and folder, and the two things done with them, train a task and score."""

import time

from clip import loader
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
from src.datasets.common import batches_per_epoch
from src.models import find_method
from src.models.evaluation import evaluate
from src.models.helpers import interpolate_
from src.models.training import train
from src.preflight import open_data, refuse_to_replace
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

    def open(self, trained):
        """Open all that the run will read, and refuse what cannot serve."""
        open_data(self.config, self.datasets, trained, self.evaluated)

    def claim(self, names, start):
        """Before anything is written: refuse to replace a finished task of ``names`` that was made with another
        configuration, a teacher that does not fit the checkpoint ``start``, and a folder that cannot be written."""
        if not self.config.overwrite:
            for name in map(stem, names):
                refuse_to_replace(self.config, self.folder, name)
        if names:
            build_hooks(self.config, start)  # a method that cannot be built is refused here
        self.open_zeroshot = zeroshot_opener(self.config, start, self.device)
        if names and "ref_model" in find_method(self.config.method).uses:
            self.open_zeroshot(self.config.ref_model)
        if names and self.config.wise_merge and self.config.wise_ft_model == "zeroshot":
            self.open_zeroshot()
        self.folder.prepare()

    def train(self, name, start):
        """Train one task from the checkpoint ``start``. -> (its finished checkpoint, {dataset: Scores})."""
        config, began = self.config, time.perf_counter()
        state = build_state(config, self.datasets, name, start, self.device, self.open_zeroshot)
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
            iteration=state.iteration, carry={type(hook).__name__: said for hook in hooks if (said := hook.carry())},
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

    def evaluate(self, checkpoint, alpha=None):
        """Score a checkpoint, or alpha * its weights + (1 - alpha) * zero-shot ones. -> {dataset: Scores}"""
        model = self.device.place(loader.build(checkpoint)).eval()
        if alpha is not None:
            interpolate_(model, self.open_zeroshot(), alpha)
        last = (checkpoint.get("history") or [{}])[-1]
        return self._score(model, checkpoint.get("iteration", 0), checkpoint.get("dataset", ""),
                           last.get("train_data", "all"), scored_by="zeroshot" if alpha is None else f"wise {alpha:g}")

    def _score(self, model, iteration, task, train_data, logits=None, scored_by="zeroshot"):
        config, scores = self.config, {}
        for name in self.evaluated:
            opened = self.datasets.open(name)
            file = stem(name)
            scores[file] = evaluate(
                model, opened, self.device, config.eval_split, config.batch_size_eval, config.max_evaluation_size,
                worker_count(config, opened), logits, config.data_location if config.cache_images else None)
            out_of_distribution = config.wilds_split == "ood" and "ood_test" in opened.splits
            split = f"ood {config.eval_split}" if out_of_distribution else config.eval_split
            self.folder.add_metrics(file, metrics_row(scores[file], iteration, task, split, scored_by, train_data))
        return scores

    def summarise(self, rows):
        """Store the accuracy matrix of a sequence and its summary numbers, and give them."""
        order = [stem(name) for name in self.config.dataset_order]
        summary = summarise(order, rows, "task", self.device.precision)
        self.folder.write_json("summary.json", summary)
        self.folder.write_text("summary.md", summary_text(summary))
        for score in ("top1", "top5"):
            self.folder.write_text(f"matrix_{score}.csv", matrix_csv(order, rows, score))
        self.folder.write_json("run.json", describe_run(
            self.config, self.device, seconds=round(time.perf_counter() - self.began, 2),
            peak_memory_bytes=self.device.peak_memory()))
        return summary
