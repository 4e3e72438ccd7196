"""Adapters: low-rank updates alone in a file, usable only on the model they were trained on.

An adapter is a folder of peft (``adapter_config.json`` beside ``adapter_model.safetensors`` or ``.bin``),
or the ``<DATASET>.lora.pth`` of a run with ``--lora``. ``src.run.merging`` merges them into a model.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from clip.errors import LoadError, printable
from clip.files import configs
from clip.files.hub import ADAPTER, FOLDERS

ROOT = "base_model.model."  # peft's prefix of the model's names


@dataclass(frozen=True)
class Adapter:
    """``tensors`` {name: tensor}, as stored; ``settings``: the content of ``adapter_config.json``, or what
    our own file stores beside its tensors. ``ours``: whether this project wrote it, with the names of
    ``clip.model``."""

    path: Path
    tensors: dict
    settings: dict
    ours: bool = False

    @property
    def base(self):
        """The name of the model it belongs to, as --model accepts it; None if the file does not state it."""
        name, revision = (self.settings.get(key) or None for key in ("base_model_name_or_path", "revision"))
        if not all(isinstance(part, str | None) for part in (name, revision)):
            raise LoadError(f"{self.path}: base_model_name_or_path or revision is not a string")
        return f"{name}@{revision}" if name and revision and not Path(name).exists() else name


class AdapterAlone(LoadError):
    """A file that holds an adapter where a model is expected."""

    def __init__(self, adapter):
        super().__init__(f"{adapter.path} holds an adapter, which works only on the model it was trained on: "
                         "give both to python -m src.main, --model BASE --load ADAPTER")
        self.adapter = adapter


def adapter_of(content, file):
    """Return the Adapter in a file's ``content``, or None. Raise LoadError for a configuration that cannot
    be read."""
    if isinstance(content.get("lora"), dict) and "r" in content:
        settings = {key: value for key, value in content.items() if key != "lora"}
        return Adapter(file, _tensors(content["lora"], file), settings, ours=True)
    if isinstance(content.get("peft"), dict) and isinstance(content.get("config"), dict):
        return Adapter(file, _tensors(content["peft"], file), content["config"], ours=True)
    beside = file.parent / ADAPTER
    if beside.is_file() and (file.name in FOLDERS[ADAPTER] or content and all(map(_is_peft_s, content))):
        return Adapter(file, _tensors(content, file), configs.read_config(beside))
    return None


def _is_peft_s(name):
    return name.startswith(ROOT)


def _tensors(content, file):
    """Copy {name: tensor}, halves as fp32, the dtype in which adapters are merged. Raise LoadError for
    anything else."""
    strange = [str(name) for name, value in content.items()
               if not (isinstance(name, str) and isinstance(value, torch.Tensor) and value.is_floating_point())]
    if strange or not content:
        raise LoadError(f"{file} holds an adapter " + (f"in which {printable(strange[0], 100)} is not a tensor of "
                                                       "floating-point numbers" if strange else "without tensors"))
    return {name: value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
            for name, value in content.items()}
