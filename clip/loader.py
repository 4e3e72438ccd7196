"""From a name or a file to a state dict, a model and its preprocessing. No file is ever executed, see
``clip.files.archive``."""

import os
import warnings
from pathlib import Path

import torch

from clip import catalog
from clip.catalog import MEAN, STD
from clip.errors import LoadError, printable
from clip.files.download import download
from clip.files.layouts import ARCHITECTURE, open_weights
from clip.files.shapes import architecture_of
from clip.model import CLIP

__all__ = ["ARCHITECTURE", "FORMAT", "MEAN", "STD", "LoadError", "architecture_of", "build", "load", "read_checkpoint"]

FORMAT = 1
# Keys of an architecture that no shape determines: several image sizes have the same number of patches.
NOT_SHAPES = ("vision_heads", "transformer_heads", "image_resolution", *catalog.DEFAULTS)
LARGEST_SCALE = 4.7  # CLIP's training clamps it to ln 100; half precision rounds that up
MOST_SHOWN = 10  # mismatches per message
MOST_BEYOND, SLACK = 2, 1 << 16  # an architecture larger than this times its weights is not built to list mismatches
# Content beside the weights in our checkpoints.
OURS = {"history": list, "heads": dict, "carry": dict, "carry_left_out": dict, "config": dict, "iteration": int,
        "dataset": str, "model": (str, type(None))}


class OtherArchitecture(LoadError):
    """Weights that do not have the architecture that was given."""


def load(name, device="cpu", cache=None, architecture=None):
    """Return (model, preprocess) in fp32 and eval mode.

    ``name``: one of ``available_models()`` (downloaded on first use into ``cache``), an architecture with
    shipped weights (``toy``), or a path to weights in any layout of ``read_checkpoint``. ``architecture``:
    keys that the file does not state, e.g. {"activation": "gelu"}; without them, OpenAI's values are
    assumed with a warning. ``preprocess``: PIL image -> (3, R, R) tensor.
    """
    given = Path(name).exists()
    checkpoint = read_checkpoint(name if given else weights_file(name, cache), architecture)
    model = build(checkpoint).to(device).eval()
    if given and checkpoint["assumed"]:
        warnings.warn(f"{name} does not state {assumed_text(checkpoint['assumed'])}; give architecture={{...}} if "
                      "that is wrong", stacklevel=3)
    for note in checkpoint["notes"]:
        warnings.warn(note, stacklevel=3)
    return model, preprocess(model.image_resolution, model.mean, model.std)


def build(checkpoint):
    """Build the CLIP of a ``read_checkpoint`` result, in the weights' dtype, with every tensor matched."""
    weights = checkpoint["state_dict"]
    model = CLIP(**checkpoint["architecture"]).to(weights["token_embedding.weight"].dtype)
    model.load_state_dict(weights)
    return model


def require_fit(architecture, state_dict, path):
    """Raise LoadError if the tensors of the file ``path`` do not match the architecture, name for name and
    shape for shape. The message lists what differs and says what to do."""
    stored = sum(value.numel() for value in state_dict.values())
    if least_values(architecture) > MOST_BEYOND * stored + SLACK:  # listing its tensors could take any memory
        raise LoadError(f"{path}: the weights do not fit the architecture: it has {least_values(architecture):,} "
                        f"values or more, the file {stored:,}{_as_published(state_dict)}; {OTHER_SHAPES}")
    with torch.device("meta"):
        own = CLIP(**architecture).state_dict()
    missing = [f"missing {name}" for name in own if name not in state_dict]
    unexpected = [f"unexpected {printable(name, 100)}" for name in state_dict if name not in own]
    misshapen = [f"{name} is {tuple(value.shape)}, not {tuple(own[name].shape)}"
                 for name, value in state_dict.items() if name in own and value.shape != own[name].shape]
    if differences := missing + unexpected + misshapen:
        more = len(differences) - MOST_SHOWN
        way_out = OTHER_SHAPES if misshapen else OTHER_NAMES
        raise LoadError(f"{path}: the weights do not fit the architecture: {'; '.join(differences[:MOST_SHOWN])}"
                        f"{f' and {more} more' if more > 0 else ''}{_as_published(state_dict)}; {way_out}")


OTHER_NAMES = "save the whole state_dict() of one CLIP, and nothing else, into a file and give that"
OTHER_SHAPES = ("give a file whose tensors all belong to one CLIP, in the layout of OpenAI, open_clip or transformers, "
                "or fetch it again")


