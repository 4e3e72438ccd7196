"""Pre-trains the small ViT CLIP toy-vit on the wide world: 40 minutes of one CPU core at most.

    python scripts/make_toy_vit.py --seed 0 --output clip/weights/toy-vit.pth

``--state FILE`` keeps a state every hundred steps; the same command continues from there, with the same bits.
``--write-config`` writes clip/configs/toy-vit.yaml instead, with the vocabulary of captions, prompts and class names.
"""

import argparse
import math
import os
import sys
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CONFIG = ROOT / "clip" / "configs" / "toy-vit.yaml"

SHAPE = {"embed_dim": 128, "image_resolution": 32, "vision_layers": 4, "vision_width": 96, "vision_patch_size": 8,
         "vision_heads": 4, "context_length": 77, "transformer_width": 96, "transformer_heads": 4,
         "transformer_layers": 3}
STEPS, BATCH = 8000, 64
MIXED_GROUPS, GROUP = 3, 10      # groups of sentences beside one for each attribute; sentences in a group
RATE, WARM_UP = 1.5e-3, 200
WEIGHT_DECAY, HEADS_WEIGHT = 0.05, 0.5
EVERY = 100                      # steps between lines of the log and states


def main():
    arguments = parse()
    if arguments.write_config:
        write_config(CONFIG)
        return
    import torch
    torch.set_num_threads(arguments.threads)
    model = train(arguments.seed, arguments.steps, state=arguments.state and Path(arguments.state))
    save(model, Path(arguments.output))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the pictures")
    parser.add_argument("--output", default="clip/weights/toy-vit.pth", help="the file to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the bits depend on their number")
    parser.add_argument("--state", help="file to keep the state in and to continue from")
    parser.add_argument("--write-config", action="store_true", help="write clip/configs/toy-vit.yaml and stop")
    return parser.parse_args()


def vocabulary():
    """Token ids of the captions, of every prompt of every mini task, and the two marks; sorted."""
    import numpy as np

    from clip.tokenizer import END_TOKEN, START_TOKEN, encode
    from src.datasets import mini_names, toy_sentences, toy_wide
    from src.datasets.common import fill
    from src.templates.mini import TEMPLATES
    rng = np.random.default_rng(0)
    attributes = toy_wide.sample(4_000, rng)  # far more than there are words
    texts = toy_sentences.captions(attributes, rng.random((4_000, len(toy_wide.ATTRIBUTES))) < 0.5, rng)
    texts += [fill(template, c) for name, classes in mini_names.CLASSES.items() for template in TEMPLATES[name]
              for c in classes]
    return sorted({START_TOKEN, END_TOKEN}.union(*map(encode, set(texts))))


def architecture():
    ids = vocabulary()
    return {**SHAPE, "vocab_size": len(ids) + 1, "vocabulary": ids}


def write_config(path):
    described = architecture()
    listed = textwrap.fill(", ".join(map(str, described.pop("vocabulary"))), 112, initial_indent="    ",
                           subsequent_indent="    ")
    lines = [f"  {key}: {value}" for key, value in described.items()]
    path.write_text("\n".join(["toy-vit:", *lines, "  vocabulary: [", listed + "]", ""]), encoding="utf-8")


def train(seed, steps=STEPS, state=None, log=print):
    """A CLIP pre-trained from scratch, or continued from ``state``, a Path, in eval mode."""
    import numpy as np
    import torch

    from clip.model import CLIP
    from src.datasets import toy_wide
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2])
    kept = torch.load(state, weights_only=True) if state and state.exists() else None
    model = prepared(CLIP(**(kept["architecture"] if kept else architecture()))).train()
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(SHAPE["embed_dim"], len(values))
                                 for name, values in toy_wide.ATTRIBUTES.items()})
    learned = torch.nn.ModuleDict({"model": model, "heads": heads})
    optimizer = torch.optim.AdamW(learned.parameters(), weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98))
    first, spent = 0, 0.0
    if kept:
        learned.load_state_dict(kept["learned"])
        optimizer.load_state_dict(kept["optimizer"])
        rng.bit_generator.state = kept["rng"]
        first, spent = kept["step"], kept["spent"]
    began = time.process_time() - spent
    for step in range(first, steps):
        rate = RATE * 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1, (step + 1) / WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = terms(model, heads, rng)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            spent = time.process_time() - began
            log(f"step {step + 1}/{steps} {spent:.0f} s of CPU time "
                + " ".join(f"{name} {value.item():.3f}" for name, value in losses.items()), flush=True)
            if state:
                write(state, {"architecture": model.architecture, "learned": learned.state_dict(), "spent": spent,
                              "optimizer": optimizer.state_dict(), "rng": rng.bit_generator.state, "step": step + 1})
    return model.eval()


