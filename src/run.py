"""One command's run: its device, datasets and folder, and the two things done with them, train a task and score."""

import time

from clip import loader
from src.build import (
    Datasets,
    build_device,
    build_hooks,
    build_scorer,
    build_state,
    model_name,
    worker_count,
    zeroshot_opener,
)
from src.checkpoint import finished_checkpoint
from src.datasets import stem
from src.datasets.common import batches_per_epoch
from src.models import find_method
from src.models.evaluation import classifier, evaluate, require_head_fits, zeroshot_head
from src.models.helpers import interpolate_
from src.models.lora_injection import adapter_state, is_adapted
from src.models.training import TrainingState, train
from src.preflight import open_data, refuse_to_replace
from src.records import Journal, RunFolder, describe_run, metrics_row
from src.report import matrix_csv, summary_text
from src.sequence import summarise
from src.spaces import LabelSpaces


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
        self.basis = config.orthogonal_gradients_path
        self.began = time.perf_counter()

    def open(self, trained):
        """Open all that the run will read, and refuse what cannot serve."""
        open_data(self.config, self.datasets, trained, self.evaluated)

    def claim(self, names, start):
        """Before anything is written: refuse to replace a finished task of ``names`` that was made with another
        configuration, a teacher that does not fit the checkpoint ``start``, other classes than it was trained on, and a
        folder that cannot be written."""
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
        self.spaces = LabelSpaces(self.config.label_space, self.evaluated, self.datasets.open)
        opened = self.spaces.claim(start.get("history", []), names)
        for file in start.get("heads", {}).keys() & opened:
            require_head_fits(start["heads"][file], opened[file], start["architecture"]["embed_dim"])
        self.folder.prepare()

    def train(self, name, start):
        """Train one task from the checkpoint ``start``. -> (its finished checkpoint, {dataset: Scores})."""
        config, began = self.config, time.perf_counter()
        state = build_state(config, self.datasets, name, start, self.device, self.open_zeroshot)
        hooks = build_hooks(config, start, self.basis)
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
        except BaseException:
            self._write_files(hooks, file, finished=False)
            raise
        finally:
            journal.close()
        trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
        seconds = time.perf_counter() - began
        scores = self._score_task(state, hooks, file)
        self.folder.forget_other_iterations(file, [*evaluations, total])
        first = config.label_space[0]
        shown = {dataset: found[first] for dataset, found in scores.items() if first in found}
        checkpoint = finished_checkpoint(
            state.final_model, start, dataset=file, source=name, task=state.task,
            metrics={dataset: {"top1": score.top1, "top5": score.top5} for dataset, score in shown.items()},
            iteration=state.iteration, carry={type(hook).__name__: said for hook in hooks if (said := hook.carry())},
            config=config.numbers(), name=model_name(config, start))
        self.folder.write_json(f"run_{file}.json", describe_run(
            config, self.device, iterations=total, seconds=round(seconds, 2),
            peak_memory_bytes=self.device.peak_memory(), trainable_tensors=len(trained),
            trainable_values=sum(parameter.numel() for parameter in trained)))
        self._write_files(hooks, file, finished=True)
        if is_adapted(state.model):
            self.folder.write_tensors(f"{file}.lora.pth", adapter_state(state.model))
        self.folder.write_checkpoint(file, checkpoint)
        if config.orthogonal_gradients:  # the next task of a sequence leaves alone what this one needs
            self.basis = str(self.folder.file(f"grad_{file}.pth"))
        print(f"{file}: {total} steps in {seconds:.1f} s, "
              + ", ".join(f"{dataset} {score.top1:.1f}" for dataset, score in shown.items()), flush=True)
        return checkpoint, scores

    def _write_files(self, hooks, task, finished):
        for hook in hooks:
            for name, content in hook.files(finished).items():
                self.folder.write_tensors(name.replace("{task}", task), content)

    def _evaluation_rhythm(self, state):
        if self.config.eval_every_epoch:
            return batches_per_epoch(len(state.task.split("train")), state.settings.batch_size)
        return self.config.eval_interval

    def _score_task(self, state, hooks, task):
        model = state.final_model
        heads = state.heads | ({task: model.head.packed()} if state.head is not None else {})
        return self._score(model, state.iteration, task, state.task.train_data, heads,
                           [*state.history, {"dataset": task, "source": state.source}], MethodScores(state, hooks))

    def evaluate(self, checkpoint, alpha=None):
        """Score a checkpoint, or alpha * its weights + (1 - alpha) * zero-shot ones. -> {dataset: {space: Scores}}"""
        model, heads = self.device.place(loader.build(checkpoint)).eval(), dict(checkpoint.get("heads", {}))
        if alpha is not None:
            zeroshot = self.open_zeroshot()
            interpolate_(model, zeroshot.state_dict(), alpha)
            _, opened = self.spaces.after(checkpoint.get("history", []))
            heads = {file: self._mixed_head(head, opened[file], zeroshot, alpha)
                     for file, head in heads.items() if file in opened}
        history = checkpoint.get("history") or [{}]
        state = TrainingState(model=model, task=None, device=self.device, settings=None)
        return self._score(model, checkpoint.get("iteration", 0), checkpoint.get("dataset", ""),
                           history[-1].get("train_data", "all"), heads, checkpoint.get("history", []),
                           MethodScores(state, build_scorer(self.config, checkpoint)),
                           None if alpha is None else f"wise {alpha:g}")

    def _mixed_head(self, head, task, zeroshot, alpha):
        start = zeroshot_head(zeroshot, task, self.device).packed()
        return alpha * head.to(start) + (1 - alpha) * start

    def _score(self, model, iteration, task, train_data, heads, seen, logits, scored_by=None):
        config, scores = self.config, {}
        spaces, opened = self.spaces.after(seen)
        classifiers = {file: classifier(model, found, self.device, heads.get(file)) for file, found in opened.items()}
        for name in self.evaluated:
            file, dataset = stem(name), self.datasets.open(name)
            scores[file] = evaluate(
                model, dataset, self.device, config.eval_split, config.batch_size_eval, config.max_evaluation_size,
                worker_count(config, dataset), logits, config.data_location if config.cache_images else None,
                classifiers, spaces(file), file)
            out_of_distribution = config.wilds_split == "ood" and "ood_test" in dataset.splits
            split = f"ood {config.eval_split}" if out_of_distribution else config.eval_split
            by = scored_by or logits.by or (f"head:{file}" if file in heads else "zeroshot")
            for space, found in scores[file].items():
                self.folder.add_metrics(file, metrics_row(found, iteration, task, split, by, train_data, space))
        return scores

    def summarise(self, rows):
        """Store the accuracy matrix of a sequence and its summary numbers, and give them: {label space: summary}."""
        order = [stem(name) for name in self.config.dataset_order]
        summaries = {}
        for number, space in enumerate(self.config.label_space):
            mark = f"_{space}" if number else ""  # the first label space has the plain names
            chosen = [{name: row[name].get(space) for name in order} for row in rows]
            summaries[space] = summarise(order, chosen, space, self.device.precision)
            self.folder.write_json(f"summary{mark}.json", summaries[space])
            for score in ("top1", "top5"):
                self.folder.write_text(f"matrix_{score}{mark}.csv", matrix_csv(order, chosen, score))
        self.folder.write_text("summary.md", "\n".join(map(summary_text, summaries.values())))
        self.folder.write_json("run.json", describe_run(
            self.config, self.device, seconds=round(time.perf_counter() - self.began, 2),
            peak_memory_bytes=self.device.peak_memory()))
        return summaries


class MethodScores:
    """(images, heads, names) -> the scores of the first hook that gives some, or None; ``by`` tells whose they were."""

    def __init__(self, state, hooks):
        self.state, self.hooks, self.by = state, hooks, None

    def __call__(self, images, heads, names):
        self.state.scored = tuple(names)
        for hook in self.hooks:
            scores = hook.logits(self.state, images, heads)
            self.by = None if scores is None else f"logits:{type(hook).__name__}"
            if scores is not None:
                return scores
        return None
