"""Tables of all that the command line can name, METHODS and ADD_ONS. They import nothing until used."""

import importlib
import inspect
from dataclasses import dataclass, field

from src.errors import UserError
from src.models.hooks import scores_by_itself


@dataclass(frozen=True)
class Method:
    """A row of METHODS or ADD_ONS.

    ``target``: "module:Class".
    ``uses``: flags passed to the class as keywords; ``needs``: those of them that must be given.
    ``refuses``: {train mode: reason} for modes that cannot feed its terms.
    ``excludes``: {flag: reason and way out} for flags it cannot be combined with.
    ``switches``: flags that switch an add-on on, if not the one it is named after.
    ``on_pairs``: the class that the same name stands for on image-text pairs.
    ``wraps``: it trains factors of wrapped layers instead of weights, as --lora does.
    ``frozen``: it leaves CLIP as it is and trains modules beside it.
    ``data``, ``closed_form``: copies of the class attributes, for code that may not import the class.
    ``custom``: it does not belong to this package.
    """

    custom = False

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
        """Import and return the class."""
        module, name = self.target.split(":")
        return getattr(importlib.import_module(module), name)

    def scores(self):
        """Return whether the class changes CLIP's scores. Imports the class."""
        return scores_by_itself(self.hook())

    def build(self, values):
        """Build the hooks from a mapping of flag names to values."""
        return _without_logits(self.hook()(**{flag: values[flag] for flag in self.uses}), f"--method {self.target}")


@dataclass(frozen=True)
class OwnMethod(Method):
    """A custom class: ``path/to/file.py:Class``, or ``python:Class`` if passed in from Python. Its keywords
    come from ``--set``."""

    custom, flag = True, "--method"
    keywords_from = "give --set key=value for its keywords"

    def hook(self):
        from src.models.custom import class_of
        return class_of(self.target)

    def build(self, values):
        hook = self.hook()
        try:
            inspect.signature(hook).bind(**values["set"])
        except TypeError as error:
            raise UserError(f"{self.flag} {self.target}: {error}; {self.keywords_from}") from None
        return _without_logits(hook(**values["set"]), f"{self.flag} {self.target}")


@dataclass(frozen=True)
class OwnHook(OwnMethod):
    """Such a class beside a method, by --hooks; its keywords stand in the flag."""

    flag = "--hooks"
    keywords_from = "give its keywords in the bracket, as in FILE.py:Class(key=value)"

    def hook(self):
        from src.models.custom import hooks_class
        return hooks_class(self.target)


def find_hooks(texts):
    """[(OwnHook, {"set": keywords})] of the values of --hooks."""
    from src.models.custom import read_calls
    return [(OwnHook(target), {"set": keywords}) for text in texts for target, keywords in read_calls(text)]


def _without_logits(hook, what):
    """Return the hook; raise UserError if its class still defines ``logits`` as in 0.1, which would have no
    effect."""
    if hasattr(type(hook), "logits"):
        raise UserError(f"{what}: {type(hook).__name__} defines logits, which nothing calls any more; "
                        "scores(self, state, images, spaces) takes its place (docs/your-method.md, Ridge)")
    return hook


DISTILLATION = ("ls", "T", "image_loss", "text_loss", "weight_adjust", "feature_mse", "ablation_loss_2",
                "distill_text_tower", "text_tower_weight", "ref_batch_size", "cache_ref_features")
REFERENCE_TEXTS = ("ref_sentences", "text_datasets")
DEAF_MODES = {"text": "its distillation reaches only the image tower, which this mode does not train; "
                      "--distill-text-tower reaches the text tower",
              "fc": "its distillation reaches the towers, and this mode trains neither"}
NO_TOWER = {"fc": "it adapts the towers, and this mode trains neither"}
# Flags that a method which wraps layers of CLIP in each task cannot be combined with.
BESIDE_FACTORS = {
    "lora": "it wraps layers of CLIP itself, and two kinds of factors would train the same weights; leave it out",
    **dict.fromkeys(("orthogonal_gradients", "orthogonal_gradients_path"),
                    "each task starts new factors, so a basis would protect nothing; leave it out")}
