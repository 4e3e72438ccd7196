"""All that the command line can name: METHODS, and ADD_ONS as they come. This table imports nothing until used."""

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


DISTILLATION = ("ls", "T", "image_loss", "text_loss", "weight_adjust", "feature_mse", "ref_sentences", "text_datasets",
                "ref_batch_size")
ONLY_IMAGE_TOWER = {"text": "its distillation reaches only the image tower, which this mode does not train"}

METHODS = {
    "finetune": Method("src.models.finetune:Finetune", uses=("ls",)),
    "lwf": Method("src.models.finetune:LwF", uses=DISTILLATION, refuses=ONLY_IMAGE_TOWER),
    "ZSCL": Method("src.models.finetune:ZSCL", uses=("ref_dataset", "ref_model", *DISTILLATION),
                   needs=("ref_dataset",), refuses=ONLY_IMAGE_TOWER),
}
