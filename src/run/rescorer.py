"""Score kept features: a Scorer that reads no image."""

import dataclasses
import functools
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from clip import loader
from clip.errors import LoadError
from src.datasets.common import Split
from src.datasets.video import Frames
from src.errors import UserError
from src.models.classifiers import Classes, Classifier
from src.models.custom import call_text
from src.models.evaluation import Scores, evaluate_features
from src.models.modeling import ClassificationHead
from src.models.retrieval import RECALLS, RetrievalScores, folds, mean_recall, ranks
from src.models.state import TrainingState
from src.report.calibration import BINS, calibration
from src.report.measures import RETRIEVAL
from src.report.predictions import files_of, read_arrays, when
from src.run.build import build_scored, refuse_captions, refuse_idle_hooks
from src.run.kept import refuse_other_scores, text_digest
from src.run.method_scores import MethodScores
from src.run.scoring import Scorer, class_tasks, task_and_phase
from src.run.weights import starting_checkpoint
from src.store.records import retrieval_row

FLAG = "--rescore"
CLOSE = 0.05  # tolerated mean deviation of scores from fp16 features, in points


class StoredTower(nn.Module):
    """Stand in for a CLIP where only its scale is needed."""

    def __init__(self, logit_scale):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale), requires_grad=False)


class Rescorer(Scorer):
    """Score what a run in the folder ``source`` has kept; ``weights``: the weights it started from.

    ``per_class`` and ``calibration`` collect rows of their files. ``deviations``: how far, in points, each
    score from features alone is off the run's own. ``recomputed``: the label spaces in which a score comes from
    features.
    """

    def __init__(self, source, weights, *arguments):
        super().__init__(*arguments)
        self.source, self.weights, self.described, self.arrays = Path(source), weights, None, {}
        self.per_class, self.calibration, self.deviations, self.recomputed = [], [], [], set()
        self._changed, self._pairs = set(), {}

    # -- one evaluation ------------------------------------------------------------------------------------------------

    def again(self, described, last):
        """Return {dataset: {space: Scores}} of one evaluation, with the predictions of each image for the
        ``last`` one.

        None if its weights are needed but not available.
        """
        self._turn_to(described)
        if self.settings.template_given and not self._changed:
            self._note_idle_template()
        try:
            state, hooks = self._scored_by()
        except (UserError, LoadError) as error:
            if described["task"]:
                raise
            print(f"note: no row before training: other prompts need its weights: {error}", flush=True)
            return None
        method = MethodScores(state, hooks)
        method.plain = method.plain or described["plain"]
        history, task = described["history"], described["task"]
        return self._score(state.model, described["iteration"], task, (history or [{}])[-1].get("train_data", "all"),
                           {file: None for file, facts in described["datasets"].items() if facts["head"]}, history,
                           method, mark="" if last else f"_after_{task or 'start'}")

    def _other_prompts(self):
        """Return the datasets whose prompts the command line changes."""
        return {file for file, facts in self.described["datasets"].items() if not (facts["pairs"] or facts["head"])
                and list(self.datasets.open(facts["source"]).templates) != facts["templates"]}

    def _note_idle_template(self):
        if "--template" not in self._left_out:
            print("note: --template changes no prompts here: a dataset with its own prompts keeps them unless it is "
                  "all:NAME or all:PROMPT, and a trained head has none", flush=True)
        self._left_out.add("--template")

    def _scored_by(self):
        """Return (state, hooks) of what scores.

        A stand-in replaces the CLIP if its classifiers are kept and no method defines its own scores.
        """
        if not self._needs_weights():
            tower = StoredTower(self.described["logit_scale"]).to(self.device.device, self.device.weight_type)
            return TrainingState(model=tower, task=None, device=self.device, settings=None, world=self.world), []
        checkpoint = self._checkpoint()
        state, hooks = build_scored(self.settings, checkpoint, self.device, self.world)
        refuse_other_scores(hooks)
        refuse_captions(state.own, self.evaluated)
        return state, hooks

    def _needs_weights(self):
        return bool(self._changed or self.described["by_method"] or self._other_method())

    def _other_method(self):
        """Return whether the command line names a method, hooks or keywords other than the run's."""
        flags = self.described["flags"]
        hooks = [call_text(row.target, keywords["set"]) for row, keywords in self.settings.hooks]
        run = {key: flags.get(key, {}).get("value") for key in ("method", "set")}
        given = {"method": self.settings.method, "set": self.settings.set}
        return bool((self.settings.method_given or hooks) and (given, hooks) != (
            run, list(flags.get("hooks", {}).get("value") or ())))

    def require(self, described):
        """Raise UserError, before anything is written, if a file of an evaluation is damaged or missing, or hooks
        score nothing."""
        refuse_idle_hooks(self.settings)
        self._turn_to(described)
        if self._needs_weights() and described["task"] and not described["weights"]["load"]:
            self._checkpoint_file()

    def _turn_to(self, described):
        self.datasets.turn_to(described)
        self.described = described
        self.arrays = {file: read_arrays(self.source, described["task"], file, FLAG) for file in described["datasets"]}
        self._changed = self._other_prompts()

    def _checkpoint_file(self):
        path = self.source / f"{self.described['task']}.pth"
        if not path.is_file():
            raise UserError(f"{FLAG} {self.source}: {path} is missing. Without it, features can be scored only with "
                            "the run's prompts, and not by a method that defines its own scores: leave --template "
                            "out, or restore the file")
        return path

    def _checkpoint(self):
        """Return the checkpoint behind the features: its text tower builds classifiers for other prompts, its
        method scores."""
        task, load = self.described["task"], self.described["weights"]["load"]
        if load:
            checkpoint, name = starting_checkpoint(dataclasses.replace(self.weights, load=load)), load
        elif task:
            name = self._checkpoint_file()
            checkpoint = loader.read_checkpoint(name)
        else:
            checkpoint = starting_checkpoint(self.weights)
            name = self.weights.load or self.weights.model
        if text_digest(checkpoint["state_dict"]) != self.described["weights"]["text"]:
            raise UserError(f"{FLAG} {self.source}: {name} holds other weights than those behind the features "
                            f"{when(task)}; rerun the command that kept them")
        return checkpoint

    def _classifiers(self, model, opened, heads, modules):
        """Return {file: Classifier}, the kept ones where the prompts are the run's."""
        other = {file: task for file, task in opened.items() if file in self._changed}
        kept = {file: self._kept_classifier(file, task) for file, task in opened.items() if file not in other}
        return kept | super()._classifiers(model, other, {}, modules)

    def _kept_classifier(self, file, task):
        weights = self._tensor(file, "classifier")
        if not self.described["datasets"][file]["head"]:
            return Classifier(Classes(task.name, "", task.classnames, task.templates, weights.T))
        scale = weights.new_tensor(self.described["logit_scale"])
        head = ClassificationHead.unpacked(weights, weights)
        return Classifier(Classes(task.name, "", task.classnames, task.templates, head.weight.T / scale.exp()), head)

    def _tensor(self, file, name):
        """Return kept features or weights in the type in which scores are computed."""
        return torch.from_numpy(self.arrays[file][name]).to(self.device.device, self.device.weight_type)

    # -- class data ----------------------------------------------------------------------------------------------------

    def _evaluations(self, model, datasets, heads, history, method, mark, keeper):
        tasks = class_tasks(history)
        (spaces, opened), sources = self.spaces.after(tasks), self.spaces.sources(tasks)
        classifiers = {file: found.named(file, sources[file]) for file, found in self._classifiers(
            model, opened, heads, method.state.own.values()).items()}
        for file in datasets:
            joined = {space: parts for space, parts in spaces(file).items() if file in parts}
            classes = {space: [(part, opened[part].classnames) for part in parts] for space, parts in joined.items()}
            found = evaluate_features(
                model, file, self._split(file), self.arrays[file]["places"].tolist(), self._tensor(file, "features"),
                self.device, classifiers, joined, self.settings.batch_size_eval, method,
                functools.partial(self._keep, classes, mark))
            yield {space: self._exact(file, space, joined[space], scores) for space, scores in found.items()}

    def _split(self, file):
        arrays, video = self.arrays[file], self.described["datasets"][file]["video"]
        files = files_of(arrays)
        return Split(None, arrays["labels"].tolist(),
                     files and dict(zip(arrays["places"].tolist(), files, strict=True)),
                     video=video and Frames([set(classes) for classes in video["accepted"]],
                                            {anchor: near for anchor, *near in video["anchors"]}))

    def _is_own(self, file, space, parts):
        """Return whether the run scored exactly this."""
        return (self.described["spaces"].get(file, {}).get(space) == list(parts) and not self._changed & {*parts}
                and not self._other_method())

    def _exact(self, file, space, parts, found):
        """Return the run's own Scores if there are any, else those of the features."""
        if not self._is_own(file, space, parts):
            self.recomputed.add(space)
            return found
        own = Scores(**self.described["scores"][file][space])
        self.deviations += [abs(own.top1 - found.top1), abs(own.top5 - found.top5)]
        return own

    def _keep(self, classes, mark, file, space, found):
        """Collect rows of per-class accuracy and calibration, from the run's own predictions where it has some.

        ``classes``: {space: [(dataset, its classes)]}.
        """
        names = dict(classes[space])
        if self._is_own(file, space, names):
            found = self._own_predictions(file, space, found, classes[space])
        task, hits = self.described["task"], [rank == 1 for rank in found.ranks]
        numbers = calibration(found.probabilities, hits, found.losses)
        self.calibration.append([task, file, space, len(hits), *(f"{numbers[key]:.4f}" for key in (
            "accuracy", "confidence", "ece", "nll"))])
        self.per_class += [[task, file, space, name, f"{100 * right / images:.4f}" if images else "", images]
                           for name, right, images in zip(names[file], found.hits, found.support, strict=True)]
        if not mark:
            self._keep_predictions(file, space, found, {file: names[file], **names}, mark)

    def _own_predictions(self, file, space, found, classes):
        ranks_, labels = self.arrays[file][f"ranks_{space}"].tolist(), found.labels
        owners = [(name, number) for name, names in classes for number in range(len(names))]
        hits = [0] * len(found.hits)
        for label, rank in zip(labels, ranks_, strict=True):
            hits[label] += rank == 1
        best = self.arrays[file][f"best_{space}"][:, 0].tolist()
        return dataclasses.replace(found, predictions=[owners[number] for number in best], ranks=ranks_, hits=hits)

    # -- image-text pairs ----------------------------------------------------------------------------------------------

    def _retrieve(self, model, dataset, file, iteration, task, history, scored_by, keeper):
        images, texts = self._tensor(file, "images"), self._tensor(file, "texts")
        owner = torch.from_numpy(self.arrays[file]["owner"].astype("int64")).to(images.device)
        places = self.arrays[file]["places"].tolist()
        size = self.described["datasets"][file]["images"]
        self._pairs.setdefault(file, {})[task] = images, texts, owner
        found = mean_recall(folds(size, self.retrieval_split), places, images, texts, owner)
        own = RetrievalScores(**self.described["scores"][file][RETRIEVAL.space])
        self.deviations += [abs(getattr(own, name) - getattr(found, name)) for name in RECALL_NAMES]
        split = " ".join(filter(None, (self.settings.eval_split, self.retrieval_split)))
        trained, phase = task_and_phase(task, history[-1].get("source", task) if history else task)
        self.folder.add_metrics(file, retrieval_row(own, iteration, trained, phase, split, scored_by))
        return own

    def galleries(self):
        """Return {dataset of pairs: rows}: recall of queries encoded by a later model among what an earlier one
        encoded.

        Captions are queries for images (t2i), images for captions (i2t). All images are searched at once.
        """
        return {file: [self._gallery(old, new, *kept[old], *kept[new]) for index, old in enumerate(kept)
                       for new in list(kept)[index:]] for file, kept in self._pairs.items() if len(kept) > 1}

    def _gallery(self, old, new, images, texts, owner, new_images, new_texts, new_owner):
        i2t, _ = ranks(new_images, texts, owner)
        _, t2i = ranks(images, new_texts, owner)
        return [old or "start", new or "start", *(
            f"{100 * (found < k).double().mean().item():.4f}" for found in (i2t, t2i) for k in RECALLS)]

    # -- remarks -------------------------------------------------------------------------------------------------------

    def remarks(self, space):
        precision = {"precision": self.described["precision"]}
        text = f"rescored from fp16 features of {self.source}"
        return precision | ({"rescored": text} if space in self.recomputed else {})

    def statement(self):
        """Return how exact the tables are."""
        lines = [f"rescored from fp16 features of {self.source}: label space {', '.join(sorted(self.recomputed))}"
                 if self.recomputed else f"as scored by {self.source}, to the last digit"]
        if self.deviations:
            mean = fmean(self.deviations)
            lines.append(f"features alone reproduce the run's own scores within {mean:.4f} points on average, "
                         f"{max(self.deviations):.3f} at most")
            if mean > CLOSE:
                lines.append(f"warning: more than {CLOSE} points on average: scores from features are less exact")
        if self.calibration:
            lines.append(f"calibration.csv: ECE over {BINS} bins of equal width, of the softmax of the scores")
        return "\n".join(lines)


RECALL_NAMES = tuple(f"{way}_r{k}" for way in ("i2t", "t2i") for k in RECALLS)
