"""Every layout that people have gives open_clip's or transformers' own features; others are named."""

import copy
import itertools
import json
import math
import zipfile

import open_clip
import pytest
import torch
from foreign_weights import PREFIXES, WRAPPERS, hugging, open_clip_model, write_folder
from safetensors.torch import load_file, save_file

from clip import catalog, loader
from clip.errors import LoadError
from clip.files import configs
from clip.files.layouts import from_transformers, open_weights, to_transformers

STATED = catalog.DEFAULTS | {"vision_heads": 2, "transformer_heads": 2, "image_resolution": 32}
NORMS = {"openai": {}, "inception": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.25, 0.5]}}


@pytest.fixture(scope="module")
def quick():
    return open_clip_model()


@torch.no_grad()
def features(model):
    """(4, D) of two images and two texts, by any library's model."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 32, 32, generator=generator, dtype=next(model.parameters()).dtype)
    tokens = torch.tensor([[48, 5, 49, 0, 0, 0, 0, 0], [48, 7, 9, 9, 49, 0, 0, 0]])
    if hasattr(model, "get_image_features"):
        found = model.get_image_features(images), model.get_text_features(tokens)
        return torch.cat([getattr(part, "pooler_output", part) for part in found])
    return torch.cat([model.encode_image(images), model.encode_text(tokens)])


def assert_same(path, theirs, given=None):
    """-> the checkpoint, whose features are theirs to 1e-9 in double precision"""
    checkpoint = loader.read_checkpoint(path, given)
    expected = features(copy.deepcopy(theirs).double())
    found = features(loader.build(checkpoint).double().eval())
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    return checkpoint


@pytest.mark.parametrize(("name", "safe"), [("a.bin", True), ("A.SAFETENSORS", True), ("a.safetensors", False)])
def test_a_file_is_read_by_its_content(quick, tmp_path, name, safe):
    (save_file if safe else torch.save)(quick.state_dict(), tmp_path / name)
    assert_same(tmp_path / name, quick, STATED)


def test_others_metadata_are_not_taken_for_ours(quick, tmp_path):
    save_file(quick.state_dict(), tmp_path / "a.safetensors", metadata={"architecture": "ViT-B-32", "format": "pt"})
    assert_same(tmp_path / "a.safetensors", quick, STATED)


@pytest.mark.parametrize(("content", "fragment"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    (b"<!DOCTYPE html><html>", "is a web page"), (b"\x1f\x8b\x08rest", "unpack it"), (b"\x89HDF\r\n\x1a\n", "Keras"),
    (b"GGUF" + bytes(20), "GGUF")])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_files_that_are_no_weights_say_what_they_are(tmp_path, name, content, fragment):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError, match=rf"{name} .*{fragment}"):
        open_weights(tmp_path / name)


def test_an_archive_of_a_folder_must_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("open_clip_config.json", "{}")
    with pytest.raises(LoadError, match="model.zip .*must be unpacked"):
        open_weights(tmp_path / "model.zip")


# -- names and wrappers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_and_prefixes(quick, tmp_path, wrapper, prefix):
    weights = {prefix + name: value for name, value in quick.state_dict().items()}
    torch.save(WRAPPERS[wrapper](weights), tmp_path / "a.pt")
    checkpoint = assert_same(tmp_path / "a.pt", quick, STATED)
    assert checkpoint["assumed"] == {} and checkpoint["notes"] == []


@pytest.mark.parametrize("prefix", PREFIXES)
def test_transformers_names_below_a_prefix(quick, tmp_path, prefix):
    theirs = hugging(quick)
    weights = {prefix + name: value.contiguous() for name, value in theirs.state_dict().items()}
    save_file(weights, tmp_path / "a.safetensors")
    assert_same(tmp_path / "a.safetensors", theirs, STATED)


def test_names_map_there_and_back(quick):
    weights = quick.state_dict()
    weights.pop("attn_mask", None)
    back = from_transformers(to_transformers(weights))
    assert back.keys() == weights.keys() and all(torch.equal(back[name], weights[name]) for name in weights)
    theirs = hugging(quick).state_dict()
    named = to_transformers(weights)
    assert named.keys() == {name for name in theirs if "position_ids" not in name}
    assert all(torch.equal(named[name], theirs[name]) for name in named)


def test_what_lies_outside_the_prefix_is_a_note(quick, tmp_path):
    weights = {f"clip_model.{name}": value for name, value in quick.state_dict().items()}
    torch.save({"state_dict": weights | {"fc.weight": torch.zeros(2), "loss.scale": torch.zeros(1)}}, tmp_path / "a.pt")
    note, = assert_same(tmp_path / "a.pt", quick, STATED)["notes"]
    assert "2 tensors outside" in note and "fc.weight, loss.scale" in note and "clip_model." in note


@pytest.mark.parametrize(("make", "places"), [
    (lambda w: {f"{part}.{name}": value for part in ("model", "teacher") for name, value in w.items()},
     "model. and under teacher."),
    (lambda w: {"model": w, "model_ema": w}, "model: and under model_ema:"),
    (lambda w: {"state_dict": w, "ema": {f"module.{name}": value for name, value in w.items()}},
     "state_dict: and under ema:"),
    (lambda w: w | {f"teacher.{name}": value for name, value in w.items()}, "no prefix and under teacher.")])
def test_several_clips_are_named(quick, tmp_path, make, places):
    torch.save(make(quick.state_dict()), tmp_path / "a.pt")
    with pytest.raises(LoadError, match="several CLIPs") as caught:
        open_weights(tmp_path / "a.pt")
    assert places in str(caught.value)


def test_names_that_only_wrappers_tell_apart(quick, tmp_path):
    weights = quick.state_dict()
    torch.save(weights | {"module.logit_scale": torch.zeros(())}, tmp_path / "a.pt")
    with pytest.raises(LoadError, match="two tensors are called logit_scale"):
        open_weights(tmp_path / "a.pt")


# -- not a CLIP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "fragments"), [
    (["net.backbone.layer1.0.conv1.weight", "net.backbone.layer4.1.conv1.weight"],
     ["a ResNet", "all begin with net.backbone.", "layer1.0.conv1.weight"]),
    (["vision_model.embeddings.class_embedding", "vision_model.x"], ["image tower of transformers' CLIP alone"]),
    (["text_model.embeddings.token_embedding.weight", "text_model.x"], ["text tower"]),
    (["text_model.embeddings.token_embedding.weight", "vision_model.embeddings.patch_embedding.weight", "logit_bias"],
     ["SigLIP"]),
    (["visual.trunk.blocks.0.attn.qkv.weight", "text.token_embedding.weight"], ["timm"]),
    (["visual.blocks.0.attn.q_bias", "token_embedding.weight"], ["EVA-CLIP"]),
    (["visual.conv1.weight", "text.token_embedding.weight", "text_decoder.ln_final.weight"], ["CoCa"]),
    (["prompt_learner.ctx"], ["prompts of CoOp"]),
    (["visual.transformer.resblocks.0.mlp.c_fc.lora_A"], ["an adapter (LoRA)", "<DATASET>.pth beside"]),
    (["base_model.model.vision_model.encoder.layers.0.mlp.fc1.lora_A.weight"], ["adapter", "merge_and_unload()"]),
    (["a", "b", "c", "d", "e", "f"], ["a, b, c, d and 2 more"])])
def test_strangers(tmp_path, names, fragments):
    torch.save({"state_dict": {name: torch.zeros(2, 2) for name in names}}, tmp_path / "a.pt")
    with pytest.raises(LoadError) as caught:
        loader.read_checkpoint(tmp_path / "a.pt")
    assert all(fragment in str(caught.value) for fragment in [str(tmp_path / "a.pt"), *fragments])
    assert "\n" not in str(caught.value)


# -- what lies beside them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "quick_gelu", "head_width", "norm"), [
    *itertools.product(["open_clip", "transformers"], [True, False], [64, 80], NORMS),
    *itertools.product(["open_clip bin", "transformers bin", "sharded", "sharded bin"], [False], [80], ["inception"])])
def test_folders_tell_all(tmp_path, layout, quick_gelu, head_width, norm):
    """Both activations, two widths of heads, two normalisations: the libraries' own features, nothing assumed."""
    theirs = write_folder(tmp_path, layout, quick_gelu, head_width, NORMS[norm])
    checkpoint = assert_same(tmp_path, theirs)
    assert checkpoint["assumed"] == {} and checkpoint["notes"] == []
    found, statistics = checkpoint["architecture"], catalog.DEFAULTS | NORMS[norm]
    assert found["activation"] == ("quick_gelu" if quick_gelu else "gelu") and found["vision_heads"] == 4
    assert {key: found[key] for key in ("mean", "std")} == {key: statistics[key] for key in ("mean", "std")}


