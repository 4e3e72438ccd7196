"""Penalties on the way that weights move."""

from src.models.helpers import l2_distance
from src.models.hooks import Hooks


class L2(Hooks):
    """``l2`` * sum over trainable parameters of |theta - theta at load|^2 (the "WC" of ZSCL, arXiv:2303.06628)."""

    def __init__(self, l2):
        self.strength = l2

    def begin(self, state):
        self.moving = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
        self.anchors = [parameter.detach().clone() for parameter in self.moving]

    def losses(self, state, batch):
        return {"l2": self.strength * l2_distance(self.moving, self.anchors)}
