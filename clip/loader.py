"""A name or a file -> state dict -> model and preprocess. No file is ever executed, see ``clip.files.archive``."""

import json
import os
from pathlib import Path

import torch

from clip import catalog
from clip.errors import LoadError, printable
from clip.files.archive import read_file
from clip.files.download import download
from clip.model import CLIP

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
FORMAT = 1
SAFETENSORS = ".safetensors"
ARCHITECTURE = "architecture"  # of a safetensors file's metadata, as json: where it is ours
WRAPPERS = ("state_dict", "model_state_dict")
NOT_SHAPES = ("vision_heads", "transformer_heads", "vocabulary")
MOST_SHOWN = 10  # of what does not fit
MOST_BEYOND, SLACK = 2, 1 << 16  # how far an architecture may exceed its weights and still be built, to list all
# What stands beside the weights in our checkpoints.
OURS = {"history": list, "heads": dict, "carry": dict, "config": dict, "iteration": int, "dataset": str,
        "model": (str, type(None))}


def load(name, device="cpu", cache=None):
    """(model, preprocess) in fp32 and eval mode.

    ``name``: one of ``available_models()`` (downloaded on first use into ``cache``), an architecture with shipped
    weights (``toy``), or a path to weights in any layout that ``read_checkpoint`` knows.
    ``preprocess``: PIL image -> (3, R, R) tensor.
    """
    if Path(name).is_file():
        checkpoint = read_checkpoint(name)
    else:
        checkpoint = read_checkpoint(weights_file(name, cache))
    model = build(checkpoint).to(device).eval()
    return model, preprocess(model.image_resolution)


def build(checkpoint):
    """What ``read_checkpoint`` gave -> CLIP in the weights' type, every tensor matched."""
    architecture, weights = checkpoint["architecture"], checkpoint["state_dict"]
    stored = sum(value.numel() for value in weights.values())
    if least_values(architecture) > MOST_BEYOND * stored + SLACK:  # building it could take any memory
        raise LoadError(f"the weights do not fit the architecture: it has {least_values(architecture):,} values or "
                        f"more, the file {stored:,}{_as_published(weights)}")
    model = CLIP(**architecture).to(weights["token_embedding.weight"].dtype)
    load_strictly(model, weights)
    return model


def load_strictly(model, state_dict):
    """Load with every name and shape matched, or raise LoadError with what differs."""
    own = model.state_dict()
    differences = [f"missing {name}" for name in own if name not in state_dict]
    differences += [f"unexpected {printable(name, 100)}" for name in state_dict if name not in own]
    differences += [f"{name} is {tuple(value.shape)}, not {tuple(own[name].shape)}"
                    for name, value in state_dict.items() if name in own and value.shape != own[name].shape]
    if differences:
        shown = "; ".join(differences[:MOST_SHOWN])
        more = len(differences) - MOST_SHOWN
        raise LoadError(f"the weights do not fit the architecture: {shown}{f' and {more} more' if more > 0 else ''}"
                        f"{_as_published(state_dict)}")
    model.load_state_dict(state_dict)


def _as_published(state_dict):
    """A hint for a message: whose the weights are, where their shapes are those of a published model."""
    try:
        name = published_name(architecture_of(state_dict))
    except LoadError:
        return ""
    return f"; the weights have the shapes of {name}" if name else ""


def published_name(architecture):
    """The published model of this architecture, or None. Heads are left out: files of other origin do not store them,
    nor do they tell models apart."""
    def shapes(block):
        return {key: value for key, value in block.items() if value and key not in NOT_SHAPES}
    return next((name for name in catalog.available_models()
                 if shapes(catalog.read_architecture(name)) == shapes(architecture)), None)


