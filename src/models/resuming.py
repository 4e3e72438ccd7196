"""What a task that was interrupted resumes from, and whether the number of processes may change meanwhile."""

import torch

from src.errors import UserError
from src.models.attached import is_dropout
from src.models.fingerprints import digests
from src.models.hooks import kept_for, named
from src.models.memory import tensors_of

PACKAGE = __name__.rpartition(".")[0] + "."  # "src.models.", or that of an installed package


def drawn_by_process(state, hooks):
    """Why a run depends on the number of its processes by more than rounding, None where it does not."""
    if any(map(is_dropout, (part for module in state.modules() for part in module.modules()))):
        return "each process draws the dropout of its own rows"
    return None if all_built_in(hooks) else "a custom method may draw in each process"


def all_built_in(hooks):
    """Whether all hooks are of this package, under whatever name it is installed."""
    return all(type(hook).__module__.startswith(PACKAGE) for hook in hooks)


def state_of_run(state, hooks):
    """Return all that ``restore`` needs after a step beside the weights at load: tensors, not copied, and plain
    types."""
    return {
        "iteration": state.iteration,
        "moving": {name: value.detach() for name, value in moving_tensors(state).items()},
        "optimizer": state.optimizer.state_dict() if state.optimizer else None,
        "scaler": state.scaler.state_dict(),
        "ensemble": None if state.ensemble is None else state.ensemble.state_dict(),
        **({"own_average": state.own_average} if state.own_average else {}),
        "hooks": {name: kept for name, hook in named(hooks).items() if (kept := hook.state_dict())},
    }


@torch.no_grad()
def restore(state, hooks, content):
    """Restore what ``state_of_run`` returned, after ``begin`` with the weights at load and with a new optimiser."""
    found = moving_tensors(state)
    wrong = sorted(content["moving"].keys() ^ found.keys())
    if wrong:
        raise UserError(f"--resume: other tensors move than when the task was interrupted, such as {wrong[0]}")
    for name, value in content["moving"].items():
        found[name].copy_(value)
    if state.optimizer:
        state.optimizer.load_state_dict(content["optimizer"])
    state.scaler.load_state_dict(content["scaler"])
    if state.ensemble is not None:
        state.ensemble.load_state_dict(content["ensemble"])
    for name, average in state.own_average.items():
        for key, value in average.items():
            value.copy_(content["own_average"][name][key])
    for name, hook in named(hooks).items():
        if kept := kept_for(content["hooks"], name):
            hook.load_state_dict(kept)


def moving_tensors(state):
    """{name: what the weights at load do not tell}: the CLIP's parameters that require a gradient, the statistics of
    batch norms, weights at rest that hooks changed as they began, and all of own modules."""
    kept = {*(name for name, value in state.model.named_parameters() if not value.requires_grad), "token_rows"}
    kept -= state.changed
    own = {f"own.{name}.{key}": value for name, module in state.own.items() for key, value in tensors_of(module)}
    return {name: value for name, value in tensors_of(state.model) if name not in kept} | own


class WatchedWeights:
    """The weights of a CLIP before hooks begin, so that what a hook does to them is seen."""

    def __init__(self, model):
        self.model = model
        self.names = {plain(name) for name in model.state_dict()}
        self.before = {plain(name): digest for name, digest in self._digests()}

    def _digests(self):
        names, tensors = zip(*tensors_of(self.model), strict=True)
        return zip(names, digests(tensors), strict=True)

    def changed(self):
        """Return the names of the tensors that are others by now."""
        return {name for name, digest in self._digests() if self.before.get(plain(name)) != digest}

    def refuse_new(self, hook):
        """UserError where a hook has added parameters or buffers to the CLIP, those of adapters apart: a checkpoint
        with them could not be loaded."""
        added = [name for name in self.model.state_dict() if plain(name) not in self.names and ".lora_" not in name]
        if added:
            kind = type(hook).__name__
            sort = "parameter" if added[0] in dict(self.model.named_parameters()) else "buffer"
            raise UserError(f"{kind} adds the {sort} {added[0]} to the CLIP: a checkpoint holds a plain CLIP, so it "
                            f"would train and be lost. Modules of its own belong into {kind}.build, which returns them")


def plain(name):
    """The name that a tensor of an adapted layer has without the adapter."""
    return name.replace(".base_layer.", ".")
