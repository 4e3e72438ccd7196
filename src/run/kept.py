"""Keep an evaluation by --keep-features: what is kept, how large it is, and which methods are excluded."""

import torch

from src.errors import UserError
from src.models.features import STORED
from src.models.fingerprints import WITHOUT_TEXT, fingerprint
from src.models.hooks import scores_features
from src.store.ledger import Ledger, names_as_bytes, small

BYTES = STORED.itemsize


def refuse_other_scores(hooks):
    """Raise UserError if one of ``hooks`` scores images in a way that kept features cannot reproduce."""
    for kind in (kind for kind in map(type, hooks) if not scores_features(kind)):
        raise UserError(f"--keep-features: {kind.__name__} defines its own scores, which features alone may not "
                        "reproduce; leave the flag out. If its scores use images only through image_features, set "
                        f"scores_features = True in {kind.__name__}")


def kept_text(run, names, start):
    """Return how much --keep-features writes for the tasks ``names`` from the checkpoint ``start``; None
    without the flag."""
    if not run.scoring.keep_features:
        return None
    vectors = [vectors_of(run.scoring, run.datasets.open(name)) for name in run.evaluated]
    tasks = len(names) or len(run.command.weights.loaded) or 1
    row_before = run.training.sequence or not names and tasks > 1
    return size_text(vectors, start["architecture"]["embed_dim"], tasks + row_before)


def size_text(images, width, evaluations):
    """Return how much --keep-features writes. ``images``: [number of vectors of each dataset]."""
    values = sum(images) * width
    total = evaluations * values * BYTES / 2 ** 20
    return (f"--keep-features: {evaluations} evaluation{'s' * (evaluations > 1)} of {sum(images):,} x {width:,} values "
            f"in fp16, {total:,.1f} MiB in all")


def vectors_of(scoring, task):
    """Return the number of features in an evaluation of a Task: images, plus captions."""
    split = task.split(scoring.eval_split)
    images = len(split) if scoring.max_evaluation_size is None else min(len(split), scoring.max_evaluation_size)
    return images + (sum(map(len, split.captions[:images])) if task.pairs else 0)


def text_digest(state_dict):
    """Return a digest of the text tower among the tensors of a CLIP.

    It is the same on every device and in every precision that represents the weights.
    """
    return fingerprint([(name, value.detach().float().cpu()) for name, value in sorted(state_dict.items())
                        if not name.startswith(WITHOUT_TEXT)])


class Keeper:
    """Keep one evaluation after ``task`` in a RunFolder; call its methods as the parts become available."""

    def __init__(self, folder, task, settings):
        self.ledger, self.task, self.settings, self.kept = Ledger(folder), task, settings, {}
        self.classifiers, self.spaces = {}, {}
        self.ledger.begin(task)

    def scored_against(self, classifiers, spaces):
        """Note ``classifiers`` {file: Classifier} for all label spaces and ``spaces`` {file: {space: files}} of
        what is scored."""
        self.classifiers, self.spaces = classifiers, spaces

    def split(self, file, found):
        """Keep a KeptSplit."""
        arrays = {"features": found.features.numpy(), "labels": small(found.labels), "places": small(found.places)}
        for space in found.ranks:
            arrays |= {f"ranks_{space}": small(found.ranks[space]), f"best_{space}": small(found.best[space])}
        if found.images.files:
            arrays["files"] = names_as_bytes([found.images.files[place] for place in found.places.tolist()])
        self._add(file, arrays | {"classifier": packed(self.classifiers[file])}, images=len(found.places),
                  video=plain_frames(found.images.video))

    def pairs(self, file, found):
        """Keep KeptPairs."""
        self._add(file, {"images": _half(found.images), "texts": _half(found.texts), "owner": small(found.owner.cpu()),
                         "places": small(found.places)}, images=found.size, video=None)

    def _add(self, file, arrays, **facts):
        self.ledger.add(self.task, file, arrays)
        self.kept[file] = facts

    def finish(self, datasets, sources, **facts):
        """Describe the evaluation after everything is scored.

        ``sources``: {file: the dataset as on the command line}. Classes that images are only compared with are
        kept without images.
        """
        for file in self.classifiers.keys() - self.kept.keys():
            weights = packed(self.classifiers[file])
            self._add(file, {"features": _half(torch.zeros(0, weights.shape[1])),
                             "labels": small([]), "places": small([]), "classifier": weights}, images=0, video=None)
        self.ledger.finish(self.task, {
            "task": self.task, "label_space": list(self.settings.label_space), **facts,
            "spaces": {file: {space: list(parts) for space, parts in spaces.items() if file in parts}
                       for file, spaces in self.spaces.items()},
            "datasets": {file: self._described(file, datasets.open(sources[file]), sources[file],
                                               datasets.has_templates(sources[file])) for file in self.kept}})

    def _described(self, file, task, source, has_templates):
        scorer = self.classifiers.get(file)
        return {"source": source, "name": task.name, "pairs": task.pairs, "classnames": list(task.classnames),
                "templates": list(task.templates), "has_templates": has_templates, "train_data": task.train_data,
                "splits": list(task.splits),
                "head": scorer is not None and scorer.head is not None, **self.kept[file]}


def packed(classifier):
    """Return the weights (C, D) of a Classifier, or (C, D + 1) of a trained head, as an array."""
    return (classifier.classes.weights.T.cpu() if classifier.head is None else classifier.head.packed()).numpy()


def _half(features):
    return features.to(STORED).cpu().numpy()


def plain_frames(frames):
    """Return the frames of videos as plain types, None for other images."""
    return frames and {"accepted": [sorted(classes) for classes in frames.accepted],
                       "anchors": [[anchor, *frames_near] for anchor, frames_near in frames.anchors.items()]}
