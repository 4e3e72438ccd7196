"""A custom method in a few lines: fine-tuning that pulls the weights back to where the task began (L2-SP; Li et al.,
2018, arXiv:1802.01483).

    python -m examples.own_method           # three embedded tasks with it and without; a minute or two on a CPU
    python -m src.main --method examples/own_method.py:Pulled --set strength=3 --dataset-order toy --save ckpt/pulled

CONTRIBUTING.md has the moments at which a method may act; examples/methods/ has larger ones.
"""

import clip_continual as cc

SAVE = "ckpt/own_method"
SHORT = {"model": "toy", "iterations": 60, "batch_size": 64, "lr": 3e-4, "warmup_length": 10}


class Pulled(cc.Finetune):
    """Adds ``strength`` times the squared distance of all trained weights from their values before the task."""

    other_terms = ("pull",)  # no mean over the rows of a batch

    def __init__(self, strength=1.0):
        super().__init__()
        self.strength = strength

    def begin(self, state):
        super().begin(state)
        self.start = {name: weight.detach().clone() for name, weight in state.model.named_parameters()
                      if weight.requires_grad}

    def losses(self, state, batch):
        weights = dict(state.model.named_parameters())
        distance = sum((weights[name] - start).square().sum() for name, start in self.start.items())
        return super().losses(state, batch) | {"pull": self.strength * distance}


def main():
    for name, method in {"finetune": "finetune", "pulled": Pulled(strength=3)}.items():
        cc.train(method=method, dataset_order=["toy-new-shapes", "toy-shapes", "toy-colours"], save=f"{SAVE}/{name}",
                 **SHORT)
    return cc.report(SAVE)[["transfer", "avg", "last", "forgetting"]].round(1)


if __name__ == "__main__":
    print(main())
