"""Pre-train the tiny CLIP of the toy benchmark on the toy world: a few minutes on two CPU cores.

    python scripts/pretrain_toy.py --seed 0 --output clip/weights/toy.pth

``--write-config`` writes clip/configs/toy.yaml instead, with the vocabulary of captions, prompts and class
names.
"""

import argparse
import math
import os
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
CONFIG = ROOT / "clip" / "configs" / "toy.yaml"

SHAPE = {"embed_dim": 128, "image_resolution": 32, "vision_layers": [2, 2], "vision_width": 24, "vision_heads": 8,
         "context_length": 77, "transformer_width": 64, "transformer_heads": 2, "transformer_layers": 2}
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

STEPS, BATCH = 1500, 96
MIXED_GROUPS, GROUP = 3, 20      # groups of sentences beside one per attribute; sentences per group
IMAGE_RATE, TEXT_RATE = 4e-3, 1e-3
IMAGE_WARM_UP, TEXT_WARM_UP = 30, 200
WEIGHT_DECAY, HEADS_WEIGHT = 0.05, 0.5


def main():
    arguments = parse()
    if arguments.write_config:
        write_config(CONFIG)
        return
    import torch
    torch.set_num_threads(arguments.threads)
    model = train(arguments.seed, arguments.steps)
    for name, accuracy in zeroshot_accuracies(model).items():
        print(f"{name:18} {accuracy:6.2f}")
    save(model, Path(arguments.output))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and the pictures")
    parser.add_argument("--output", default="clip/weights/toy.pth", help="the file to write")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the result's bits depend on their number")
    parser.add_argument("--write-config", action="store_true", help="write clip/configs/toy.yaml and stop")
    return parser.parse_args()


def vocabulary():
    """Return the sorted token ids of the captions, of every prompt of every toy task, and of the two marks."""
    import numpy as np

    from clip.tokenizer import END_TOKEN, START_TOKEN, encode
    from src.datasets import toy, toy_world
    from src.templates.toy import TEMPLATES
    rng = np.random.default_rng(0)
    texts, _ = toy_world.captions(toy_world.sample(20_000, rng), rng)  # far more than the number of words
    texts += [template.format(c=c) for name in toy.TASKS for template in TEMPLATES[name]
              for c in toy.classnames(name)]
    return sorted({START_TOKEN, END_TOKEN}.union(*map(encode, texts)))


def write_config(path):
    ids = vocabulary()
    lines = [f"  {key}: {value}" for key, value in {**SHAPE, "vocab_size": len(ids) + 1}.items()]
    listed = textwrap.fill(", ".join(map(str, ids)), 112, initial_indent="    ", subsequent_indent="    ")
    path.write_text("\n".join(["toy:", *lines, "  vocabulary: [", listed + "]", ""]), encoding="utf-8")


