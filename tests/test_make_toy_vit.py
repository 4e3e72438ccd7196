"""The script that pre-trains toy-vit: it resumes to the bit, and writes what the catalog reads; and what it wrote."""

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clip
from clip.catalog import read_architecture, shipped_weights
from clip.files.layouts import open_weights
from clip.model import CLIP
from src.datasets import mini, toy_wide
from src.datasets.common import fill
from src.templates.mini import TEMPLATES

pytest_plugins = ["cli_fixtures"]

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "make_toy_vit.py"
TINY = {"embed_dim": 8, "vision_layers": 1, "vision_width": 16, "vision_heads": 2, "transformer_width": 16,
        "transformer_heads": 2, "transformer_layers": 1}


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("make_toy_vit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BATCH", 16)
    monkeypatch.setattr(module, "EVERY", 1)
    return module


@pytest.fixture
def tiny(script, monkeypatch):
    small = {**script.SHAPE, **TINY, "vocab_size": 3, "vocabulary": [49406, 49407]}
    monkeypatch.setattr(script, "SHAPE", {**script.SHAPE, **TINY})
    monkeypatch.setattr(script, "architecture", lambda: small)
    return script


def test_it_continues_from_its_state_with_the_same_bits(tiny, tmp_path):
    """Stopped by a full disk, say, while it writes the line of its second step."""
    said = []

    def stop(text, flush):
        said.append(text)
        if "step 2/" in text:
            raise KeyboardInterrupt

    whole = tiny.train(0, 3, log=lambda text, flush: None).state_dict()
    with pytest.raises(KeyboardInterrupt):
        tiny.train(0, 3, state=tmp_path / "state", log=stop)
    rest = tiny.train(0, 3, state=tmp_path / "state", log=lambda text, flush: said.append(text)).state_dict()
    assert [text.split()[1] for text in said] == ["1/3", "2/3", "2/3", "3/3"]
    assert all(torch.equal(whole[name], rest[name]) for name in whole)
    other = tiny.train(1, 3, log=lambda text, flush: None).state_dict()
    assert not torch.equal(whole["visual.proj"], other["visual.proj"])


def test_what_is_saved_is_half_precision_weights_of_their_architecture(tiny, tmp_path):
    model = CLIP(**tiny.architecture())
    tiny.save(model, tmp_path / "new" / "weights.pth")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["weights.pth"]
    found = torch.load(tmp_path / "new" / "weights.pth", weights_only=True)
    assert found["architecture"] == model.architecture and found["model"] == "toy-vit"
    assert {value.dtype for value in found["state_dict"].values()} == {torch.float16}
    assert open_weights(tmp_path / "new" / "weights.pth")


def test_sentences_of_a_group_mention_the_same(script):
    rng = np.random.default_rng(0)
    attributes = toy_wide.sample(script.BATCH, rng)
    rows, mentioned = script.groups(attributes, rng)
    assert len(rows) == len(mentioned) == script.GROUP * (len(toy_wide.ATTRIBUTES) + script.MIXED_GROUPS)
    for first in range(0, len(rows), script.GROUP):
        group = mentioned[first:first + script.GROUP]
        assert (group == group[0]).all()
    for column in range(len(toy_wide.ATTRIBUTES)):
        assert mentioned[script.GROUP * column].tolist() == [other == column for other in range(8)]
    # Pictures that have none of what a group mentions are taken only where no picture of the batch has it.
    able = toy_wide.HAS[attributes["kind"]]
    for row, mask in zip(rows, mentioned, strict=True):
        assert (able[row] >= mask).all() or not (able >= mask).all(axis=1).any()


def test_several_positives_share_the_answer(script):
    logits, true = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]])), torch.tensor([[1, 1, 0], [0, 0, 0]])
    expected = -(np.log(0.5) + np.log(0.25)) / 2
    assert script.several_positives(logits, true).item() == pytest.approx(expected, rel=1e-5)


