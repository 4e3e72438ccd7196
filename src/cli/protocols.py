"""Name sequences of datasets, and the values that their protocols fill in for flags that are not given."""

from dataclasses import dataclass, field

from src.datasets import expand


@dataclass(frozen=True)
class Protocol:
    """Describe a named sequence.

    ``order``: its tasks. ``values``: for every method; ``by_method``: for some methods only.
    ``published_zero_shot``: published numbers of CLIP before any training (those of methods are with their
    recipes), with ``family``, ``router`` and ``source``.
    """

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

ORDERS = {"1": ("Aircraft", "Caltech101", "CIFAR100", "DTD", "EuroSAT", "Flowers", "Food", "MNIST", "OxfordPet",
                "StanfordCars", "SUN397"),
          "2": ("StanfordCars", "Food", "MNIST", "OxfordPet", "Flowers", "SUN397", "Aircraft", "Caltech101", "DTD",
                "EuroSAT", "CIFAR100")}
# What a variant of MTIL changes: the splits of the CoOp family, few images per class, faster arithmetic.
VARIANTS = {"coop": {"split_file": "coop"}, "5shot": {"shots": 5, "iterations": 500}, "16shot": {"shots": 16},
            "bf16": {"precision": "bf16"}}

# Xu et al., 2024 (arXiv:2406.18868). The papers agree on sets, order, shots and label space; all else is MTIL's.
XTAIL = MTIL | {"shots": 16, "label_space": ("all",)}

# Class-incremental: the values of ZSCL's code (Zheng et al., 2023), with its rate for TinyImageNet. The protocols of
# PILOT (Sun et al., 2023) have another class order and other splits.
CIL = {"model": "ViT-B/16", "train_mode": "whole", "epochs": 1, "batch_size": 64, "batch_size_eval": 128,
       "lr": {None: 7.1e-6}, "wd": 0.0, "ls": 0.2, "warmup_length": "30", "avg_freq": 10, "T": 2.0, "precision": "fp32",
       "label_space": ("seen",)}
CIL_LINES = {"zscl": {"class_order": "zscl", "template": "all:a bad photo of a {c}."},
             "pilot": {"class_order": "pilot", "template": "all:a photo of a {c}."}}
CIL_ORDERS = {
    "zscl": {"cifar100-10": "CIFAR100/10", "cifar100-20": "CIFAR100/20", "cifar100-50": "CIFAR100/50",
             "tinyimagenet-100-5": "TinyImageNet/100+5", "tinyimagenet-100-10": "TinyImageNet/100+10",
             "tinyimagenet-100-20": "TinyImageNet/100+20"},
    "pilot": {"cifar100-10": "CIFAR100/10", "imagenetr-10": "ImageNetR/10", "cub200-10": "CUB200/10"}}

# The conditions of published figures that flags do not show: whose splits, and what routes at test time.
ZSCL_ROW = {"family": "ZSCL", "router": "none", "source": "arXiv:2303.06628"}

PROTOCOLS = {
    "mtil-1": Protocol(ORDERS["1"], MTIL, published_zero_shot={"transfer": 69.4, "avg": 65.3, "last": 65.3} | ZSCL_ROW),
    "mtil-2": Protocol(ORDERS["2"], MTIL, published_zero_shot={"transfer": 65.4, "avg": 65.3, "last": 65.3} | ZSCL_ROW),
    **{f"mtil-{number}-{variant}": Protocol(order, MTIL | values)
       for variant, values in VARIANTS.items() for number, order in ORDERS.items()},
    "xtail-1": Protocol(tuple(name for name in ORDERS["1"] if name != "CIFAR100"), XTAIL),
    "xtail-2": Protocol(("StanfordCars", "Aircraft", "OxfordPet", "Food", "SUN397", "MNIST", "Flowers", "DTD",
                         "Caltech101", "EuroSAT"), XTAIL),
    **{f"cil-{line}-{name}": Protocol(expand((order,)), CIL | CIL_LINES[line])
       for line, orders in CIL_ORDERS.items() for name, order in orders.items()},
    # The embedded benchmark: the rate was chosen on seeds 0 to 2 and their val images, see LOG.md.
    "toy": Protocol(("toy-digits", "toy-new-shapes", "toy-new-textures", "toy-shapes", "toy-textures", "toy-sizes",
                     "toy-positions", "toy-colours"),
                    {"model": "toy", "train_mode": "whole", "iterations": 100, "batch_size": 64,
                     "batch_size_eval": 256, "lr": {None: 3e-4}, "warmup_length": "20", "precision": "fp32",
                     # As many updates per task and as long a memory as the defaults give in MTIL's 1000 steps.
                     "avg_freq": 10, "mv_avg_decay": 0.99},
                    {"ZSCL": {"ref_dataset": "toy-reference", "ref_sentences": "toy-reference"},
                     # The same share of the training images as 10000 of MTIL's.
                     "icarl": {"memory_size": 200}}),
    # Image-text pairs of three domains; the rate was chosen for plain contrastive training on seed 0, see LOG.md.
    "toy-pairs": Protocol(("toy-pairs-new", "toy-pairs-dull", "toy-pairs-night"),
                          {"model": "toy", "train_mode": "whole", "iterations": 100, "batch_size": 64,
                           "batch_size_eval": 256, "lr": {None: 1e-3}, "warmup_length": "20", "precision": "fp32"}),
}
