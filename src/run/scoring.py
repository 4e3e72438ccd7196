"""Score a run: class data by accuracy, image-text pairs by retrieval, and write the rows."""

import copy
import os
from dataclasses import asdict, replace

from clip import loader
from src.datasets import is_pairs, known_pairs, phase_of, stem
from src.datasets.loading import worker_count
from src.datasets.pairs import JOINT
from src.datasets.seeds import balanced_subset
from src.datasets.transforms import EvalTransform
from src.errors import UserError
from src.machine.distributed import World
from src.machine.progress import Progress
from src.models.attached import template_of
from src.models.classifiers import ZeroshotClassifiers, classifier, head_of, other_classes, require_head_fits
from src.models.evaluation import SUBSET_SEED, Scores, evaluate_each
from src.models.helpers import interpolate_
from src.models.linear_probe import linear_evaluation
from src.models.retrieval import RetrievalScores, drift, folds, retrieve
from src.report.conditions import LINEAR
from src.report.measures import ACCURACY, RETRIEVAL, measure_of
from src.run.build import build_scored, refuse_captions, refuse_mixing
from src.run.kept import Keeper, text_digest
from src.run.layer import KeptLayer
from src.run.method_scores import LOGITS, MethodScores
from src.run.spaces import LabelSpaces
from src.run.weights import note_plain
from src.store.ledger import Ledger
from src.store.records import classes_csv, metrics_row, predictions_csv, retrieval_row
from src.store.trackers import EVALUATION, Trackers

SCORES = {ACCURACY: Scores, RETRIEVAL: RetrievalScores}
DRIFT_IMAGES = 1000  # used to measure feature drift


