"""Names, architectures and users' own YAML files."""

import hashlib
import re

import open_clip
import pytest
import torch
from open_clip.pretrained import get_pretrained_url

from clip import catalog, loader
from clip.catalog import read_architecture
from clip.model import CLIP

PARAMETERS = {"ViT-B/32": 151_277_313, "ViT-B/16": 149_620_737, "RN50": 102_007_137}
BLOCK = {"embed_dim": 24, "image_resolution": 16, "vision_layers": 2, "vision_width": 64, "vision_patch_size": 8,
         "context_length": 77, "vocab_size": 500, "transformer_width": 64, "transformer_heads": 1,
         "transformer_layers": 1}
RESNET = {**{key: value for key, value in BLOCK.items() if key != "vision_patch_size"}, "vision_layers": [1, 1, 1, 1],
          "image_resolution": 32}


def open_clip_name(name):
    return catalog.file_stem(name).replace("-336px", "-336") + "-quickgelu"


def on_meta_device(build, **arguments):
    with torch.device("meta"):
        return build(**arguments)


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def heads_of(model):
    """Numbers of attention heads, which no shape tells: (image tower, text tower); open_clip names them otherwise."""
    image = model.visual.attnpool if hasattr(model.visual, "attnpool") else model.visual.transformer.resblocks[0].attn
    return tuple(attention.num_heads if hasattr(attention, "num_heads") else attention.heads
                 for attention in (image, model.transformer.resblocks[0].attn))


@pytest.fixture
def yaml_file(tmp_path):
    """Writes blocks (or text) to a file of the user's; JSON is YAML too."""
    import json

    def write(content):
        path = tmp_path / "mine.yaml"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path
    return write


def error_of(name, file=None):
    """The one-line message that naming this architecture ends with."""
    with pytest.raises(ValueError) as caught:
        read_architecture(name, file)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# The published models.

def test_the_nine_published_models():
    assert catalog.available_models() == ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16",
                                          "ViT-L/14", "ViT-L/14@336px"]


@pytest.mark.parametrize("name", catalog.ARCHIVES)
def test_address_and_hash_are_the_published_ones(name):
    address = catalog.archive_address(name)
    assert address == get_pretrained_url(open_clip_name(name), "openai")
    assert catalog.ARCHIVES[name] in address and len(catalog.ARCHIVES[name]) == hashlib.sha256().digest_size * 2


@pytest.mark.parametrize("name", catalog.ARCHIVES)
def test_published_models_have_the_parameters_and_heads_that_open_clip_builds(name):
    theirs = on_meta_device(open_clip.model.CLIP, **open_clip.get_model_config(open_clip_name(name)))
    ours = on_meta_device(CLIP, **read_architecture(name))
    assert parameter_count(ours) == parameter_count(theirs) == PARAMETERS.get(name, parameter_count(theirs))
    assert heads_of(ours) == heads_of(theirs)


@pytest.mark.parametrize("name, millions", [("modx-RN50", 83.1), ("modx-ViTB32", 151.3)])
def test_architectures_of_the_modx_paper(name, millions):
    assert round(parameter_count(on_meta_device(CLIP, **read_architecture(name))) / 1e6, 1) == millions


def test_every_config_is_named_read_and_built():
    names = catalog.architecture_names()
    assert set(catalog.ARCHIVES) | {"modx-RN50", "modx-ViTB32"} <= set(names)
    assert len(names) == len(list(catalog.CONFIGS.glob("*.yaml")))
    for name in names:
        on_meta_device(CLIP, **read_architecture(name))


@pytest.mark.parametrize("name", [*catalog.ARCHIVES, "modx-RN50", "modx-ViTB32"])
def test_architecture_is_read_back_from_the_shapes_of_the_weights(name):
    """The YAML says no number of vision heads: 64 values per head, a ResNet's pool having 32 times its width."""
    described = read_architecture(name)
    width = described["vision_width"]
    assert "vision_heads" not in described
    heads = width * 32 // 64 if isinstance(described["vision_layers"], list) else width // 64
    state_dict = on_meta_device(CLIP, **described).state_dict()
    assert loader.architecture_of(state_dict) == {**described, "vision_heads": heads}


