"""Tiny CLIPs of open_clip and transformers with random weights, and the files and folders that both libraries write."""

import json

import open_clip
import torch
from safetensors.torch import save_file

from clip.files.layouts import to_transformers

PREFIXES = ("", "module.", "_orig_mod.", "model.", "clip_model.", "module._orig_mod.", "_orig_mod.module.model.",
            "model.clip_model.", "clip.")
WRAPPERS = {
    "none": lambda weights: weights, "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "model_state_dict": lambda weights: {"model_state_dict": weights, "optimizer": {"state": {0: torch.zeros(3)}}},
    "model": lambda weights: {"model": weights, "scaler": {"scale": torch.zeros(1)}},
    "Lightning": lambda weights: {"state_dict": weights, "pytorch-lightning_version": "2", "hyper_parameters": {"a": 1},
                                  "optimizer_states": [{"state": {}}]}}


def open_clip_model(quick_gelu=True, head_width=64, mlp_ratio=4.0, vision_width=128, text_width=128, text_heads=2,
                    vocab_size=50):
    """An open_clip CLIP for images of 32 pixels whose blocks all have a say in the features."""
    torch.manual_seed(1)
    model = open_clip.model.CLIP(16, {"layers": 2, "width": vision_width, "head_width": head_width, "patch_size": 8,
                                      "image_size": 32, "mlp_ratio": mlp_ratio},
                                 {"width": text_width, "heads": text_heads, "layers": 1, "context_length": 8,
                                  "vocab_size": vocab_size}, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and ("mlp" in name or "attn" in name):
                value.mul_(4)
            elif name.endswith("bias"):
                value.normal_(std=0.2)
    return model


def hugging(model, text_heads=2):
    """The same weights as transformers' CLIPModel."""
    from transformers import CLIPConfig, CLIPModel
    visual, rows = model.visual, len(model.token_embedding.weight)
    block = visual.transformer.resblocks[0]
    activation = "quick_gelu" if type(block.mlp.gelu).__name__ == "QuickGELU" else "gelu"
    common = {"hidden_act": activation, "projection_dim": 16}
    text = {"hidden_size": model.ln_final.weight.shape[0], "intermediate_size": 4 * model.ln_final.weight.shape[0],
            "num_hidden_layers": 1, "num_attention_heads": text_heads, "max_position_embeddings": 8, "vocab_size": rows,
            "eos_token_id": rows - 1, "bos_token_id": rows - 2, "pad_token_id": 0}
    vision = {"hidden_size": visual.conv1.weight.shape[0], "intermediate_size": block.mlp.c_fc.weight.shape[0],
              "num_hidden_layers": 2, "num_attention_heads": block.attn.num_heads, "image_size": 32, "patch_size": 8}
    theirs = CLIPModel(CLIPConfig(projection_dim=16, text_config=common | text, vision_config=common | vision)).eval()
    weights = model.state_dict()
    weights.pop("attn_mask", None)
    different = theirs.load_state_dict(to_transformers(weights), strict=False)
    assert not different.unexpected_keys and all("position_ids" in name for name in different.missing_keys)
    return theirs


def adapted(model, config, folder, seed=0):
    """Adapt a library's model by peft, move all that trains, and save it. -> the adapted model, not merged"""
    from peft import get_peft_model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = get_peft_model(model, config).eval()
        with torch.no_grad():
            for parameter in found.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    found.save_pretrained(folder)
    return found.get_base_model()


def write_folder(folder, layout, quick_gelu, head_width, statistics, vocab_size=50):
    """A folder as the libraries write it. -> the library's own model, with 4 heads for images"""
    model = open_clip_model(quick_gelu, head_width, vision_width=4 * head_width, vocab_size=vocab_size)
    if layout.startswith("open_clip"):
        _write_open_clip(folder, model, layout.endswith("bin"), head_width, statistics)
        return model
    theirs = hugging(model)
    if layout == "transformers bin":
        torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
        theirs.config.save_pretrained(folder)
    else:
        theirs.save_pretrained(folder, max_shard_size="300KB" if layout.startswith("sharded") else "1GB")
    if layout.startswith("sharded"):
        assert len(list(folder.glob("*-of-*"))) > 1
    if layout == "sharded bin":
        _shards_as_bin(folder)
    _write_processor(folder, statistics)
    return theirs


def _write_open_clip(folder, model, as_bin, head_width, statistics):
    write_config(folder, {
        "embed_dim": 16, **({"quick_gelu": True} if "QuickGELU" in str(model) else {}),
        "vision_cfg": {"layers": 2, "width": 4 * head_width, "head_width": head_width, "patch_size": 8,
                       "image_size": 32},
        "text_cfg": {"width": 128, "heads": 2, "layers": 1, "context_length": 8,
                     "vocab_size": model.token_embedding.weight.shape[0]}}, statistics)
    if as_bin:
        torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    else:
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def write_config(folder, model, preprocess):
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))


def _write_processor(folder, statistics):
    from transformers import CLIPImageProcessor
    named = {f"image_{key}": value for key, value in statistics.items()}
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, **named)
    processor.save_pretrained(folder)


def _shards_as_bin(folder):
    """What transformers wrote before safetensors."""
    from safetensors.torch import load_file
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    older = {name: name.replace("model", "pytorch_model").replace("safetensors", "bin")
             for name in content["weight_map"].values()}
    for name in older:
        torch.save(load_file(folder / name), folder / older[name])
        (folder / name).unlink()
    content["weight_map"] = {key: older[name] for key, name in content["weight_map"].items()}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(content))
    index.unlink()
