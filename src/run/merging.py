"""Merge an adapter into its model: ``merged`` returns the combined weights.

peft itself applies and merges what peft has written, on modules named as in the library that the adapter was
trained with: transformers' CLIPModel, open_clip's and OpenAI's CLIP. Whatever a configuration states is either
applied by peft or rejected here. Our own shared factors are merged by ``src.models.lora_injection``.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from clip import loader
from clip.errors import printable
from clip.files.adapters import ROOT
from clip.files.hub import adapters_below, first_of
from clip.files.layouts import WRAPPERS, from_transformers, to_transformers
from src.errors import UserError
from src.models.lora_injection import apply_shared_lora, inject_lora, load_adapter
from src.models.wrapped import plain_weights

# Keys that any configuration may have. Those in the second row do not affect merging.
EVERY = ("peft_type", "target_modules", "exclude_modules", "modules_to_save", "fan_in_fan_out", "layers_to_transform",
         "layers_pattern", "rank_pattern", "alpha_pattern",
         "base_model_name_or_path", "revision", "auto_mapping", "task_type", "inference_mode", "peft_version")
# Kind of adapter -> further keys that peft uses in merging. All other keys must have peft's default.
KINDS = {
    "LORA": ("r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "use_dora", "lora_bias", "init_lora_weights",
             "trainable_token_indices", "target_parameters", "eva_config"),
    "LOHA": ("r", "alpha", "rank_dropout", "module_dropout", "use_effective_conv2d", "init_weights"),
    "LOKR": ("r", "alpha", "rank_dropout", "module_dropout", "use_effective_conv2d", "init_weights", "decompose_both",
             "decompose_factor", "rank_dropout_scale"),
    "IA3": ("feedforward_modules", "init_ia3_weights"),
}
KEEPING = (True, False, "gaussian", "orthogonal", "eva")  # LoRA initialisations that do not change the model's weights
# Adapted class -> the prefix that its names lack, compared with the whole model.
PARTS = {"CLIPVisionModel": "vision_model.", "CLIPVisionTransformer": "vision_model.", "CLIPTextModel": "text_model.",
         "CLIPTextTransformer": "text_model.", "VisionTransformer": "visual.", "ModifiedResNet": "visual."}
WHOLE = ("CLIPModel", "CLIP", "CustomTextCLIP")
IMAGE = ("visual.", "visual_projection.", "vision_model.")
EMBEDDINGS = ("token_embedding", "position_embedding")
MOST_SHOWN = 3
OUTSIDE_TEXT = ("visual.", "logit_scale")


def merged(adapter, base):
    """Return {OpenAI's name: tensor} of the checkpoint ``base`` with an Adapter merged.

    Raises UserError if it does not fit, or states something that would be ignored.
    """
    if adapter.ours and "peft_type" not in adapter.settings:
        return _with_own_factors(adapter, base)
    return _with_peft(adapter, base["state_dict"])


def notes_of(adapter):
    """Return sentences about adapters beside this one that are not used."""
    others = adapters_below(adapter.path.parent) if not adapter.ours else []
    return [f"{adapter.path.parent} also holds adapters in {first_of(others)}, which are not used"] if others else []


# -- peft --------------------------------------------------------------------------------------------------------------


def _with_peft(adapter, weights):
    settings, fit = _settings_of(adapter), _fit_of(adapter, weights)
    tree = fit.tree(_towers_of(adapter, fit))
    found = _applied(adapter, settings, tree)
    if found.keys() != tree.keys():
        raise _refusal(adapter, "peft returns other tensors than the model's "
                       f"({first_of(sorted(found.keys() ^ tree))})")
    return fit.whole(found)


def _settings_of(adapter):
    """Return keywords for the configuration's class, after checking that all of them take effect."""
    from peft import PeftConfig
    settings, kind = dict(adapter.settings), adapter.settings.get("peft_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise _refusal(adapter, f"peft_type {printable(str(kind), 40)}; those merged here are {', '.join(KINDS)}")
    known = {*EVERY, *KINDS[kind]}
    usual = _plain(vars(PeftConfig.from_peft_type(peft_type=kind)))
    others = {key: value for key, value in settings.items()
              if key not in known and value != usual.get(key) and value not in (None, False, "", [], {})}
    if others:
        raise _refusal(adapter, "it has " + ", ".join(
            f"{printable(str(key), 60)} {printable(str(value), 60)}" for key, value in others.items())
            + ", which is not applied here")
    if settings.get("init_lora_weights", True) not in KEEPING:
        raise _refusal(adapter, f"init_lora_weights {printable(str(settings['init_lora_weights']), 60)} changed "
                                "the model's own weights before training")
    _refuse_large_ranks(adapter, settings)
    kept = {key: value for key, value in settings.items() if key in known and key in usual}
    return kept | {"task_type": None, "inference_mode": False} | (
        {"init_lora_weights": True, "eva_config": None} if kind == "LORA" else {})


def _refuse_large_ranks(adapter, settings):
    """Refuse ranks that no tensor supports: peft allocates memory by the stated ranks before it sees a tensor.
    LoKr's may be arbitrarily large."""
    patterns = settings.get("rank_pattern")
    ranks = [settings.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())]
    largest = max(max(value.shape, default=1) for value in adapter.tensors.values())
    over = [rank for rank in ranks if type(rank) is int and rank > largest]
    if over and settings["peft_type"] != "LOKR":
        raise _refusal(adapter, f"its rank is {over[0]}, and no side of its tensors is longer than {largest}")


def _plain(values):
    return {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}


@dataclass(frozen=True)
class Fit:
    """Describe how an adapter's names map to the model's.

    ``names`` {name: tensor}: the whole model under one library's names. The adapter uses the names below
    ``part``, without it and behind ``prefix``. ``back`` renames to OpenAI's names.
    """

    names: dict
    part: str
    prefix: str
    back: Callable

    def tree(self, towers):
        """Return {name in the adapter: tensor} of the chosen towers, a set of booleans: image tower or not."""
        return {self.prefix + name.removeprefix(self.part): weight for name, weight in self.names.items()
                if name.startswith(self.part) and name.startswith(IMAGE) in towers}

    def whole(self, tree):
        """Return {OpenAI's name: tensor} of the model with the tensors of a ``tree`` in it."""
        return self.back(self.names | {self.part + name.removeprefix(self.prefix): weight
                                       for name, weight in tree.items()})

    def name(self, adapted):
        """Return the library's name for a name in the adapter."""
        return self.part + adapted.removeprefix(self.prefix)


def _fit_of(adapter, weights):
    """Return the Fit of an adapter's names. Raises UserError if they belong to another model."""
    part = PARTS.get(_class_of(adapter), "")
    names, strays = [_without_wrappers(name.removeprefix(ROOT)) for name in adapter.tensors], []
    for library, back in _libraries(weights):
        for below in dict.fromkeys((part, "")):  # CLIPVisionModel names its modules differently in transformers 4 and 5
            modules = {name.removeprefix(below).rpartition(".")[0] for name in library if name.startswith(below)}
            prefixes = {name: _prefix_of(name, modules) for name in names}
            if len({*prefixes.values()}) == 1 and None not in prefixes.values():
                return Fit(library, below, prefixes[names[0]], back)
            strays.append([name for name in names if prefixes[name] is None] or names)
    raise _refusal(adapter, f"its tensors have names that the model lacks ({first_of(min(strays, key=len))}); known "
                            "names are those of transformers' CLIPModel, open_clip's and "
                            "OpenAI's CLIP")


def _towers_of(adapter, fit):
    """Return which towers the adapter was made for: both for a whole model, else those that its names belong to."""
    if adapter.ours or _class_of(adapter) in WHOLE:
        return {True, False}
    names = [fit.name(_without_wrappers(name.removeprefix(ROOT))) for name in adapter.tensors]
    towers = {name.startswith(IMAGE) for name in names}
    if towers == {False} and not fit.part and any(name.startswith("transformer.") for name in names) \
            and _class_of(adapter) != "TextTransformer":
        raise _refusal(adapter, "both towers name their blocks transformer.resblocks, and base_model_class "
                                f"{printable(str(_class_of(adapter)), 60)} does not say which "
                                "it is")
    return towers


def _class_of(adapter):
    """Return the name of the adapted class, or None."""
    mapping = adapter.settings.get("auto_mapping")
    found = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    return found if isinstance(found, str) else None


def _libraries(weights):
    """Return the model's tensors under each library's names, with the function that renames them back."""
    if "visual.proj" in weights:  # transformers' CLIPModel is a ViT
        yield to_transformers(weights), from_transformers
    yield weights, dict
    texts = {name for name in weights if not name.startswith(OUTSIDE_TEXT)}
    yield ({f"text.{name}" if name in texts else name: weight for name, weight in weights.items()},
           lambda found: {name.removeprefix("text."): weight for name, weight in found.items()})


def _without_wrappers(name):
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefix_of(name, modules):
    """Return the prefix of a module's name in an adapter's name; None if it names none of ``modules``."""
    parts = name.split(".")
    for start in range(len(parts)):
        rest = [part for part in parts[start:] if part != "base_layer"]
        if any(".".join(rest[:end]) in modules for end in range(1, len(rest))):
            return "".join(f"{part}." for part in parts[:start])
    return None


def _applied(adapter, settings, tree):
    """Return {name: tensor} of the modules ``tree`` with the adapter merged by peft."""
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    tensors = {ROOT + _without_wrappers(name.removeprefix(ROOT)): value for name, value in adapter.tensors.items()}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about ignored keys: _settings_of and _refuse_others cover them
        try:
            model = get_peft_model(_modules_of(tree), PeftConfig.from_peft_type(**settings), low_cpu_mem_usage=True)
            expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        except Exception as error:  # peft's exceptions share no base class
            raise _refusal(adapter, f"peft: {_reason(error)}") from None
        _refuse_others(adapter, tensors, expected)
        try:
            set_peft_model_state_dict(model, tensors, low_cpu_mem_usage=True)
            # Zero weights stand in for absent ones; DoRA turns them into NaN.
            plain = model.merge_and_unload(safe_merge=any(weight.any() for weight in tree.values()))
        except Exception as error:
            raise _refusal(adapter, f"peft: {_reason(error)}") from None
    return {name: value.detach() for name, value in plain.state_dict().items()}


def _reason(error):
    return printable(str(error) or type(error).__name__, 300)


def _refuse_others(adapter, tensors, expected):
    """Require exactly the tensors that the configuration makes of this model, in the same shapes."""
    differing = [f"{name} is missing" for name in expected if name not in tensors]
    differing += [f"{printable(name, 120)} is unexpected" for name in tensors if name not in expected]
    differing += [f"{name} is {tuple(value.shape)}, not {tuple(expected[name].shape)}"
                  for name, value in tensors.items() if name in expected and value.shape != expected[name].shape]
    if differing:
        more = f" and {len(differing) - MOST_SHOWN} more" if len(differing) > MOST_SHOWN else ""
        raise _refusal(adapter, "its tensors are not those that its configuration implies for this model: "
                                f"{'; '.join(differing[:MOST_SHOWN])}{more}")


def _modules_of(tensors):
    """Build modules with the names and copies of the values of {name: tensor}, of the classes that peft adapts.
    They compute nothing."""
    root, groups = nn.Module(), {}
    for name, tensor in tensors.items():
        parent, _, leaf = name.rpartition(".")
        groups.setdefault(parent, {})[leaf] = nn.Parameter(tensor.clone(), requires_grad=False)
    for place in sorted(groups):
        module = root
        *above, last = place.split(".") if place else [""]
        for part in above:
            module = _child(module, part, nn.Module)
        if last:
            module = _child(module, last, lambda own=groups[place], last=last: _module_for(own, last))
        for leaf, value in groups[place].items():
            setattr(module, leaf, value)
    return root


def _child(module, name, make):
    if name not in module._modules:
        module.add_module(name, make())
    return module._modules[name]


def _module_for(own, name):
    """Return an empty module of the class that holds parameters with these names and shapes."""
    weight = own.get("weight")
    with torch.device("meta"):
        if "in_proj_weight" in own:
            return nn.MultiheadAttention(own["in_proj_weight"].shape[1], 1)
        if weight is None or weight.ndim not in (2, 4):
            return nn.Module()
        if name in EMBEDDINGS:
            return nn.Embedding(*weight.shape)
        if weight.ndim == 2:
            return nn.Linear(*reversed(weight.shape), bias="bias" in own)
        return nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), bias="bias" in own)


