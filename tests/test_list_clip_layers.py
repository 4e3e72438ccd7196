"""The list of layers against the modules and the published numbers of values."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import list_clip_layers
from clip.catalog import available_models, read_architecture
from clip.model import CLIP


def listed(capsys, *words):
    assert list_clip_layers.main(list(words)) == 0
    rows = (line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    return {name.strip(): text.strip() for name, text in rows}


@pytest.fixture(params=["tiny-vit", "tiny-rn", "toy", "toy-vit"])
def name(request):
    return request.param


@pytest.fixture
def model(name):
    with torch.device("meta"):
        return CLIP(**read_architecture(name))


def test_linear_layers(capsys, name, model):
    rows = listed(capsys, "--linear-only", "--model", name)
    linear = {key: module for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert rows.keys() == linear.keys() and "transformer.resblocks.0.attn.out_proj" in rows
    for key, module in linear.items():
        assert f"in_features={module.in_features}, out_features={module.out_features}" in rows[key]


def test_layers_that_lora_can_adapt(capsys, name, model):
    """The three linear layers of each transformer block, of both towers; nothing of a ResNet's attention pool."""
    rows = listed(capsys, "--lora", "--model", name)
    linear = {key: str(module) for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert rows == {key: text for key, text in linear.items() if "attnpool" not in key}
    assert len(rows) == 3 * sum(key.endswith(".attn") for key, _ in model.named_modules())
    assert any(key.startswith("visual.") for key in rows) == (not hasattr(model.visual, "attnpool"))


def test_help_needs_no_torch():
    code = ("import sys, contextlib, list_clip_layers\nwith contextlib.suppress(SystemExit):\n"
            "    list_clip_layers.main(['--help'])\nprint('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(list_clip_layers.__file__).parent,
                          capture_output=True, text=True, timeout=300, check=False)
    assert "--lora " in done.stdout and done.stdout.splitlines()[-1] == "False", done.stdout + done.stderr


def test_all_layers(capsys, name, model):
    rows = listed(capsys, "--model", name)
    assert rows == {key: text for key, text in rows.items() if key} and rows["transformer"] == "Transformer"
    assert rows.keys() == {key for key, _ in model.named_modules() if key}


def test_parameters(capsys, name, model):
    rows = listed(capsys, "--params", "--model", name)
    assert rows.pop("total") == f"{sum(value.numel() for value in model.parameters()):,} values"
    assert rows == {key: " x ".join(map(str, value.shape)) or "scalar" for key, value in model.named_parameters()}


def test_the_default_is_the_published_vit(capsys):
    assert listed(capsys, "--params")["total"] == "149,620,737 values"


@pytest.mark.parametrize("published", available_models())
def test_published_models_are_listed_without_weights(capsys, published):
    assert listed(capsys, "--linear-only", "--model", published)


def test_an_unknown_model_is_one_message(capsys):
    assert list_clip_layers.main(["--model", "ViT-B/8"]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1 and "--model" in message and "ViT-B/16" in message
