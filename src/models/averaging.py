"""Averages and merges of weights: WeightEnsemble, WiseEnsemble, MovingAverage, WiseMerge.

An average is kept as a whole CLIP in ``state.ensemble``, batch norm statistics included; it is what
evaluation scores, what is saved and what the next task starts from. With wrapped layers, averages and
merges act on merged weights.

If a method promises ``Hooks.averaged``, its own module is averaged too: in ``state.own_average`` while the
task trains, and in the module itself at the end.
"""

import torch

from src.models.attached import copied, tensors_kept
from src.models.classifiers import zeroshot_head
from src.models.helpers import interpolate_, mix_
from src.models.hooks import Hooks
from src.models.wrapped import plain_weights


class Average(Hooks):
    """Keeps the average ``state.ensemble``, initialised with the weights at load."""

    data = "both"

    def begin(self, state):
        state.ensemble, state.own_average = state.frozen(), copied(state.own)

    def mix(self, state, weight):
        """Set ensemble <- weight * ensemble + (1 - weight) * live; copy counts (integer buffers) from live."""
        self._mix(state.ensemble.state_dict(), plain_weights(state.model), weight)
        for name, average in state.own_average.items():
            self._mix(average, tensors_kept(state.own[name]), weight)

    def _mix(self, average, live, weight):
        """Mix {name: tensor} in place."""
        mix_(average, live, weight)
        for name, kept in average.items():
            if not kept.is_floating_point():
                kept.copy_(live[name])

    @torch.no_grad()
    def end(self, state):
        """Copy the averages into the own modules: no step follows, and the average is what is scored and saved."""
        for name, average in state.own_average.items():
            for key, value in tensors_kept(state.own[name]).items():
                value.copy_(average[key])
        state.own_average = {}


class WeightEnsemble(Average):
    """Every ``avg_freq`` steps, the n-th time: ensemble <- (n ensemble + live) / (n + 1), starting from the
    weights at load (ZSCL's WE, arXiv:2303.06628, section 4.3)."""

    all_used = True

    def __init__(self, avg_freq=100):
        self.every = avg_freq

    def begin(self, state):
        super().begin(state)
        self.updates = 0

    def after_step(self, state):
        if state.iteration % self.every == 0:
            self.updates += 1
            self.mix(state, self.updates / (self.updates + 1))

    def state_dict(self):
        return {"updates": self.updates}

    def load_state_dict(self, content):
        self.updates = content["updates"]


class WiseEnsemble(WeightEnsemble):
    """WeightEnsemble that follows each update with ensemble <- a ensemble + (1 - a) weights at load."""

    all_used = True

    def __init__(self, avg_freq=100, we_wise_alpha=0.98):
        super().__init__(avg_freq)
        self.alpha = we_wise_alpha

    def begin(self, state):
        super().begin(state)
        self.start, self.own_start = state.at_load, copied(state.own)

    def after_step(self, state):
        before = self.updates
        super().after_step(state)
        if self.updates > before:
            interpolate_(state.ensemble, self.start.state_dict(), self.alpha)
            for name, average in state.own_average.items():
                mix_(average, self.own_start[name], self.alpha)

    def copies(self):
        return {"own modules at load": self.own_start}

    def state_dict(self):
        return {**super().state_dict(), **own_start_of(self)}

    def load_state_dict(self, content):
        super().load_state_dict(content)
        self.own_start = content.get("own_start", {})


class MovingAverage(Average):
    """At every step ensemble <- d ensemble + (1 - d) live, starting from the weights at load."""

    all_used = True

    def __init__(self, mv_avg_decay=0.999):
        self.decay = mv_avg_decay

    def after_step(self, state):
        self.mix(state, self.decay)


class WiseMerge(Hooks):
    """At the end, on the weights to be saved: theta <- a theta + (1 - a) partner (WiSE-FT, Wortsman et al.,
    2022, arXiv:2109.01903). ``wise_ft_model`` picks the partner: the weights at load ("n") or zero-shot
    CLIP ("zeroshot"), which has no counterpart of own modules."""

    data = "both"
    all_used = True

    def __init__(self, wise_ft_alpha=0.8, wise_ft_model="n"):
        self.alpha, self.partner_name = wise_ft_alpha, wise_ft_model

    def begin(self, state):
        self.partner, self.head = state.at_load if self.partner_name == "n" else state.zeroshot(), {}
        if state.head is not None and not hasattr(self.partner, "head"):
            head = zeroshot_head(self.partner, state.task, state.device).state_dict()
            self.head = {f"head.{name}": value for name, value in head.items()}
        self.own_start = copied(state.own)

    def copies(self):
        # If the partner is the weights at load, it is counted with them.
        return {"zero-shot": self.partner, "own modules at load": self.own_start}

    def state_dict(self):
        return own_start_of(self)

    def load_state_dict(self, content):
        self.own_start = content["own_start"]

    def end(self, state):
        interpolate_(state.final_model, {**self.partner.state_dict(), **self.head}, self.alpha)
        for name, module in state.own.items():
            mix_(state.own_average.get(name) or tensors_kept(module), self.own_start[name], self.alpha)


def own_start_of(hook):
    """Return a resume point's copy of own modules at load, since a method's ``begin`` need not rebuild them
    bit for bit."""
    return {"own_start": hook.own_start} if hook.own_start else {}