def test_the_model_of_a_folder_that_is_not_read_is_named(tmp_path):
    for layout in ("open_clip", "transformers"):
        write_folder(tmp_path, layout, False, 64, {})
    note, = open_weights(tmp_path).notes
    assert "open_clip_model.safetensors is read, not model.safetensors" in note


def test_another_format_of_the_same_model_is_named(tmp_path):
    write_folder(tmp_path, "transformers", False, 64, {})
    torch.save({}, tmp_path / "pytorch_model.bin")
    note, = open_weights(tmp_path).notes
    assert "model.safetensors is read, not pytorch_model.bin" in note


@pytest.mark.parametrize("alone", [False, True])
def test_a_configuration_of_older_transformers(tmp_path, alone):
    """``text_config_dict`` wins over ``text_config``, which may lack what it says, or be absent."""
    from transformers import CLIPConfig
    theirs = write_folder(tmp_path, "transformers", False, 64, {})
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    for part in ("text_config", "vision_config"):
        content[f"{part}_dict"] = dict(content[part])
        del content[part]["hidden_act"]
        if alone:
            del content[part]
    path.write_text(json.dumps(content))
    read = CLIPConfig.from_pretrained(tmp_path)
    assert read.text_config.hidden_act == read.vision_config.hidden_act == "gelu"
    assert assert_same(tmp_path, theirs)["architecture"]["activation"] == "gelu"
    stated, _ = configs.transformers_architecture(
        {"text_config": {"hidden_act": "gelu"}, "vision_config": {"hidden_act": "gelu"}, "text_config_dict": {"x": 1},
         "vision_config_dict": {"hidden_act": "quick_gelu"}}, None, "a.json")
    assert stated["activation"] == "quick_gelu"  # the default that text_config_dict brings


