"""Convert weights in common layouts to tensors under OpenAI's names, and collect what is known of their
architecture.

    weights = open_weights("hf/model.safetensors")     # or open_clip_pytorch_model.bin, epoch_1.pt, last.ckpt, a folder
    weights.tensors["visual.conv1.weight"], weights.stated["activation"]

LAYOUTS defines how the layouts of single files are recognised, how their names map and where their
architecture is stated; ``clip.files.hub.FOLDERS`` does the same for folders; STRANGERS lists models that
are not CLIPs of OpenAI's kind. A layout is found below any prefix and in any wrapper: ``{"state_dict":
{"model._orig_mod.visual.conv1.weight": ...}}``.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from clip.errors import LoadError, printable
from clip.files import configs
from clip.files.adapters import AdapterAlone, adapter_of
from clip.files.archive import read_file
from clip.files.hub import INDEX, first_of, unread_models, weights_of_folder
from clip.files.shapes import architecture_of

SAFETENSORS = ".safetensors"
WEB_PAGE = "is a web page; download the file itself"
# First bytes of files that are not weights, and what they are instead.
NO_WEIGHTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch it with git lfs pull"),
    (b"<!DOCTYPE", WEB_PAGE), (b"<!doctype", WEB_PAGE), (b"<html", WEB_PAGE), (b"<?xml", WEB_PAGE),
    (b"\x1f\x8b", "is compressed; unpack it"), (b"BZh", "is compressed; unpack it"),
    (b"\xfd7zXZ", "is compressed; unpack it"), (b"7z\xbc\xaf", "is compressed; unpack it"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes; only weights of PyTorch can be read"),
    (b"GGUF", "is a GGUF file; only weights of PyTorch can be read"))
ARCHITECTURE = "architecture"  # key of the metadata in our own safetensors files, as JSON
MOST_DEPTH = 3
# Parts of names that wrappers insert anywhere: DistributedDataParallel, torch.compile, FSDP, activation checkpointing.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Numbers and masks that some layouts store beside the weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "transformer.attn_mask",
               "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
OPENAI_NUMBERS = {"input_resolution", "context_length", "vocab_size"}  # only OpenAI's own archives have all three


@dataclass
class Weights:
    """``tensors``: {OpenAI's name: tensor}; ``stated``: {key of the architecture: value}, ``source``:
    where; ``notes``: sentences about what was left out or differs. ``ours``: the whole content, if the file
    is a checkpoint or export of this project."""

    tensors: dict = field(default_factory=dict)
    stated: dict = field(default_factory=dict)
    source: str = ""
    notes: list = field(default_factory=list)
    ours: dict | None = None


@dataclass(frozen=True)
class Layout:
    """``anchors``: names that are all present below one prefix. ``rename``: {their name: tensor} ->
    {OpenAI's name: tensor}. ``stated_by``: (their tensors, the file) -> (stated, source, notes)."""

    title: str
    anchors: tuple
    rename: Callable
    stated_by: Callable


# -- OpenAI's and open_clip's names ------------------------------------------------------------------------------------


def _as_they_are(tensors):
    return tensors


def _without_text(tensors):
    return {name.removeprefix("text."): tensor for name, tensor in tensors.items()}


def _stated_by_openai(tensors, file):
    """Return what is stated for OpenAI's names: OpenAI's own archives have QuickGELU; others follow
    open_clip's configuration beside the file."""
    if tensors.keys() >= OPENAI_NUMBERS:
        by_shape = architecture_of(tensors)
        heads = {key: by_shape[key] for key in ("vision_heads", "transformer_heads", "image_resolution")}
        return {"activation": "quick_gelu", "mean": [*configs.MEAN], "std": [*configs.STD], **heads}, \
            "OpenAI's archives", []
    beside = file.parent / configs.OPEN_CLIP
    if not beside.is_file():
        return {}, "", []
    stated, notes = configs.open_clip_architecture(configs.read_config(beside), beside)
    return stated, str(beside), notes


# -- transformers' names -----------------------------------------------------------------------------------------------

TOWERS = {"text_model.": "", "vision_model.": "visual."}
IN_BLOCKS = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
             "mlp.fc2": "mlp.c_proj"}
OUTSIDE_BLOCKS = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight", "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # their spelling
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias"}
TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
THEIR_BLOCK = re.compile(r"(text_model\.|vision_model\.)encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
OUR_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")
QUERY_KEY_VALUE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def from_transformers(tensors):
    """Convert {name of CLIPModel: tensor} -> {OpenAI's name: tensor}; unknown names are kept."""
    renamed, parts = {}, {}
    for name, tensor in tensors.items():
        match = THEIR_BLOCK.fullmatch(name)
        if match and match[3] in QUERY_KEY_VALUE:
            parts.setdefault((match[1], match[2], match[4]), {})[match[3]] = (name, tensor)
        elif match and match[3] in IN_BLOCKS:
            renamed[f"{TOWERS[match[1]]}transformer.resblocks.{match[2]}.{IN_BLOCKS[match[3]]}.{match[4]}"] = tensor
        elif name in TRANSPOSED and tensor.ndim == 2:
            renamed[TRANSPOSED[name]] = tensor.T.contiguous()
        else:
            renamed[OUTSIDE_BLOCKS.get(name, name)] = tensor
    for (tower, block, kind), three in parts.items():
        whole = len(three) == 3
        joined = f"{TOWERS[tower]}transformer.resblocks.{block}.attn.in_proj_{kind}"
        renamed |= {joined: torch.cat([three[part][1] for part in QUERY_KEY_VALUE])} if whole else dict(three.values())
    return renamed


def to_transformers(tensors):
    """Convert {OpenAI's name: tensor} of a ViT -> {name of CLIPModel: tensor}; the inverse of
    ``from_transformers``."""
    outside = {ours: theirs for theirs, ours in OUTSIDE_BLOCKS.items()}
    transposed = {ours: theirs for theirs, ours in TRANSPOSED.items()}
    in_blocks = {ours: theirs for theirs, ours in IN_BLOCKS.items()}
    renamed = {}
    for name, tensor in tensors.items():
        match = OUR_BLOCK.fullmatch(name)
        if not match:
            renamed |= {transposed[name]: tensor.T} if name in transposed else {outside[name]: tensor}
            continue
        place = f"{'vision_model' if match[1] else 'text_model'}.encoder.layers.{match[2]}."
        if match[3] == "attn.in_proj":
            renamed |= {f"{place}{part}.{match[4]}": third
                        for part, third in zip(QUERY_KEY_VALUE, tensor.chunk(3), strict=True)}
        else:
            renamed[f"{place}{in_blocks[match[3]]}.{match[4]}"] = tensor
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in renamed.items()}


def _stated_by_transformers(_, file):
    beside = file.parent / configs.TRANSFORMERS
    if not beside.is_file():
        return {}, "", []
    processor = next((file.parent / name for name in configs.PROCESSORS if (file.parent / name).is_file()), None)
    stated, notes = configs.transformers_architecture(
        configs.read_config(beside), processor and configs.read_config(processor), beside)
    return stated, f"{beside}{f' and {processor.name}' if processor else ''}", notes


# -- the tables --------------------------------------------------------------------------------------------------------

LAYOUTS = (
    Layout("OpenAI's or open_clip's CLIP", ("token_embedding.weight", "visual.conv1.weight"), _as_they_are,
           _stated_by_openai),
    Layout("open_clip's CustomTextCLIP", ("text.token_embedding.weight", "visual.conv1.weight"), _without_text,
           _stated_by_openai),
    Layout("transformers' CLIPModel", ("text_model.embeddings.token_embedding.weight",
                                       "vision_model.embeddings.patch_embedding.weight"), from_transformers,
           _stated_by_transformers),
)
# Models that are not CLIPs of OpenAI's kind: (what, fragments that each occur in some tensor's name). NEVER is checked
# before a layout is recognised, because such models have a CLIP's names too.
NEVER = (("an adapter (LoRA), or a model with one that is not merged,", ("lora_A",)),
         ("SigLIP", ("logit_bias",)), ("SigLIP", ("vision_model.head.",)), ("CoCa", ("text_decoder.",)),
         ("a model with an image tower of timm (SigLIP, EVA, ConvNeXt, ...)", ("visual.trunk.",)),
         ("a model with a text tower of transformers", ("text.transformer.encoder.",)),
         ("a model with a text tower of transformers", ("text.transformer.embeddings.",)))
MERGE = ("; load the merged checkpoint (<DATASET>.pth beside <DATASET>.lora.pth; peft's merge_and_unload()), or a "
         "folder as peft's save_pretrained() writes it")
STRANGERS = (
    ("EVA-CLIP", ("visual.blocks.",)), ("BLIP", ("visual_encoder.", "text_")),
    ("a language model or one with vision (LLaVA, ...)", ("lm_head.",)),
    ("the image tower of transformers' CLIP alone", ("vision_model.",)),
    ("the text tower of transformers' CLIP alone", ("text_model.",)),
    ("the image tower of a CLIP alone", ("class_embedding", "conv1.weight", "resblocks.")),
    ("prompts of CoOp or a similar method alone", ("prompt_learner.",)),
    ("a ViT of timm", ("patch_embed.proj.", "blocks.0.")), ("a ResNet", ("layer1.0.conv1.", "layer4.")),
    ("BERT or a relative", ("encoder.layer.0.attention.",)),
)


def open_weights(path):
    """Return the Weights of a file, of an index of shards, or of a folder. LoadError says what it holds
    instead; AdapterAlone carries the adapter."""
    path = Path(path)
    file = weights_of_folder(path) if path.is_dir() else path
    if not file.is_file():
        raise LoadError(f"{file}: no such file")
    content = _content_of(file)
    content = {key: value for key, value in content.items() if isinstance(key, str)} if isinstance(
        content, dict) else {}
    if "format" in content and isinstance(content.get("state_dict"), dict):
        return Weights(ours=content)
    adapter = adapter_of(content, file)
    if adapter is not None:
        raise AdapterAlone(adapter)
    weights = _recognised(content, file)
    if path.is_dir() and (others := unread_models(path)):
        weights.notes.append(f"{path} holds several files of weights: {file.name} is read, not {first_of(others)}")
    return weights


# -- files -------------------------------------------------------------------------------------------------------------


def _content_of(file):
    return _read_shards(file) if file.name.endswith(INDEX) else _read_one(file)


def _read_one(file):
    """Return the content of a file, read according to its first bytes, or by its name if these are inconclusive."""
    try:
        with file.open("rb") as opened:
            start = opened.read(24)
    except OSError as error:
        raise LoadError(f"{file} cannot be read ({error.strerror or error})") from None
    if what := next((what for first, what in NO_WEIGHTS if start.startswith(first)), None):
        raise LoadError(f"{file} {what}")
    is_zip, is_json = start.startswith(b"PK\3\4"), start[8:9] == b"{" and start[5:8] == bytes(3)
    return _read_safetensors(file) if is_json or file.suffix == SAFETENSORS and not is_zip else read_file(file)


def _read_shards(index):
    """Return {name: tensor} from all files that an index names; each tensor is in one of them, beside the index."""
    places = configs.read_config(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise LoadError(f"{index} has no weight_map, so it is not an index of weights; fetch it again, or give the "
                        "folder of a model")
    tensors = {}
    for name in sorted(set(places.values())):
        shard = index.parent / name
        if Path(name).name != name or not shard.is_file():
            raise LoadError(f"{index} names {printable(name, 100)}, which is not beside it; fetch all parts of "
                            "the model")
        content = _read_one(shard)
        content = content if isinstance(content, dict) else {}
        if twice := [str(name) for name in content if name in tensors]:
            raise LoadError(f"{index}: {first_of(twice)} occurs in several of its parts; fetch all parts of the model "
                            "again")
        tensors |= content
    missing = [name for name in places if name not in tensors]
    if missing:
        raise LoadError(f"{index}: its parts lack {first_of(missing)}; fetch all parts of the model again")
    return tensors


def _read_safetensors(path):
    """Return {name: tensor}, or the content of our checkpoint if the metadata holds its architecture."""
    from safetensors import safe_open
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            stored = (file.metadata() or {}).get(ARCHITECTURE, "")
            return tensors if not stored.startswith(("{", "[")) else {  # other writers store a name there
                "format": 1, "architecture": json.loads(stored), "state_dict": tensors}
    except OSError as error:
        raise LoadError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # as in clip.files.archive: damaged bytes can make nearly anything fail
        raise LoadError(f"{path} is not a safetensors file that can be read ({printable(str(error))}); fetch or copy "
                        "it again") from None


# -- recognition -------------------------------------------------------------------------------------------------------


def _recognised(content, file):
    groups = list(_groups(content, file))
    for what, fragments in NEVER:
        if any(_all_in(fragments, tensors) for _, tensors in groups):
            raise LoadError(f"{file} holds {what} which lacks the tensors of OpenAI's CLIP, so it cannot be used "
                            f"here{MERGE if 'adapter' in what else ''}")
    found = [(layout, where, prefix, tensors) for where, tensors in groups for layout in LAYOUTS
             for prefix in _prefixes(layout.anchors, tensors)]
    if not found:
        raise LoadError(_what_is_there(groups, content, file) + _whole_of(file))
    if len(found) > 1:
        places = " and under ".join(printable(where + prefix or "no prefix", 60) for _, where, prefix, _ in found)
        raise LoadError(f"{file} holds several CLIPs, under {places}; save the one you mean in its own file")
    layout, where, prefix, tensors = found[0]
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    outside = [name for name in tensors if not name.startswith(prefix)]
    stated, source, notes = layout.stated_by(inside, file)
    left = {name: tensor for name, tensor in layout.rename(inside).items() if name not in NOT_WEIGHTS}
    if left.get("logit_scale", torch.zeros(())).shape == (1,):  # open_clip's nonscalar_logit_scale
        left["logit_scale"] = left["logit_scale"].reshape(())
    if outside:
        notes = [*notes, f"{file}: {len(outside)} tensors outside {printable(where + prefix, 60)} are left out "
                         f"({first_of(outside)})"]
    return Weights(left, stated, source, notes)


def _groups(content, file, where="", depth=0):
    """Yield (where, {name: tensor}) of a mapping and of nested ones, without the parts of names that
    wrappers insert."""
    tensors = {}
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            plain = ".".join(part for part in name.split(".") if part not in WRAPPERS)
            if plain in tensors:
                raise LoadError(f"{file}: two tensors are called {printable(plain, 100)} once the prefixes of wrappers "
                                "(module., _orig_mod.) are gone; save the one you mean")
            tensors[plain] = value
    if tensors:
        yield where, tensors
    for name, value in content.items() if depth < MOST_DEPTH else ():
        if isinstance(name, str) and isinstance(value, dict):
            yield from _groups(value, file, f"{where}{name}: ", depth + 1)


def _prefixes(anchors, tensors):
    """Return each prefix below which all anchors exist."""
    first, *others = anchors
    return [prefix for prefix in (name.removesuffix(first) for name in tensors if name.endswith(first))
            if (not prefix or prefix.endswith(".")) and all(prefix + name in tensors for name in others)]


def _all_in(fragments, names):
    return all(any(fragment in name for name in names) for fragment in fragments)


def _whole_of(file):
    """Return a hint for a message: the index that lists ``file`` as a part of its model."""
    whole = [index for index in file.parent.glob(f"*{INDEX}") if file.name in index.read_text(errors="replace")]
    return f"; it is one part of the model in {whole[0].name}, so give that or the folder" if whole else ""


def _what_is_there(groups, content, file):
    """Describe a file in which no layout was recognised."""
    if not groups:
        return f"{file} does not hold a CLIP: it has no tensors" + (
            f", only {first_of(list(content))}" if content else "") + "; save the model's state_dict() and give that"
    where, tensors = max(groups, key=lambda group: len(group[1]))
    names, what = list(tensors), next((what for what, fragments in STRANGERS if _all_in(fragments, tensors)), None)
    prefix = os.path.commonprefix(names).rpartition(".")[0] if len(names) > 1 else ""
    shared = f" all begin with {printable(prefix, 60)}." if prefix else ""
    return (f"{file} does not hold a CLIP{f' but {what}' if what else ''}: it lacks the names of OpenAI and open_clip "
            "(visual.conv1.weight, token_embedding.weight) and of transformers (text_model., vision_model.); give a "
            f"file with both towers. Its tensors{f' in {printable(where, 40)[:-2]}' if where else ''}{shared}: "
            f"{first_of(names)}")