def train(seed, steps=STEPS, log=print):
    """Pre-train a CLIP from scratch and return it in eval mode."""
    import numpy as np
    import torch

    from clip.catalog import read_architecture
    from clip.model import CLIP
    from src.datasets import toy_world
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    model = prepared(CLIP(**read_architecture("toy"))).train()
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(SHAPE["embed_dim"], len(values))
                                 for name, values in toy_world.ATTRIBUTES.items()})
    image_side = [*model.visual.parameters(), *heads.parameters()]
    text_side = [value for name, value in model.named_parameters() if not name.startswith("visual.")]
    optimizer = torch.optim.AdamW([{"params": image_side, "peak": IMAGE_RATE, "warm_up": IMAGE_WARM_UP},
                                   {"params": text_side, "peak": TEXT_RATE, "warm_up": TEXT_WARM_UP}],
                                  weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98))
    for step in range(steps):
        for group in optimizer.param_groups:
            fall = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = group["peak"] * fall * min(1, (step + 1) / group["warm_up"])
        losses = terms(model, heads, rng)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_([*image_side, *text_side], 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if (step + 1) % 100 == 0:
            log(f"step {step + 1}/{steps} " + " ".join(f"{name} {value.item():.3f}" for name, value in losses.items()),
                flush=True)
    return model.eval()


def prepared(model):
    """Change CLIP's initialisation so that so small a model starts to learn within a few hundred steps.

    CLIP's position embedding is small beside the features of an untrained map, and blocks that begin as the
    identity (bn3 at zero) leave the map too coarse to show outlines.
    """
    import torch

    from clip.model import Bottleneck
    torch.nn.init.normal_(model.visual.attnpool.positional_embedding, std=0.5)
    for block in model.visual.modules():
        if isinstance(block, Bottleneck):
            torch.nn.init.constant_(block.bn3.weight, 0.5)
    return model


def terms(model, heads, rng):
    """Return the named loss terms of a new batch."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from clip.tokenizer import tokenize
    from src.datasets import toy_world
    attributes = toy_world.sample(BATCH, rng)
    features = model.encode_image(as_input(toy_world.draw(attributes, rng)))                   # (B, D)
    # All sentences of a group mention the same attributes, so the contrast is only about these.
    alone = np.eye(len(heads), dtype=bool)
    mentioned = np.concatenate([alone, toy_world.random_mentions(MIXED_GROUPS, rng)]).repeat(GROUP, axis=0)
    rows = rng.integers(BATCH, size=len(mentioned))
    told = {name: values[rows] for name, values in attributes.items()}
    texts, _ = toy_world.captions(told, rng, mentioned)
    true = torch.from_numpy(toy_world.agreement(attributes, told, mentioned))                  # (B, N)
    text_features = F.normalize(model.encode_text(tokenize(texts)), dim=-1)
    logits = model.logit_scale.exp() * F.normalize(features, dim=-1) @ text_features.T         # (B, N)
    grouped = logits.unflatten(1, (-1, GROUP)), true.unflatten(1, (-1, GROUP))
    # The heads predict what a sentence can name; without them, learning outlines and textures takes many times longer.
    named = sum(F.cross_entropy(heads[name](features), torch.from_numpy(attributes[name])) for name in heads)
    return {"image_to_text": 0.5 * several_positives(*grouped),
            "text_to_image": 0.5 * several_positives(logits.T, true.T), "heads": HEADS_WEIGHT * named}


def several_positives(logits, true):
    """Return the cross-entropy against all true answers in equal shares, averaged over rows that have any:
    (..., C), (..., C) -> scalar."""
    answers = true.sum(dim=-1)
    found = (logits.log_softmax(dim=-1) * true).sum(dim=-1)
    return -(found[answers > 0] / answers[answers > 0]).mean()


def as_input(images):
    """Convert (N, 32, 32, 3) uint8 -> (N, 3, 32, 32), normalised as for CLIP."""
    import torch
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std


def zeroshot_accuracies(model):
    """Return the test accuracy in percent of every toy task, with all its prompts."""
    import torch
    import torch.nn.functional as F

    from clip.tokenizer import tokenize
    from src.datasets import toy
    from src.templates.toy import TEMPLATES
    accuracies = {}
    with torch.no_grad():
        for name in toy.TASKS:
            images, labels = toy.load(name, "test")
            texts = torch.stack([model.encode_text(tokenize([template.format(c=c) for c in toy.classnames(name)]))
                                 for template in TEMPLATES[name]])                             # (P, C, D)
            classes = F.normalize(F.normalize(texts, dim=-1).mean(dim=0), dim=-1)              # (C, D)
            answers = (model.encode_image(as_input(images)) @ classes.T).argmax(dim=1)
            accuracies[name] = 100 * (answers == torch.tensor(labels)).float().mean().item()
    return accuracies


def save(model, path):
    """Write fp16 weights, or nothing at all."""
    import torch
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save({"format": 1, "architecture": model.architecture, "model": "toy", "state_dict": state}, temporary)
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
