"""Adapters are recognised as such, with what they state of themselves, and are never taken for a model."""

import json

import pytest
import torch
from safetensors.torch import save_file

import clip
from clip.errors import LoadError
from clip.files import hub
from clip.files.adapters import AdapterAlone
from clip.files.layouts import open_weights

NAME = "base_model.model.vision_model.encoder.layers.0.mlp.fc1.lora_{}.weight"
TENSORS = {NAME.format("A"): torch.ones(2, 4), NAME.format("B"): torch.ones(4, 2)}


def write(folder, name="adapter_model.safetensors", tensors=TENSORS, **settings):
    """A folder as peft writes it."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, **settings}))
    (save_file if name.endswith("safetensors") else torch.save)(tensors, folder / name)
    return folder


def adapter_in(path):
    with pytest.raises(AdapterAlone, match="--model BASE --load ADAPTER") as caught:
        open_weights(path)
    return caught.value.adapter


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_of_peft_and_its_file(tmp_path, name, whole):
    found = adapter_in(write(tmp_path, name) / ("" if whole else name))
    assert found.settings == {"peft_type": "LORA", "r": 2} and not found.ours and found.base is None
    assert found.tensors.keys() == TENSORS.keys() and found.path == tmp_path / name


def test_a_renamed_file_and_a_model_beside_a_configuration(tmp_path):
    """The names of tensors show which of the files in a folder the configuration describes."""
    write(tmp_path, "mine.safetensors")
    assert adapter_in(tmp_path / "mine.safetensors").settings["r"] == 2
    save_file({"fc.weight": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(LoadError, match="does not hold a CLIP"):
        open_weights(tmp_path / "other.safetensors")


@pytest.mark.parametrize(("content", "ours"), [
    ({"peft": TENSORS, "config": {"peft_type": "LORA"}}, {"peft_type": "LORA"}),
    ({"lora": TENSORS, "r": 2, "alpha": 3.0, "shared": True}, {"r": 2, "alpha": 3.0, "shared": True})])
def test_our_own_files(tmp_path, content, ours):
    torch.save(content, tmp_path / "DTD.lora.pth")
    found = adapter_in(tmp_path / "DTD.lora.pth")
    assert found.ours and found.settings == ours and found.base is None and found.tensors.keys() == TENSORS.keys()


def test_halves_are_read_as_fp32(tmp_path):
    write(tmp_path, tensors={name: value.bfloat16() for name, value in TENSORS.items()})
    assert {value.dtype for value in adapter_in(tmp_path).tensors.values()} == {torch.float32}


@pytest.mark.parametrize(("settings", "base"), [
    ({"base_model_name_or_path": "org/clip"}, "org/clip"), ({"base_model_name_or_path": ""}, None),
    ({"base_model_name_or_path": "org/clip", "revision": "v2"}, "org/clip@v2"), ({"revision": "v2"}, None)])
def test_the_base_that_it_names(tmp_path, settings, base):
    assert adapter_in(write(tmp_path, **settings)).base == base


def test_a_base_of_another_type(tmp_path):
    with pytest.raises(LoadError, match="base_model_name_or_path or revision is not a string"):
        assert adapter_in(write(tmp_path, base_model_name_or_path=[3])).base


@pytest.mark.parametrize(("tensors", "fragment"), [
    ({}, "without tensors"), ({"a": torch.ones(2, dtype=torch.int8)}, "a is not a tensor of floating-point numbers")])
def test_what_no_adapter_holds(tmp_path, tensors, fragment):
    with pytest.raises(LoadError, match=fragment):
        open_weights(write(tmp_path, "adapter_model.bin", tensors))


def test_a_configuration_that_cannot_be_read(tmp_path):
    write(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(LoadError, match="adapter_config.json cannot be read as json"):
        open_weights(tmp_path)


def test_a_model_and_an_adapter_in_one_folder(tmp_path):
    write(tmp_path)
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(LoadError, match="a model .model.safetensors. and an adapter .adapter_model.safetensors."):
        hub.weights_of_folder(tmp_path)


def test_clip_load_names_the_command_that_merges(tmp_path):
    with pytest.raises(LoadError, match="--model BASE --load ADAPTER"):
        clip.load(str(write(tmp_path)))
