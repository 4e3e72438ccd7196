"""Ridge regression on frozen features, one solution for the classes of all tasks so far (in the manner of RAIL, Xu et
al., 2024, arXiv:2406.18868). No optimiser, no step: one pass over each task's images.

    python -m src.main --method examples/methods/ridge.py:Ridge --dataset-order toy --save ckpt/ridge
"""

import torch
import torch.nn.functional as F

from src.models.helpers import similarity
from src.models.hooks import Hooks
from src.models.modeling import image_features, in_eval_mode


class Ridge(Hooks):
    """W = (X^T X + strength I)^-1 X^T Y over the unit features X (N, D) of all tasks, their sums in double precision:
    the order of images, and of tasks, changes nothing. A class of no task is scored by its prompts."""

    closed_form = True
    router = "none"

    def __init__(self, strength=1.0):
        self.strength, self.gram, self.targets = strength, None, {}

    @torch.no_grad()
    def end(self, state):
        size, classes = state.model.text_projection.shape[1], len(state.task.classnames)
        gram = torch.zeros(size, size, dtype=torch.float64, device=state.device.device)         # (D, D)
        targets = torch.zeros(size, classes, dtype=torch.float64, device=state.device.device)   # (D, C)
        with in_eval_mode(state.model), state.device.autocast():
            for batch in state.once(state.task.split("train"), "ridge", state.settings.batch_size):
                features = image_features(state.model, batch.images).double()                   # (B, D)
                gram += features.T @ features
                targets += features.T @ F.one_hot(batch.labels, classes).double()
        earlier = torch.zeros_like(gram) if self.gram is None else self.gram.to(gram)
        self.gram = earlier + state.world.sum(gram)
        self.targets[state.task.name] = state.world.sum(targets)

    def scores(self, state, images, spaces):
        scored = {classes.name: classes for space in spaces.values() for classes in space}
        if not self.targets.keys() & scored.keys():  # nothing is known of these classes: CLIP's own scores
            return None
        features = image_features(state.final_model, images)                                    # (B, D)
        system = self.gram.to(features.device)
        system = system + self.strength * torch.eye(len(system), dtype=system.dtype, device=system.device)
        known = {name: torch.linalg.solve(system, target.to(system)) for name, target in self.targets.items()}
        found = {name: features.double() @ known[name] if name in known
                 else similarity(features, classes.weights.T, 1.0).double() for name, classes in scored.items()}
        return {space: torch.cat([found[part.name] for part in parts], dim=1) for space, parts in spaces.items()}

    def carry(self):
        return {"gram": self.gram, "targets": self.targets}

    def load_carry(self, content):
        self.gram, self.targets = content.get("gram"), dict(content.get("targets", {}))
