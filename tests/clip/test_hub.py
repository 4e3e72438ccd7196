"""Names of other libraries, against a cache in huggingface_hub's own form; nothing is fetched."""

import json
import shutil

import huggingface_hub.constants
import open_clip
import pytest
import torch
from foreign_weights import write_config, write_folder
from open_clip import pretrained
from safetensors.torch import save_file

from clip.errors import LoadError
from clip.files import hub
from clip.loader import read_checkpoint

COMMIT = "0" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A function that puts a folder into the hub's cache as a repository, with no network behind it."""
    place = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(folder, name):
        repository = place / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)
        return repository / "snapshots" / COMMIT
    return put


@pytest.mark.parametrize("name", ["hf-hub:org/model", "org/model", "hf-hub:org/model@main"])
@pytest.mark.parametrize("layout", ["open_clip", "open_clip bin", "transformers", "sharded"])
def test_a_repository_of_the_hub(cache, tmp_path, layout, name):
    (tmp_path / "made").mkdir()
    write_folder(tmp_path / "made", layout, False, 80, {"mean": [0.5] * 3})
    there = cache(tmp_path / "made", "org/model")
    found = hub.place_of(name, fetch=False)
    assert found.path == there and found.stated == {}
    checkpoint = read_checkpoint(found.path)
    assert checkpoint["assumed"] == {} and checkpoint["architecture"]["mean"] == [0.5] * 3
    assert checkpoint["architecture"]["activation"] == "gelu"


def test_a_repository_that_is_not_here(cache):
    with pytest.raises(hub.Absent, match="hf-hub:org/other are not in the hub's cache: the run would download them"):
        hub.place_of("hf-hub:org/other", fetch=False)
    with pytest.raises(LoadError, match="hf-hub:org/other is not in the hub.s cache, .*HF_HUB_OFFLINE is set"):
        hub.place_of("org/other")


def test_a_repository_of_another_model_is_refused_before_its_weights_are_fetched(cache, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    cache(tmp_path / "made", "org/siglip")
    with pytest.raises(LoadError, match="model_type siglip"):
        hub.place_of("hf-hub:org/siglip")


@pytest.mark.parametrize("name", ["hf-hub:model", "hf-hub:", "hf-hub:a/b/c"])
def test_names_that_no_repository_has(name):
    with pytest.raises(LoadError, match="ORG/NAME"):
        hub.place_of(name)


def test_what_the_hub_refuses_names_the_token(monkeypatch):
    def refused(*arguments, **options):
        raise ConnectionError("401 Unauthorized")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    with pytest.raises(LoadError, match="hf-hub:a/b could not be fetched .401 Unauthorized.*HF_TOKEN"):
        hub.place_of("hf-hub:a/b")


def test_a_folder(tmp_path):
    assert hub.place_of(f"local-dir:{tmp_path}").path == tmp_path
    with pytest.raises(LoadError, match="no such folder"):
        hub.place_of(f"local-dir:{tmp_path}/no")


def test_open_clip_s_names_are_those_of_the_library():
    assert set(hub.open_clip_names()) == set(open_clip.list_models())
    assert hub.is_name("ViT-B-32:openai") and hub.is_name("hf-hub:a/b") and hub.is_name("local-dir:x")
    assert not hub.is_name("ViT-B-32") and not hub.is_name("C:openai") and not hub.is_name("org/model")


@pytest.mark.parametrize(("name", "tag", "activation", "mean"), [
    ("ViT-B-32", "laion2b_s34b_b79k", "gelu", 0.48145466), ("ViT-B-32", "openai", "quick_gelu", 0.48145466),
    ("ViT-B-32-quickgelu", "openai", "quick_gelu", 0.48145466), ("ViT-L-14", "laion2b_s32b_b82k", "gelu", 0.5),
    ("ViT-B-32", "laion400m_e32", "quick_gelu", 0.48145466), ("RN50", "cc12m", "quick_gelu", 0.48145466)])
def test_pretrained_weights_of_open_clip(monkeypatch, tmp_path, name, tag, activation, mean):
    """What the library's table says of them: its activation wins over that of the name, its statistics act."""
    rows = []
    monkeypatch.setattr(pretrained, "download_pretrained", lambda row: rows.append(row) or str(tmp_path / "a.bin"))
    found = hub.place_of(f"{name}:{tag}")
    assert found.path == tmp_path / "a.bin" and found.stated["activation"] == activation and found.notes == []
    assert found.stated["mean"][0] == mean and rows == [open_clip.get_pretrained_cfg(name, tag)]


def test_what_open_clip_resizes_otherwise_is_a_note(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "download_pretrained", lambda row: str(tmp_path))
    note, = hub.place_of("ViT-H-14-378-quickgelu:dfn5b").notes
    assert "resize_mode squash" in note and "short side" in note


@pytest.mark.parametrize(("name", "fragment"), [
    ("ViT-B-32:laion", "it has openai, "), ("ViT-B-16-SigLIP:webli", "timm_model_name"),
    ("coca_ViT-B-32:laion2b_s13b_b90k", "multimodal_cfg"), ("roberta-ViT-B-32:laion2b_s12b_b32k", "hf_model_name")])
def test_pretrained_weights_that_cannot_be_used(name, fragment):
    with pytest.raises(LoadError, match=fragment):
        hub.place_of(name)


def test_pretrained_weights_in_the_cache(cache, tmp_path, monkeypatch):
    """``fetch=False`` finds what open_clip has kept in the hub's cache, and says what it has not."""
    name = "ViT-B-32:laion2b_s34b_b79k"
    with pytest.raises(hub.Absent, match="would download"):
        hub.place_of(name, fetch=False)
    (tmp_path / "made").mkdir()
    write_config(tmp_path / "made", {}, {})
    save_file({"a": torch.zeros(1)}, tmp_path / "made" / "open_clip_model.safetensors")
    repository = open_clip.get_pretrained_cfg(*name.split(":"))["hf_hub"].rstrip("/")
    there = cache(tmp_path / "made", repository)
    assert hub.place_of(name, fetch=False).path == there / "open_clip_model.safetensors"


def test_a_download_that_fails(monkeypatch):
    def failing(row):
        raise RuntimeError("no network")
    monkeypatch.setattr(pretrained, "download_pretrained", failing)
    with pytest.raises(LoadError, match="ViT-B-32:openai could not be fetched by open_clip .no network"):
        hub.place_of("ViT-B-32:openai")


def test_every_architecture_of_open_clip_is_read_or_refused():
    """Towers as CLIP has them give the parameters that open_clip builds; all others name the key that tells."""
    read = []
    for name in hub.open_clip_names():
        try:
            read.append((name, hub.open_clip_block(name)))
        except LoadError as error:
            assert "describes a model with" in str(error)
    assert len(read) > 30 and dict(read)["ViT-g-14"]["vision_mlp_width"] == 6144
    assert dict(read)["ViT-bigG-14"]["vision_heads"] == 16 and dict(read)["ViT-H-14"]["vision_heads"] == 16