def test_one_number_for_all_channels():
    """As open_clip takes it."""
    stated, _ = configs.open_clip_preprocessing({"mean": 0.5, "std": 0.25}, 224, "a.json")
    assert stated == {"mean": [0.5] * 3, "std": [0.25] * 3}


def test_a_file_of_a_folder_follows_its_configuration(tmp_path):
    theirs = write_folder(tmp_path, "open_clip", False, 80, {})
    assert assert_same(tmp_path / "open_clip_model.safetensors", theirs)["assumed"] == {}


@pytest.mark.parametrize("ratio", [2.5, 4.9231])
def test_blocks_of_another_width(tmp_path, ratio):
    """As open_clip's ViT-g-14 and ViT-bigG-14 have them."""
    theirs = open_clip_model(mlp_ratio=ratio)
    torch.save(theirs.state_dict(), tmp_path / "a.pt")
    checkpoint = assert_same(tmp_path / "a.pt", theirs, STATED)
    assert checkpoint["architecture"]["vision_mlp_width"] == math.floor(128 * ratio)


def test_a_configuration_of_another_model(tmp_path):
    write_folder(tmp_path, "open_clip", True, 64, {})
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 9
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match="is not the model that .* describes: vision_layers is 2, not 9"):
        loader.read_checkpoint(tmp_path)