def prepared(model):
    """CLIP's position embedding is hardly seen beside the patches of an untrained tower: it begins larger."""
    import torch
    torch.nn.init.normal_(model.visual.positional_embedding, std=0.3)
    return model


def terms(model, heads, rng):
    """The named loss terms of a fresh batch."""
    import torch
    import torch.nn.functional as F

    from clip.tokenizer import tokenize
    from src.datasets import toy_sentences, toy_wide
    attributes = toy_wide.sample(BATCH, rng)
    features = model.encode_image(as_input(toy_wide.draw(attributes, rng)))                    # (B, D)
    rows, mentioned = groups(attributes, rng)
    told = {name: values[rows] for name, values in attributes.items()}
    texts = toy_sentences.captions(told, mentioned, rng)
    true = torch.from_numpy(toy_wide.agreement(attributes, told, mentioned))                   # (B, N)
    text_features = F.normalize(model.encode_text(tokenize(texts)), dim=-1)
    logits = model.logit_scale.exp() * F.normalize(features, dim=-1) @ text_features.T         # (B, N)
    grouped = logits.unflatten(1, (-1, GROUP)), true.unflatten(1, (-1, GROUP))
    # The heads see what a sentence can name; without them outlines take many times as long to start.
    named = sum(F.cross_entropy(heads[name](features[seen]), torch.from_numpy(attributes[name])[seen])
                for name in heads if (seen := torch.from_numpy(attributes[name] >= 0)).any())
    return {"image_to_text": 0.5 * several_positives(*grouped),
            "text_to_image": 0.5 * several_positives(logits.T, true.T), "heads": HEADS_WEIGHT * named}


def groups(attributes, rng):
    """Sentences in groups whose members mention the same attributes, so that the contrast is about these and nothing
    else. -> for N sentences (N,) which picture they are made for, and (N, 8) bool, what they mention."""
    import numpy as np

    from src.datasets import toy_wide
    rows, mentioned = [], []
    for group in range(len(toy_wide.ATTRIBUTES) + MIXED_GROUPS):
        if group < len(toy_wide.ATTRIBUTES):
            mask = np.arange(len(toy_wide.ATTRIBUTES)) == group
        else:
            has = toy_wide.HAS[attributes["kind"][rng.integers(BATCH)]]
            mask = has & (rng.random(len(has)) < rng.uniform(0.3, 1))
        able = np.flatnonzero((toy_wide.HAS[attributes["kind"]] >= mask).all(axis=1))
        rows.append(rng.choice(able, GROUP) if len(able) else rng.integers(BATCH, size=GROUP))
        mentioned.append(np.tile(mask, (GROUP, 1)))
    return np.concatenate(rows), np.concatenate(mentioned)


def several_positives(logits, true):
    """Cross-entropy against all true answers in equal shares; the mean over rows that have any. (..., C), (..., C)."""
    answers = true.sum(dim=-1)
    found = (logits.log_softmax(dim=-1) * true).sum(dim=-1)
    return -(found[answers > 0] / answers[answers > 0]).mean()


def as_input(images):
    """(N, 32, 32, 3) uint8 -> (N, 3, 32, 32) normalised as CLIP does."""
    import torch

    from clip.catalog import MEAN, STD
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std


def save(model, path):
    """Writes fp16 weights, or nothing at all."""
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, {"format": 1, "architecture": model.architecture, "model": "toy-vit", "state_dict": state})


def write(path, content):
    import torch
    temporary = path.with_name(path.name + ".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
