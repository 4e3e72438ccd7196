"""--dry-run: what a run would do, told before anything is done. Nothing is written and nothing is fetched.

    python -m src.main --method ZSCL --dataset-order mtil-1 --ref-dataset ImageNet --save ckpt/zscl --dry-run
    python -m src.main --method lwf --dataset-order toy --dry-run=probe        # runs three steps, too
"""

import contextlib
import functools
import io
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from clip import catalog, loader
from clip.model import CLIP
from src.args import all_origins
from src.build import (
    Datasets,
    ZeroshotOpener,
    build_hooks,
    build_settings,
    build_state,
    model_name,
    starting_checkpoint,
)
from src.datasets import find_entry, phase_of, stem
from src.datasets.common import Split, Task, batches_per_epoch
from src.datasets.pairs import JOINT
from src.errors import UserError
from src.export import Export
from src.files import reading_only
from src.flags import EVAL, SEQUENCE
from src.models.memory import weight_copies
from src.models.training import begin, train
from src.progress import clock
from src.report.tables import markdown_table
from src.resume import ResumePoints, refuse_other_configuration
from src.run import Run
from src.templates.collections import SIMPLE

PROBED = 3  # steps
SAMPLE = 8  # of a dataset's classes and sentences: enough to see which copies of the weights a method keeps


def tell_plan(config):
    """Print what the run of a checked Config would do. -> its exit status, 2 where it would be refused."""
    with reading_only():
        plan = make_plan(config)
    for title, text in plan.parts.items():
        print(f"{title}\n{text}\n")
    if plan.refusals:
        print("the run would be refused\n" + "\n".join(f"- {reason}" for reason in plan.refusals))
    else:
        print("the run would start")
    return 2 if plan.refusals else 0


@dataclass
class Plan:
    """``parts`` {title: text} in the order in which they are told; ``refusals``: why the run would not start."""

    parts: dict = field(default_factory=dict)
    refusals: list = field(default_factory=list)

    @contextlib.contextmanager
    def unless_refused(self):
        """What ends within with a UserError is a refusal."""
        try:
            yield
        except UserError as error:
            self.refuse(str(error))

    def refuse(self, reason):
        if reason not in self.refusals:
            self.refusals.append(reason)


def make_plan(config):
    plan, datasets = Plan(), PlannedDatasets(config)
    folder = config.save or (Path(config.load).parent if len(config.loaded) == 1 else None)
    run = Run(config, folder, datasets=datasets)
    start, weights = planned_start(config)
    if config.kind == EVAL and not config.linear_eval:
        run.adopt(start)
    names = [JOINT] if config.joint else list(config.trained) if config.kind != EVAL else []
    zeroshot = PlannedZeroshot(config, start, run.device)
    probed = None
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        table = data_table(config, datasets, run, names)
        refuse(plan, run, datasets, names, start, zeroshot)
        first = first_task(config, run, names[0], start, zeroshot, plan) if names else None
        complete = not (plan.refusals or datasets.fetched or weights or zeroshot.absent)
        if config.dry_run == "probe" and names and complete:
            with plan.unless_refused():
                probed = probe(config, run, names[0], start, zeroshot)
    lines = [text for text in dict.fromkeys((weights, *zeroshot.absent.values())) if text]
    plan.parts |= {"values by origin": all_origins(config),
                   f"data under {config.data_location}": "\n".join([table, *datasets.fetched.values()])}
    plan.parts["model"] = "\n".join([model_text(config, start, run.device, first), *lines])
    if names:
        plan.parts["method"] = hooks_text(plan, config, start)
        plan.parts["tasks"] = tasks_text(config, datasets, names)
        plan.parts["memory of the first task"] = memory_text(first)
    plan.parts["files"] = files_text(config, run, names, plan)
    if config.dry_run == "probe":
        plan.parts["probe"] = probe_text(config, datasets, names, probed)
    if notes := told.getvalue().strip():
        plan.parts["what was said on the way"] = notes
    return plan


# -- data --------------------------------------------------------------------------------------------------------------


