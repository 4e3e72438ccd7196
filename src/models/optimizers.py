"""The optimiser of a task: its parameter groups, and the rate of each step."""

import numbers

import torch

from src.errors import UserError
from src.models.helpers import late_cosine, learning_rate, one_cycle, warmed_up

WITH_BETAS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
KINDS = {**WITH_BETAS, "sgd": torch.optim.SGD}
GROUP_KEYS = ("params", "lr", "weight_decay")


# -- groups ------------------------------------------------------------------------------------------------------------


def groups_of(named, hooks, state):
    """Return torch's optimiser groups, [{"params", "lr", "weight_decay"}]: those defined by hooks, else one
    of all parameters.

    ``named``: [(name, parameter)] of all that trains; each must be in exactly one group. Frozen parameters
    are dropped from groups. UserError names the parameter and the hook.
    """
    given = [(type(hook).__name__, group) for hook in hooks for group in hook.groups(state) or ()]
    if not given:
        return [{"params": [parameter for _, parameter in named]}]
    groups = [(hook, _checked(hook, group)) for hook, group in given]
    _require_each_once(named, groups)
    return [group for _, group in groups if group["params"]]


def _checked(hook, group):
    """Return a group as torch expects it, without parameters that do not train."""
    if strange := sorted(group.keys() - {*GROUP_KEYS}):
        raise UserError(f"{hook}.groups: a group has {', '.join(map(repr, strange))}; it may have "
                        f"{', '.join(GROUP_KEYS)}")
    if "params" not in group:
        raise UserError(f"{hook}.groups: a group has no 'params', its list of parameters")
    for key in ("lr", "weight_decay"):
        value = group.get(key, 0.0)
        if not isinstance(value, numbers.Real) or not 0 <= value < float("inf"):
            raise UserError(f"{hook}.groups: {key} {value!r} is not a number of at least 0")
    params = [group["params"]] if isinstance(group["params"], torch.Tensor) else group["params"]
    return {**group, "params": [parameter for parameter in params if parameter.requires_grad]}


def _require_each_once(named, groups):
    """Refuse a trained parameter that is in no group or in two, and a group's parameter that belongs to no module."""
    hooks = {}
    for hook, group in groups:
        for parameter in group["params"]:
            hooks.setdefault(id(parameter), []).append(hook)
    for name, parameter in named:
        if len(hooks.get(id(parameter), ())) > 1:
            both = dict.fromkeys(hooks[id(parameter)])
            raise UserError(f"{name} is in two groups, of {' and '.join(both)}; leave it to one of them")
    if left := [name for name, parameter in named if id(parameter) not in hooks]:
        givers = " and ".join(dict.fromkeys(hook for hook, _ in groups))
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        raise UserError(f"{left[0]}{more} trains and is in no group of {givers}; put it into one, or freeze it in "
                        "begin (requires_grad_(False))")
    known = {id(parameter) for _, parameter in named}
    for hook, group in groups:
        for parameter in group["params"]:
            if id(parameter) not in known:
                raise UserError(f"{hook}.groups: a parameter of shape {tuple(parameter.shape)} belongs to no module of "
                                "the run, so no checkpoint would hold it")


# -- kinds -------------------------------------------------------------------------------------------------------------


def build_optimizer(parameters, settings):
    """Build the optimiser of ``settings``, fused if torch supports it. ``parameters``: a list of tensors,
    or of groups from ``groups_of``. Adam and SGD add the weight decay to the gradient, AdamW does not; SGD
    has no momentum."""
    tensors = [tensor for entry in parameters for tensor in (entry["params"] if isinstance(entry, dict) else [entry])]
    options = {"lr": settings.lr, "weight_decay": settings.wd, "fused": tensors[0].device.type in ("cpu", "cuda")}
    if settings.optimizer in WITH_BETAS:
        options |= {"betas": (0.9, settings.beta2), "eps": settings.eps}
    return KINDS[settings.optimizer](parameters, **options)


# -- rates -------------------------------------------------------------------------------------------------------------


def _cosine(step, settings, peak):
    floor = peak * settings.lr_floor / settings.lr if settings.lr_floor else 0.0
    return learning_rate(step, settings.iterations, settings.warmup, peak, floor)


def _one_cycle(step, settings, peak):
    return one_cycle(step, settings.iterations, peak / 25, peak, peak / 25 / 1e4)


def _constant(step, settings, peak):
    return warmed_up(step, settings.warmup, peak)


def _late_cosine(step, settings, peak):
    return late_cosine(step // settings.epoch_steps, settings.iterations // settings.epoch_steps, peak)


SCHEDULES = {"cosine": _cosine, "onecycle": _one_cycle, "constant": _constant, "late-cosine": _late_cosine}


def rate_at(step, settings, peak):
    """Return the learning rate at a step, counted from 0, for the peak rate ``peak``."""
    return SCHEDULES[settings.schedule](step, settings, peak)


class Schedule:
    """Sets the rate of each step; every group has its own peak, the rate it was built with. Under
    ``onecycle``, the first beta of Adam and AdamW runs from 0.95 to 0.85 and back, as in torch's
    OneCycleLR."""

    def __init__(self, optimizer, settings):
        self.optimizer, self.settings = optimizer, settings
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.cycles = settings.schedule == "onecycle" and settings.optimizer in WITH_BETAS

    def set(self, step):
        """Set the rates before a step, counted from 0."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = rate_at(step, self.settings, peak)
            if self.cycles:
                group["betas"] = one_cycle(step, self.settings.iterations, 0.95, 0.85, 0.95), group["betas"][1]


# -- parameters that a step must not change ----------------------------------------------------------------------------


class Untouched:
    """Reverts, bit for bit, what a step did to some parameters and to their optimiser state, as if they had
    no gradient. Which ones is known only on the device. ``groups``: lists of parameters of one shape."""

    def __init__(self, groups):
        self.groups, self._before = groups, {}

    def remember(self, optimizer):
        """Save the state before the step."""
        self._before = {key: torch.stack(tensors) for key, tensors in self._tensors(optimizer).items()}

    @torch.no_grad()
    def restore(self, optimizer, masks):
        """Restore it after the step. ``masks``: per group (N,), true where a parameter must be as before."""
        for (number, name), tensors in self._tensors(optimizer).items():
            after = torch.stack(tensors)
            before = self._before.get((number, name))  # missing in the first step: zeros
            mask = masks[number].to(after.device).view(-1, *[1] * (after.ndim - 1))
            after = torch.where(mask, torch.zeros_like(after) if before is None else before, after)
            torch._foreach_copy_(tensors, list(after.unbind()))
        self._before = {}

    def _tensors(self, optimizer):
        """Return {(group index, "weights" or a name of the optimiser's state): [tensor of each parameter]}."""
        found = {}
        for number, parameters in enumerate(self.groups):
            found[number, "weights"] = [parameter.detach() for parameter in parameters]
            for name in optimizer.state.get(parameters[0], ()):
                found[number, name] = [optimizer.state[parameter][name] for parameter in parameters]
        return found
