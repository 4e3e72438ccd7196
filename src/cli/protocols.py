"""Named sequences of datasets and the values that their protocols fill in where a flag was not given."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Protocol:
    """``order`` of the tasks; ``values`` for every method; ``by_method`` what only some methods need;
    ``published_zero_shot``: the numbers that are published of CLIP before any training, those of methods are with
    their recipes. Like those it says ``family``, ``router`` and ``source``."""

    order: tuple[str, ...]
    values: dict
    by_method: dict = field(default_factory=dict)
    published_zero_shot: dict = field(default_factory=dict)

    def fill(self, method):
        return self.values | self.by_method.get(method, {})


# Zheng et al., 2023 (arXiv:2303.06628), section 5.
MTIL = {"model": "ViT-B/16", "train_mode": "whole", "iterations": 1000, "batch_size": 64, "batch_size_eval": 128,
        "lr": {None: 1e-5, "Aircraft": 5e-5, "MNIST": 5e-5}, "wd": 0.0, "ls": 0.2, "warmup_length": "100",
        "T": 2.0, "precision": "fp32"}

# What published figures hold for, beside what follows from flags: whose splits, and what routes at test.
ZSCL_ROW = {"family": "ZSCL", "router": "none", "source": "arXiv:2303.06628"}

PROTOCOLS = {
    "mtil-1": Protocol(("Aircraft", "Caltech101", "CIFAR100", "DTD", "EuroSAT", "Flowers", "Food", "MNIST", "OxfordPet",
                        "StanfordCars", "SUN397"), MTIL,
                       published_zero_shot={"transfer": 69.4, "avg": 65.3, "last": 65.3} | ZSCL_ROW),
    "mtil-2": Protocol(("StanfordCars", "Food", "MNIST", "OxfordPet", "Flowers", "SUN397", "Aircraft", "Caltech101",
                        "DTD", "EuroSAT", "CIFAR100"), MTIL,
                       published_zero_shot={"transfer": 65.4, "avg": 65.3, "last": 65.3} | ZSCL_ROW),
    # The embedded benchmark: the rate was chosen on seeds 0 to 2 and their val images, see LOG.md.
    "toy": Protocol(("toy-digits", "toy-new-shapes", "toy-new-textures", "toy-shapes", "toy-textures", "toy-sizes",
                     "toy-positions", "toy-colours"),
                    {"model": "toy", "train_mode": "whole", "iterations": 100, "batch_size": 64,
                     "batch_size_eval": 256, "lr": {None: 3e-4}, "warmup_length": "20", "precision": "fp32",
                     # As many updates a task, as long a memory, as the defaults mean for MTIL's 1000 steps.
                     "avg_freq": 10, "mv_avg_decay": 0.99},
                    {"ZSCL": {"ref_dataset": "toy-reference", "ref_sentences": "toy-reference"},
                     # The share of the training images that 10000 are of MTIL's.
                     "icarl": {"memory_size": 200}}),
    # Image-text pairs of three domains; the rate was chosen for plain contrastive training on seed 0, see LOG.md.
    "toy-pairs": Protocol(("toy-pairs-new", "toy-pairs-dull", "toy-pairs-night"),
                          {"model": "toy", "train_mode": "whole", "iterations": 100, "batch_size": 64,
                           "batch_size_eval": 256, "lr": {None: 1e-3}, "warmup_length": "20", "precision": "fp32"}),
}