class PlannedDatasets(Datasets):
    """As Datasets, but what is not there ends nothing: ``fetched`` {name: what the run would download}, ``refused``
    {name: why it cannot be opened}. In its place is a Task of what the table of datasets says, without images."""

    def __init__(self, config):
        super().__init__(config)
        self.root, self.fetched, self.refused = config.data_location, {}, {}

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

    def state_of(self, name):
        """Of a dataset that was asked for."""
        base = phase_of(name)[0]
        found = next((state for names, state in ((self.refused, "missing"), (self.fetched, "to download"))
                      if any(base == known or base.startswith(f"{known}-") for known in names)), None)
        entry = None if name == JOINT else find_entry(base)
        return found or ("drawn" if entry and entry.target.endswith(":open_toy") else "here")

    def known(self, name):
        """The Task, or one of a single class and image where nothing is known."""
        with contextlib.suppress(UserError):
            task = self.open(name)
            if task.reference_split is not None:
                return task
        return Task(stem(name) if name != JOINT else name, ["thing"], SIMPLE, {"train": Split(no_image, [0])},
                    sentences=["a thing"])


def stand_in(name, entry):
    """A Task with the classes and image counts of a row of the table of datasets."""
    classes = entry.classes or 1
    splits = {split: Split(no_image, [index % classes for index in range(size)],
                           captions=[["a caption"]] * size if entry.pairs else None)
              for split, size in entry.sizes.items()}
    return Task(name, [f"class {number}" for number in range(1, (entry.classes or 0) + 1)], SIMPLE, splits,
                sentences=["a caption"] if entry.pairs else [], pairs=entry.pairs)


def no_image(index):
    raise UserError("the images are not there")


def roles(config, run, names):
    """{dataset: what the run takes it for}"""
    reads = config.method_row.uses if names else ()
    found = {}
    for role, those in (
            ("training", config.trained if names else ()),
            ("linear layer", [config.linear_eval] if config.linear_eval else []),
            ("evaluation", [] if config.linear_eval else run.evaluated),
            ("reference", [config.ref_dataset] if "ref_dataset" in reads and config.ref_dataset else []),
            ("sentences", [config.ref_sentences] if "ref_sentences" in reads and config.ref_sentences
             and config.ref_sentences != "random" else []),
            ("prompts", config.text_datasets if "text_datasets" in reads else [])):
        for name in those:
            found.setdefault(name, []).append(role)
    return found


def data_table(config, datasets, run, names):
    rows = []
    for name, taken in roles(config, run, names).items():
        count = functools.partial(images_of, datasets, name)
        rows.append([name, ", ".join(taken), classes_of(datasets, name), count("train"), count(config.eval_split),
                     datasets.state_of(name)])
    return markdown_table(["dataset", "for", "classes", "train", config.eval_split, "state"], rows)


def images_of(datasets, name, split):
    with contextlib.suppress(UserError):
        task = datasets.open(name)
        return len(task.split(split)) if split in task.splits else None


def classes_of(datasets, name):
    with contextlib.suppress(UserError):
        return len(datasets.open(name).classnames) or None


# -- what would be refused ---------------------------------------------------------------------------------------------


def refuse(plan, run, datasets, names, start, zeroshot):
    """All that stops the run before it begins. What data would be checked for is not told of data that is not there."""
    config = run.config
    try:
        run.open_for_training(config.linear_eval) if config.linear_eval else run.open(names)
    except UserError as error:
        if not datasets.refused:
            plan.refuse(str(error))
    for reason in datasets.refused.values():
        plan.refuse(reason)
    with plan.unless_refused():
        if not datasets.refused:
            run.refuse(names, start, zeroshot)
            if config.kind == EVAL and config.wise_ft:
                zeroshot()
    with plan.unless_refused():
        Export(config.export).refuse(start["architecture"], config.overwrite, config.numbers() if names else None)
    for flag, folder in (("--save", config.save), ("--export", config.export)):
        if folder and not may_be_written(Path(folder)):
            plan.refuse(f"{flag} {folder}: cannot be written; give another")


def may_be_written(folder):
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


# -- the model ---------------------------------------------------------------------------------------------------------


def planned_start(config):
    """-> (the checkpoint that the run starts from, what would be fetched for it or None)."""
    if config.load:  # of several files of a sequence the last, which knows of all its tasks
        return starting_checkpoint(replace(config, values=config.values | {"load": config.loaded[-1]})), None
    if config.init == "scratch":
        return starting_checkpoint(config), None
    missing = to_fetch(config.model, config)
    return (without_weights(config.model), missing) if missing else (starting_checkpoint(config), None)


