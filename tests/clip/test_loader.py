"""Files of weights in every known layout, and files that are refused."""

import io
import json
import os
import pickle
import random
import re
import warnings
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file
from torch import nn
from torchvision import transforms

import clip
from clip import catalog, loader
from clip.loader import LoadError, read_checkpoint
from clip.model import CLIP

TEXT = {"context_length": 12, "vocab_size": 50, "width": 128, "heads": 2, "layers": 1}
VISION = {"ViT": {"layers": 2, "width": 64, "patch_size": 8, "image_size": 16},
          "RN50x4": {"layers": [1, 1, 1, 1], "width": 24, "image_size": 32}}
TINY = {"embed_dim": 8, "image_resolution": 16, "vision_layers": 1, "vision_width": 64, "vision_patch_size": 8,
        "context_length": 8, "vocab_size": 20, "transformer_width": 64, "transformer_heads": 1,
        "transformer_layers": 1}


# Models and files to load.

@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=VISION)
def theirs(request):
    """open_clip's model with random weights, no gamma, bias or batch statistic of which is at its trivial start."""
    torch.manual_seed(1)
    model = open_clip.model.CLIP(16, VISION[request.param], TEXT, quick_gelu=True).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.uniform_(0.5, 1.5)
            elif value.ndim == 1:
                value.normal_(std=0.2)
            elif value.ndim == 4:
                nn.init.kaiming_normal_(value)
    return model


def batch_for(model):
    """Images around a colour of their own each, and texts whose end token is the largest id."""
    resolution = model.visual.image_size
    resolution = resolution if isinstance(resolution, int) else resolution[0]
    images = torch.randn(3, 3, 1, 1) + torch.randn(3, 3, resolution, resolution)
    tokens = torch.zeros(3, 12, dtype=torch.long)
    for row, length in zip(tokens, (3, 7, 12), strict=True):
        row[:length] = torch.randint(1, 48, (length,))
        row[0], row[length - 1] = 48, 49
    return images, tokens


@torch.no_grad()
def features(model, images, tokens):
    return torch.cat([model.encode_image(images), model.encode_text(tokens)])


def unstated(model):
    """The keys of an open_clip model's architecture that its state dict does not determine."""
    batch, _ = batch_for(model)
    return catalog.DEFAULTS | {"image_resolution": batch.shape[-1], "transformer_heads": 2,
                               "vision_heads": 12 if hasattr(model.visual, "layer1") else 1}


def assert_loads_as(path, model):
    """What is loaded, without a warning if all keys are given, is in fp32 and eval mode, with open_clip's features."""
    images, tokens = batch_for(model)
    expected = features(model, images, tokens)
    assert expected[:3].std(dim=0).mean() > 0.1 and expected[3:].std(dim=0).mean() > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, _ = clip.load(str(path), architecture=unstated(model))
    assert not ours.training and {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    torch.testing.assert_close(features(ours, images, tokens), expected, atol=1e-4, rtol=1e-4)


def rounded(model, dtype=torch.float16):
    """A copy whose weights all are numbers of a shorter type, kept as fp32."""
    copy = open_clip.model.CLIP(16, *towers_of(model), quick_gelu=True).eval()
    copy.load_state_dict(model.state_dict())
    return copy.to(dtype).float()


def towers_of(model):
    return VISION["RN50x4" if hasattr(model.visual, "layer1") else "ViT"], TEXT


def save_traced(model, path, half=False):
    """OpenAI's layout: a traced TorchScript archive, with three numbers beside the weights."""
    images, tokens = batch_for(model)
    traced = quietly_traced(WithNumbers(model), images, tokens)
    (traced.half() if half else traced).save(str(path))


def quietly_traced(model, images, tokens):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, (images, tokens))


