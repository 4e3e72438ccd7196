"""All that the command line can name: METHODS and ADD_ONS. The tables import nothing until used."""

import importlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Method:
    """``target`` is "module:Class"; ``uses`` the flags it takes as keywords; ``needs`` those that must be given;
    ``refuses`` train modes that cannot feel its terms, with the reason."""

    target: str
    uses: tuple = ()
    needs: tuple = ()
    refuses: dict = field(default_factory=dict)

    def build(self, values):
        """The hooks, from a mapping of flag names to values."""
        module, name = self.target.split(":")
        return getattr(importlib.import_module(module), name)(**{flag: values[flag] for flag in self.uses})


@dataclass(frozen=True)
class AddOn(Method):
    """A hook that its own flag switches on, the key of its row in ADD_ONS."""


DISTILLATION = ("ls", "T", "image_loss", "text_loss", "weight_adjust", "feature_mse", "ref_sentences", "text_datasets",
                "ref_batch_size")
ONLY_IMAGE_TOWER = {"text": "its distillation reaches only the image tower, which this mode does not train"}

METHODS = {
    "finetune": Method("src.models.finetune:Finetune", uses=("ls",)),
    "lwf": Method("src.models.finetune:LwF", uses=DISTILLATION, refuses=ONLY_IMAGE_TOWER),
    "ZSCL": Method("src.models.finetune:ZSCL", needs=("ref_dataset",), refuses=ONLY_IMAGE_TOWER,
                   uses=("ref_dataset", "ref_model", "ref_wise", "ref_wise_alpha", *DISTILLATION)),
}

# In the order in which they act: penalties, averages, merges.
ADD_ONS = {
    "l2": AddOn("src.models.penalties:L2", uses=("l2",)),
    "we": AddOn("src.models.averaging:WeightEnsemble", uses=("avg_freq",)),
    "we_wise": AddOn("src.models.averaging:WiseEnsemble", uses=("avg_freq", "we_wise_alpha")),
    "moving_avg": AddOn("src.models.averaging:MovingAverage", uses=("mv_avg_decay",)),
    "wise_merge": AddOn("src.models.averaging:WiseMerge", uses=("wise_ft_alpha", "wise_ft_model")),
}


def active_add_ons(values):
    """Rows of ADD_ONS whose flag is given, in their order; from a mapping of flag names to values."""
    return {key: add_on for key, add_on in ADD_ONS.items() if values[key]}
