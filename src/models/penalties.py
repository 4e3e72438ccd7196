"""Penalties on the way that weights move."""

from src.models.helpers import l2_distance
from src.models.hooks import Hooks
from src.models.lora_injection import adapter_parameters, is_adapted, squared_update


class L2(Hooks):
    """``l2`` * sum over trainable parameters of |theta - theta at load|^2 (the "WC" of ZSCL, arXiv:2303.06628).
    Adapters count by what they add to the weights, |(alpha / r) B A|^2, not by their factors."""

    data = "both"
    other_terms = ("l2",)
    all_used = True

    def __init__(self, l2):
        self.strength = l2

    def begin(self, state):
        factors = {id(factor) for factor in adapter_parameters(state.model)}
        moving = {name.replace(".base_layer.", "."): parameter for name, parameter in state.model.named_parameters()
                  if parameter.requires_grad and id(parameter) not in factors}
        start = dict(state.at_load.named_parameters()) if moving else {}
        self.moving = list(moving.values())
        self.anchors = [start[name] if name in start else parameter.detach().clone()  # of a method's own modules
                        for name, parameter in moving.items()]

    def losses(self, state, batch):
        distance = l2_distance(self.moving, self.anchors) if self.moving else 0
        if is_adapted(state.model):
            distance = distance + squared_update(state.model)
        return {"l2": self.strength * distance}