def least_values(architecture):
    """A lower bound, within a factor of 3, of the values that a CLIP of this architecture has."""
    width, vision = architecture["transformer_width"], architecture["vision_width"]
    layers, side = architecture["vision_layers"], architecture["image_resolution"]
    text = width * (architecture["vocab_size"] + architecture["context_length"] + architecture["embed_dim"]) + (
        12 * width ** 2 * architecture["transformer_layers"])
    if isinstance(layers, list):
        last = 4 * vision * 2 ** (len(layers) - 1)  # (C) channels of the attention pool
        convolutions = sum(count * 13 * (vision * 2 ** stage) ** 2 for stage, count in enumerate(layers))
        return text + convolutions + last * (
            3 * last + architecture["embed_dim"] + (side // 2 ** (len(layers) + 1)) ** 2)
    patch = architecture["vision_patch_size"]
    return text + 12 * vision ** 2 * layers + vision * (
        3 * patch ** 2 + (side // patch) ** 2 + architecture["embed_dim"])


def preprocess(resolution):
    """CLIP's evaluation transform: PIL image -> (3, R, R)."""
    from torchvision.transforms import v2
    return v2.Compose([
        v2.Resize(resolution, v2.InterpolationMode.BICUBIC), v2.CenterCrop(resolution), v2.RGB(),
        v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def weights_file(name, cache=None):
    """Path of a name's weights; OpenAI's are downloaded on first use."""
    path = weights_place(name, cache)
    if not path.is_file():
        download(catalog.archive_address(name), path, catalog.ARCHIVES[name])
    return path


def weights_place(name, cache=None):
    """Path where a name's weights are, or will be once they are downloaded."""
    shipped = catalog.shipped_weights(name)
    if shipped:
        return shipped
    if name not in catalog.ARCHIVES:
        raise LoadError(f"{name!r} is no file and has no published weights; those that have: "
                        f"{', '.join(catalog.ARCHIVES)}")
    cache = Path(cache or os.environ.get("CLIP_CACHE") or Path.home() / ".cache" / "clip")
    return cache / catalog.archive_file(name)


def read_checkpoint(path):
    """A file of weights -> dict with at least "state_dict" (OpenAI's names) and "architecture".

    Known layouts: our checkpoints; OpenAI's TorchScript archives; plain state dicts; the wrappers ``{"state_dict"}``
    and ``{"model_state_dict"}``; open_clip's checkpoints of OpenAI's architectures; each of them also as safetensors,
    by the file's suffix. fp16 files are read as fp32. Only our checkpoints and exports say how many heads there are; in
    others a head has 64 values, as in all of OpenAI's.
    """
    path = Path(path)
    if not path.is_file():
        raise LoadError(f"no such file: {path}")
    content = _read_safetensors(path) if path.suffix == SAFETENSORS else read_file(path)
    checkpoint = {key: value for key, value in content.items() if isinstance(key, str)} if isinstance(
        content, dict) else {}
    _check_format(checkpoint, path)
    wrapper = next((key for key in WRAPPERS if isinstance(checkpoint.get(key), dict)), None)
    state_dict = _weights(checkpoint.pop(wrapper) if wrapper else checkpoint, path)
    ours = checkpoint if wrapper == "state_dict" and "format" in checkpoint else {}
    architecture = ours["architecture"] if "architecture" in ours else architecture_of(state_dict)
    _check_ours(ours, architecture, path)
    return {**ours, "architecture": architecture, "state_dict": state_dict}


def _read_safetensors(path):
    """{name: tensor}, or what a checkpoint of ours holds where the metadata tell the architecture."""
    from safetensors import safe_open
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            told = (file.metadata() or {}).get(ARCHITECTURE)
            return tensors if told is None else {
                "format": FORMAT, "architecture": json.loads(told), "state_dict": tensors}
    except OSError as error:
        raise LoadError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # as in clip.files.archive: damaged bytes can make nearly anything fail
        raise LoadError(f"{path} is not a safetensors file that can be read ({printable(str(error))})") from None


def _check_format(checkpoint, path):
    found = checkpoint.get("format", FORMAT)
    if type(found) is not int or found != FORMAT:
        shown = found if type(found) is int and abs(found) < 1e9 else f"of type {type(found).__name__}"
        raise LoadError(f"{path} has format {shown}; this version reads format {FORMAT}")


def _weights(content, path):
    """The tensors of a state dict under plain names, halves as fp32; LoadError where they are not those of a CLIP."""
    state_dict = {_plain_name(name): value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
                  for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    state_dict = {name: value for name, value in state_dict.items() if name not in NOT_WEIGHTS}
    if "visual.conv1.weight" not in state_dict or "token_embedding.weight" not in state_dict:
        raise LoadError(f"{path} does not hold a CLIP (no visual.conv1.weight and token_embedding.weight in it)")
    strange = next((name for name, value in state_dict.items() if value.dtype not in WEIGHT_TYPES), None)
    if strange or not state_dict["token_embedding.weight"].is_floating_point():
        name = strange or "token_embedding.weight"
        raise LoadError(f"{path}: {printable(name, 100)} is of type {state_dict[name].dtype}, which weights are not")
    return state_dict


def _check_ours(ours, architecture, path):
    """LoadError for an architecture that cannot be one, or parts of our checkpoint that are not of their types."""
    for key, kinds in OURS.items():
        if key in ours and not isinstance(ours[key], kinds):
            raise LoadError(f"{path}: {key} is of type {type(ours[key]).__name__}; this version did not write it")
    for key, value in architecture.items() if isinstance(architecture, dict) else ():
        if not all(type(part) is int and abs(part) < catalog.LARGEST or type(part) in (str, type(None))
                   for part in (value if type(value) is list else [value])):
            raise LoadError(f"{path}: {printable(str(key), 100)} of the architecture is no number, or one too large")
    try:
        catalog.check_architecture(architecture, path)
    except ValueError as error:
        raise LoadError(printable(str(error), 1000)) from None
    if not (all(map(_is_entry, ours.get("history", []))) and all(map(_is_head, ours.get("heads", {}).items()))):
        raise LoadError(f"{path}: history or heads are not as this version writes them")


def _is_entry(entry):
    """Whether it is what a history has of a task."""
    return isinstance(entry, dict) and isinstance(entry.get("dataset"), str) and isinstance(
        entry.get("source", ""), str) and isinstance(entry.get("classnames", []), list)


def _is_head(item):
    name, head = item
    return isinstance(name, str) and isinstance(head, torch.Tensor) and head.ndim == 2 and head.is_floating_point()


WEIGHT_TYPES = (torch.float32, torch.float64, torch.int64)  # the last counts batches, in batch norm
# Numbers and masks that some layouts store beside the weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "transformer.attn_mask")


def _plain_name(name):
    for prefix in ("module.", "text."):  # DistributedDataParallel's, open_clip's CustomTextCLIP's
        name = name.removeprefix(prefix)
    return name


def architecture_of(state_dict):
    """Architecture from OpenAI's names and the shapes behind them; heads by OpenAI's rule of 64 values a head."""
    shape = {name: tuple(value.shape) for name, value in state_dict.items()}
    try:
        text_width = shape["ln_final.weight"][0]
        architecture = {
            "embed_dim": shape["text_projection"][1],
            "context_length": shape["positional_embedding"][0],
            "vocab_size": shape["token_embedding.weight"][0],
            "transformer_width": text_width,
            "transformer_heads": max(1, text_width // 64),
            "transformer_layers": _count(shape, "transformer.resblocks."),
        }
        if "visual.proj" in shape:
            width, _, patch, _ = shape["visual.conv1.weight"]
            side = round((shape["visual.positional_embedding"][0] - 1) ** 0.5)
            return architecture | {
                "image_resolution": patch * side, "vision_patch_size": patch, "vision_width": width,
                "vision_layers": _count(shape, "visual.transformer.resblocks."),
                "vision_heads": max(1, width // 64)}
        stages = _count({name.replace("visual.layer", "visual.layer."): None for name in shape}, "visual.layer.")
        side = round((shape["visual.attnpool.positional_embedding"][0] - 1) ** 0.5)
        width = shape["visual.layer1.0.conv1.weight"][0]
        return architecture | {
            "image_resolution": side * 2 ** (stages + 1), "vision_width": width,
            "vision_layers": [_count(shape, f"visual.layer{stage + 1}.") for stage in range(stages)],
            "vision_heads": max(1, width * 32 // 64)}
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise LoadError(f"the weights are not of a CLIP architecture ({error} is missing or misshapen)") from None


def _count(names, prefix):
    """How many different numbers follow ``prefix`` in the names."""
    return len({name[len(prefix):].split(".")[0] for name in names if name.startswith(prefix)})