class WithNumbers(nn.Module):
    """The model's parts side by side, as OpenAI's archives have them at the top, and what stands beside them there."""

    def __init__(self, model):
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.register_buffer("attn_mask", model.attn_mask)
        for name, number in (("input_resolution", 16), ("context_length", 12), ("vocab_size", 50)):
            self.register_buffer(name, torch.tensor(number))
        self.text_pool_type = model.text_pool_type
        self.text_eos_id = getattr(model, "text_eos_id", None)  # older releases of open_clip have none

    def forward(self, images, tokens):
        model = open_clip.model.CLIP
        return self.visual(images), model.encode_text(self, tokens), self.logit_scale.exp()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A small traced archive of our own model, as a dict of its files, to be tampered with."""
    path = tmp_path_factory.mktemp("archive") / "traced.pt"
    tokens = torch.tensor([[18, 3, 19, 0, 0, 0, 0, 0]])
    quietly_traced(CLIP(**TINY).eval(), torch.randn(1, 3, 16, 16), tokens).save(str(path))
    with zipfile.ZipFile(path) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in files.items():
            target.writestr(name, content)
    return buffer.getvalue()


def with_tree(archive, data):
    """The archive with another ``data.pkl``: the pickled tree of its modules."""
    return zipped({name: data if name.endswith("/data.pkl") else content for name, content in archive.items()})


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.fixture
def file_of(tmp_path):
    """Writes bytes to a file."""
    def write(content, name="weights.pt"):
        path = tmp_path / name
        path.write_bytes(content)
        return path
    return write


def refusal(path):
    """The one-line message with which a file is refused; no warning of torch's stands beside it."""
    with warnings.catch_warnings(record=True) as noise, pytest.raises(LoadError) as caught:
        warnings.simplefilter("always")
        clip.load(str(path))
    message = str(caught.value)
    assert message and "\n" not in message and [str(warning.message) for warning in noise] == []
    return message


def refused_or_read(path):
    """Damage that leaves a readable file cannot be seen; anything else must end in LoadError, whatever torch raises."""
    try:
        clip.load(str(path))
    except LoadError:
        return "refused"
    return "read"


# Layouts.

def test_plain_state_dict(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    assert_loads_as(tmp_path / "weights.pt", theirs)


def test_safetensors(theirs, tmp_path):
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors", {"format": "pt"})
    assert_loads_as(tmp_path / "weights.safetensors", theirs)


def test_safetensors_of_ours_tell_their_heads(tmp_path):
    model = CLIP(**TINY | {"vision_heads": 4, "transformer_heads": 2}).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors",
              {"format": "pt", "architecture": json.dumps(model.architecture)})
    checkpoint = read_checkpoint(tmp_path / "weights.safetensors")
    assert checkpoint["architecture"] == model.architecture and checkpoint["assumed"] == {}
    weights = loader.build(checkpoint).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_plain_state_dict_in_torch_s_old_format(theirs, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "weights.pt", _use_new_zipfile_serialization=False)
    assert_loads_as(tmp_path / "weights.pt", theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_fp32(theirs, dtype, tmp_path):
    expected = rounded(theirs, dtype)
    torch.save({name: value.to(dtype) if value.is_floating_point() else value
                for name, value in theirs.state_dict().items()}, tmp_path / "weights.pt")
    state_dict = read_checkpoint(tmp_path / "weights.pt")["state_dict"]
    for name, value in expected.state_dict().items():
        assert torch.equal(state_dict[name], value) and state_dict[name].dtype == value.dtype, name
    assert_loads_as(tmp_path / "weights.pt", expected)


def test_traced_archive(theirs, tmp_path):
    save_traced(theirs, tmp_path / "weights.pt")
    assert_loads_as(tmp_path / "weights.pt", theirs)


def test_traced_archive_in_half_precision(theirs, tmp_path):
    save_traced(rounded(theirs), tmp_path / "weights.pt", half=True)
    assert_loads_as(tmp_path / "weights.pt", rounded(theirs))


def test_traced_archive_of_a_gpu(archive, file_of):
    """OpenAI traced its models on a GPU; their archives must load where there is none."""
    tree = archive["traced/data.pkl"]
    on_gpu = tree.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert on_gpu != tree
    here, there = (read_checkpoint(file_of(with_tree(archive, data))) for data in (tree, on_gpu))
    assert here["architecture"] == there["architecture"]
    for name, value in here["state_dict"].items():
        assert value.device.type == "cpu" and torch.equal(value, there["state_dict"][name])


def test_traced_archive_holds_the_same_tensors_as_the_state_dict(theirs, tmp_path):
    save_traced(theirs, tmp_path / "weights.pt")
    state_dict = read_checkpoint(tmp_path / "weights.pt")["state_dict"]
    assert state_dict.keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(state_dict[name], value) and state_dict[name].dtype == value.dtype, name


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_state_dict(theirs, wrapper, prefix, tmp_path):
    weights = {prefix + name: value for name, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, "name": "mine", wrapper: weights, "optimizer": {"state": {}}}, tmp_path / "weights.pt")
    assert_loads_as(tmp_path / "weights.pt", theirs)