class Scorer:
    """Score models on ``evaluated`` and add the rows to a RunFolder.

    ``settings``: the Scoring of the command line. ``files``: its Files, for keeping a linear layer. Scores are
    {dataset: {label space: Scores}}; of image-text pairs {dataset: {"retrieval": RetrievalScores}}.
    """

    def __init__(self, settings, files, datasets, device, folder, evaluated, world=None, progress=None, trackers=None,
                 images=None):
        self.settings, self.files, self.datasets, self.device, self.folder = settings, files, datasets, device, folder
        self.evaluated, self.world, self.zeroshot = evaluated, world or World(), ZeroshotClassifiers(device)
        self.progress, self.trackers, self.images = progress or Progress(), trackers or Trackers(), images
        self.spaces = LabelSpaces(settings.label_space, [name for name in evaluated if not is_pairs(name)],
                                  datasets.open)
        self.retrieval_split = None if settings.retrieval_split == "auto" else settings.retrieval_split
        self.named_by_checkpoint, self._left_out = (), set()  # files chosen by --load; what notes have named

    def claim(self, names, start):
        """Refuse, before training ``names`` from the checkpoint ``start``, what could not be scored afterwards."""
        parts = [part for name in names for part in (self.settings.trained if name == JOINT else [name])]
        parts = [part for part in parts if not is_pairs(part)]
        opened = self.spaces.claim(class_tasks(start.get("history", [])), parts)
        kept = {file: head for file, head in start.get("heads", {}).items()
                if not (self.settings.trains_heads and file in map(stem, parts))}  # build.first_head checks that one
        for file, head in self._fitting(kept, start.get("history", []), opened).items():
            if file in opened:
                require_head_fits(head, opened[file], start["architecture"]["embed_dim"])
        for name in filter(is_pairs, self.evaluated):
            folds(len(self._images(self.datasets.open(name))), self.retrieval_split)

    def trained(self, state, hooks, task, keep=False, finished=False):
        """Score the weights that a task leaves, or has so far.

        ``task``: its name in files. ``keep``: write the prediction for every image too. ``finished``: whether
        the task is, so that --keep-features acts.
        """
        model = state.final_model
        _, opened = self.spaces.after(class_tasks([*state.history, {"dataset": task, "source": state.source}]))
        own = {task: model.head.packed()} if state.head is not None else {}
        earlier = {file: head for file, head in state.heads.items() if file not in own}
        heads = self._fitting(earlier, state.history, opened) | own
        scores = self._score(model, state.iteration, task, state.task.train_data, heads,
                             [*state.history, {"dataset": task, "source": state.source}], MethodScores(state, hooks),
                             mark="" if keep and self.settings.save else None,
                             after=task if finished else None)
        self.trackers.scores(task, state.iteration, scores)
        return scores

    def part(self, names):
        """Return the same for some of the datasets; label spaces stay those of all."""
        found = copy.copy(self)
        found.evaluated = names
        return found

    def finished(self, checkpoint, keep=False):
        """Return the scores that ``trained`` gave for the weights that a task left in a checkpoint."""
        state, scorers = build_scored(replace(self.settings, method_given=True), checkpoint, self.device, self.world)
        model, history = state.model, checkpoint["history"]
        _, opened = self.spaces.after(class_tasks(history))
        heads = self._fitting(checkpoint["heads"], history, opened)
        return self._score(model, checkpoint["iteration"], checkpoint["dataset"], history[-1]["train_data"], heads,
                           history, MethodScores(state, scorers), mark="" if keep and self.settings.save else None,
                           after=checkpoint["dataset"])

    def checkpoint(self, checkpoint, alpha=None, zeroshot=None, start=False):
        """Score a checkpoint, or alpha * its weights + (1 - alpha) * those of the CLIP ``zeroshot``.

        ``start``: a sequence starts from it, and --keep-features keeps it as its start.
        """
        state, scorers = build_scored(self.settings, checkpoint, self.device, self.world)
        refuse_captions(state.own, self.evaluated)
        model, history = state.model, checkpoint.get("history", [])
        _, opened = self.spaces.after(class_tasks(history))
        heads = self._fitting(checkpoint.get("heads", {}), history, opened)
        if alpha is not None:
            refuse_mixing(state.own, scorers)
            interpolate_(model, zeroshot.state_dict(), alpha)
            heads = {file: head for file, head in heads.items() if file in opened}
            starts = self.zeroshot(zeroshot, {file: opened[file] for file in heads})
            heads = {file: mixed(head, head_of(starts[file], zeroshot), alpha) for file, head in heads.items()}
        wise = "" if alpha is None else f"_wise{alpha:g}"
        mark = wise if self.settings.evaluation and self.settings.save else None
        scored_by, iteration = None if alpha is None else f"wise {alpha:g}", checkpoint.get("iteration", 0)
        scores = self._score(model, iteration, checkpoint.get("dataset", ""),
                             (history or [{}])[-1].get("train_data", "all"), heads, history,
                             MethodScores(state, scorers), scored_by, mark,
                             after="" if start else checkpoint.get("dataset", ""))
        self.trackers.scores(EVALUATION, iteration, scores, scored_by)
        return scores

    def _fitting(self, heads, history, opened):
        """Return the packed ``heads`` {file: (C, D + 1)} that score the classes they were trained on.

        ``opened``: {file: Task} of the datasets. A note names each other head once. Raises UserError if --load
        itself chose the dataset that its own head is to score.
        """
        reasons = {file: other_classes(history, file, opened[file].classnames) for file in heads if file in opened}
        for file in [file for file, reason in reasons.items() if reason and file not in self._left_out]:
            if file in self.named_by_checkpoint:
                raise UserError(f"--load {self.settings.load}: its head of {file} does not fit the data: "
                                f"{reasons[file]}. Give the data that it was trained on, or --eval-datasets to score "
                                "without it")
            print(f"note: the head of {file} in the checkpoint is left out: {reasons[file]}; {file} is scored by its "
                  "class names")
            self._left_out.add(file)
        return {file: head for file, head in heads.items() if not reasons.get(file)}

    def lacks_features(self, after):
        """Return whether --keep-features still has to keep the features of the weights that a task leaves; ""
        is the start."""
        return self.settings.keep_features and not Ledger(self.folder).has(after)

    def remarks(self, space):
        """Return what a summary of a label space states beside its numbers."""
        return {}

    def shown(self, scores):
        """Reduce {dataset: {space: Scores}} to {dataset: its Scores in the first label space}."""
        return {dataset: found[space] for dataset, found in scores.items()
                for space in (self.settings.label_space[0], RETRIEVAL.space) if space in found}

    def in_words(self, scores):
        """Return a line with the scores in the first label space."""
        return ", ".join(f"{dataset} {score}" for dataset, score in self.shown(scores).items()) or "nothing scored"

    def drift(self, start, state):
        """Return {dataset of pairs: Drift as a dict} between the checkpoint ``start`` and a task's state, on
        the scored data.

        Both are encoded with the modules of the method that trains the task.
        """
        after, trains = state.final_model, replace(self.settings, method_given=True)
        before, _ = build_scored(trains, start, self.device)
        found = {}
        for name in filter(is_pairs, self.evaluated):
            images = self._images(self.datasets.open(name))
            images = images.subset(range(min(DRIFT_IMAGES, len(images))))
            with before.in_place(before.model), state.in_place(after):
                found[stem(name)] = asdict(drift(before.model, after, images, self.device,
                                                 self.settings.batch_size_eval))
        return found

    def linear(self, checkpoint):
        """Evaluate a checkpoint's image tower linearly on --linear-eval. -> {dataset: {LINEAR: Scores}}

        The layer is kept; a finished one is not trained again.
        """
        settings, name = self.settings, self.settings.linear_eval
        file, dataset = stem(name), self.datasets.open(name)
        note_plain(checkpoint, settings.load or checkpoint.get("model"), "--linear-eval")
        layer = KeptLayer(self.files, settings.linear_epochs, self.folder, file, dataset.classnames, checkpoint,
                          self.world)
        found = layer.scores()
        if found is None:
            model = self.device.place(loader.build(checkpoint)).eval()
            with layer:
                found = linear_evaluation(
                    model, dataset, self.device, settings.linear_epochs, settings.linear_lr, settings.linear_wd,
                    settings.linear_batch_size, settings.linear_percent, settings.linear_cache_features, settings.seed,
                    worker_count(settings.workers, dataset), self.world, self._epochs(file, layer), keep=layer.keep,
                    start=layer.start)
            layer.finish(found)
        row = metrics_row(found, checkpoint.get("iteration", 0), checkpoint.get("dataset", ""), settings.eval_split,
                          f"linear {settings.linear_percent:g}%", "all")
        self.folder.add_metrics(file, row)
        scores = {file: {LINEAR: found}}
        self.trackers.scores(EVALUATION, checkpoint.get("iteration", 0), scores)
        return scores

    def _epochs(self, file, layer):
        """Return the function to call after each epoch of a linear layer."""
        self.progress.task(f"linear layer on {file}", layer.epochs, self.settings.linear_epochs, unit="epoch")

        def log(epoch):
            self.progress.step()
            line = {"iteration": epoch["epoch"] + 1, "loss": epoch["loss"], "lr": epoch["lr"]}
            self.progress.tell(line)
            layer.log(line)
            if epoch["epoch"] + 1 == self.settings.linear_epochs:
                self.progress.end_task()
        return log

    def _score(self, model, iteration, task, train_data, heads, history, method, scored_by=None, mark=None, after=None):
        """Score a model.

        ``mark``: the ending of prediction files; None writes none. ``after``: the task whose features
        --keep-features keeps, "" for the start; None keeps none.
        """
        keeper = None if after is None else self._keeper(after)
        with method.state.in_place(model):
            scores, by = self._score_in_place(model, iteration, task, train_data, heads, history, method, scored_by,
                                              mark, keeper)
            if keeper:
                keeper.finish(self.datasets, self.spaces.sources(class_tasks(history)) | {
                    stem(name): name for name in self.evaluated}, **self._facts(model, iteration, history, method, by),
                    scores=plain_scores(scores))
        return scores

    def _keeper(self, after):
        return Keeper(self.folder, after, self.settings) if self.settings.keep_features else None

    def _facts(self, model, iteration, history, method, by):
        """Return what rescoring needs to know of an evaluation besides its datasets."""
        load = self.settings.load if self.settings.evaluation else None
        acted = history or any(text.startswith(LOGITS) for found in by.values() for text in found.values() if text)
        return {"iteration": iteration, "history": history, "evaluation": self.settings.evaluation,
                "flags": self.files.flags, "precision": self.device.precision, "plain": method.plain,
                "by_method": bool(method.scores_alone and acted), "logit_scale": model.logit_scale.item(),
                "weights": {"load": os.path.abspath(load) if load and os.path.exists(load) else load,
                            "text": text_digest(model.state_dict())}, "by": by}

    def _score_in_place(self, model, iteration, task, train_data, heads, history, method, scored_by, mark, keeper):
        """Score. -> ({dataset: {space: Scores}}, {dataset: {space: what scored it}})"""
        settings, scores, by = self.settings, {}, {}
        datasets = {stem(name): self.datasets.open(name) for name in self.evaluated}
        evaluations = self._evaluations(model, {file: dataset for file, dataset in datasets.items()
                                                if not dataset.pairs}, heads, history, method, mark, keeper)
        for file, dataset in datasets.items():
            if dataset.pairs:
                by[file] = {RETRIEVAL.space: scored_by or method.plain}
                scores[file] = {RETRIEVAL.space: self._retrieve(model, dataset, file, iteration, task, history,
                                                                by[file][RETRIEVAL.space], keeper)}
                continue
            method.turn_to(file)
            scores[file] = next(evaluations)
            out_of_distribution = settings.wilds_split == "ood" and "ood_test" in dataset.splits
            split = f"ood {settings.eval_split}" if out_of_distribution else settings.eval_split
            plain = f"head:{file}" if file in heads else "zeroshot"
            by[file] = {space: scored_by or method.by(space) or plain for space in scores[file]}
            for space, found in scores[file].items():
                self.folder.add_metrics(file, metrics_row(found, iteration, task, split, by[file][space], train_data,
                                                          space))
        return scores, by

    def _evaluations(self, model, datasets, heads, history, method, mark, keeper):
        """Iterate over the {label space: Scores} of {file: Task}, in order, using common worker processes."""
        settings, tasks = self.settings, class_tasks(history)
        (spaces, opened), sources = self.spaces.after(tasks), self.spaces.sources(tasks)
        classifiers = {file: found.named(file, sources[file])
                       for file, found in self._classifiers(model, opened, heads, method.state.own.values()).items()}
        if keeper:
            keeper.scored_against(classifiers, {file: spaces(file) for file in datasets})
        return evaluate_each(
            model, datasets, self.device, classifiers,
            {file: spaces(file) for file in datasets}, settings.eval_split, settings.batch_size_eval,
            settings.max_evaluation_size,
            {file: worker_count(settings.workers, dataset) for file, dataset in datasets.items()},
            method, self.images, self.world, self.progress.counted,
            None if mark is None else lambda file, space, found: self._keep_predictions(
                file, space, found, {part: opened[part].classnames for part in (file, *spaces(file)[space])}, mark),
            keeper and keeper.split)

    def _keep_predictions(self, file, space, found, classnames, mark):
        """Write predictions. ``classnames``: {dataset: classes} of the label space, the scored dataset first.

        The first space gets the plain file names.
        """
        mark = mark if space == self.spaces.spaces[0] else f"_{space}{mark}"
        self.folder.write_text(f"predictions_{file}{mark}.csv", predictions_csv(found, classnames))
        self.folder.write_text(f"classes_{file}{mark}.csv", classes_csv(found, classnames[file]))

    def _classifiers(self, model, opened, heads, modules):
        """Map {file: Task} and {file: packed head} to {file: Classifier}, zero-shot where no head was trained.

        ``modules`` are attached to the model.
        """
        untrained = {file: found for file, found in opened.items() if file not in heads}
        if self.settings.template_given and template_of(modules) and "--template" not in self._left_out:
            print("note: --template has no effect: the method puts its context into the prompts "
                  f"{template_of(modules)!r}")
            self._left_out.add("--template")
        return self.zeroshot(model, untrained, modules) | {
            file: classifier(model, found, self.device, heads[file]) for file, found in opened.items() if file in heads}

    def _retrieve(self, model, dataset, file, iteration, task, history, scored_by, keeper):
        images = self._images(dataset, model.image_resolution)
        found = retrieve(model, images, self.device, self.settings.batch_size_eval,
                         worker_count(self.settings.workers, images), self.retrieval_split, self.world,
                         self.progress.counted, file, keeper and (lambda kept: keeper.pairs(file, kept)))
        if self.images is not None:
            self.images.settle()
        split = " ".join(filter(None, (self.settings.eval_split, self.retrieval_split)))
        trained, phase = task_and_phase(task, history[-1].get("source", task) if history else task)
        self.folder.add_metrics(file, retrieval_row(found, iteration, trained, phase, split, scored_by))
        return found

    def _images(self, dataset, resolution=None):
        """What is searched of image-text pairs; with the ``resolution`` of a model as the run keeps its images."""
        split, most = dataset.split(self.settings.eval_split), self.settings.max_evaluation_size
        if self.images is not None and resolution is not None:
            split = self.images.of_task(dataset, self.settings.eval_split, EvalTransform(resolution))
        return split if most is None else split.subset(balanced_subset(split.labels, most, SUBSET_SEED))


