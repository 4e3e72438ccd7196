"""Elastic weight consolidation (Kirkpatrick et al., 2017, arXiv:1612.00796) with the true Fisher information.

    python -m src.main --method examples/methods/ewc.py:EWC --set strength=100 --dataset-order toy --save ckpt/ewc

An example of a custom method; the one that is shipped, with more choices, is ``--method ewc`` (docs/methods/ewc.md).
"""

import torch

from src.datasets.seeds import seed_of
from src.errors import UserError
from src.models.finetune import Finetune
from src.models.modeling import image_features, in_eval_mode
from src.models.wrapped import is_wrapped


class EWC(Finetune):
    """Fine-tuning with strength / 2 sum_i F_i (theta_i - theta*_i)^2: theta* are the weights that the last task left,
    F the sum over the tasks of E[(d log p(y | x) / d theta)^2], y drawn from the model, one image at a time."""

    other_terms = ("ewc",)

    def __init__(self, ls=0.0, strength=100.0):
        super().__init__(ls)
        self.strength, self.fisher, self.anchor = strength, {}, {}

    def begin(self, state):
        super().begin(state)
        if len(self.classes.scores) > 1:
            raise UserError("EWC: the Fisher pass is of one dataset; leave --joint out")
        if is_wrapped(state.model):
            raise UserError("EWC: adapters are merged after a task, and the next one has others; leave --lora out")
        for kept in (self.fisher, self.anchor):
            for name in kept:
                kept[name] = kept[name].to(state.model.logit_scale)

    def losses(self, state, batch):
        losses = super().losses(state, batch)
        if self.fisher:
            weights = dict(state.model.named_parameters())
            losses["ewc"] = self.strength / 2 * sum((fisher * (weights[name] - self.anchor[name]) ** 2).sum()
                                                    for name, fisher in self.fisher.items())
        return losses

    def end(self, state):
        state.model.load_state_dict(state.final_model.state_dict())  # an average, where one is kept, is what stays
        trained = {name: value for name, value in state.model.named_parameters() if value.requires_grad}
        squares = {name: torch.zeros_like(value) for name, value in trained.items()}
        split = state.task.split("train")
        with in_eval_mode(state.model):
            for batch in state.once(split, "fisher", state.world.size):  # one image for each process
                for gradients in self.gradients(state, batch, list(trained.values())):
                    for square, gradient in zip(squares.values(), gradients, strict=True):
                        square += gradient ** 2
        for name, square in squares.items():
            self.fisher[name] = self.fisher.get(name, 0) + state.world.sum(square) / len(split)
            self.anchor[name] = trained[name].detach().clone()

    def gradients(self, state, batch, weights):
        """Yield d log p(y | x) / d theta of each image, its label y drawn from p by the image's place."""
        scores = self.classes.scores[0]
        for image, place in zip(batch.images, batch.indices.tolist(), strict=True):
            log = scores(image_features(state.model, image[None]))[0].log_softmax(dim=0)        # (C,)
            generator = torch.Generator().manual_seed(seed_of(state.seed_of("labels"), place))
            label = torch.multinomial(log.detach().exp().cpu(), 1, generator=generator).item()
            yield torch.autograd.grad(log[label], weights, allow_unused=False)

    def copies(self):
        return {"Fisher information": self.fisher, "weights of the last task": self.anchor}

    def carry(self):
        return {name: {key: value.cpu() for key, value in kept.items()}
                for name, kept in (("fisher", self.fisher), ("anchor", self.anchor))}

    def load_carry(self, content):
        self.fisher, self.anchor = dict(content.get("fisher", {})), dict(content.get("anchor", {}))
