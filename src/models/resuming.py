"""What a task that was interrupted resumes from, and whether the number of processes may change meanwhile."""

import torch
from torch import nn

from src.errors import UserError


def drawn_by_process(state, hooks):
    """Why a run depends on the number of its processes by more than rounding, None where it does not."""
    if any(isinstance(module, nn.Dropout) and module.p for module in state.model.modules()):
        return "each process draws the dropout of its own rows"
    return None if all_ours(hooks) else "a method of one's own may draw in each process"


def all_ours(hooks):
    return all(type(hook).__module__.startswith("src.models.") for hook in hooks)


def state_of_run(state, hooks):
    """After a step: all that ``restore`` needs and the weights at load do not tell; tensors, not copied, and plain
    types."""
    return {
        "iteration": state.iteration,
        "moving": {name: value.detach() for name, value in moving_tensors(state.model).items()},
        "optimizer": state.optimizer.state_dict() if state.optimizer else None,
        "scaler": state.scaler.state_dict(),
        "ensemble": None if state.ensemble is None else state.ensemble.state_dict(),
        "hooks": {type(hook).__name__: kept for hook in hooks if (kept := hook.state_dict())},
    }


@torch.no_grad()
def restore(state, hooks, content):
    """Restore what ``state_of_run`` returned, after ``begin`` with the weights at load and with a new optimiser."""
    found = moving_tensors(state.model)
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
    for hook in hooks:
        if type(hook).__name__ in content["hooks"]:
            hook.load_state_dict(content["hooks"][type(hook).__name__])


def moving_tensors(model):
    """{name: what training changes}: the parameters that require a gradient, and the statistics of batch norms."""
    kept = {*(name for name, value in model.named_parameters() if not value.requires_grad), "token_rows"}
    return {name: value for name, value in (*model.named_parameters(), *model.named_buffers()) if name not in kept}