@pytest.mark.parametrize(("name", "content"), [
    ("open_clip", {"model_cfg": 3}), ("open_clip", {"model_cfg": {"embed_dim": 4}, "preprocess_cfg": "x"}),
    ("open_clip", {"model_cfg": {"embed_dim": 4, "vision_cfg": {"width": "a"}}}), ("open_clip", {"model_cfg": {}}),
    ("transformers", {"text_config": {"hidden_act": []}}), ("transformers", {"text_config": {"layer_norm_eps": None}}),
    ("transformers", {"text_config": {"vocab_size": None, "eos_token_id": 5}}), ("processor", {"image_processor": 3})])
def test_values_of_other_types_in_a_configuration(name, content):
    """A user reads one line with the file, not a traceback."""
    with pytest.raises(LoadError, match="a.json does not describe a CLIP"):
        if name == "open_clip":
            configs.open_clip_architecture(content, "a.json")
        else:
            configs.transformers_architecture(*((content, None) if name == "transformers" else ({}, content)), "a.json")


@pytest.mark.parametrize("lost", ["part", "tensor", "map", "outside", "twice"])
def test_shards_that_are_not_whole(tmp_path, lost):
    write_folder(tmp_path, "sharded", True, 64, {})
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    if lost == "part":
        next(tmp_path.glob("*-of-*")).unlink()
    elif lost == "tensor":
        content["weight_map"]["more"] = content["weight_map"]["logit_scale"]
    elif lost == "map":
        content = {}
    elif lost == "twice":
        first, second, *_ = sorted(tmp_path.glob("*-of-*"))
        save_file(load_file(second) | {name: 2 * value for name, value in load_file(first).items()}, second)
    else:
        content["weight_map"]["more"] = "../x.safetensors"
    index.write_text(json.dumps(content))
    why = "index.json: .* occurs in several of its parts" if lost == "twice" else "model.safetensors.index.json"
    with pytest.raises(LoadError, match=why):
        loader.read_checkpoint(tmp_path)


def test_a_shard_by_itself_is_a_part(tmp_path):
    write_folder(tmp_path, "sharded", True, 64, {})
    with pytest.raises(LoadError, match="part of the model in model.safetensors.index.json, so give that or"):
        loader.read_checkpoint(next(tmp_path.glob("*-of-*")))


@pytest.mark.parametrize(("value", "notes"), [(4.6055, 0), (14.3, 1), (100.0, 1)])
def test_a_scale_that_is_no_logarithm_is_noted(quick, tmp_path, value, notes):
    torch.save(quick.state_dict() | {"logit_scale": torch.tensor(value)}, tmp_path / "a.pt")
    assert sum(f"logit_scale {value:g}" in note for note in loader.read_checkpoint(tmp_path / "a.pt")["notes"]) == notes


@pytest.mark.parametrize(("names", "fragment"), [
    ([], "nothing"), (["DTD.pth"], "DTD.pth: give that file"),
    (["a.pt", "b.pt"], "a.pt, b.pt: give one of these files"),
    (["adapter_config.json"], "adapter_config.json without adapter_model.safetensors or adapter_model.bin"),
    (["notes.txt", "x"], "notes.txt, x"), (["open_clip_config.json"], "open_clip_config.json"),
    (["a/adapter_config.json", "b/adapter_config.json"], "adapters of peft in a, b: give the folder"),
    ([f"{index}.pth" for index in range(7)], "3.pth and 3 more")])
def test_a_folder_says_what_it_holds(tmp_path, names, fragment):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(LoadError) as caught:
        loader.read_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value) and fragment in str(caught.value)


# -- what nothing tells ------------------------------------------------------------------------------------------------


def test_what_is_assumed_is_named(quick, tmp_path):
    torch.save(quick.state_dict(), tmp_path / "a.pt")
    checkpoint = assert_same(tmp_path / "a.pt", quick)
    assert checkpoint["assumed"] == STATED
    with pytest.warns(UserWarning, match="activation .*heads .*size of its images"):
        loader.load(str(tmp_path / "a.pt"))