def to_fetch(name, config):
    """What is said of published weights that are not there; None where they are."""
    place = loader.weights_place(name, config.clip_cache)
    return None if place.is_file() else (f"the weights of {name} are not at {place}: the run would download them from "
                                         f"{catalog.archive_address(name)}")


def without_weights(name):
    """A checkpoint of zeros in the shapes of a published model."""
    architecture = catalog.read_architecture(name)
    with torch.device("meta"):
        shapes = CLIP(**architecture).state_dict()
    return {"architecture": architecture, "model": name,
            "state_dict": {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}}


class PlannedZeroshot(ZeroshotOpener):
    """As ZeroshotOpener, with zeros in the place of weights that would be fetched, which ``absent`` {name: sentence}
    tells."""

    def __init__(self, config, checkpoint, device):
        super().__init__(config, checkpoint, device)
        self.absent = {}

    def _read(self, path):
        name = None if path or self._config.init == "scratch" else model_name(self._config, self._checkpoint)
        missing = name in catalog.ARCHIVES and to_fetch(name, self._config)
        if not missing:
            return super()._read(path)
        self.absent[name] = missing
        return self._device.place(loader.build(without_weights(name))).eval().requires_grad_(False)


@dataclass(frozen=True)
class FirstTask:
    """The trained tensors and values of the first task, all tensors and values there are, and its Memory, None where a
    hook could not begin."""

    tensors: int
    values: int
    all_tensors: int
    all_values: int
    memory: Any


def first_task(config, run, name, start, zeroshot, plan):
    """Build the first task and let its hooks begin on a few classes and sentences. -> FirstTask, or None where it
    cannot be built."""
    plain = replace(config, values=config.values | {"fc_init": "zero"})  # a head of the right shape is all it takes
    with plan.unless_refused():
        state = build_state(plain, Known(run.datasets), name, start, run.device, zeroshot)
        state.world, state.task, state.open_task = run.world, sampled(state.task), Known(run.datasets).sample
        everything = list(state.model.parameters())
        trained = [parameter for parameter in everything if parameter.requires_grad]
        memory, hooks = None, build_hooks(config, start, run.basis)
        with plan.unless_refused():
            begin(state, hooks)
            left = {key: value for key, value in start.items() if key != "state_dict" or config.pairs}
            memory = weight_copies(state, hooks, {"zero-shot": zeroshot.kept, "checkpoint": left})
        return FirstTask(len(trained), values_of(trained), len(everything), values_of(everything), memory)


class Known:
    """Opens what is known of each dataset, and never fails."""

    def __init__(self, datasets):
        self.open = datasets.known

    def sample(self, name, trained=False):
        """Exemplars know of all that was trained on; for everybody else a few classes do."""
        return self.open(name) if trained else sampled(self.open(name))


def sampled(task):
    """The task with all its images, and few classes and sentences."""
    return replace(task, classnames=task.classnames[:SAMPLE], templates=task.templates[:1],
                   sentences=task.sentences[:SAMPLE], parts=tuple(map(sampled, task.parts)))


def values_of(parameters):
    return sum(parameter.numel() for parameter in parameters)


def model_text(config, start, device, first):
    name = model_name(config, start) or "an architecture of its own"
    source = f"weights of {config.load}" if config.load else "random weights" if config.init == "scratch" else (
        "published weights" if name in catalog.ARCHIVES else "weights that come with the package")
    where = f"{name}, {source}, on {device.describe()} in {device.precision}"
    if first is None:
        return f"{where}, {values_of(start['state_dict'].values()):,} values"
    how = f"--train-mode {config.train_mode}{' with adapters' if config.lora else ''}"
    return (f"{where}\n{how} trains {first.tensors} of {first.all_tensors} tensors, {first.values:,} of "
            f"{first.all_values:,} values ({100 * first.values / first.all_values:.2f} %)")


def memory_text(first):
    if first is None or first.memory is None:
        return "cannot be told: see below why the run would be refused"
    return (f"{str(first.memory).removeprefix('memory: ')}; activations, which backward needs, are not in it: "
            "--dry-run=probe measures the peak")


# -- what would be done ------------------------------------------------------------------------------------------------


def hooks_text(plan, config, start):
    with plan.unless_refused():
        names = [type(hook).__name__ for hook in build_hooks(config, start)]
        last = f"; at the end of a task {names[0]} comes last" if len(names) > 1 else ""
        return f"{' -> '.join(names)}, in this order at each step{last}"
    return "cannot be built"


