"""Penalties on how far weights move."""

from src.errors import UserError
from src.models.helpers import l2_distance
from src.models.hooks import Hooks
from src.models.wrapped import added_parameters, is_wrapped, plain_name, squared_update, start_of_updates


class L2(Hooks):
    """``l2`` * sum over trainable parameters of |theta - theta at load|^2 (the "WC" of ZSCL,
    arXiv:2303.06628). Wrapped layers count by the change of their update, e.g. |(alpha / r) B A|^2 of
    adapters, not by their factors."""

    data = "both"
    other_terms = ("l2",)
    all_used = True

    def __init__(self, l2):
        self.strength = l2

    def begin(self, state):
        factors = {id(factor) for factor in added_parameters(state.model)}
        moving = {plain_name(name): parameter for name, parameter in state.model.named_parameters()
                  if parameter.requires_grad and id(parameter) not in factors}
        self.wraps, self.added = is_wrapped(state.model), start_of_updates(state.model)
        if not (moving or self.wraps):
            raise UserError("--l2: the method trains no weight of CLIP, so nothing would be pulled back; leave it out")
        start = dict(state.at_load.named_parameters()) if moving else {}
        self.moving = list(moving.values())
        self.anchors = [start[name] if name in start else parameter.detach().clone()  # a method's own modules
                        for name, parameter in moving.items()]

    def losses(self, state, batch):
        distance = l2_distance(self.moving, self.anchors) if self.moving else 0  # only wrapped layers
        if self.wraps:
            distance = distance + squared_update(state.model, self.added)
        return {"l2": self.strength * distance}

    def state_dict(self):
        return {"added": self.added} if self.added else {}

    def load_state_dict(self, content):
        self.added = [(old_A.to(A), old_B.to(B))
                      for (A, B), (old_A, old_B) in zip(self.added, content["added"], strict=True)]