def test_the_other_activation_is_given(tmp_path):
    theirs = open_clip_model(quick_gelu=False)
    torch.save(theirs.state_dict(), tmp_path / "a.pt")
    checkpoint = assert_same(tmp_path / "a.pt", theirs, {"activation": "gelu"})
    assert "activation" not in checkpoint["assumed"] and checkpoint["assumed"].keys() == STATED.keys() - {"activation"}


@pytest.mark.parametrize(("head_width", "text_width", "vision_width", "key"), [
    (80, 128, 320, "vision_heads"), (50, 128, 100, "vision_heads"), (64, 320, 128, "transformer_heads")])
def test_heads_that_cannot_be_assumed(tmp_path, head_width, text_width, vision_width, key):
    theirs = open_clip_model(head_width=head_width, text_width=text_width, vision_width=vision_width)
    torch.save(theirs.state_dict(), tmp_path / "a.pt")
    with pytest.raises(LoadError, match=f"does not state {key}.*--model-config with {key}"):
        loader.read_checkpoint(tmp_path / "a.pt")
    heads = {"vision_heads": vision_width // head_width, "transformer_heads": 2}
    assert_same(tmp_path / "a.pt", theirs, heads)


@pytest.mark.parametrize(("given", "message"), [
    ({"activation": "gelu"}, "has activation quick_gelu, not gelu as mine has"),
    ({"vision_heads": 1}, "has vision_heads 4, not 1 as mine"), ({"mean": [0.5] * 3}, "has mean"),
    ({"image_resolution": 36}, "has image_resolution 32, not 36"),
    ({"embed_dim": 3}, "holds another architecture, not mine .embed_dim is 16, not 3")])
def test_what_is_stored_and_given_and_differs(tmp_path, given, message):
    write_folder(tmp_path, "open_clip", True, 64, {})
    with pytest.raises(loader.OtherArchitecture, match=message):
        loader.read_checkpoint(tmp_path, given, "mine")


def test_stored_heads_that_differ_are_an_error(tmp_path):
    theirs = loader.CLIP(**loader.architecture_of(open_clip_model().state_dict()))
    content = {"format": 1, "state_dict": theirs.state_dict()}
    torch.save(content | {"architecture": theirs.architecture}, tmp_path / "a.pth")
    with pytest.raises(loader.OtherArchitecture, match="vision_heads 2, not 4"):
        loader.read_checkpoint(tmp_path / "a.pth", {"vision_heads": 4}, "mine")
    architecture = {key: value for key, value in theirs.architecture.items() if key != "vision_heads"}
    torch.save(content | {"architecture": architecture}, tmp_path / "a.pth")
    with pytest.raises(loader.OtherArchitecture, match="vision_heads 2, not 4"):
        loader.read_checkpoint(tmp_path / "a.pth", {"vision_heads": 4}, "mine")


def test_a_size_of_images_that_the_positions_do_not_fit(quick, tmp_path):
    torch.save(quick.state_dict(), tmp_path / "a.pt")
    with pytest.raises(LoadError, match="images of 32 pixels, not of 48"):
        loader.read_checkpoint(tmp_path / "a.pt", {"image_resolution": 48})
    larger = loader.read_checkpoint(tmp_path / "a.pt", {"image_resolution": 39})  # 4 patches of 8, and 7 pixels more
    assert loader.build(larger).image_resolution == 39


def test_openai_s_own_archives_need_no_assumption(quick, tmp_path):
    numbers = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save({**quick.state_dict(), **numbers}, tmp_path / "a.pt")
    assert assert_same(tmp_path / "a.pt", quick)["assumed"] == {}


def test_open_clip_agrees_on_its_own_functions(tmp_path):
    """The folder that the tests write is one that open_clip itself reads."""
    theirs = write_folder(tmp_path, "open_clip", False, 80, NORMS["inception"])
    again, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    assert torch.equal(features(again.eval()), features(theirs)) and "0.25" in str(preprocess)
