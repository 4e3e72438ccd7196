"""Adapters on their models: features equal those of peft's own model, not merged; what does not fit is rejected."""

import copy
import json

import pytest
import torch
from cli_files import same_weights, weights
from foreign_weights import adapted, hugging, open_clip_model
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from clip import loader
from clip.files.adapters import AdapterAlone
from clip.files.layouts import open_weights
from src.errors import UserError
from src.models.lora_injection import adapter_state, inject_lora, inject_peft
from src.run.merging import merged, notes_of

pytest_plugins = ["cli_fixtures"]

EVERY = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]  # of both towers of transformers' CLIPModel


@pytest.fixture(scope="module")
def quick():
    return open_clip_model()


@pytest.fixture(scope="module")
def base(quick, tmp_path_factory):
    """The checkpoint of ``quick``."""
    path = tmp_path_factory.mktemp("base") / "a.pt"
    torch.save(quick.state_dict(), path)
    return loader.read_checkpoint(path)


def adapter_in(path):
    with pytest.raises(AdapterAlone) as caught:
        open_weights(path)
    return caught.value.adapter


@torch.no_grad()
def features(model):
    """(4, D), L2-normalised, of two images and two texts, by any library's model; (2, D) where it has one tower."""
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[48, 5, 49, 0, 0, 0, 0, 0], [48, 7, 9, 9, 49, 0, 0, 0]])
    if hasattr(model, "get_image_features"):
        found = model.get_image_features(images), model.get_text_features(tokens)
        found = torch.cat([getattr(part, "pooler_output", part) for part in found])
    else:
        found = torch.cat([model.encode_image(images), model.encode_text(tokens)])
    return torch.nn.functional.normalize(found, dim=-1)


def with_weights(base, weights):
    return loader.build({**base, "state_dict": weights}).eval()


# -- equal to peft -----------------------------------------------------------------------------------------------------


def lora(**options):
    return LoraConfig(**{"target_modules": EVERY, "r": 4, "lora_alpha": 6, **options})