def _as_published(state_dict):
    """Return a hint for a message: the published model with the same shapes, if there is one."""
    try:
        name = published_name(architecture_of(state_dict))
    except LoadError:
        return ""
    return f"; the weights have the shapes of {name}" if name else ""


def published_name(architecture):
    """Return the published model with these shapes, or None. Keys in NOT_SHAPES are ignored."""
    def shapes(block):
        return {key: value for key, value in block.items() if value and key not in (*NOT_SHAPES, "vocabulary")}
    return next((name for name in catalog.available_models()
                 if shapes(catalog.read_architecture(name)) == shapes(architecture)), None)


def least_values(architecture):
    """Return a lower bound, within a factor of 3, on the number of values in a CLIP of this architecture."""
    width, vision = architecture["transformer_width"], architecture["vision_width"]
    layers, side = architecture["vision_layers"], architecture["image_resolution"]
    text = width * (architecture["vocab_size"] + architecture["context_length"] + architecture["embed_dim"]) + (
        _block(width, architecture.get("transformer_mlp_width")) * architecture["transformer_layers"])
    if isinstance(layers, list):
        last = 4 * vision * 2 ** (len(layers) - 1)  # (C) channels of the attention pool
        convolutions = sum(count * 13 * (vision * 2 ** stage) ** 2 for stage, count in enumerate(layers))
        return text + convolutions + last * (
            3 * last + architecture["embed_dim"] + (side // 2 ** (len(layers) + 1)) ** 2)
    patch = architecture["vision_patch_size"]
    return text + _block(vision, architecture.get("vision_mlp_width")) * layers + vision * (
        3 * patch ** 2 + (side // patch) ** 2 + architecture["embed_dim"])


def _block(width, hidden):
    """Return the number of weights in a transformer block."""
    return width * (4 * width + 2 * (hidden or 4 * width))


def preprocess(resolution, mean=MEAN, std=STD):
    """Return CLIP's evaluation transform: PIL image -> (3, R, R)."""
    from torchvision.transforms import v2
    return v2.Compose([
        v2.Resize(resolution, v2.InterpolationMode.BICUBIC), v2.CenterCrop(resolution), v2.RGB(),
        v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def weights_file(name, cache=None):
    """Return the path of a name's weights; OpenAI's are downloaded on first use."""
    path = weights_place(name, cache)
    if not path.is_file():
        download(catalog.archive_address(name), path, catalog.ARCHIVES[name])
    return path


def weights_place(name, cache=None):
    """Return the path where a name's weights are, or will be after the download."""
    shipped = catalog.shipped_weights(name)
    if shipped:
        return shipped
    if name not in catalog.ARCHIVES:
        raise LoadError(f"{name!r} is not a file and has no published weights; names with weights: "
                        f"{', '.join(catalog.ARCHIVES)}")
    cache = Path(cache or os.environ.get("CLIP_CACHE") or Path.home() / ".cache" / "clip")
    return cache / catalog.archive_file(name)


# Keys that reading adds to the content of a file.
REMARKS = ("assumed", "notes")


def read_checkpoint(path, given=None, name="the given architecture"):
    """Read a file or folder of weights into a dict with at least "state_dict" (OpenAI's names),
    "architecture" and the keys of REMARKS.

    Known layouts: our checkpoints and exports, and those of ``clip.files.layouts``. fp16 files are read as
    fp32.

    The keys that no shape determines (activation, heads, mean and standard deviation, image size) come from
    the file itself or the configuration beside it, else from ``given``, the keys of an architecture that
    messages call ``name``; conflicting values raise OtherArchitecture. Keys found nowhere are taken from
    OpenAI's models and listed in "assumed". Heads are assumed only if 64 values each is the one usual
    number; otherwise a LoadError explains how to give them.
    """
    weights = open_weights(path)
    if weights.ours is not None:
        return _our_checkpoint(weights.ours, given or {}, name, path)
    state_dict = _checked_tensors(weights.tensors, path)
    architecture, assumed = _settled(state_dict, weights, given or {}, name, path)
    _check_ours({}, architecture, path)
    require_fit(architecture, state_dict, path)
    notes, scale = weights.notes, float(state_dict["logit_scale"])
    if scale > LARGEST_SCALE:
        notes = [*notes, f"{path} has logit_scale {scale:g}: cosines are multiplied by e^{scale:g}. CLIP's is at most "
                         "ln 100 = 4.605; probabilities are wrong if the file holds the factor itself"]
    if architecture["vocab_size"] > catalog.VOCABULARY_SIZE:
        notes = [*notes, f"{path} has {architecture['vocab_size']} token embeddings: the first "
                         f"{catalog.VOCABULARY_SIZE} are used, as OpenAI's tokenizer numbers them; with another "
                         "tokenizer every score is wrong"]
    return {"architecture": architecture, "state_dict": state_dict, "assumed": assumed, "notes": notes}


def _our_checkpoint(content, given, name, path):
    _check_format(content, path)
    content = dict(content)
    tensors = {key: value for key, value in content.pop("state_dict").items()
               if isinstance(key, str) and isinstance(value, torch.Tensor)}
    state_dict, assumed = _checked_tensors(tensors, path), {}
    if "architecture" in content:
        architecture = content["architecture"]
    else:
        architecture, assumed = _settled(state_dict, None, given, name, path)
    _check_ours(content, architecture, path)
    architecture = catalog.completed(architecture)
    holds = content.get("model") or "another architecture"
    refuse_other(given, architecture | {"vision_heads": catalog.vision_heads(architecture)}, holds, name, path)
    require_fit(architecture, state_dict, path)
    return {**content, "architecture": architecture, "state_dict": state_dict, "assumed": assumed, "notes": []}


def _settled(state_dict, weights, given, name, path):
    """Return (architecture, assumed): keys from the shapes, the file or its configuration, ``given``, else
    assumed."""
    stated, source = (weights.stated, weights.source) if weights else ({}, "")
    by_shape = _by_shape(state_dict, path)
    usual = catalog.DEFAULTS | {key: by_shape.pop(key) for key in NOT_SHAPES if key in by_shape}
    for key in stated.keys() - usual.keys() - {"vision_mlp_width", "transformer_mlp_width"}:
        if stated[key] != by_shape.get(key):
            raise LoadError(f"{path} is not the model that {source} describes: {key} is {by_shape.get(key)}, not "
                            f"{stated[key]}; put the weights into a folder without it")
    refuse_other(given, by_shape | stated, published_name(by_shape) or "another architecture", name, path)
    known = {key: value for key, value in (given | stated).items() if key in usual and value is not None}
    if "image_resolution" in known:
        _refuse_size(known["image_resolution"], usual["image_resolution"], by_shape, path)
    assumed = {key: value for key, value in usual.items() if key not in known}
    _refuse_unsure_heads(by_shape | usual, assumed, path)
    return {**by_shape, **known, **assumed}, assumed


def _by_shape(state_dict, path):
    try:
        return architecture_of(state_dict)
    except LoadError as error:
        raise LoadError(f"{path}: {error}; {OTHER_SHAPES}") from None


def refuse_other(given, known, holds, name, path):
    """Raise OtherArchitecture for the first key that is both given and known and differs; shapes come
    first, because models differ by them."""
    differing = [key for key in given if key != "vocabulary" and key in known
                 and (given[key] or None) != (known[key] or None) and given[key] is not None]
    if not differing:
        return
    key = min(differing, key=lambda key: key in NOT_SHAPES)
    if key in NOT_SHAPES:
        raise OtherArchitecture(f"{path} has {key} {known[key]}, not {given[key]} as {name} has")
    raise OtherArchitecture(f"{path} holds {holds}, not {name} ({key} is {known[key]}, not {given[key]})")


def _refuse_size(size, usual, by_shape, path):
    """Refuse an image size whose number of patches does not match the weights."""
    layers = by_shape["vision_layers"]
    step = 2 ** (len(layers) + 1) if isinstance(layers, list) else by_shape["vision_patch_size"]
    if size // step != usual // step:
        last = usual // step * step + step - 1
        raise LoadError(f"{path} has positions for images of {usual} pixels, not of {size}: image_resolution may be "
                        f"{usual // step * step} to {last} in --model-config or the configuration beside the file")


def _refuse_unsure_heads(architecture, assumed, path):
    """Raise LoadError if heads would have to be assumed and 64 values each is not the one usual number."""
    if published_name(architecture):
        return
    pool = 32 if isinstance(architecture["vision_layers"], list) else 1
    for key, width in (("vision_heads", pool * architecture["vision_width"]),
                       ("transformer_heads", architecture["transformer_width"])):
        others = [other for other in catalog.OTHER_HEAD_WIDTHS if width % other == 0]
        if key in assumed and (width % catalog.HEAD_WIDTH or others):
            possible = [f"{width // values} of {values}" for values in (catalog.HEAD_WIDTH, *others)
                        if width % values == 0]
            raise LoadError(f"{path} does not state {key}, the heads of an attention over {width} values"
                            f"{f' ({printable(chr(44).join(possible))}?)' if possible else ''}: put its "
                            "open_clip_config.json or config.json beside it, or name the architecture by --model NAME "
                            f"(open_clip's) or --model-config with {key}")


ASSUMED = {
    "activation": "its activation (QuickGELU is assumed, as in OpenAI's weights; LAION's and most others of open_clip "
                  "have GELU)",
    "vision_heads": "its heads (64 values each are assumed)", "transformer_heads": "its heads (64 values each are "
                                                                                   "assumed)",
    "mean": "mean and standard deviation of its images (OpenAI's are assumed)",
    "std": "mean and standard deviation of its images (OpenAI's are assumed)"}


def assumed_text(assumed):
    """Describe the assumed keys, and the values assumed for them."""
    parts = [*dict.fromkeys(ASSUMED[key] for key in assumed if key in ASSUMED)]
    if "image_resolution" in assumed:
        parts.append(f"the size of its images ({assumed['image_resolution']} is assumed, from its patches)")
    return ", ".join(parts)


def _check_format(checkpoint, path):
    found = checkpoint.get("format", FORMAT)
    if type(found) is not int or found != FORMAT:
        shown = found if type(found) is int and abs(found) < 1e9 else f"of type {type(found).__name__}"
        raise LoadError(f"{path} has format {shown}; this version reads format {FORMAT}: load it with the version that "
                        "wrote it, or export it there")


def _checked_tensors(tensors, path):
    """Return a state dict with halves as fp32. Raise LoadError for dtypes that weights cannot have, and for
    a CLIP without its first layers."""
    state_dict = {name: value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
                  for name, value in tensors.items()}
    if "visual.conv1.weight" not in state_dict or "token_embedding.weight" not in state_dict:
        raise LoadError(f"{path} does not hold a CLIP (no visual.conv1.weight and token_embedding.weight in it); "
                        f"{OTHER_NAMES}")
    strange = next((name for name, value in state_dict.items() if value.dtype not in WEIGHT_TYPES), None)
    if strange or not state_dict["token_embedding.weight"].is_floating_point():
        name = strange or "token_embedding.weight"
        raise LoadError(f"{path}: {printable(name, 100)} has the type {state_dict[name].dtype}; "
                        "save weights as float32, float16 or bfloat16 (quantised ones cannot be read)")
    broken = next((name for name, value in state_dict.items() if not value.isfinite().all()), None)
    if broken:
        raise LoadError(f"{path}: {printable(broken, 100)} holds NaN or infinity, so every score would be wrong; load "
                        "an earlier checkpoint")
    return state_dict


def _check_ours(ours, architecture, path):
    """Raise LoadError for an impossible architecture, or for parts of our checkpoint with wrong types."""
    for key, kinds in OURS.items():
        if key in ours and not isinstance(ours[key], kinds):
            raise LoadError(f"{path}: {key} is of type {type(ours[key]).__name__}; this version did not write it")
    for key, value in architecture.items() if isinstance(architecture, dict) else ():
        kinds = (str, float, type(None)) if key in ("mean", "std") else (str, type(None))
        if not all(type(part) is int and abs(part) < catalog.LARGEST or type(part) in kinds
                   for part in (value if type(value) is list else [value])):
            raise LoadError(f"{path}: {printable(str(key), 100)} of the architecture is not a number, or too large")
    try:
        catalog.check_architecture(architecture, path)
    except ValueError as error:
        raise LoadError(printable(str(error), 1000)) from None
    if not (all(map(_is_entry, ours.get("history", []))) and all(map(_is_head, ours.get("heads", {}).items()))):
        raise LoadError(f"{path}: history or heads are not as this version writes them")


def _is_entry(entry):
    """Return whether ``entry`` is a history's record of a task."""
    return isinstance(entry, dict) and isinstance(entry.get("dataset"), str) and isinstance(
        entry.get("source", ""), str) and isinstance(entry.get("classnames", []), list)


def _is_head(item):
    name, head = item
    return isinstance(name, str) and isinstance(head, torch.Tensor) and head.ndim == 2 and head.is_floating_point()


WEIGHT_TYPES = (torch.float32, torch.float64, torch.int64)  # the last for batch norms' counts
