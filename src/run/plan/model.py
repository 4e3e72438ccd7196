"""Describe the model of a planned run: where its weights come from, which train, what a method keeps beside them."""

from dataclasses import dataclass, field, replace
from typing import Any

from clip import catalog
from src.models.memory import weight_copies
from src.models.training import begin
from src.run.build import build_task, silent_choices
from src.run.plan.data import Known, sampled
from src.run.weights import ZeroshotOpener, model_name, starting_checkpoint


def planned_start(weights):
    """Return (the checkpoint that the run starts from, what would be fetched for it or None).

    Raises LoadError if nothing is known of weights that would be fetched.
    """
    if weights.load:  # of several files, the last: it knows all tasks of the sequence
        weights = replace(weights, load=weights.loaded[-1])
    start = starting_checkpoint(weights, fetch=False)
    return start, start.pop("absent", None)


class PlannedZeroshot(ZeroshotOpener):
    """Act as ZeroshotOpener, with zeros for weights that would be fetched; ``absent`` {name: sentence} lists them."""

    fetch = False

    def __init__(self, wanted, checkpoint, device):
        super().__init__(wanted, checkpoint, device)
        self.absent = {}

    def _source(self, path):
        source = super()._source(path)
        if "absent" in source:
            self.absent[path or source["model"]] = source.pop("absent")
        return source


@dataclass(frozen=True)
class FirstTask:
    """Hold the numbers of trained and of all tensors and values of the first task, and its Memory.

    The Memory is None if a hook could not begin.
    """

    tensors: int
    values: int
    all_tensors: int
    all_values: int
    memory: Any
    choices: list = field(default_factory=list)  # made without a flag: see build.silent_choices


def first_task(run, name, start, zeroshot, plan):
    """Build the first task and let its hooks begin on a few classes and sentences. -> FirstTask, or None if it
    cannot be built"""
    plain = replace(run.training, fc_init="zero")  # only the head's shape matters
    with plan.unless_refused():
        state, hooks = build_task(plain, Known(run.datasets), name, start, run.device, zeroshot, run.basis)
        state.world, state.task, state.open_task = run.world, sampled(state.task), Known(run.datasets).sample
        state.planned = True
        memory = None
        with plan.unless_refused():
            begin(state, hooks)
            left = {key: value for key, value in start.items() if key != "state_dict" or run.training.pairs}
            memory = weight_copies(state, hooks, {"zero-shot": zeroshot.kept, "checkpoint": left})
        everything = [parameter for module in state.modules() for parameter in module.parameters()]
        trained = state.trained()  # after hooks have freed their parameters
        return FirstTask(len(trained), values_of(trained), len(everything), values_of(everything), memory,
                         silent_choices(run.training, state))


def values_of(parameters):
    return sum(parameter.numel() for parameter in parameters)


def model_text(run, start, first):
    name, weights, device = model_name(start) or "a custom architecture", run.command.weights, run.device
    source = f"weights of {weights.load}" if weights.load else "random weights" if weights.init == "scratch" else (
        "published weights" if name in catalog.ARCHIVES or name not in catalog.architecture_names()
        else "weights included in the package")
    where = f"{name}, {source}, on {device.describe()} in {device.precision}"
    if first is None:
        return f"{where}, {values_of(start['state_dict'].values()):,} values"
    how = f"--train-mode {run.training.train_mode}{' with adapters' if run.training.lora else ''}"
    return "\n".join([where, f"{how} trains {first.tensors} of {first.all_tensors} tensors, {first.values:,} of "
                      f"{first.all_values:,} values ({100 * first.values / first.all_values:.2f} %)", *first.choices])


def memory_text(first):
    if first is None or first.memory is None:
        return "unknown; see the reasons below"
    return (f"{str(first.memory).removeprefix('memory: ')}; without activations for backward: --dry-run=probe "
            "measures the peak")
