"""``--export``: a finished model in the layout of open_clip, as safetensors.

    python -m src.main --load ckpt/dtd_ft/DTD.pth --export exported/dtd_ft

    model, preprocess = open_clip.create_model_from_pretrained("local-dir:exported/dtd_ft")
    tokenizer = open_clip.get_tokenizer("local-dir:exported/dtd_ft")
"""

import hashlib
import json
import os

import torch
from safetensors import safe_open
from safetensors.torch import save

from clip import catalog, loader
from clip.tokenizer import VOCABULARY_SIZE
from src.errors import UserError
from src.machine.files import atomic_file
from src.store.records import RunFolder

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"  # as open_clip looks for them
HEADS, CLASSES = "heads.safetensors", "classes.json"
FILES = (CONFIG, WEIGHTS, HEADS, CLASSES)
STAGES = 4  # of open_clip's ResNets
CONFIGURATION = "configuration"  # of the weights' metadata: a digest of the flags that made them


class Export:
    """A folder for one model; without a path, nothing is checked and nothing written. Other files that lie there stay.
    Of several processes the one that ``writes`` is the first."""

    def __init__(self, path, writes=True):
        self.folder = RunFolder(path, writes, "--export")

    def claim(self, architecture, overwrite, configuration=None):
        """Before anything else is done: ``refuse``, and a folder that cannot be written too."""
        self.refuse(architecture, overwrite, configuration)
        self.folder.prepare()

    def refuse(self, architecture, overwrite, configuration=None):
        """UserError for an architecture that open_clip has no words for, and for a folder that has an export already:
        only with ``overwrite`` is it replaced, or where it was made by this ``configuration``, the flags of a training
        run. Writes nothing."""
        path = self.folder.path
        if path is None:
            return
        open_clip_config(architecture)
        if os.path.exists(path) and not path.is_dir():
            raise UserError(f"--export {path}: is a file, not a folder")
        found = [name for name in FILES if os.path.lexists(self.folder.file(name))]
        ours = configuration is not None and self._made_by() == digest(configuration)
        if found and not overwrite and not ours:
            raise UserError(f"--export {path}: {', '.join(found)} of another export or origin would be lost; give "
                            "--overwrite to replace, or another folder")

    def _made_by(self):
        """The digest of the configuration behind the weights that lie there, or None."""
        try:
            with safe_open(self.folder.file(WEIGHTS), framework="pt") as file:
                return (file.metadata() or {}).get(CONFIGURATION)
        except Exception:  # no file, or none of ours: whatever it is, it will not be taken for ours
            return None

    def write(self, checkpoint):
        """Write the weights of a finished checkpoint and the heads that it has; the configuration comes last, without
        which open_clip finds nothing: a folder whose writing was broken off is no model."""
        if not self.folder.writes:
            return
        for name in (CONFIG, HEADS, CLASSES):  # a model without heads leaves none behind
            self.folder.file(name).unlink(missing_ok=True)
        architecture, weights = with_all_tokens(checkpoint)
        self._write_tensors(WEIGHTS, weights, {
            loader.ARCHITECTURE: json.dumps(architecture), CONFIGURATION: digest(checkpoint.get("config", {}))})
        heads = checkpoint.get("heads", {})
        if heads:
            self._write_tensors(HEADS, {name: head.clone(memory_format=torch.contiguous_format)
                                        for name, head in heads.items()})
            self.folder.write_json(CLASSES, class_names_of(checkpoint))
        self.folder.write_json(CONFIG, open_clip_config(architecture))
        print(f"exported to {self.folder.path}: {CONFIG}, {WEIGHTS}", flush=True)
        if heads:
            print(f"note: the linear heads of {', '.join(heads)} have no place in open_clip's layout; they are in "
                  f"{HEADS} beside it, their class names in {CLASSES}", flush=True)

    def _write_tensors(self, name, tensors, metadata=None):
        with atomic_file(self.folder.file(name)) as file:
            file.write(save(tensors, {"format": "pt", **(metadata or {})}))


def open_clip_config(architecture):
    """The content of ``open_clip_config.json``. UserError with the reason where open_clip cannot build such a model."""
    layers, width = architecture["vision_layers"], architecture["vision_width"]
    is_resnet = isinstance(layers, list)
    if is_resnet and len(layers) != STAGES:
        raise UserError(f"--export: open_clip's ResNets have {STAGES} stages, this model's image tower has "
                        f"{len(layers)}; leave --export out, or take another --model")
    if not architecture.get("vocabulary") and architecture["vocab_size"] < VOCABULARY_SIZE:
        raise UserError(f"--export: open_clip's tokenizer gives {VOCABULARY_SIZE} different tokens, this model knows "
                        f"the first {architecture['vocab_size']}; leave --export out")
    architecture = catalog.completed(architecture)
    inner = width * 32 if is_resnet else width  # what the heads of an image tower share
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
    """open_clip takes the whole part of width times ratio for the hidden values of a block."""
    if not hidden:
        return {}
    return {"mlp_ratio": next(ratio for ratio in (hidden / width, (hidden + 0.5) / width)
                              if int(width * ratio) == hidden)}


def with_all_tokens(checkpoint):
    """(architecture, state dict) of a checkpoint, on the host; one with a row for some tokens only gets a row for each,
    those that were unknown the one that they shared."""
    weights = loader.build(checkpoint).state_dict()  # matched name for name: nothing missing, nothing else
    architecture = dict(checkpoint["architecture"])
    vocabulary = architecture.pop("vocabulary", None)
    if vocabulary:
        rows = torch.zeros(VOCABULARY_SIZE, dtype=torch.long)
        rows[torch.tensor(vocabulary)] = torch.arange(1, len(vocabulary) + 1)
        weights["token_embedding.weight"] = weights["token_embedding.weight"][rows]  # (49408, W)
        architecture["vocab_size"] = VOCABULARY_SIZE
    return architecture, weights


def class_names_of(checkpoint):
    """{dataset: class names} of the checkpoint's heads, as far as its history tells them."""
    told = {task.get("dataset"): task.get("classnames") for task in checkpoint.get("history", [])}
    return {name: told[name] for name in checkpoint["heads"] if name in told}


def digest(configuration):
    """Of the flags that can change a result: who publishes an export need not publish the paths among them."""
    return hashlib.sha256(repr(sorted(map(repr, configuration.items()))).encode()).hexdigest()
