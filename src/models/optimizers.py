"""The optimiser of a task: which parameters it has in which groups, and the rate of each step."""

import numbers

import torch

from src.errors import UserError
from src.models.helpers import late_cosine, learning_rate, one_cycle, warmed_up

WITH_BETAS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
KINDS = {**WITH_BETAS, "sgd": torch.optim.SGD}
GROUP_KEYS = ("params", "lr", "weight_decay")


# -- groups ------------------------------------------------------------------------------------------------------------


def groups_of(named, hooks, state):
    """Return the groups of torch's optimisers, [{"params", "lr", "weight_decay"}]: those that hooks give, else one of
    all parameters. ``named``: [(name, parameter)] of all that trains; each must be in one group. What does not train is
    left out of a group. UserError names the parameter and the hook."""
    given = [(type(hook).__name__, group) for hook in hooks for group in hook.groups(state) or ()]
    if not given:
        return [{"params": [parameter for _, parameter in named]}]
    groups = [(hook, _checked(hook, group)) for hook, group in given]
    _require_each_once(named, groups)
    return [group for _, group in groups if group["params"]]


def _checked(hook, group):
    """A group as torch takes it, without parameters that do not train."""
    if strange := sorted(group.keys() - {*GROUP_KEYS}):
        raise UserError(f"{hook}.groups: a group has {', '.join(map(repr, strange))}; it may have "
                        f"{', '.join(GROUP_KEYS)}")
    if "params" not in group:
        raise UserError(f"{hook}.groups: a group has no 'params', the parameters that it is of")
    for key in ("lr", "weight_decay"):
        value = group.get(key, 0.0)
        if not isinstance(value, numbers.Real) or not 0 <= value < float("inf"):
            raise UserError(f"{hook}.groups: {key} {value!r} is not a number of at least 0")
    params = [group["params"]] if isinstance(group["params"], torch.Tensor) else group["params"]
    return {**group, "params": [parameter for parameter in params if parameter.requires_grad]}


def _require_each_once(named, groups):
    """Refuse a parameter that trains and is in no group or in two, and one in a group that no module has."""
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
                                "the run, so that no checkpoint would have it")


# -- kinds -------------------------------------------------------------------------------------------------------------


def build_optimizer(parameters, settings):
    """Build the optimiser of ``settings``, fused where torch has it. ``parameters``: a list of tensors, or of groups as
    ``groups_of`` gives them. Adam and SGD add the weight decay to the gradient, AdamW does not; SGD has no momentum."""
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
    """Return the learning rate at a step, counted from 0, where the highest one is ``peak``."""
    return SCHEDULES[settings.schedule](step, settings, peak)


class Schedule:
    """Sets the rate of each step: every group has its own peak, the rate that it is built with. Under ``onecycle``
    Adam's and AdamW's first beta runs from 0.95 to 0.85 and back, as torch's OneCycleLR has it."""

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


# -- what a step leaves alone ------------------------------------------------------------------------------------------


class Untouched:
    """Takes back, to the bit, what a step has done to some parameters and to what the optimiser keeps of them, as if
    they had no gradient. Which ones, only the device knows. ``groups``: lists of parameters of one shape."""

    def __init__(self, groups):
        self.groups, self._before = groups, {}

    def remember(self, optimizer):
        """Before the step."""
        self._before = {key: torch.stack(tensors) for key, tensors in self._tensors(optimizer).items()}

    @torch.no_grad()
    def restore(self, optimizer, masks):
        """After it. ``masks``: of each group (N,), true where a parameter is to be as it was."""
        for (number, name), tensors in self._tensors(optimizer).items():
            after = torch.stack(tensors)
            before = self._before.get((number, name))  # of the first step the optimiser has kept nothing: zeros
            mask = masks[number].to(after.device).view(-1, *[1] * (after.ndim - 1))
            after = torch.where(mask, torch.zeros_like(after) if before is None else before, after)
            torch._foreach_copy_(tensors, list(after.unbind()))
        self._before = {}

    def _tensors(self, optimizer):
        """{(number of a group, "weights" or a name of the optimiser's): [tensor of each parameter]}"""
        found = {}
        for number, parameters in enumerate(self.groups):
            found[number, "weights"] = [parameter.detach() for parameter in parameters]
            for name in optimizer.state.get(parameters[0], ()):
                found[number, name] = [optimizer.state[parameter][name] for parameter in parameters]
        return found