def test_shipped_weights_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "WEIGHTS", tmp_path)
    assert catalog.shipped_weights("toy") is None and catalog.shipped_names() == []
    (tmp_path / "toy.pth").touch()
    assert catalog.shipped_weights("toy") == tmp_path / "toy.pth" and catalog.shipped_names() == ["toy"]


def test_all_shipped_weights_have_an_architecture():
    assert catalog.shipped_names() == ["toy", "toy-vit"]
    assert {*catalog.shipped_names()} <= {*catalog.architecture_names()}


# A user's own file.

def test_a_block_is_picked_by_name(yaml_file):
    path = yaml_file({"first": BLOCK, "second": RESNET})
    assert read_architecture("first", path) == BLOCK
    assert read_architecture("second", str(path)) == RESNET


def test_mod_x_s_names_of_its_own_file(yaml_file):
    """Its scripts say ViT or RN, its YAML file ViTB32 and RN50: the only block of that kind."""
    path = yaml_file({"ViTB32": BLOCK, "RN50": RESNET})
    assert read_architecture("ViT", path) == BLOCK and read_architecture("RN", path) == RESNET
    assert read_architecture("RN", yaml_file({"RN": BLOCK, "RN50": RESNET})) == BLOCK
    assert read_architecture("RN", yaml_file({"small": BLOCK, "deep": RESNET})) == RESNET
    assert "no architecture 'RN'" in error_of("RN", yaml_file({"one": RESNET, "other": RESNET, "ViTB32": BLOCK}))
    assert "no architecture 'ViT'" in error_of("ViT", yaml_file({"RN50": RESNET}))


@pytest.mark.parametrize(("key", "value"), [
    ("activation", "relu"), ("mean", [0.5, 0.5]), ("mean", [123.7, 116.3, 103.5]), ("mean", "x"), ("std", [0, 1, 1]),
    ("std", [0.5, 0.5, "much"]), ("vision_mlp_width", 0.5), ("transformer_mlp_width", -1)])
def test_what_no_tensor_tells_is_checked(yaml_file, key, value):
    assert f"mine.yaml: {key} must" in error_of("mine", yaml_file({**BLOCK, key: value}))


def test_what_no_tensor_tells_is_taken(yaml_file):
    keys = {"activation": "gelu", "mean": [0.5, 0.4, 0.3], "std": [1, 0.25, 0.5], "vision_mlp_width": 100,
            "transformer_mlp_width": 50}
    model = CLIP(**read_architecture("mine", yaml_file({"mine": BLOCK | keys})))
    assert {key: model.architecture[key] for key in keys} == keys and model.mean == (0.5, 0.4, 0.3)
    assert type(model.transformer.resblocks[0].mlp.gelu).__name__ == "GELU"
    assert [tower.resblocks[0].mlp.c_fc.out_features for tower in (model.visual.transformer, model.transformer)] == [
        100, 50]


def test_a_part_of_an_architecture_where_weights_tell_the_rest(yaml_file):
    path = yaml_file({"mine": {"activation": "gelu"}})
    assert read_architecture("mine", path, partial=True) == {"activation": "gelu"}
    assert "missing embed_dim" in error_of("mine", path)
    assert read_architecture(None, yaml_file({"vision_heads": 4}), partial=True) == {"vision_heads": 4}


def test_a_flat_file_is_one_architecture(yaml_file):
    assert read_architecture(None, yaml_file(BLOCK)) == BLOCK
    assert read_architecture("anything", yaml_file(BLOCK)) == BLOCK


def test_patch_size_zero_with_a_list_of_layers_is_a_resnet(yaml_file):
    block = read_architecture("mine", yaml_file({**RESNET, "vision_patch_size": 0}))
    assert type(CLIP(**{**block, "image_resolution": 32}).visual).__name__ == "ModifiedResNet"


def test_optional_keys_are_taken(yaml_file):
    optional = {"vision_heads": 4, "vocabulary": [320, 49406, 49407]}
    block = read_architecture("mine", yaml_file({**BLOCK, "vocab_size": 4, **optional}))
    model = CLIP(**block)
    assert model.visual.transformer.resblocks[0].attn.heads == 4 and model.token_rows[49407] == 3


# What is refused, and how.

def test_unknown_name_lists_the_known_ones():
    message = error_of("ViT-B/8")
    assert "ViT-B/8" in message and "ViT-B/16" in message and "modx-RN50" in message


