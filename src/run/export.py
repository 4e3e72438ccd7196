"""Export a finished model (``--export``) in the layout of open_clip or of transformers, as safetensors.

    python -m src.main --load ckpt/dtd_ft/DTD.pth --export exported/dtd_ft

    model, preprocess = open_clip.create_model_from_pretrained("local-dir:exported/dtd_ft")
    tokenizer = open_clip.get_tokenizer("local-dir:exported/dtd_ft")

    python -m src.main --load ckpt/dtd_ft/DTD.pth --export exported/dtd_hf --export-format transformers

    model = transformers.CLIPModel.from_pretrained("exported/dtd_hf")
    preprocess = transformers.CLIPImageProcessor.from_pretrained("exported/dtd_hf")
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors import safe_open
from safetensors.torch import save

from clip import catalog, loader
from clip.files.configs import BICUBIC, OLD_END_TOKEN
from clip.files.layouts import to_transformers
from clip.tokenizer import VOCABULARY_SIZE
from src.errors import UserError
from src.machine.files import atomic_file
from src.run.weights import note_plain
from src.store.records import RunFolder

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"  # the names that open_clip looks for
HEADS, CLASSES = "heads.safetensors", "classes.json"
# The names that transformers looks for.
THEIR_CONFIG, THEIR_WEIGHTS, PROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
FILES = (CONFIG, WEIGHTS, HEADS, CLASSES, THEIR_CONFIG, THEIR_WEIGHTS, PROCESSOR)
STAGES = 4  # of open_clip's ResNets
CONFIGURATION = "configuration"  # key in the weights' metadata: a digest of the flags that made them


class Export:
    """Write one model into a folder; without a path, check and write nothing. Other files in the folder stay.

    With several processes only the first one ``writes``.
    """

    def __init__(self, path, writes=True, layout="open_clip"):
        self.folder, self.layout = RunFolder(path, writes, "--export"), LAYOUTS[layout]

    def claim(self, architecture, overwrite, configuration=None):
        """Check before anything else is done: ``refuse``, and also refuse a folder that is not writable."""
        self.refuse(architecture, overwrite, configuration)
        self.folder.prepare()

    def refuse(self, architecture, overwrite, configuration=None):
        """Raise UserError for an architecture that the layout cannot describe, and for a folder that already
        has an export.

        An export is replaced only with ``overwrite``, or if this ``configuration`` (the flags of a training
        run) made it. Writes nothing.
        """
        path = self.folder.path
        if path is None:
            return
        self.layout.describe(architecture)
        if os.path.exists(path) and not path.is_dir():
            raise UserError(f"--export {path}: is a file, not a folder")
        found = [name for name in FILES if os.path.lexists(self.folder.file(name))]
        ours = configuration is not None and self._made_by() == digest(configuration)
        if found and not overwrite and not ours:
            raise UserError(f"--export {path}: {', '.join(found)} from another export or source would be lost; give "
                            "--overwrite to replace them, or another folder")

    def _made_by(self):
        """Return the digest of the configuration behind the weights in the folder, or None."""
        try:
            with safe_open(self.folder.file(self.layout.weights), framework="pt") as file:
                return (file.metadata() or {}).get(CONFIGURATION)
        except Exception:  # no file, or not one of ours
            return None

    def write(self, checkpoint):
        """Write the weights of a finished checkpoint and its heads.

        The configuration comes last: open_clip finds nothing without it, so an interrupted export is not taken
        for a model.
        """
        if not self.folder.writes:
            return
        for name in FILES:  # remove old heads, and an export in the other layout
            if name != self.layout.weights:
                self.folder.file(name).unlink(missing_ok=True)
        note_plain(checkpoint, checkpoint.get("dataset") or "the checkpoint", "--export")
        architecture, weights = with_all_tokens(checkpoint)
        self._write_tensors(self.layout.weights, self.layout.rename(weights), {
            **self.layout.stamp(architecture), CONFIGURATION: digest(checkpoint.get("config", {}))})
        heads = checkpoint.get("heads", {})
        if heads:
            self._write_tensors(HEADS, {name: head.clone(memory_format=torch.contiguous_format)
                                        for name, head in heads.items()})
            self.folder.write_json(CLASSES, class_names_of(checkpoint))
        described = self.layout.describe(architecture)
        for name, content in described.items():
            self.folder.write_json(name, content)
        print(f"exported to {self.folder.path}: {', '.join([*described, self.layout.weights])}", flush=True)
        if heads:
            print(f"note: the linear heads of {', '.join(heads)} do not fit {self.layout.owner} layout; they are in "
                  f"{HEADS} beside it, with class names in {CLASSES}", flush=True)

    def _write_tensors(self, name, tensors, metadata=None):
        with atomic_file(self.folder.file(name)) as file:
            file.write(save(tensors, {"format": "pt", **(metadata or {})}))


def open_clip_config(architecture):
    """Return the content of ``open_clip_config.json``. Raises UserError with the reason if open_clip cannot
    build the model."""
    layers, width = architecture["vision_layers"], architecture["vision_width"]
    is_resnet = isinstance(layers, list)
    if is_resnet and len(layers) != STAGES:
        raise UserError(f"--export: open_clip's ResNets have {STAGES} stages, this model's image tower has "
                        f"{len(layers)}; leave --export out, or take another --model")
    _refuse_unknown_tokens(architecture, "open_clip")
    architecture = catalog.completed(architecture)
    inner = width * 32 if is_resnet else width  # the width that the heads of an image tower divide
    heads, size = catalog.vision_heads(architecture), architecture["image_resolution"]
    patch = {} if is_resnet else {"patch_size": architecture["vision_patch_size"]}
    return {
        "model_cfg": {
            "embed_dim": architecture["embed_dim"],
            "quick_gelu": architecture["activation"] == "quick_gelu",
            "vision_cfg": {"image_size": size, "layers": layers, "width": width, "head_width": inner // heads, **patch,
                           **_mlp_ratio(width, architecture.get("vision_mlp_width"))},
            "text_cfg": {
                "context_length": architecture["context_length"],
                "vocab_size": max(architecture["vocab_size"], VOCABULARY_SIZE),
                "width": architecture["transformer_width"], "heads": architecture["transformer_heads"],
                "layers": architecture["transformer_layers"],
                **_mlp_ratio(architecture["transformer_width"], architecture.get("transformer_mlp_width"))},
        },
        "preprocess_cfg": {"size": [size, size], "mode": "RGB", "mean": architecture["mean"],
                           "std": architecture["std"], "interpolation": "bicubic", "resize_mode": "shortest"},
    }


def _mlp_ratio(width, hidden):
    """Return the ratio for which open_clip computes ``hidden`` values in a block: int(width * ratio)."""
    if not hidden:
        return {}
    return {"mlp_ratio": next(ratio for ratio in (hidden / width, (hidden + 0.5) / width)
                              if int(width * ratio) == hidden)}


def transformers_configs(architecture):
    """Return the content of ``config.json`` and ``preprocessor_config.json``.

    Raises UserError for a ResNet, which CLIPModel cannot represent, and for a model with fewer tokens than its
    tokenizer.
    """
    if isinstance(architecture["vision_layers"], list):
        raise UserError("--export-format transformers: its CLIPModel is a ViT, but this model's image tower is a "
                        "ResNet; give --export-format open_clip")
    _refuse_unknown_tokens(architecture, "transformers")
    architecture, size = catalog.completed(architecture), architecture["image_resolution"]
    rows = max(architecture["vocab_size"], VOCABULARY_SIZE)
    ends = VOCABULARY_SIZE - 1 if rows == VOCABULARY_SIZE else OLD_END_TOKEN

    def tower(name, heads):
        width = architecture[f"{name}_width"]
        return {"hidden_size": width, "intermediate_size": architecture.get(f"{name}_mlp_width") or 4 * width,
                "num_hidden_layers": architecture[f"{name}_layers"], "num_attention_heads": heads,
                "hidden_act": architecture["activation"], "layer_norm_eps": 1e-5,
                "projection_dim": architecture["embed_dim"]}
    text = tower("transformer", architecture["transformer_heads"]) | {
        "max_position_embeddings": architecture["context_length"], "vocab_size": rows,
        "bos_token_id": VOCABULARY_SIZE - 2, "eos_token_id": ends, "pad_token_id": 0}
    vision = tower("vision", catalog.vision_heads(architecture)) | {
        "image_size": size, "patch_size": architecture["vision_patch_size"]}
    return ({"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": architecture["embed_dim"],
             "text_config": text, "vision_config": vision},
            {"image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": size},
             "resample": BICUBIC, "do_center_crop": True, "crop_size": {"height": size, "width": size},
             "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True,
             "image_mean": architecture["mean"], "image_std": architecture["std"]})


def _refuse_unknown_tokens(architecture, library):
    if not architecture.get("vocabulary") and architecture["vocab_size"] < VOCABULARY_SIZE:
        raise UserError(f"--export: {library}'s tokenizer has {VOCABULARY_SIZE} tokens, but this model knows only the "
                        f"first {architecture['vocab_size']}; leave --export out")


@dataclass(frozen=True)
class Layout:
    """Describe an export layout.

    ``weights``: the file of tensors. ``describe``: architecture -> {file: content}; the last file makes the
    folder a model. ``rename``: {OpenAI's name: tensor} -> {the library's name: tensor}. ``stamp``: architecture
    -> metadata of the tensors.
    """

    owner: str
    weights: str
    describe: Callable
    rename: Callable
    stamp: Callable


LAYOUTS = {
    "open_clip": Layout("open_clip's", WEIGHTS, lambda architecture: {CONFIG: open_clip_config(architecture)},
                        dict, lambda architecture: {loader.ARCHITECTURE: json.dumps(architecture)}),
    "transformers": Layout("transformers'", THEIR_WEIGHTS, lambda architecture: dict(
        zip((PROCESSOR, THEIR_CONFIG), reversed(transformers_configs(architecture)), strict=True)),
        to_transformers, lambda architecture: {}),
}


def with_all_tokens(checkpoint):
    """Return (architecture, state dict) of a checkpoint, on the host.

    A checkpoint with rows for only some tokens gets a row for each; the unknown ones get the row that they
    shared.
    """
    weights = loader.build(checkpoint).state_dict()  # all names match: none missing, none extra
    architecture = dict(checkpoint["architecture"])
    vocabulary = architecture.pop("vocabulary", None)
    if vocabulary:
        rows = torch.zeros(VOCABULARY_SIZE, dtype=torch.long)
        rows[torch.tensor(vocabulary)] = torch.arange(1, len(vocabulary) + 1)
        weights["token_embedding.weight"] = weights["token_embedding.weight"][rows]  # (49408, W)
        architecture["vocab_size"] = VOCABULARY_SIZE
    return architecture, weights


def class_names_of(checkpoint):
    """Return {dataset: class names} of the checkpoint's heads, as far as its history holds them."""
    known = {task.get("dataset"): task.get("classnames") for task in checkpoint.get("history", [])}
    return {name: known[name] for name in checkpoint["heads"] if name in known}


def digest(configuration):
    """Digest the flags that can change a result, so that publishing an export does not publish the paths among
    them."""
    return hashlib.sha256(repr(sorted(map(repr, configuration.items()))).encode()).hexdigest()