OF_TRANSFORMERS = {
    "plain": lora(), "rslora": lora(use_rslora=True), "dora": lora(use_dora=True), "bias all": lora(bias="all"),
    "bias lora_only": lora(bias="lora_only"), "lora_bias": lora(lora_bias=True),
    "fan_in_fan_out": lora(fan_in_fan_out=True),
    "modules_to_save": lora(modules_to_save=["visual_projection", "text_projection"]),
    "patterns": lora(rank_pattern={"fc1": 2}, alpha_pattern={"vision_model.*fc2": 30}),
    "one layer": lora(layers_to_transform=[1], layers_pattern="layers"),
    "one tower": lora(target_modules=r".*vision_model.*(q_proj|fc1)"), "exclude": lora(exclude_modules="text_model.*"),
    "embeddings": lora(target_modules=["token_embedding", "patch_embedding", "position_embedding", "fc1"]),
    "tokens": lora(trainable_token_indices={"token_embedding": [5, 7]}), "gaussian": lora(init_lora_weights="gaussian"),
    "parameter": lora(target_modules=["fc1"], target_parameters=["visual_projection.weight"]),
    "LoHa": LoHaConfig(target_modules=EVERY), "LoKr": LoKrConfig(target_modules=EVERY),
    "IA3": IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"])}
OF_OPEN_CLIP = {
    "attention and mlp": lora(target_modules=["attn", "c_fc", "c_proj"]),
    "dora": lora(target_modules=["c_fc", "c_proj"], use_dora=True, bias="all"),
    "modules_to_save": lora(target_modules=["c_fc"], modules_to_save=["ln_final", "ln_post"])}


FAST = ("plain", "dora", "bias all", "modules_to_save", "patterns", "tokens", "LoKr")


@pytest.mark.parametrize("how", [how if how in FAST else pytest.param(how, marks=pytest.mark.slow)
                                 for how in OF_TRANSFORMERS])
def test_adapters_of_transformers_models(quick, base, tmp_path, how):
    model = hugging(quick)
    before = features(model)
    theirs = features(adapted(model, copy.deepcopy(OF_TRANSFORMERS[how]), tmp_path))
    assert (theirs - before).abs().max() > 0.05, "the adapter says something"
    random = torch.random.get_rng_state()
    found = merged(adapter_in(tmp_path), base)
    assert torch.equal(torch.random.get_rng_state(), random)
    torch.testing.assert_close(features(with_weights(base, found)), theirs, atol=1e-5, rtol=0)
    assert same_weights(base["state_dict"], {name: value for name, value in quick.state_dict().items()
                                             if name in base["state_dict"]}), "the base is as it was"


@pytest.mark.parametrize(("how", "name"), [
    ("attention and mlp", "adapter_model.safetensors"), ("dora", "adapter_model.safetensors"),
    ("modules_to_save", "adapter_model.bin")])
def test_adapters_of_open_clip_models(quick, base, tmp_path, how, name):
    theirs = features(adapted(copy.deepcopy(quick), copy.deepcopy(OF_OPEN_CLIP[how]), tmp_path))
    if name.endswith("bin"):
        torch.save(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / name)
        (tmp_path / "adapter_model.safetensors").unlink()
    found = merged(adapter_in(tmp_path), base)
    assert (theirs - features(quick)).abs().max() > 0.05
    torch.testing.assert_close(features(with_weights(base, found)), theirs, atol=1e-5, rtol=0)


def test_by_hand(base, tmp_path, quick):
    """W + (alpha / r) B A, in the third of the fused projection that v_proj is."""
    adapted(hugging(quick), lora(target_modules=["v_proj"], layers_to_transform=[0]), tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    found = merged(adapter_in(tmp_path), base)
    place = "base_model.model.vision_model.encoder.layers.0.self_attn.v_proj.lora_{}.weight"
    name, width = "visual.transformer.resblocks.0.attn.in_proj_weight", 128
    expected = base["state_dict"][name].clone()
    expected[2 * width:] += 6 / 4 * stored[place.format("B")] @ stored[place.format("A")]
    torch.testing.assert_close(found[name], expected)
    changed = {name for name, value in found.items() if not torch.equal(value, base["state_dict"][name])}
    assert changed == {name, name.removeprefix("visual.")}


@pytest.mark.parametrize(("make", "towers"), [
    ("CLIPVisionModelWithProjection", {"visual."}), ("CLIPVisionModel", {"visual."}),
    ("CLIPTextModel", {"transformer."}), ("wrapped", {"visual.", "transformer."}),
    ("compiled", {"visual.", "transformer."}),
    ("VisionTransformer", {"visual."})])
def test_adapters_of_a_part_or_within_another_model(quick, base, tmp_path, make, towers):
    """One tower alone, whatever the library calls it; a CLIP that is an attribute of another module."""
    import transformers
    whole, targets = hugging(quick), EVERY
    if make == "VisionTransformer":
        model, targets = copy.deepcopy(quick.visual), ["c_fc", "c_proj"]
    elif make in ("wrapped", "compiled"):
        model = torch.nn.Module()
        setattr(model, {"wrapped": "clip", "compiled": "_orig_mod"}[make], whole)
    else:
        model = getattr(transformers, make)(whole.config.text_config if "Text" in make else whole.config.vision_config)
        known = whole.state_dict()
        tower = "text_model." if "Text" in make else "vision_model."
        model.load_state_dict({name: known[name if name in known else tower + name] for name in model.state_dict()})
    stored = adapted(model, lora(target_modules=targets), tmp_path)
    found = merged(adapter_in(tmp_path), base)
    changed = {name for name, value in found.items() if not torch.equal(value, base["state_dict"][name])}
    assert {name.split("transformer.")[0] or "transformer." for name in changed} == towers
    if make == "wrapped":
        torch.testing.assert_close(features(with_weights(base, found)), features(stored.clip), atol=1e-5, rtol=0)
    if make == "VisionTransformer":
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            ours, theirs = with_weights(base, found).encode_image(images), stored(images)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


# -- rejected ----------------------------------------------------------------------------------------------------------


def rewrite(folder, tensors=None, **settings):
    """Change an adapter's configuration, and its tensors by ``tensors({name: tensor})``."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    if tensors:
        stored = load_file(folder / "adapter_model.safetensors")
        save_file(tensors(stored), folder / "adapter_model.safetensors")


def without_last(tensors):
    return dict(list(tensors.items())[:-1])


@pytest.fixture(scope="module")
def written(quick, tmp_path_factory):
    """A good adapter, and one of another model."""
    good, other = tmp_path_factory.mktemp("good"), tmp_path_factory.mktemp("other")
    adapted(hugging(quick), lora(), good)
    adapted(torch.nn.ModuleDict({"encoder": torch.nn.ModuleDict({"query": torch.nn.Linear(2, 2)})}),
            lora(target_modules=["query"], r=2), other)
    return {"good": good, "other": other}


def refused(folder, base, *fragments):
    with pytest.raises(UserError) as caught:
        merged(adapter_in(folder), base)
    message = str(caught.value)
    assert "\n" not in message and all(fragment in message for fragment in (str(folder), *fragments)), message
    assert "merge_and_unload()" in message


@pytest.mark.parametrize(("settings", "fragments"), [
    ({"r": 8}, ["is (4, 128), not (8, 128)", "and 33 more"]),
    ({"use_dora": True}, ["lora_magnitude_vector is missing"]),
    ({"lora_bias": True}, ["lora_B.bias is missing"]), ({"bias": "all"}, ["bias is missing"]),
    ({"modules_to_save": ["visual_projection"]}, ["visual_projection.weight is missing"]),
    ({"target_modules": ["q_proj"]}, ["is unexpected"]), ({"target_modules": ["query"]}, ["peft: ", "query"]),
    ({"layers_to_transform": [0]}, ["layers.1", "is unexpected"]), ({"rank_pattern": {"fc1": 2}}, ["not (2, 128)"]),
    ({"peft_type": "PROMPT_TUNING"}, ["peft_type PROMPT_TUNING", "LORA, LOHA, LOKR, IA3"]),
    ({"peft_type": None}, ["peft_type None"]), ({"peft_type": []}, ["peft_type"]),
    ({"init_lora_weights": "pissa"}, ["init_lora_weights pissa changed the model's own weights"]),
    ({"init_lora_weights": []}, ["init_lora_weights"]),
    ({"layer_replication": [[0, 2]]}, ["layer_replication [[0, 2]]"]),
    ({"megatron_config": {"a": 1}}, ["megatron_config"]),
    ({"alora_invocation_tokens": [1]}, ["alora_invocation_tokens"]),
    ({"use_qalora": True}, ["use_qalora True"]), ({"of_tomorrow": 3}, ["of_tomorrow 3, which is not applied here"]),
    ({"r": "x"}, ["peft: "]), ({"r": -1}, ["peft: "]), ({"r": 10 ** 12}, ["its rank is 1000000000000", "than 512"]),
    ({"auto_mapping": 3, "r": 5}, ["not (5, 128)"])])
def test_settings_that_do_not_fit(written, base, tmp_path, settings, fragments):
    """Of each key that would move numbers, a value that is not the tensors' own."""
    for path in written["good"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rewrite(tmp_path, **settings)
    refused(tmp_path, base, *fragments)


@pytest.mark.parametrize(("change", "fragments"), [
    (without_last, ["is missing"]), (lambda tensors: tensors | {"base_model.model.text_model.x.weight": torch.ones(1)},
                                     ["names that the model lacks (text_model.x.weight)"]),
    (lambda tensors: tensors | {"base_model.model.visual_projection.weight": torch.ones(16, 128)}, ["is unexpected"]),
    (lambda tensors: {name: value * float("nan") for name, value in tensors.items()}, ["peft: ", "NaN"])])
def test_tensors_that_do_not_fit(written, base, tmp_path, change, fragments):
    for path in written["good"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rewrite(tmp_path, change)
    refused(tmp_path, base, *fragments)


def test_another_model(written, base):
    refused(written["other"], base, "names that the model lacks", "encoder.query")
    other = loader.build({**base}).architecture | {"vision_layers": 1}
    deeper = "visual.transformer.resblocks.1"
    shallow = {name: value for name, value in base["state_dict"].items() if deeper not in name}
    refused(written["good"], {**base, "architecture": other, "state_dict": shallow}, "vision_model.encoder.layers.1")


def test_blocks_that_may_be_of_either_tower(base, quick, tmp_path):
    """transformer.resblocks of a class that is not known may be the image tower's."""
    class Own(torch.nn.Module):
        pass
    model = Own()
    model.transformer = copy.deepcopy(quick.transformer)
    adapted(model, lora(target_modules=["c_fc"]), tmp_path)
    refused(tmp_path, base, "both towers name their blocks transformer.resblocks", "base_model_class Own")
    rewrite(tmp_path, auto_mapping={"base_model_class": "CLIP"})
    refused(tmp_path, base, "visual.transformer.resblocks.0.mlp.c_fc.lora_A.weight is missing")
    rewrite(tmp_path, auto_mapping={"base_model_class": "TextTransformer"})
    assert merged(adapter_in(tmp_path), base).keys() == base["state_dict"].keys()


def test_what_peft_itself_does_not_undo_is_rejected(base, quick, tmp_path):
    """An adapted parameter of a module with adapted modules inside: peft leaves the inner ones as they are."""
    adapted(copy.deepcopy(quick), lora(target_modules=["c_fc"], target_parameters=["visual.proj"]), tmp_path)
    refused(tmp_path, base, "peft returns other tensors than the model's")


def test_adapters_beside_this_one(written, tmp_path):
    for name in ("", "checkpoint-5", "second"):
        (tmp_path / name).mkdir(exist_ok=True)
        for path in written["good"].iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    note, = notes_of(adapter_in(tmp_path))
    assert note == f"{tmp_path} also holds adapters in checkpoint-5, second, which are not used"
    assert notes_of(adapter_in(tmp_path / "second")) == []


# -- files of --lora ---------------------------------------------------------------------------------------------------

OWN = {"peft": "--lora --lora-bias all", "targets": "--lora --lora-target-modules mlp.c_fc --train-mode image",
       "shared": "--lora --lora-shared", "split": "--lora --lora-shared --lora-shared-split-qkvo --train-mode text",
       "image": "--lora --lora-shared --train-mode image"}


@pytest.mark.parametrize("words", OWN.values(), ids=OWN)
def test_the_file_of_a_run_on_its_start_is_what_the_run_saved(train, world, tmp_path, words):
    assert train(tmp_path, "--lr", "1e-2", *words.split()).status == 0
    start = loader.read_checkpoint(world.model)
    found, saved = merged(adapter_in(tmp_path / "colours.lora.pth"), start), weights(tmp_path / "colours.pth")
    assert found.keys() == saved.keys() and not same_weights(saved, start["state_dict"])
    for name, value in saved.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)


def test_a_file_that_does_not_list_its_layers(world, tmp_path):
    """Version 0.1 left "sites" out: towers of equal sizes share factors, so the file may be of one or of both."""
    start = loader.read_checkpoint(world.model)
    model = loader.build(start)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("visual."))
    inject_lora(model, ["mlp.c_fc"], 2, 4)
    content = adapter_state(model)
    for key, outcome in (("sites", None), ("targets", "its settings are not those that a run with --lora writes")):
        content.pop(key)
        torch.save(content, tmp_path / "a.lora.pth")
        if outcome:
            refused(tmp_path / "a.lora.pth", start, outcome)
        else:
            assert merged(adapter_in(tmp_path / "a.lora.pth"), start).keys() == start["state_dict"].keys()
    from src.models.lora_injection import apply_shared_lora
    apply_shared_lora(model)
    content = {key: value for key, value in adapter_state(model).items() if key != "sites"}
    torch.save(content, tmp_path / "b.lora.pth")
    refused(tmp_path / "b.lora.pth", start, "does not list the layers that share its factors")


@pytest.mark.parametrize("change", [{"r": 3}, {"r": "x"}, {"targets": ["none"]}, {"targets": 3}, {"alpha": None},
                                    {"sites": ["other"]}, {"sites": 5}])
def test_own_files_that_do_not_fit(world, tmp_path, change):
    start = loader.read_checkpoint(world.model)
    model = loader.build(start)
    inject_lora(model, ["mlp.c_fc"], 2, 4)
    torch.save(adapter_state(model) | change, tmp_path / "a.lora.pth")
    refused(tmp_path / "a.lora.pth", start)


def test_a_resnet_s_text_tower(tmp_path):
    """Of a model that transformers does not have."""
    from clip.model import CLIP
    model = CLIP(embed_dim=16, image_resolution=64, vision_layers=[1, 1, 1, 1], vision_width=8, vision_patch_size=None,
                 context_length=8, vocab_size=50, transformer_width=32, transformer_heads=2, transformer_layers=1)
    start = {"architecture": model.architecture, "state_dict": copy.deepcopy(model.state_dict())}
    inject_peft(model, ["mlp.c_fc"], 2, 4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.1)
    torch.save(adapter_state(model), tmp_path / "a.lora.pth")
    found = merged(adapter_in(tmp_path / "a.lora.pth"), start)
    tokens = torch.tensor([[48, 5, 49, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        expected, ours = model.eval().encode_text(tokens), with_weights(start, found).encode_text(tokens)
    torch.testing.assert_close(ours, expected)
    assert not same_weights(found, start["state_dict"])


def test_a_state_dict_with_an_adapter_that_is_not_merged(quick, tmp_path):
    model = get_peft_model(hugging(quick), lora())
    torch.save(model.state_dict(), tmp_path / "a.pt")
    with pytest.raises(loader.LoadError, match="a model with one that is not merged.*as peft's save_pretrained"):
        loader.read_checkpoint(tmp_path / "a.pt")