def test_missing_file_is_named(tmp_path):
    assert "nothing.yaml" in error_of("mine", tmp_path / "nothing.yaml")


def test_unknown_block_lists_those_of_the_file(yaml_file):
    message = error_of("third", yaml_file({"first": BLOCK, "second": RESNET}))
    assert "third" in message and "first, second" in message


@pytest.mark.parametrize("text", ["first: [1, 2", "a: b: c", "\tx: 1", "x: @1"])
def test_not_yaml(yaml_file, text):
    assert "mine.yaml is not YAML" in error_of("first", yaml_file(text))


def test_not_text(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"\x80\x02\xff\xfe\x00")
    assert "weights.pt is not YAML" in error_of("first", path)


@pytest.mark.parametrize("text", ["", "- 1\n- 2", "just text", "3"])
def test_yaml_of_something_else(yaml_file, text):
    assert "does not hold an architecture" in error_of("first", yaml_file(text))


MISSING = {key: value for key, value in BLOCK.items() if key not in ("vocab_size", "image_resolution")}
UNKNOWN = {"depth": 3, "image_size": 8}


@pytest.mark.parametrize("block, reason", [
    (MISSING, "missing image_resolution, vocab_size"), ({**BLOCK, **UNKNOWN}, "unknown depth, image_size"),
    ({**MISSING, **UNKNOWN}, "missing image_resolution, vocab_size; unknown depth, image_size")])
def test_missing_and_unknown_keys_are_listed(yaml_file, block, reason):
    assert error_of("mine", yaml_file({"mine": block})).endswith(reason)


@pytest.mark.parametrize("block", [
    {**BLOCK, "vision_layers": [1, 1, 1, 1]}, {**BLOCK, "vision_patch_size": 0}, {**RESNET, "vision_layers": 4}])
def test_vit_and_resnet_mixed_up(yaml_file, block):
    message = error_of("mine", yaml_file(block))
    assert "ViT" in message and "ResNet" in message and "vision_patch_size" in message


@pytest.mark.parametrize("value", [-2, 0, True, False, 1.5, "12", None, [64]])
@pytest.mark.parametrize("key", ["embed_dim", "image_resolution", "vision_width", "context_length", "vocab_size",
                                 "transformer_width", "transformer_heads", "transformer_layers"])
def test_sizes_must_be_positive_whole_numbers(yaml_file, key, value):
    message = error_of("mine", yaml_file({**BLOCK, key: value}))
    assert f"{key} must be a positive whole number" in message and repr(value) in message


@pytest.mark.parametrize("value", [-2, 0, True, 1.5, "12", None, [], [1, -1], [1, True], [[1]]])
def test_vision_layers_must_be_a_number_or_a_list_of_them(yaml_file, value):
    message = error_of("mine", yaml_file({**BLOCK, "vision_layers": value}))
    assert "vision_layers must be a positive whole number or a list of them" in message


@pytest.mark.parametrize("key, value", [("vision_patch_size", -8), ("vision_patch_size", True),
                                        ("vision_patch_size", 8.0), ("vision_heads", -1), ("vision_heads", True)])
def test_optional_sizes_must_be_positive_whole_numbers_too(yaml_file, key, value):
    message = error_of("mine", yaml_file({**BLOCK, key: value}))
    assert f"{key} must be a positive whole number" in message and repr(value) in message


@pytest.mark.parametrize("vocabulary", [[5, 6], [5, 6, 6], [5, 6, 7, 7], [5, 6, 7, 8], [5, 6, True], [5, 6, "7"],
                                        7, {"a": 1}, [5, 6, -1], [5, 6, 49408]])
def test_vocabulary_lists_as_many_token_ids_as_there_are_rows_beside_the_shared_one(yaml_file, vocabulary):
    assert "vocabulary" in error_of("mine", yaml_file({**BLOCK, "vocab_size": 4, "vocabulary": vocabulary}))


@pytest.mark.parametrize("changes", [{"transformer_heads": 3}, {"vision_heads": 5}, {"vision_width": 200}])
def test_heads_must_divide_the_width(yaml_file, changes):
    """Otherwise the first batch would end in an error about shapes. A ViT of width 200 has 3 heads unless told."""
    assert re.search(r"\d+ heads", error_of("mine", yaml_file({**BLOCK, **changes})))