def settings_of(config, datasets, name):
    """The Settings of a task, None where its number of steps cannot be told."""
    with contextlib.suppress(UserError):
        return build_settings(config, datasets.open(name), name)


def tasks_text(config, datasets, names):
    rows, total = [], 0
    for number, name in enumerate(names, 1):
        settings, images = settings_of(config, datasets, name), images_of(datasets, name, "train")
        if settings is None:
            steps = config.iterations
            rows.append([f"{number} {name}", images, steps, None, None, None])
        else:
            steps, each = settings.iterations, batches_per_epoch(images, settings.batch_size)
            rows.append([f"{number} {name}", images, steps, f"{steps / each:.1f}", f"{settings.lr:g}", settings.warmup])
        total = None if steps is None or total is None else total + steps
    table = markdown_table(["task", "images", "steps", "epochs", "peak lr", "warm-up"], rows)
    return (f"{table}\n{'unknown' if total is None else total} steps in all, {config.batch_size} images each; the rate "
            "rises by line to its peak over the warm-up, then falls by cosine to 0")


def files_text(config, run, names, plan):
    if run.folder.path is None or config.kind == EVAL and not config.save and not config.load:
        return "nothing is kept without --save"
    if config.kind == EVAL:
        scored = [config.linear_eval] if config.linear_eval else run.evaluated
        return "\n".join(f"{run.folder.file(f'metrics_{stem(name)}.csv')}" for name in scored)
    lines = []
    for name in names:
        with plan.unless_refused():
            lines.append(f"{run.folder.file(f'{stem(name)}.pth')}: {state_of_task(config, run.folder, stem(name))}")
    beside = "metrics, logs and run_<DATASET>.json" + (", summary and matrices" if config.kind == SEQUENCE else "")
    return "\n".join([*lines, f"{run.folder.path}: {beside} beside them"])


def state_of_task(config, folder, file):
    """What an earlier run has left of a task, and what comes of it."""
    if folder.has(f"{file}.pth"):
        return "finished, and skipped" if config.resume else "finished, and replaced"
    points = ResumePoints(folder, file, config.save_interval)
    if not (points.newest.exists() or points.previous.exists()):
        return "new"
    kept = points.read() if config.resume else None
    if kept is None:
        return "unfinished, and begun anew"
    refuse_other_configuration(config, kept, points.newest)
    return f"unfinished, goes on after step {kept['iteration']}"


# -- three steps -------------------------------------------------------------------------------------------------------


class Enough(Exception):
    """The last step that is probed is done."""


@dataclass(frozen=True)
class Probe:
    """Seconds until the first step begins, of the first step and of a later one; bytes at the peak."""

    before: float
    first: float
    step: float
    peak: int


def probe(config, run, name, start, zeroshot):
    """Run the first steps of the first task, of which nothing is kept. -> Probe"""
    run.device.forget_peak()
    times = [time.perf_counter()]
    state = build_state(config, run.datasets, name, start, run.device, zeroshot)
    state.world = run.world
    last = min(PROBED, state.settings.iterations)

    def report(state, losses):
        for value in losses.values():
            value.item()  # the step is done when its values are there
        times.append(time.perf_counter())
        if state.iteration == last:
            raise Enough
    with contextlib.suppress(Enough), run.device.enough_memory(f"--batch-size {config.batch_size}"):
        train(state, build_hooks(config, start, run.basis), report,
              lambda state, hooks: times.append(time.perf_counter()))
    began, begun, *done = times
    return Probe(begun - began, done[0] - begun, (done[-1] - done[0]) / max(1, len(done) - 1) or done[0] - begun,
                 run.device.peak_memory())


def probe_text(config, datasets, names, probed):
    if not names:
        return "an evaluation has no steps"
    if probed is None:
        return "not run: see what is missing"
    steps = sum(settings_of(config, datasets, name).iterations for name in names)
    return (f"{probed.step:.3f} s a step after a first one of {probed.first:.2f} s; {probed.before:.1f} s before it\n"
            f"{steps} steps in all: about {clock(steps * probed.step + len(names) * probed.before)}, evaluations not "
            f"counted\npeak memory {probed.peak / 2 ** 30:.2f} GiB")