def plain_scores(scores):
    """Return {dataset: {space: Scores}} as types that json keeps to the last bit."""
    return {dataset: {space: asdict(score) for space, score in found.items()} for dataset, found in scores.items()}


def scores_of(content):
    """Invert ``plain_scores``, given a file's content with its "scores"; {} for anything else."""
    try:
        scores = _scores_of(content["scores"])
        numbers = [value for found in scores.values() for score in found.values() for value in asdict(score).values()]
    except (KeyError, TypeError, AttributeError):
        return {}
    return scores if all(isinstance(value, int | float | None) for value in numbers) else {}


def _scores_of(plain):
    return {dataset: {space: SCORES[measure_of(space)](**score)
                      for space, score in found.items()} for dataset, found in plain.items()}


def class_tasks(history):
    """Return the class data among the tasks of a checkpoint's history, those of joint training one by one."""
    found = []
    for entry in history:
        source = entry.get("source", entry["dataset"])
        names = source.split(",") if entry["dataset"] == JOINT else [source]
        found += [{**entry, "dataset": stem(name), "source": name} for name in names if not known_pairs(name)]
    return found


def task_and_phase(task, source):
    """Return (dataset, phase) for a row of retrieval; the phase is empty if there is none.

    ``task``: the trained task's name in files; ``source``: its name on the command line.
    """
    whole, phase = phase_of(source)
    return (task, "") if phase is None else (stem(whole), phase)


def mixed(head, start, alpha):
    """Return alpha * a packed head (C, D + 1) + (1 - alpha) * the ClassificationHead that its training started
    from."""
    start = start.packed()
    return alpha * head.to(start) + (1 - alpha) * start