def test_state_dict_of_open_clip_s_class_with_a_text_module(theirs, tmp_path):
    custom = open_clip.model.CustomTextCLIP(16, *towers_of(theirs), quick_gelu=True)
    state_dict = open_clip.model.convert_to_custom_text_state_dict(theirs.state_dict())
    assert any(name.startswith("text.") for name in state_dict)
    custom.load_state_dict(state_dict)
    torch.save({"state_dict": {f"module.{name}": value for name, value in custom.state_dict().items()}},
               tmp_path / "weights.pt")
    assert_loads_as(tmp_path / "weights.pt", theirs)


def test_our_checkpoint_keeps_its_architecture_and_what_it_carries(tmp_path):
    architecture = {**TINY, "vocab_size": 4, "transformer_heads": 2, "vision_heads": 4, "vocabulary": [5, 49406, 49407]}
    model = CLIP(**architecture)
    torch.save({"format": 1, "state_dict": model.state_dict(), "architecture": architecture,
                "history": [{"dataset": "DTD"}]},
               tmp_path / "mine.pth")
    checkpoint = read_checkpoint(tmp_path / "mine.pth")
    assert checkpoint["architecture"] == catalog.completed(architecture)  # a file of 0.1 means OpenAI's defaults
    assert checkpoint["history"] == [{"dataset": "DTD"}] and checkpoint["assumed"] == {}
    loaded, _ = clip.load(str(tmp_path / "mine.pth"))
    tokens = torch.tensor([[49406, 5, 6, 49407, 0, 0, 0, 0]])
    assert torch.equal(features(loaded, torch.ones(1, 3, 16, 16), tokens),
                       features(model.eval(), torch.ones(1, 3, 16, 16), tokens))