# -- our own factors ---------------------------------------------------------------------------------------------------


def _with_own_factors(adapter, base):
    """Merge ``<DATASET>.lora.pth`` of a run with --lora-shared.

    Files of version 0.1 do not list the adapted layers; those whose shared factors could belong to one tower or
    both are rejected.
    """
    found = {}
    for towers in (("visual.", "transformer."), ("visual.",), ("transformer.",)):
        try:
            found[towers] = _injected(adapter, base, towers)
        except UserError as error:
            refused = error
    if not found:
        raise _refusal(adapter, str(refused))
    if len(found) > 1:
        raise _refusal(adapter, "it does not list the layers that share its factors, and they could be in either tower")
    return next(iter(found.values()))


def _injected(adapter, base, towers):
    settings, factors = adapter.settings, adapter.tensors
    try:
        rank, alpha, targets = int(settings["r"]), float(settings["alpha"]), [*map(str, settings["targets"])]
        fits = all(rank in value.shape for value in factors.values())
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError("its settings are not those that a run with --lora writes") from None
    if not fits:
        raise UserError(f"its factors are not of rank {rank}")
    with torch.random.fork_rng(devices=[]):
        model = loader.build(base)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(towers))
        sites = inject_lora(model, targets, rank, alpha)
        if settings.get("shared"):
            apply_shared_lora(model, bool(settings.get("split_qkvo")))
    if settings.get("sites", sites) != sites:
        raise UserError(f"it lists other adapted layers than {first_of(sites)}")
    load_adapter(model, {**settings, "lora": factors})
    return {name: value.detach().clone() for name, value in plain_weights(model).items()}


def _refusal(adapter, reason):
    return UserError(f"the adapter {adapter.path} cannot be merged: {reason}. peft's merge_and_unload() (or, of this "
                     "project, <DATASET>.pth beside <DATASET>.lora.pth) gives weights that --load takes")
