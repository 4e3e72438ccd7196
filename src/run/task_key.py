"""Compute the key of a finished task from everything it depends on: two runs with the same key would train the
same bits.

A task knows neither its place in a sequence nor the tasks to come. What it has of earlier ones is in the
checkpoint that it starts from, in the basis that projects its gradients and in the data that it replays.
"""

import functools
import hashlib
import json
import platform
from dataclasses import asdict

from src.datasets.pairs import JOINT
from src.run.build import build_settings
from src.run.digests import DataDigests, code_digest, content_digest, machine, sources_digest, words_digest
from src.run.weights import model_name
from src.store.checkpoint import LEFT_OUT
from src.store.records import versions

# Flags that can change a result but not what a task trains: which tasks there are, how they are scored, and what is
# covered by the settings of the task or the digests of its data and weights.
NOT_TRAINED = ("train_dataset", "dataset_order", "phase", "load", "image_dir", "annotations", "iterations", "epochs",
               "lr", "warmup_length", "eval_datasets", "max_evaluation_size", "eval_split", "label_space",
               "retrieval_split")
FREE = ("workers", "grad_checkpointing")  # settings of a task in which two runs may differ
# Further flags that change what weights score without training.
SCORED_WITH = ("seed", "deterministic", "precision", "tf32", "template", "wilds_split", "class_order", "val_fraction",
               "split_file", "skip_bad_images")
PARTS_OF_A_START = ("architecture", "state_dict", "heads", "carry", "own", LEFT_OUT)
RECORDED = ("dataset", "source", "classnames", "train_data")  # recorded of an earlier task
SCORING = ("label_space", "max_evaluation_size", "eval_split", "retrieval_split", "wilds_split", "batch_size_eval")


class TaskKeys:
    """Compute the keys of a run's tasks from its settings. For custom methods and hooks they cover more: everything
    these may read."""

    def __init__(self, training, scoring, files, datasets, device):
        self.training, self.scoring, self.files, self.datasets = training, scoring, files, datasets
        self.device, self.data = device, DataDigests(datasets)
        self.custom = bool(training.custom)
        self._first = None                  # digest of what the run starts from
        self._weights = {}                  # {value of --ref-model or None: digest}

    def parts(self, name, start, inputs, open_zeroshot):
        """Return {what: digest} of everything that the task ``name`` from the checkpoint ``start`` depends on.

        ``inputs``: from ``inputs_of``. ``open_zeroshot``: the run's ZeroshotOpener.
        """
        training = self.training
        settings = asdict(build_settings(training, self.datasets.open(name), name))
        numbers = self.files.numbers
        begins = content_digest(self._start(start))
        self._first = self._first or begins
        return {
            "start": begins,
            "inputs": content_digest(inputs),
            "zero-shot": content_digest([self._zeroshot(path, open_zeroshot) for path in self.teachers]),
            "data": content_digest([name, self._others(), self.data.trained(name, self.custom)]),
            "other data": content_digest([[*other, self.data.read(*other)] for other in sorted(self.read(start))]),
            "flags": content_digest({key: numbers[key] for key in numbers if key not in NOT_TRAINED}),
            "settings": content_digest({key: settings[key] for key in settings if key not in FREE}),
            "log": self.files.log_interval,
            "method": self._sources() if self.custom else None,
            **self._computer,
        }

    def start_parts(self, start):
        """Return {what: digest} of everything, data aside, that a checkpoint's scores before any training
        depend on."""
        numbers = self.files.numbers
        return {"scored start": content_digest(self._start(start)),
                "flags": content_digest({key: numbers[key] for key in SCORED_WITH}), **self._computer}

    def _sources(self):
        return content_digest([sources_digest(row.target.rpartition(":")[0]) for row in self.training.custom])

    @functools.cached_property
    def _computer(self):
        return {"code": code_digest(), "versions": content_digest([platform.python_version(), versions()]),
                "machine": machine(self.device)}

    def _start(self, start):
        """Return everything in a checkpoint that a task can see."""
        history = [{key: entry.get(key) for key in RECORDED} | (
            {"metrics": sorted(entry.get("metrics", {}).items())} if self.custom else {})
            for entry in start.get("history", [])]
        return [[start.get(part) for part in PARTS_OF_A_START], model_name(start), history]

    def _others(self):
        """Return further tasks: joint training uses all of them, and a custom method may open any as it is
        trained on."""
        return self.joint or (sorted(self.training.trained) if self.custom else None)

    @property
    def joint(self):
        """The datasets that are trained on as one."""
        return self.training.trained if self.training.joint else ()

    @property
    def teachers(self):
        """Return the zero-shot weights that a task may read: values of --ref-model, None for those of the run.

        A custom method may read those that the run starts from.
        """
        training = self.training
        if self.custom and not self.scoring.load:
            return [None]
        merges = training.wise_merge and training.wise_ft_model == "zeroshot"
        return [*([training.ref_model] if "ref_model" in training.reads else []), *([None] if merges else [])]

    def _zeroshot(self, path, open_zeroshot):
        """Return the digest of weights, from the copy that the run keeps anyway."""
        if self.custom and path is None:
            return self._first
        if path not in self._weights:
            merges = path is None and self.training.wise_merge
            opened = open_zeroshot(path) if self.training.ref_wise or merges else open_zeroshot.teacher(path)
            self._weights[path] = content_digest(opened.state_dict())
        return self._weights[path]

    def read(self, start):
        """Return {(dataset, whether it is opened as it was trained on)} that the method reads besides the
        task's own."""
        training, reads = self.training, self.training.reads
        flags = {"ref_dataset": [training.ref_dataset], "ref_sentences": [training.ref_sentences],
                 "text_datasets": training.text_datasets or (), "ddas_reference": [training.ddas_reference]}
        named = {(name, False) for flag, names in flags.items() if flag in reads for name in names
                 if name not in (None, "random")}
        replayed = {(source, True) for entry in start.get("history", []) for source in _sources(entry)}
        return named | (replayed if "memory_size" in reads else set())

    def scored(self, name, spaces, opened, evaluated):
        """Return the key of a task's scores on the dataset ``name``.

        ``spaces``: {label space: files whose classes it joins}. ``opened``: {file: Task}. ``evaluated``:
        everything that the run scores, which a custom method may mix.
        """
        flags = {key: getattr(self.scoring, key) for key in SCORING}
        joined = {space: [words_digest(opened[file]) for file in files] for space, files in spaces.items()}
        return content_digest([name, flags, joined, self.data.scored(name, self.scoring.eval_split),
                               words_digest(self.datasets.open(name)), list(evaluated) if self.custom else None])


def _sources(entry):
    """Return the datasets of an earlier task, as on the command line."""
    source = entry.get("source", entry["dataset"])
    return source.split(",") if entry["dataset"] == JOINT else [source]


def key_of(parts):
    """Return the key of an entry, given {what: digest}."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
