"""Read the architecture from the JSON files that open_clip and transformers write beside weights.

    stated, notes = open_clip_architecture(read_config(folder / "open_clip_config.json"), name)

``stated`` maps keys of ``clip.model.CLIP`` to values. ``notes`` are sentences about settings ignored here.
A LoadError rejects a model with parts that ``clip.model`` does not have, naming their keys.
"""

import functools
import json
from pathlib import Path

from clip.errors import LoadError, printable

OPEN_CLIP, TRANSFORMERS, PROCESSORS = "open_clip_config.json", "config.json", ("preprocessor_config.json",
                                                                               "processor_config.json")
# OpenAI's values, the defaults of both libraries.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 64
BICUBIC = 3  # Pillow's number
AGAIN = "fetch it again, or put the weights into a folder without it"

# Keys of open_clip's files, and their values for OpenAI's CLIP.
MODEL_DEFAULTS = {"custom_text": None, "init_logit_scale": None, "init_logit_bias": None, "multimodal_cfg": None}
TOWER_DEFAULTS = {
    "ls_init_value": None, "attentional_pool": False, "no_ln_pre": False, "pos_embed_type": "learnable",
    "final_ln_after_pool": False, "act_kwargs": None, "norm_kwargs": None, "block_type": None, "qk_norm": False,
    "scaled_cosine_attn": False, "scale_heads": False, "scale_attn_inner": False, "scale_attn": False,
    "scale_fc": False, "timm_model_name": None, "hf_model_name": None, "hf_tokenizer_name": None,
    "tokenizer_mode": None, "tokenizer_kwargs": None, "embed_cls": False, "pad_id": 0, "no_causal_mask": False,
    "proj_bias": False, "proj_type": "linear", "global_average_pool": False, "input_patchnorm": False}
POOLS = {"vision_cfg": "tok", "text_cfg": "argmax"}

# transformers writes only what differs from these.
TEXT_DEFAULTS = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 77,
                 "vocab_size": 49408, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407,
                 "intermediate_size": 2048}
VISION_DEFAULTS = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224,
                   "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "intermediate_size": 3072}
END_TOKEN = 49407  # OpenAI's
OLD_END_TOKEN = 2  # in transformers' first files: a text ends with its largest id, as everywhere in CLIP


def read_config(path):
    """Return the content of a JSON file that holds a mapping; raise LoadError, in one line, for any other."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path} cannot be read as json ({printable(str(error))}); {AGAIN}") from None
    if not isinstance(content, dict):
        raise LoadError(f"{path} holds a {type(content).__name__}, not a mapping of keys to values; {AGAIN}")
    return content


def rejects_bad_values(read):
    """Turn a missing key, or a value of the wrong type, into a LoadError that names the file, the last argument."""
    @functools.wraps(read)
    def call(*arguments):
        try:
            return read(*arguments)
        except LoadError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            raise LoadError(f"{arguments[-1]} does not describe a CLIP ({type(error).__name__}: "
                            f"{printable(str(error))}); {AGAIN}") from None
    return call


# -- open_clip ---------------------------------------------------------------------------------------------------------


@rejects_bad_values
def open_clip_architecture(content, name):
    """Return (stated, notes) from the content of ``open_clip_config.json``, or of one of open_clip's model
    configurations."""
    model = content.get("model_cfg", content)
    vision, text = _mapping(model, "vision_cfg", name), _mapping(model, "text_cfg", name)
    _refuse_other_models(model, vision, text, name)
    layers, width = vision.get("layers", 12), vision.get("width", 768)
    is_resnet = isinstance(layers, list)
    inner = 32 * width if is_resnet else width
    stated = {
        "embed_dim": model["embed_dim"], "vision_layers": layers, "vision_width": width,
        "image_resolution": _square(vision.get("image_size", 224), name),
        "vision_heads": inner // (vision.get("head_width") or HEAD_WIDTH),
        "context_length": text.get("context_length", 77), "vocab_size": text.get("vocab_size", 49408),
        "transformer_width": text.get("width", 512), "transformer_heads": text.get("heads", 8),
        "transformer_layers": text.get("layers", 12),
        "activation": "quick_gelu" if model.get("quick_gelu") else "gelu",
        **_hidden("transformer", text.get("width", 512), text.get("mlp_ratio", 4.0))}
    if not is_resnet:
        stated |= {"vision_patch_size": vision.get("patch_size", 16),
                   **_hidden("vision", width, vision.get("mlp_ratio", 4.0))}
    statistics, notes = open_clip_preprocessing(content.get("preprocess_cfg") or {}, stated["image_resolution"], name)
    return stated | statistics, notes


@rejects_bad_values
def open_clip_preprocessing(content, size, name):
    """Return (stated, notes) from a ``preprocess_cfg``, or from a row of open_clip's table of pretrained weights."""
    stated = {"mean": _three(content.get("mean", MEAN), name), "std": _three(content.get("std", STD), name)}
    other = [f"{key} {content[key]}" for key, usual in (("interpolation", "bicubic"), ("resize_mode", "shortest"))
             if content.get(key, usual) != usual]
    if content.get("size") and _square(content["size"], name) != size:
        other.append(f"size {content['size']}")
    return stated, [_otherwise_resized(name, other)] if other else []


