"""Stop a run on a non-finite loss."""

import math

import torch

from src.errors import UserError


class FiniteLosses:
    """Stops a run on a non-finite loss, before it reaches the weights.

    On a device where reading a value waits, a flag on the device makes the fused optimiser skip the step,
    and the host reads the value one step later.
    """

    def __init__(self, state):
        self.state, self.waits, self.before = state, state.device.waits, None

    def watch(self, losses):
        """Check the named terms of the current step."""
        if not losses:
            return
        values = torch.stack([value.detach().float() for value in losses.values()])
        now = self.state.iteration, tuple(losses), self.state.device.read(values)
        if not self.waits:
            return self._check(*now)
        if self.before:
            self._check(*self.before)
        self.before = now
        if self.state.optimizer.defaults["fused"]:
            self.state.optimizer.found_inf = (~values.isfinite().all()).float()

    def end(self):
        """Check the last step."""
        if self.before:
            self._check(*self.before)

    def _check(self, step, names, values):
        numbers = values()
        if not all(map(math.isfinite, numbers)):
            terms = ", ".join(f"{name} {number:g}" for name, number in zip(names, numbers, strict=True))
            raise UserError(f"step {step + 1} of {self.state.settings.iterations}: the loss is not finite "
                            f"({terms}); saved files are untouched. Lower --lr, give --max-grad-norm or "
                            "--precision fp32")
