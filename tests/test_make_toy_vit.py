"""The script that pre-trains toy-vit: it resumes to the bit, and writes what the catalog reads."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clip.catalog import read_architecture
from clip.files.layouts import open_weights
from clip.model import CLIP
from src.datasets import toy_wide

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