KEEPLORA = ("ls", "keeplora_rank", "keeplora_alpha", "keeplora_image_energy", "keeplora_text_energy",
            "keeplora_feature_energy", "keeplora_weight_side")
# Train modes, then flags, that a method which trains modules beside a frozen CLIP cannot be combined with.
NO_TOWERS_TO_ACT_IN = dict.fromkeys(
    ("fc", "image-fc", "image-fc-fixed"),
    "its modules act on images and on class prompts, and this mode has no class prompts")
BESIDE_FROZEN = {
    "lora": "it keeps CLIP frozen, adapters too; leave it out",
    "l2": "it keeps CLIP frozen, so nothing would be pulled back; leave it out",
    **dict.fromkeys(("orthogonal_gradients", "orthogonal_gradients_path"),
                    "each task trains new parameters, so a basis would protect nothing; leave it out"),
    **dict.fromkeys(("we", "we_wise", "moving_avg", "wise_merge"),
                    "it keeps CLIP frozen, and its modules are not averaged; leave it out")}
BESIDE_EXPERTS = BESIDE_FROZEN | {
    "compile": "which experts act in a tower depends on values, and a graph is compiled for one choice; leave it out",
    "joint": "a router belongs to one task; give the datasets by --dataset-order"}
CONDU = ("ls", "condu_experts", "condu_prototypes", "condu_known")
NO_HEAD = dict.fromkeys(("fc", "image-fc", "image-fc-fixed"),
                        "its experts score by class prompts, and this mode trains a head; give whole, image or text")
NO_MERGE = dict.fromkeys(("we", "we_wise", "moving_avg", "wise_merge"),
                         "its deltas are of factors, while averages and merges act on merged weights; leave it out, "
                         "or give --method condu")
NO_PROMPTS = dict.fromkeys(("image-fc", "image-fc-fixed"),
                           "its heads add to the scores of class prompts, and this mode has no prompts")

METHODS = {
    "finetune": Method("src.models.finetune:Finetune", uses=("ls",),
                       on_pairs=Method("src.models.modx:Contrastive", data="pairs")),
    "lwf": Method("src.models.finetune:LwF", uses=(*DISTILLATION, *REFERENCE_TEXTS), refuses=DEAF_MODES),
    "ZSCL": Method("src.models.finetune:ZSCL", needs=("ref_dataset",), refuses=DEAF_MODES,
                   uses=("ref_dataset", "ref_model", "ref_wise", "ref_wise_alpha", "ref_size", *DISTILLATION,
                         "keep_ref_features", *REFERENCE_TEXTS)),
    "icarl": Method("src.models.icarl:ICaRL", uses=("memory_size", "replay_weight", *DISTILLATION), refuses=DEAF_MODES),
    "ewc": Method("src.models.ewc:EWC", uses=("ls", "ewc_strength", "ewc_fisher", "ewc_decay"), data="both",
                  refuses={"fc": "its penalty is on the towers, and this mode trains neither"},
                  excludes={"lora": "each task merges its adapters and the next one trains new ones, so nothing would "
                                    "be protected; leave it out, or train adapters with --method finetune"}),
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

# Hooks that a flag of their own switches on, in the order in which they act: penalties, projection, averages, merges.
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
    """Return the METHODS row of a name, or a row for a custom class; on image-text ``pairs`` or on class
    data. Return None if the method does not support such data. For a custom class, only the class itself
    knows its data."""
    if name not in METHODS:
        return OwnMethod(name)
    row = METHODS[name]
    return next((found for found in (row, row.on_pairs) if found and takes(found.data, pairs)), None)


def takes(data, pairs):
    """Return whether a method that declares ``data`` trains on image-text ``pairs``, or on class data."""
    return data in ("both", "pairs" if pairs else "classes")


def active_add_ons(values):
    """Return the ADD_ONS rows whose flag is given, in table order, from a mapping of flag names to values."""
    return {key: add_on for key, add_on in ADD_ONS.items() if any(values[flag] for flag in add_on.switches or (key,))}
