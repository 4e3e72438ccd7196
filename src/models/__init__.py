"""All that the command line can name: METHODS and ADD_ONS. The tables import nothing until used."""

import importlib
import inspect
from dataclasses import dataclass, field

from src.errors import UserError
from src.models.hooks import scores_by_itself


@dataclass(frozen=True)
class Method:
    """``target`` is "module:Class"; ``uses`` the flags it takes as keywords; ``needs`` those that must be given;
    ``refuses`` train modes that cannot feel its terms, with the reason; ``excludes`` flags that it cannot go with, with
    the reason and the way out; ``switches`` the flags that switch an add-on on, where it is not the one that it is
    called by; ``on_pairs`` another class that the name stands for on image-text pairs. ``wraps``: it trains factors of
    wrapped layers in place of weights, as --lora does. ``frozen``: it keeps CLIP as it is, and trains modules beside
    it. ``data`` and ``closed_form`` of a method repeat what the class
    says, for code that may not import it."""

    target: str
    uses: tuple = ()
    needs: tuple = ()
    refuses: dict = field(default_factory=dict)
    excludes: dict = field(default_factory=dict)
    switches: tuple = ()
    on_pairs: "Method | None" = None
    wraps: bool = False
    frozen: bool = False
    data: str = "classes"
    closed_form: bool = False

    def hook(self):
        """Import the class."""
        module, name = self.target.split(":")
        return getattr(importlib.import_module(module), name)

    def scores(self):
        """Whether the class changes what CLIP scores; it is imported."""
        return scores_by_itself(self.hook())

    def build(self, values):
        """The hooks, from a mapping of flag names to values."""
        return _without_logits(self.hook()(**{flag: values[flag] for flag in self.uses}), self.target)


@dataclass(frozen=True)
class OwnMethod(Method):
    """A class in a file of the user's, ``path/to/file.py:Class``, or one that Python gives, ``python:Class``; its
    keywords come from ``--set``."""

    def hook(self):
        from src.models.custom import class_of
        return class_of(self.target)

    def build(self, values):
        hook = self.hook()
        try:
            inspect.signature(hook).bind(**values["set"])
        except TypeError as error:
            raise UserError(f"--method {self.target}: {error}; give --set key=value for its keywords") from None
        return _without_logits(hook(**values["set"]), self.target)


def _without_logits(hook, target):
    """Return the hook. UserError where its class still scores images as in 0.1, which would have no effect."""
    if hasattr(type(hook), "logits"):
        raise UserError(f"--method {target}: {type(hook).__name__} defines logits, which nothing calls any more; "
                        "scores(self, state, images, spaces) takes its place (CONTRIBUTING.md, Ridge)")
    return hook


DISTILLATION = ("ls", "T", "image_loss", "text_loss", "weight_adjust", "feature_mse", "ablation_loss_2",
                "distill_text_tower", "text_tower_weight", "ref_batch_size", "cache_ref_features")
REFERENCE_TEXTS = ("ref_sentences", "text_datasets")
DEAF_MODES = {"text": "its distillation reaches only the image tower, which this mode does not train; "
                      "--distill-text-tower reaches the text tower",
              "fc": "its distillation reaches the towers, and this mode trains neither"}
NO_TOWER = {"fc": "it adapts the towers, and this mode trains neither"}
# What a method that wraps layers of CLIP in each task cannot go with.
BESIDE_FACTORS = {
    "lora": "it wraps layers of CLIP itself, and two kinds of factors would train the same weights; leave it out",
    **dict.fromkeys(("orthogonal_gradients", "orthogonal_gradients_path"),
                    "its factors are made again in each task, so a basis would protect nothing; leave it out")}
KEEPLORA = ("ls", "keeplora_rank", "keeplora_alpha", "keeplora_image_energy", "keeplora_text_energy",
            "keeplora_feature_energy", "keeplora_weight_side")
# What a method that trains modules beside a frozen CLIP cannot go with.
NO_TOWERS_TO_ACT_IN = dict.fromkeys(
    ("fc", "image-fc", "image-fc-fixed"),
    "its modules act on images and on class prompts, and this mode has none of these")
BESIDE_FROZEN = {
    "lora": "it keeps CLIP frozen, adapters too; leave it out",
    "l2": "it keeps CLIP frozen, so nothing would be pulled back; leave it out",
    **dict.fromkeys(("orthogonal_gradients", "orthogonal_gradients_path"),
                    "each task trains parameters of its own, so a basis would protect nothing; leave it out"),
    **dict.fromkeys(("we", "we_wise", "moving_avg", "wise_merge"),
                    "it keeps CLIP frozen, and its modules are not averaged; leave it out")}
BESIDE_EXPERTS = BESIDE_FROZEN | {
    "compile": "which experts act in a tower depends on values, and a graph is compiled for one choice; leave it out",
    "joint": "a router belongs to one task; give the datasets by --dataset-order"}
CONDU = ("ls", "condu_experts", "condu_prototypes", "condu_known")
NO_HEAD = dict.fromkeys(("fc", "image-fc", "image-fc-fixed"),
                        "its experts score by class prompts, and this mode trains a head; give whole, image or text")
NO_MERGE = dict.fromkeys(("we", "we_wise", "moving_avg", "wise_merge"),
                         "its deltas are of factors, and averages and merges are of merged weights; leave it out, or "
                         "give --method condu")
NO_PROMPTS = dict.fromkeys(("image-fc", "image-fc-fixed"),
                           "its heads add to the scores of class prompts, and this mode has none")

