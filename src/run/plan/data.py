"""Look up the datasets of a planned run: what is there, what would be fetched, and stand-ins for the rest."""

import contextlib
import functools
from dataclasses import replace
from pathlib import Path

from src.datasets import class_split, coop, find_entry, phase_of, stem
from src.datasets.common import Split, Task
from src.datasets.pairs import JOINT
from src.errors import UserError
from src.report.tables import markdown_table
from src.run.datasets import Datasets
from src.templates.collections import SIMPLE

SAMPLE = 8  # classes and sentences per dataset: enough to see which copies of the weights a method keeps


class PlannedDatasets(Datasets):
    """Act as Datasets, but record missing data instead of failing.

    ``fetched``: {name: what the run would download}. ``refused``: {name: why it cannot be opened}. A stand-in
    Task, built from the table of datasets and without images, takes the place of missing data.
    """

    def __init__(self, data):
        super().__init__(data)
        self.root, self.fetched, self.refused = data.data_location, {}, {}

    def _as_it_comes(self, name):
        entry = find_entry(name)
        place = Path(self.root) / entry.folder
        if entry.downloads and not place.exists():
            self.fetched[name] = f"{name} is not at {place}: the run would download it"
            return stand_in(name, entry)
        try:
            return super()._as_it_comes(name)
        except UserError as error:
            self.refused[name] = str(error)
            return stand_in(name, entry)

    def _with_lists(self, base):
        """Return the dataset as it comes if it is not here; missing lists are a refusal."""
        task = self._opened(base)
        try:
            if self._is_here(base):
                return super()._with_lists(base)
            if self._lists and coop.has_list(base):
                coop.find_lists(base, self._lists)
        except UserError as error:
            self.refused[base] = str(error)
        return task

    def _is_here(self, base):
        return base not in self.fetched and base not in self.refused

    def lists_of(self, name):
        return super().lists_of(name) if self._is_here(class_split(phase_of(name)[0])[0]) else None

    def state_of(self, name):
        """Return the state of a dataset that was opened."""
        base = phase_of(name)[0]
        found = next((state for names, state in ((self.refused, "missing"), (self.fetched, "to download"))
                      if any(base == known or base.startswith(f"{known}-") for known in names)), None)
        entry = None if name == JOINT else find_entry(base)
        return found or ("drawn" if entry and entry.target.endswith((":open_toy", ":open_mini")) else "here")

    def known(self, name):
        """Return the Task, or one with a single class and image if nothing is known."""
        with contextlib.suppress(UserError):
            task = self.open(name)
            if task.reference_split is not None:
                return task
        return Task(stem(name) if name != JOINT else name, ["thing"], SIMPLE, {"train": Split(no_image, [0])},
                    sentences=["a thing"])


def stand_in(name, entry):
    """Return a Task with the classes and image counts of a row of the table of datasets."""
    classes = entry.classes or 1
    splits = {split: Split(no_image, [index % classes for index in range(size)],
                           captions=[["a caption"]] * size if entry.pairs else None)
              for split, size in entry.sizes.items()}
    return Task(name, [f"class {number}" for number in range(1, (entry.classes or 0) + 1)], SIMPLE, splits,
                sentences=["a caption"] if entry.pairs else [], pairs=entry.pairs)


def no_image(index):
    raise UserError("the images are missing")


def roles(run, names):
    """Return {dataset: what the run uses it for}."""
    training, linear = run.training, run.scoring.linear_eval
    reads = training.reads if names else ()
    found = {}
    for role, those in (
            ("training", training.trained if names else ()),
            ("linear layer", [linear] if linear else []),
            ("evaluation", [] if linear else run.evaluated),
            ("reference", [training.ref_dataset] if "ref_dataset" in reads and training.ref_dataset else []),
            ("reference", [training.ddas_reference] if "ddas_reference" in reads and training.ddas_reference else []),
            ("sentences", [training.ref_sentences] if "ref_sentences" in reads and training.ref_sentences
             and training.ref_sentences != "random" else []),
            ("prompts", training.text_datasets if "text_datasets" in reads else [])):
        for name in those:
            found.setdefault(name, []).append(role)
    return found


def data_table(run, names):
    rows, datasets, split = [], run.datasets, run.scoring.eval_split
    for name, taken in roles(run, names).items():
        count = functools.partial(images_of, datasets, name)
        rows.append([name, ", ".join(taken), classes_of(datasets, name), count("train"), count(split),
                     datasets.state_of(name)])
    return markdown_table(["dataset", "for", "classes", "train", split, "state"], rows)


def images_of(datasets, name, split):
    with contextlib.suppress(UserError):
        task = datasets.open(name)
        return len(task.split(split)) if split in task.splits else None


def classes_of(datasets, name):
    with contextlib.suppress(UserError):
        return len(datasets.open(name).classnames) or None


class Known:
    """Open what is known of each dataset; never fail."""

    def __init__(self, datasets):
        self.open = datasets.known

    def sample(self, name, trained=False):
        """Return the whole Task for exemplars, which need all that was trained on; a few classes are enough
        otherwise."""
        return self.open(name) if trained else sampled(self.open(name))


def sampled(task):
    """Return the task with all its images but few classes and sentences."""
    return replace(task, classnames=task.classnames[:SAMPLE], templates=task.templates[:1],
                   sentences=task.sentences[:SAMPLE], parts=tuple(map(sampled, task.parts)))