def _otherwise_resized(name, other):
    return (f"{name} states {', '.join(map(str, other))}; this is ignored: images are resized by their short side, "
            "bicubic, and cropped to the centre")


def _refuse_other_models(model, vision, text, name):
    known = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "custom_text", "output_dict", "cast_dtype",
             "nonscalar_logit_scale"}
    unsupported = [f"{key} {value}" for key, value in model.items()
                   if key not in known and value not in (MODEL_DEFAULTS.get(key), None, False)]
    for part, tower in (("vision_cfg", vision), ("text_cfg", text)):
        usual = TOWER_DEFAULTS | {"pool_type": POOLS[part]}
        unsupported += [f"{part}.{key} {value}" for key, value in tower.items()
                        if key in usual and value not in (usual[key], None, False)]
    if unsupported:
        raise LoadError(f"{name} describes a model with {printable(', '.join(unsupported))}, which the towers of "
                        "OpenAI's CLIP do not have: such weights cannot be used here")


def _hidden(tower, width, ratio):
    hidden = int(width * ratio)
    return {} if hidden == 4 * width else {f"{tower}_mlp_width": hidden}


# -- transformers ------------------------------------------------------------------------------------------------------


@rejects_bad_values
def transformers_architecture(content, processor, name):
    """Return (stated, notes) from the content of ``config.json`` and, if present, ``preprocessor_config.json``."""
    kind = content.get("model_type", "clip")
    if kind != "clip":
        raise LoadError(f"{name} states model_type {printable(str(kind), 40)}: only weights of model_type clip can be "
                        "used here")
    text, vision = (_tower(content, *part, name) for part in (("text_config", TEXT_DEFAULTS),
                                                              ("vision_config", VISION_DEFAULTS)))
    activation = _activation_of(text, vision, name)
    stated = {
        "embed_dim": content.get("projection_dim", 512), "vision_layers": vision["num_hidden_layers"],
        "vision_width": vision["hidden_size"], "vision_heads": vision["num_attention_heads"],
        "image_resolution": _square(vision["image_size"], name), "vision_patch_size": vision["patch_size"],
        "context_length": text["max_position_embeddings"], "vocab_size": text["vocab_size"],
        "transformer_width": text["hidden_size"], "transformer_heads": text["num_attention_heads"],
        "transformer_layers": text["num_hidden_layers"], "activation": activation}
    if processor is None:
        return stated, []
    statistics, notes = _processor_architecture(processor, stated["image_resolution"], name)
    return stated | statistics, notes


def _tower(content, key, defaults, name):
    """Return the settings of a tower. As in transformers, ``text_config_dict`` of older files, including
    its defaults, overrides ``text_config``."""
    older = _mapping(content, f"{key}_dict", name)
    return defaults | _mapping(content, key, name) | (defaults | older if older else {})


def _activation_of(text, vision, name):
    activations = {text["hidden_act"], vision["hidden_act"]}
    if not activations <= {"gelu", "quick_gelu"} or len(activations) > 1:
        raise LoadError(f"{name} states hidden_act {' and '.join(sorted(map(str, activations)))}; here both towers "
                        "must have gelu, or both quick_gelu")
    for part in (text, vision):
        if abs(part["layer_norm_eps"] - 1e-5) > 1e-9:
            raise LoadError(f"{name} states layer_norm_eps {part['layer_norm_eps']}; only 1e-05 is supported")
    if text["eos_token_id"] not in (END_TOKEN, OLD_END_TOKEN, text["vocab_size"] - 1):
        raise LoadError(f"{name} states eos_token_id {text['eos_token_id']}; here a text ends with the largest id, so "
                        "weights with another tokenizer cannot be used")
    return activations.pop()


def _processor_architecture(processor, size, name):
    processor = processor.get("image_processor", processor)
    stated = {"mean": _three(processor.get("image_mean", MEAN), name),
            "std": _three(processor.get("image_std", STD), name)}
    if processor.get("do_normalize") is False:
        stated = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    other = [f"{key} {processor[key]}" for key, usual in (("resample", BICUBIC), ("do_resize", True),
                                                          ("do_center_crop", True), ("do_rescale", True))
             if processor.get(key) not in (usual, None)]
    resized, cut = processor.get("size", size), processor.get("crop_size", size)
    other += [f"{key} {value}" for key, value in (("size", resized), ("crop_size", cut))
              if value not in (size, {"shortest_edge": size}, {"height": size, "width": size}, None)
              or key == "size" and value == {"height": size, "width": size}]
    return stated, [_otherwise_resized(name, other)] if other else []


# -- values ------------------------------------------------------------------------------------------------------------


def _mapping(content, key, name):
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise LoadError(f"{name}: {key} holds {printable(str(value), 40)}, not a mapping of keys to values; {AGAIN}")
    return value


def _square(size, name):
    sides = size if isinstance(size, list) else [size]
    if len(set(map(str, sides))) != 1 or type(sides[0]) is not int:
        raise LoadError(f"{name}: images are of {printable(str(size), 40)} pixels; only square ones are supported")
    return sides[0]


def _three(values, name):
    values = [values] * 3 if type(values) in (int, float) else values
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(type(value) in (int, float)
                                                                           for value in values):
        raise LoadError(f"{name}: mean and standard deviation must be three numbers each, not "
f"{printable(str(values), 60)}")
    return [float(value) for value in values]