METHODS = {
    "finetune": Method("src.models.finetune:Finetune", uses=("ls",),
                       on_pairs=Method("src.models.modx:Contrastive", data="pairs")),
    "lwf": Method("src.models.finetune:LwF", uses=(*DISTILLATION, *REFERENCE_TEXTS), refuses=DEAF_MODES),
    "ZSCL": Method("src.models.finetune:ZSCL", needs=("ref_dataset",), refuses=DEAF_MODES,
                   uses=("ref_dataset", "ref_model", "ref_wise", "ref_wise_alpha", "ref_size", *DISTILLATION,
                         "keep_ref_features", *REFERENCE_TEXTS)),
    "icarl": Method("src.models.icarl:ICaRL", uses=("memory_size", "replay_weight", *DISTILLATION), refuses=DEAF_MODES),
    "ewc": Method("src.models.ewc:EWC", uses=("ls", "ewc_strength", "ewc_fisher", "ewc_decay"), data="both",
                  refuses={"fc": "it holds the towers, and this mode trains neither"},
                  excludes={"lora": "adapters are merged after a task and the next one has others, so nothing would be "
                                    "held; leave it out, or train adapters by --method finetune"}),
    "modx": Method("src.models.modx:ModX", uses=("modx_alpha", "modx_temperature", "modx_reduction"),
                   data="pairs"),
    "inflora": Method("src.models.inflora:InfLoRA", refuses=NO_TOWER, wraps=True, excludes=BESIDE_FACTORS,
                      uses=("ls", "inflora_rank", "inflora_sites", "inflora_scale", "inflora_dropout",
                            "inflora_memory", "inflora_energy", "inflora_energy_step", "inflora_statistics")),
    "nusa-cl": Method("src.models.nusa:NuSA", uses=("ls", "nusa_rank", "nusa_energy", "nusa_dropout", "nusa_train"),
                      refuses=NO_TOWER, wraps=True, excludes=BESIDE_FACTORS),
    "keeplora": Method("src.models.keeplora:KeepLoRA", uses=KEEPLORA, refuses=NO_TOWER, wraps=True,
                       excludes=BESIDE_FACTORS),
    "keeplora-plus": Method("src.models.keeplora_plus:KeepLoRAPlus", uses=KEEPLORA, refuses=NO_TOWER | NO_PROMPTS,
                            wraps=True, excludes=BESIDE_FACTORS),
    "moe-adapters": Method("src.models.moe_adapters:MoEAdapters", frozen=True, refuses=NO_TOWERS_TO_ACT_IN,
                           excludes=BESIDE_EXPERTS,
                           uses=("ls", "router", "moe_experts", "moe_rank", "moe_dropout", "moe_frozen", "moe_unchosen",
                                 "ddas_features", "ddas_reference", "ddas_threshold", "ddas_iterations",
                                 "ddas_reference_iterations", "ddas_lr", "ddas_decay")),
    "condu": Method("src.models.condu:ConDU", uses=CONDU, refuses=NO_HEAD,
                    excludes={"lora": "its deltas are of weights; leave it out, or give --method condu-lora"}),
    "condu-lora": Method("src.models.condu_lora:ConDULoRA", uses=(*CONDU, "condu_rank", "condu_init"), refuses=NO_HEAD,
                         wraps=True, excludes=BESIDE_FACTORS | NO_MERGE),
    "rail": Method("src.models.rail:Rail", closed_form=True,
                   uses=("rail_form", "rail_width", "rail_projection", "rail_ridge", "rail_gamma", "rail_beta")),
    "ridge": Method("src.models.bounds:FrozenRidge", uses=("rail_ridge",), closed_form=True),
    "diki": Method("src.models.diki:DIKI", uses=("ls", "diki_length", "diki_blocks", "router", "select_epoch"),
                   frozen=True, refuses=NO_TOWERS_TO_ACT_IN, excludes=BESIDE_FROZEN),
    "class-means": Method("src.models.bounds:ClassMeans", closed_form=True),
}

# Hooks that their own flag switches on, in the order in which they act: penalties, projection, averages, merges.
ADD_ONS = {
    "l2": Method("src.models.penalties:L2", uses=("l2",)),
    "orthogonal_gradients": Method(
        "src.models.gradients:GradientTracker", switches=("orthogonal_gradients", "orthogonal_gradients_path"),
        uses=("orthogonal_gradients", "orthogonal_gradients_path", "orthogonal_target", "orthogonal_energy",
              "orthogonal_dtype", "orthogonal_budget")),
    "we": Method("src.models.averaging:WeightEnsemble", uses=("avg_freq",)),
    "we_wise": Method("src.models.averaging:WiseEnsemble", uses=("avg_freq", "we_wise_alpha")),
    "moving_avg": Method("src.models.averaging:MovingAverage", uses=("mv_avg_decay",)),
    "wise_merge": Method("src.models.averaging:WiseMerge", uses=("wise_ft_alpha", "wise_ft_model")),
}


def find_method(name, pairs=False):
    """The row of a name in METHODS, or one for a custom class; on image-text ``pairs`` or on class data.
    None where the method is not for such data. What data a custom method takes, only its class says."""
    if name not in METHODS:
        return OwnMethod(name)
    row = METHODS[name]
    return next((found for found in (row, row.on_pairs) if found and takes(found.data, pairs)), None)


def takes(data, pairs):
    """Whether a method that declares ``data`` takes image-text ``pairs``, or class data."""
    return data in ("both", "pairs" if pairs else "classes")


def active_add_ons(values):
    """Rows of ADD_ONS whose flag is given, in their order; from a mapping of flag names to values."""
    return {key: add_on for key, add_on in ADD_ONS.items() if any(values[flag] for flag in add_on.switches or (key,))}