def test_device_is_taken(tmp_path):
    torch.save(CLIP(**TINY).state_dict(), tmp_path / "weights.pt")
    model, _ = clip.load(str(tmp_path / "weights.pt"), device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_shipped_weights_are_loaded_by_name(tmp_path, monkeypatch):
    model = CLIP(**TINY)
    torch.save(model.state_dict(), tmp_path / "toy.pth")
    monkeypatch.setattr(catalog, "WEIGHTS", tmp_path)
    loaded, _ = clip.load("toy")
    assert torch.equal(loaded.text_projection, model.text_projection)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
def test_preprocess_is_openai_s(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 71, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    theirs = transforms.Compose([
        transforms.Resize(32, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(32),
        lambda image: image.convert("RGB"), transforms.ToTensor(),
        transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))])
    torch.testing.assert_close(loader.preprocess(32)(image), theirs(image), atol=1e-5, rtol=0)


# Weights that do not fit.

def test_mismatch_lists_what_differs(file_of):
    weights = CLIP(**TINY).state_dict()
    weights["extra.weight"] = weights.pop("ln_final.bias")
    weights["visual.proj"] = torch.zeros(64, 9)
    message = refusal(file_of(saved(weights)))
    for part in ("weights.pt: ", "missing ln_final.bias", "unexpected extra.weight", "visual.proj is (64, 9), "
                 "not (64, 8)",
                 "give a file whose tensors all belong to one CLIP"):
        assert part in message


@pytest.mark.parametrize(("change", "part"), [
    (lambda weights: weights.pop("logit_scale"), "missing logit_scale"),
    (lambda weights: weights.update(head=torch.zeros(3)), "unexpected head")])
def test_weights_that_are_a_part_or_more_than_a_clip(change, part, file_of):
    weights = CLIP(**TINY).state_dict()
    change(weights)
    message = refusal(file_of(saved(weights)))
    assert "weights.pt: " in message and f"{part}; save the whole state_dict() of one CLIP" in message


def test_the_scale_of_open_clip_s_option(file_of):
    """One value in a list of one: open_clip's nonscalar_logit_scale."""
    weights = CLIP(**TINY).state_dict()
    found = read_checkpoint(file_of(saved({**weights, "logit_scale": torch.tensor([2.5])})))["state_dict"]
    assert found["logit_scale"].shape == () and found["logit_scale"] == 2.5
    message = refusal(file_of(saved({**weights, "logit_scale": torch.tensor([2.5, 3])})))
    assert "logit_scale is (2,), not ()" in message


def test_more_tokens_than_the_tokenizer_has_are_noted(file_of, monkeypatch):
    weights = CLIP(**TINY).state_dict()
    path = file_of(saved(weights))
    assert not read_checkpoint(path)["notes"]
    monkeypatch.setattr(loader.catalog, "VOCABULARY_SIZE", TINY["vocab_size"] - 1)
    [note] = read_checkpoint(path)["notes"]
    assert f"has {TINY['vocab_size']} token embeddings" in note and "another tokenizer" in note


def test_long_mismatch_is_cut_and_counted(file_of):
    weights = CLIP(**TINY).state_dict()
    weights |= {f"extra.{number}": torch.zeros(1) for number in range(14)}
    message = refusal(file_of(saved(weights)))
    assert "unexpected extra.9" in message and "extra.10" not in message and "and 4 more" in message


@pytest.mark.parametrize("name", ["ViT-B/16", "RN50x4"])
def test_another_model_is_recognised_by_its_shapes(name):
    """Values that all share one: as large a model as the real one, in no memory."""
    architecture = catalog.read_architecture(name)
    shapes = {"token_embedding.weight": (49408, architecture["transformer_width"])}
    weights = {**published_shapes(architecture), **{key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}}
    assert loader.published_name(loader.architecture_of(weights)) == name
    with pytest.raises(LoadError, match=f"^a.pt: .*; the weights have the shapes of {name}; give a file"):
        loader.require_fit(CLIP(**TINY).architecture, weights, "a.pt")


def published_shapes(architecture):
    """{name: tensor} with what tells an architecture, written down from the paper's table of sizes."""
    width, vision, side = (architecture[key] for key in ("transformer_width", "vision_width", "image_resolution"))
    shapes = {"ln_final.weight": (width,), "text_projection": (width, architecture["embed_dim"]),
              "positional_embedding": (77, width), **{f"transformer.resblocks.{layer}.x": () for layer in range(12)}}
    if isinstance(architecture["vision_layers"], list):
        shapes |= {f"visual.layer{stage}.{block}.conv1.weight": (vision, 1, 1, 1)
                   for stage, blocks in enumerate(architecture["vision_layers"], 1) for block in range(blocks)}
        shapes |= {"visual.attnpool.positional_embedding": ((side // 32) ** 2 + 1, 1), "visual.conv1.weight": (1,)}
    else:
        patch = architecture["vision_patch_size"]
        shapes |= {f"visual.transformer.resblocks.{layer}.x": () for layer in range(architecture["vision_layers"])}
        shapes |= {"visual.conv1.weight": (vision, 3, patch, patch), "visual.proj": (vision, 1),
                   "visual.positional_embedding": ((side // patch) ** 2 + 1, vision)}
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("architecture", [TINY, {**TINY, "vision_patch_size": 2, "embed_dim": 100},
                                          catalog.read_architecture("toy")])
def test_least_values_is_a_bound(architecture):
    model = CLIP(**architecture)
    values = sum(value.numel() for value in model.state_dict().values())
    assert values / 3 < loader.least_values(model.architecture) <= values


@pytest.mark.parametrize("changes", [
    {"embed_dim": 2 ** 30}, {"vocab_size": 2 ** 30}, {"context_length": 2 ** 30}, {"transformer_layers": 2 ** 30},
    {"vision_layers": 2 ** 30}, {"image_resolution": 2 ** 30}, {"transformer_width": 2 ** 30},
    {"vision_width": 2 ** 30, "vision_heads": 1}, {"vision_layers": [2 ** 30, 1], "vision_patch_size": None},
    {"vision_layers": [1] * 1000, "vision_patch_size": None}, {"embed_dim": 2 ** 70}, {"embed_dim": 10 ** 5000}])
def test_claimed_architecture_is_not_built_before_it_is_compared(changes, file_of, monkeypatch):
    monkeypatch.setattr(loader, "CLIP", lambda **architecture: pytest.fail("built"))
    content = {"format": 1, "state_dict": CLIP(**TINY).state_dict(), "architecture": {**TINY, **changes}}
    assert "weights.pt" in refusal(file_of(saved(content))) or "do not fit" in refusal(file_of(saved(content)))


@pytest.mark.parametrize("part", [{"history": 3}, {"carry": []}, {"heads": None}, {"model": {}}, {"iteration": "x"},
                                  {"carry_left_out": "x"}, {"format": torch.zeros(3)}, {"format": "1"},
                                  {"architecture": {"embed_dim": [[[]]]}}])
def test_parts_of_our_checkpoint_of_other_types(part, file_of):
    content = {"format": 1, "state_dict": CLIP(**TINY).state_dict(), "architecture": TINY, **part}
    assert next(iter(part)) in refusal(file_of(saved(content)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.uint8])
def test_weights_of_other_types(dtype, file_of):
    weights = {name: value.to(dtype) for name, value in CLIP(**TINY).state_dict().items()}
    assert str(dtype) in refusal(file_of(saved(weights)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_of_a_run_that_diverged(value, dtype, file_of):
    """Every probability would be NaN, or a class of chance the answer."""
    weights = {name: tensor.to(dtype) for name, tensor in CLIP(**TINY).state_dict().items()}
    weights["text_projection"][1, 1] = value
    for content in (weights, {"format": 1, "state_dict": weights, "architecture": TINY}):
        assert "text_projection holds NaN or infinity" in refusal(file_of(saved(content)))


def test_names_in_a_message_are_plain(file_of):
    weights = {**CLIP(**TINY).state_dict(), "\x1b[31m\n" + 1000 * "x": torch.zeros(1)}
    message = refusal(file_of(saved(weights)))
    assert message.isprintable() and len(message) < 400


@pytest.mark.parametrize("changes", [{"embed_dim": 16}, {"transformer_layers": 2}, {"vision_layers": 2}])
def test_stored_architecture_that_the_weights_do_not_fit(changes, file_of):
    content = {"format": 1, "state_dict": CLIP(**TINY).state_dict(), "architecture": {**TINY, **changes}}
    assert "do not fit the architecture" in refusal(file_of(saved(content)))


@pytest.mark.parametrize("architecture", [None, {}, {**TINY, "depth": 3}, {**TINY, "embed_dim": "8"}])
def test_stored_architecture_that_cannot_be_built(architecture, file_of):
    content = {"format": 1, "state_dict": CLIP(**TINY).state_dict(), "architecture": architecture}
    assert "architecture" in refusal(file_of(saved(content)))


@pytest.mark.parametrize("name", ["visual.positional_embedding", "visual.conv1.weight", "ln_final.weight",
                                  "text_projection", "positional_embedding", "token_embedding.weight"])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 0)])
def test_misshapen_weights(name, shape, file_of):
    assert refusal(file_of(saved({**CLIP(**TINY).state_dict(), name: torch.zeros(shape)})))


@pytest.mark.parametrize("content", [
    {"a": torch.zeros(1)}, {}, [1, 2], torch.zeros(3), {"state_dict": {"a": torch.zeros(1)}}, {"state_dict": 3},
    {1: torch.zeros(1)}, {"state_dict": {1: torch.zeros(1)}},
    {"visual.conv1.weight": 1, "token_embedding.weight": "x"}, "text", None])
def test_something_else_than_a_clip(content, file_of):
    message = refusal(file_of(saved(content)))
    assert "weights.pt" in message and "does not hold a CLIP" in message


def test_half_a_clip(file_of):
    weights = {name: value for name, value in CLIP(**TINY).state_dict().items() if name != "positional_embedding"}
    assert "positional_embedding" in refusal(file_of(saved(weights)))


@pytest.mark.parametrize("weights", [{}, {"something": torch.zeros(1)}, CLIP(**TINY).state_dict()])
def test_another_format_is_refused_by_its_number(weights, file_of):
    """Whatever a later version may store, the reason comes first."""
    message = refusal(file_of(saved({"format": 2, "state_dict": weights, "architecture": TINY})))
    assert "format 2" in message and "format 1" in message


# Files that are no weights.

def of_safetensors(state_dict=None, architecture=None):
    told = {} if architecture is None else {"architecture": architecture}
    return save(CLIP(**TINY).state_dict() if state_dict is None else state_dict, told)


try:
    COMPLEX = [(of_safetensors({name: value.to(torch.complex64) for name, value in CLIP(**TINY).state_dict().items()}),
                "complex")]
except KeyError:
    COMPLEX = [pytest.param(b"", "", marks=pytest.mark.skip(reason="safetensors before 0.7 has no complex numbers"))]


@pytest.mark.parametrize(("content", "fragment"), [
    (b"", "not a safetensors file"), (b"\x80\x02nonsense" * 9, "not a safetensors file"),
    (of_safetensors()[:-1], "not a safetensors file"),
    (of_safetensors()[:40], "not a safetensors file"), (saved({"a": torch.zeros(1)}), "does not hold a CLIP"),
    (of_safetensors({"weight": torch.zeros(2)}), "does not hold a CLIP"),
    *COMPLEX,
    (of_safetensors(architecture="{"), "not a safetensors file"), (of_safetensors(architecture="[" * 10 ** 5), "read"),
    (of_safetensors(architecture="[]"), "architecture"), (of_safetensors(architecture="{}"), "embed_dim"),
    (of_safetensors(architecture=json.dumps(TINY | {"embed_dim": 10 ** 40})), "too large"),
    (of_safetensors(architecture=json.dumps(TINY | {"vision_layers": 2})), "missing visual.transformer"),
    (of_safetensors(architecture=json.dumps(TINY | {"vision_layers": 10 ** 8})), "more than 1000 layers"),
], ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes")  # the weights are random
def test_safetensors_that_cannot_serve(file_of, content, fragment):
    path = file_of(content, "weights.safetensors")
    message = refusal(path)
    assert fragment in message and len(message) < 1500


def test_no_such_file(tmp_path):
    assert "nothing.pt" in refusal(tmp_path / "nothing.pt")
    assert str(tmp_path) in refusal(tmp_path)
    with pytest.raises(LoadError, match="no such file"):
        read_checkpoint(tmp_path / "nothing.pt")


def test_name_without_weights_lists_those_that_have():
    message = refusal("ViT-B/31")
    assert "ViT-B/31" in message and "ViT-B/32" in message


def test_empty_file(file_of):
    assert "weights.pt" in refusal(file_of(b""))


@pytest.mark.parametrize("start", [b"", b"\x80\x02", b"PK\x03\x04"])
def test_random_bytes(start, file_of):
    rng = random.Random(0)
    for _ in range(60):
        assert "weights.pt" in refusal(file_of(start + rng.randbytes(rng.randrange(1, 300))))


def test_one_byte(file_of):
    for byte in range(256):
        assert "weights.pt" in refusal(file_of(bytes([byte])))


@pytest.mark.parametrize("layout", ["archive", "zip", "old"])
def test_truncated_file(layout, archive, file_of):
    weights = CLIP(**TINY).state_dict()
    whole = {"archive": lambda: zipped(archive), "zip": lambda: saved(weights),
             "old": lambda: saved(weights, _use_new_zipfile_serialization=False)}[layout]()
    assert refused_or_read(file_of(whole)) == "read"
    rng = random.Random(0)
    for length in (*range(1, 40, 5), *(rng.randrange(len(whole)) for _ in range(20)), len(whole) - 1):
        assert "weights.pt" in refusal(file_of(whole[:length])), length


@pytest.mark.parametrize("layout", ["archive", "zip"])
def test_damaged_tree(layout, archive, file_of):
    """The pickle inside with wrong bytes and right checksums."""
    files = archive
    if layout == "zip":
        with zipfile.ZipFile(io.BytesIO(saved(CLIP(**TINY).state_dict()))) as opened:
            files = {name: opened.read(name) for name in opened.namelist()}
    tree = next(content for name, content in files.items() if name.endswith("/data.pkl"))
    rng, outcomes = random.Random(0), []
    for _ in range(120):
        damaged = bytearray(tree)
        for _ in range(rng.choice([1, 3, 10])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        outcomes.append(refused_or_read(file_of(with_tree(files, bytes(damaged)))))
    assert outcomes.count("refused") > 60


def test_damaged_weights_of_an_archive_are_seen(archive, file_of):
    whole = bytearray(zipped(archive))
    start = whole.index(archive["traced/data/0"])
    whole[start] ^= 1
    assert "weights.pt" in refusal(file_of(bytes(whole)))


def test_archive_whose_tensors_are_larger_than_their_bytes(archive, file_of):
    short = {name: content[:4] if "/data/" in name and "." not in name else content
             for name, content in archive.items()}
    assert "weights.pt" in refusal(file_of(zipped(short)))


def test_archive_whose_tensors_claim_to_have_no_bytes(archive, file_of):
    """Such a tensor would be made of whatever memory happens to hold."""
    tree = archive["traced/data.pkl"]
    empty = re.sub(rb"(X\x03\x00\x00\x00cpuq.)(?:K.|M..|J....)(?=tQ)", b"\\1K\0", tree, count=1, flags=re.DOTALL)
    assert empty != tree
    assert "weights.pt" in refusal(file_of(with_tree(archive, empty)))


# Files that would execute code.

class Bomb:
    """Makes a folder when it is unpickled by a reader that trusts its file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def plain_pickle(bomb, archive):
    return pickle.dumps({"state_dict": bomb}), pickle.loads


def saved_by_torch(bomb, archive):
    return saved({"state_dict": bomb}), load_trustingly


def saved_in_the_old_format(bomb, archive):
    return saved({"state_dict": bomb}, _use_new_zipfile_serialization=False), load_trustingly


def doctored_archive(bomb, archive):
    return with_tree(archive, pickle.dumps({"visual": bomb}, protocol=2)), load_tree_trustingly


def doctored_archive_with_its_real_tree(bomb, archive):
    """The bomb goes off before the real tree is read."""
    first = pickle.dumps(bomb, protocol=2).removesuffix(b".") + b"0"
    return with_tree(archive, first + archive["traced/data.pkl"]), load_tree_trustingly


def archive_of_nothing_else(bomb, archive):
    return zipped({"a/data.pkl": pickle.dumps(bomb), "a/constants.pkl": b""}), load_tree_trustingly


def load_trustingly(content):
    return torch.load(io.BytesIO(content), weights_only=False)


def load_tree_trustingly(content):
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        return pickle.loads(opened.read(next(name for name in opened.namelist() if name.endswith("/data.pkl"))))


@pytest.mark.parametrize("make", [plain_pickle, saved_by_torch, saved_in_the_old_format, doctored_archive,
                                  doctored_archive_with_its_real_tree, archive_of_nothing_else])
def test_no_file_is_executed(make, archive, file_of, tmp_path):
    canary = tmp_path / "canary"
    content, trusting_reader = make(Bomb(canary), archive)
    message = refusal(file_of(content))
    assert not canary.exists() and "weights.pt" in message
    try:
        trusting_reader(content)
    except (pickle.UnpicklingError, AttributeError, ModuleNotFoundError, ImportError):
        pass  # behind the bomb stands what plain pickle cannot read
    assert canary.exists(), "the file was harmless, so that the test proved nothing"


@pytest.mark.parametrize("name", ["os system", "builtins eval", "torch load", "torch._utils _import_dotted_name",
                                  "torch.storage _load_from_bytes", "collections deque", "torch jit.load",
                                  "torch.jit._pickle restore_type_tag"])
def test_archive_that_names_a_foreign_class_is_refused_by_its_name(name, archive, file_of):
    module, attribute = name.split()
    tree = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b"."
    assert f"{module}.{attribute}" in refusal(file_of(with_tree(archive, tree)))
