"""What a finished task depends on, as a key: two runs with the same one would train the same bits.

A task does not know its place in a sequence, nor the tasks to come: what it has of the earlier ones is in the
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

# Flags that can change a result, and not what a task trains: which tasks there are, how they are scored, and what the
# settings of the task or the digests of its data and weights say in their place.
NOT_TRAINED = ("train_dataset", "dataset_order", "phase", "load", "image_dir", "annotations", "iterations", "epochs",
               "lr", "warmup_length", "eval_datasets", "max_evaluation_size", "eval_split", "label_space",
               "retrieval_split")
FREE = ("workers", "grad_checkpointing")  # of the settings of a task: two runs may differ in them
# Flags beside those that change what weights score without training.
SCORED_WITH = ("seed", "deterministic", "precision", "tf32", "template", "wilds_split", "class_order", "val_fraction",
               "split_file", "skip_bad_images")
PARTS_OF_A_START = ("architecture", "state_dict", "heads", "carry", "own", LEFT_OUT)
TOLD = ("dataset", "source", "classnames", "train_data")  # of an earlier task
SCORING = ("label_space", "max_evaluation_size", "eval_split", "retrieval_split", "wilds_split", "batch_size_eval")


class TaskKeys:
    """The keys of the tasks of a run, by its settings. Those of custom methods and hooks hold more: what these may
    read."""

    def __init__(self, training, scoring, files, datasets, device):
        self.training, self.scoring, self.files, self.datasets = training, scoring, files, datasets
        self.device, self.data = device, DataDigests(datasets)
        self.custom = bool(training.custom)
        self._first = None                  # the digest of what the run starts from
        self._weights = {}                  # {value of --ref-model or None: digest}

    def parts(self, name, start, inputs, open_zeroshot):
        """{what: digest} of all that the task ``name`` from the checkpoint ``start`` depends on. ``inputs``: what
        ``inputs_of`` says of it. ``open_zeroshot``: the ZeroshotOpener of the run."""
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
        """{what: digest} of all that the scores of a checkpoint before any training depend on, apart from data."""
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
        """All of a checkpoint that a task can see."""
        history = [{key: entry.get(key) for key in TOLD} | (
            {"metrics": sorted(entry.get("metrics", {}).items())} if self.custom else {})
            for entry in start.get("history", [])]
        return [[start.get(part) for part in PARTS_OF_A_START], model_name(start), history]

    def _others(self):
        """The tasks beside one: joint training is on all of them, and a custom method may open any as it is trained
        on."""
        return self.joint or (sorted(self.training.trained) if self.custom else None)

    @property
    def joint(self):
        """The datasets that are trained on as one."""
        return self.training.trained if self.training.joint else ()

    @property
    def teachers(self):
        """The zero-shot weights that a task may read: values of --ref-model, None for those of the run. A custom method
        may read those that the run starts from."""
        training = self.training
        if self.custom and not self.scoring.load:
            return [None]
        merges = training.wise_merge and training.wise_ft_model == "zeroshot"
        return [*([training.ref_model] if "ref_model" in training.reads else []), *([None] if merges else [])]

    def _zeroshot(self, path, open_zeroshot):
        """The digest of weights, by the copy of them that the run keeps anyway."""
        if self.custom and path is None:
            return self._first
        if path not in self._weights:
            merges = path is None and self.training.wise_merge
            opened = open_zeroshot(path) if self.training.ref_wise or merges else open_zeroshot.teacher(path)
            self._weights[path] = content_digest(opened.state_dict())
        return self._weights[path]

    def read(self, start):
        """{(dataset, whether it is opened as it was trained on)} of what the method reads beside the task's own."""
        training, reads = self.training, self.training.reads
        flags = {"ref_dataset": [training.ref_dataset], "ref_sentences": [training.ref_sentences],
                 "text_datasets": training.text_datasets or (), "ddas_reference": [training.ddas_reference]}
        named = {(name, False) for flag, names in flags.items() if flag in reads for name in names
                 if name not in (None, "random")}
        replayed = {(source, True) for entry in start.get("history", []) for source in _sources(entry)}
        return named | (replayed if "memory_size" in reads else set())

    def scored(self, name, spaces, opened, evaluated):
        """The key of the scores of a task on the dataset ``name``. ``spaces``: {label space: files whose classes it
        joins}; ``opened``: {file: Task}; ``evaluated``: all that the run scores, which a custom method may mix."""
        flags = {key: getattr(self.scoring, key) for key in SCORING}
        joined = {space: [words_digest(opened[file]) for file in files] for space, files in spaces.items()}
        return content_digest([name, flags, joined, self.data.scored(name, self.scoring.eval_split),
                               words_digest(self.datasets.open(name)), list(evaluated) if self.custom else None])


def _sources(entry):
    """The datasets of an earlier task, as the command line named them."""
    source = entry.get("source", entry["dataset"])
    return source.split(",") if entry["dataset"] == JOINT else [source]


def key_of(parts):
    """{what: digest} -> the key of an entry."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