def test_the_config_that_it_writes_is_read(script, tmp_path):
    script.write_config(tmp_path / "toy-vit.yaml")
    architecture = read_architecture("toy-vit", tmp_path / "toy-vit.yaml")
    assert architecture == {**script.SHAPE, "vocab_size": 252 + 1, "vocabulary": script.vocabulary()}
    model = CLIP(**architecture)
    count = sum(value.numel() for value in model.parameters())
    assert count == 859_873 and 2 * count < 3 * 2 ** 20
    tokens = (architecture["image_resolution"] // architecture["vision_patch_size"]) ** 2
    assert 16 <= tokens <= 36


def test_help_needs_no_torch():
    code = ("import runpy, sys; sys.argv = ['x', '--help']\n"
            f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
            "except SystemExit: sys.exit('torch' in sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


# The file that it wrote.

DIGEST = "e456debd65011d74a8f75d700355cf08336941d8b0d8b9f0bf276f4506f06396"


def test_the_shipped_file_is_the_one_that_was_measured():
    """A change of the weights is a new name: rows of tables rest on these."""
    content = shipped_weights("toy-vit").read_bytes()
    assert hashlib.sha256(content).hexdigest() == DIGEST and len(content) < 3 * 2 ** 20


def test_the_shipped_weights_fit_the_shipped_config(script, tmp_path):
    script.write_config(tmp_path / "toy-vit.yaml")
    assert (tmp_path / "toy-vit.yaml").read_bytes() == script.CONFIG.read_bytes()
    shipped = torch.load(shipped_weights("toy-vit"), weights_only=True)
    assert shipped["format"] == 1 and shipped["model"] == "toy-vit"
    model = CLIP(**read_architecture("toy-vit"))
    assert shipped["architecture"] == model.architecture
    state = shipped["state_dict"]
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in model.state_dict().items()}
    assert sum(value.numel() for value in state.values()) == 859_873
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert all(value.isfinite().all() for value in state.values()) and state["logit_scale"].exp() <= 100.1


# Accuracies on the val images (%), see the log; chance is 8 and 11.
KNOWN = {"mini-colours": 82.5, "mini-places": 84.8}


@pytest.mark.parametrize("name", KNOWN)
def test_the_shipped_weights_know_colours_and_places(script, name):
    model = clip.load("toy-vit", device="cpu")[0]
    images, labels = script.as_input(mini.images(name, "val")), torch.tensor(mini.labels(name, "val"))
    prompts = [[fill(template, c) for c in mini.CLASSES[name]] for template in TEMPLATES[name]]
    with torch.no_grad():
        head = sum(F.normalize(model.encode_text(clip.tokenize(texts)), dim=-1) for texts in prompts)   # (C, D)
        found = (model.encode_image(images) @ F.normalize(head, dim=-1).T).argmax(dim=1)
    assert 100 * (found == labels).float().mean().item() == pytest.approx(KNOWN[name], abs=3)


@pytest.mark.slow
def test_lora_moves_every_block_of_both_towers(cli, tmp_path):
    """One step from factors of which one is zero: what they make of the merged weights."""
    done = cli("--model", "toy-vit", "--lora", "--train-dataset", "mini-sizes", "--iterations", 1, "--lr", "1e-3",
               "--batch-size", 8, "--warmup-length", 0, "--workers", 0, "--max-evaluation-size", 8, "--save", tmp_path)
    assert done.status == 0 and "no layer" not in done.out + done.err and done.warnings == [], done.err
    trained = torch.load(tmp_path / "mini-sizes.pth", weights_only=True)["state_dict"]
    start = clip.load("toy-vit", device="cpu")[0].state_dict()
    moved = {name for name, value in start.items() if not torch.equal(value, trained[name].float())}
    assert moved and all(name.endswith((".in_proj_weight", ".out_proj.weight", ".c_fc.weight", ".c_proj.weight"))
                         for name in moved)
    for tower, layers in (("visual.transformer", 4), ("transformer", 3)):
        for block in range(layers):
            assert any(name.startswith(f"{tower}.resblocks.{block}.") for name in moved), (tower, block)
