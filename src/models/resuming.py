"""State from which an interrupted task resumes, and whether the number of processes may change."""

import torch

from src.errors import UserError
from src.models.attached import is_dropout
from src.models.fingerprints import digests
from src.models.hooks import kept_for, named
from src.models.memory import tensors_of
from src.models.wrapped import BESIDE_LORA, added_names, has_lora, plain_name, refuse_lost, wrapped_layers

PACKAGE = __name__.rpartition(".")[0] + "."  # "src.models.", or that of an installed package


def drawn_by_process(state, hooks):
    """Return why a run depends on its number of processes by more than rounding; None if it does not."""
    if any(map(is_dropout, (part for module in state.modules() for part in module.modules()))):
        return "each process draws the dropout of its own rows"
    return None if all_built_in(hooks) else "a custom method may draw in each process"


def all_built_in(hooks):
    """Return whether all hooks belong to this package, under whatever name it is installed."""
    return all(type(hook).__module__.startswith(PACKAGE) for hook in hooks)


def state_of_run(state, hooks):
    """Return all that ``restore`` needs after a step, beside the weights at load: tensors, not copied, and
    plain types."""
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
        raise UserError(f"--resume: the tensors that move are not those of the interrupted task, such as {wrong[0]}. "
"Leave --resume out to start again")
    for name, value in content["moving"].items():
        if found[name].shape != value.shape:
            raise UserError(f"--resume: {name} has the shape {tuple(found[name].shape)}, but {tuple(value.shape)} when "
                            "the task was interrupted: begin chose another size. Leave --resume out to start again")
        found[name].copy_(value)
    state.forget_merged()
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
    """Return {name: tensor} of what the weights at load do not determine: the CLIP's parameters that
    require a gradient, its buffers (batch norm statistics, frozen factors of wrapped layers), weights at
    rest that hooks changed in ``begin``, also in the copy of the weights at load, and all own modules."""
    kept = {*(name for name, value in state.model.named_parameters() if not value.requires_grad), "token_rows"}
    kept -= state.changed
    own = {f"own.{name}.{key}": value for name, module in state.own.items() for key, value in tensors_of(module)}
    at_load = {f"at_load.{name}": value for name, value in state.at_load_changed().items()}
    return {name: value for name, value in tensors_of(state.model) if name not in kept} | own | at_load


class WatchedWeights:
    """The weights of a CLIP before hooks begin, to detect what a hook changes."""

    def __init__(self, model):
        self.model = model
        self.names = self._plain_names()
        self.wrapped, self.has_lora = {name for name, _, _ in wrapped_layers(model)}, has_lora(model)
        self.before = {plain_name(name): digest for name, digest in self._digests()}

    def _plain_names(self):
        """Return {name in a checkpoint of the CLIP: name in the model}, without what wraps its layers."""
        wrapping = added_names(self.model)
        return {plain_name(name): name for name in self.model.state_dict() if name not in wrapping}

    def _digests(self):
        names, tensors = zip(*tensors_of(self.model), strict=True)
        return zip(names, digests(tensors), strict=True)

    def changed(self):
        """Return the names of the tensors that have changed."""
        return {name for name, digest in self._digests() if self.before.get(plain_name(name)) != digest}

    def refuse_new(self, hook):
        """Raise UserError if a hook added parameters or buffers to the CLIP or removed some, since its
        checkpoint could not be loaded. A layer's wrapper may add what a merge folds into the layer's
        weights."""
        kind, names = type(hook).__name__, self._plain_names()
        added = [name for plain, name in names.items() if plain not in self.names]
        if added:
            sort = "parameter" if added[0] in dict(self.model.named_parameters()) else "buffer"
            raise UserError(f"{kind} adds the {sort} {added[0]} to the CLIP: a checkpoint holds a plain CLIP, so it "
                            f"would train and be lost. Own modules belong into {kind}.build, which returns "
                            "them; low-rank updates of weights belong into wrapped layers (src.models.wrapped)")
        gone = self.names.keys() - names.keys()
        if gone:
            raise UserError(f"{kind} removes {min(gone)} from the CLIP: no checkpoint of it could be loaded. A module "
                            "that replaces a layer must hold it as base_layer (src.models.wrapped)")
        new = {name for name, _, _ in wrapped_layers(self.model)} - self.wrapped
        if new and self.has_lora:
            raise UserError(BESIDE_LORA)
        refuse_lost(self.model, new, kind)
