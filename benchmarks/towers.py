"""Rows against open_clip's towers and zero-shot builder with the same random weights, and the optimiser's row."""

import torch
import torch.nn.functional as F

from benchmarks.harness import compared, in_turns, summary
from benchmarks.our_step import TEMPLATE
from benchmarks.sizes import class_names, random_images, random_model
from clip import tokenize
from clip.packing import PackedTexts
from src.datasets.common import fill
from src.datasets.imagenet import class_names as imagenet_names
from src.datasets.imagenet import prompts as imagenet_prompts
from src.models.classifiers import zeroshot_weights
from src.models.modeling import packed_where_shorter, tokens_of
from src.models.optimizers import build_optimizer
from src.models.state import Settings

FEATURES, GRADIENTS = 1e-4, 1e-3  # tolerances relative to the largest value


def open_clip_copy(model):
    """Return open_clip's CLIP with the weights of a ``clip.model.CLIP``, in eval mode."""
    from open_clip.model import CLIP as OpenCLIP
    given, visual = model.architecture, model.visual
    vision = {"image_size": given["image_resolution"], "layers": given["vision_layers"],
              "width": given["vision_width"]}
    if "vision_patch_size" in given:
        heads = visual.transformer.resblocks[0].attn.heads
        vision |= {"patch_size": given["vision_patch_size"], "head_width": given["vision_width"] // heads}
    else:
        vision["head_width"] = given["vision_width"] * 32 // visual.attnpool.heads
    text = {"context_length": given["context_length"], "vocab_size": given["vocab_size"],
            "width": given["transformer_width"], "heads": given["transformer_heads"],
            "layers": given["transformer_layers"]}
    peer = OpenCLIP(given["embed_dim"], vision, text, quick_gelu=True)
    peer.load_state_dict(model.state_dict())
    return peer.eval()


def image_tower(model, batch, rounds, backward, budget=None):
    """Time features of random images; with ``backward`` also the gradient of every weight of the tower."""
    ours = random_model(model)
    images = random_images(batch, ours.image_resolution)
    return _features(ours, lambda side: side.encode_image(images), rounds, backward, budget, "visual.conv1.weight")


def text_tower(model, classes, rounds, budget=None):
    """Time forward and backward on one prompt per class: ours as in training, open_clip with 77 tokens each."""
    ours = random_model(model)
    prompts = [fill(TEMPLATE, name) for name in class_names(classes)]
    packed, padded = packed_where_shorter(ours, tokens_of(ours, prompts)), tokenize(prompts)

    def encode(side):
        is_packed = side is ours and isinstance(packed, PackedTexts)
        return side.encode_packed(packed) if is_packed else side.encode_text(padded)

    return _features(ours, encode, rounds, True, budget, "text_projection")


def _features(ours, encode, rounds, backward, budget, gradient_of):
    """Check and time both sides' ``encode(model)``, (N, D)."""
    peer = open_clip_copy(ours)

    def run(side):
        side.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(backward):
            features = encode(side)
        if backward:
            F.normalize(features, dim=-1)[:, 0].sum().backward()
        return features

    checks = [compared("features", run(ours), run(peer), FEATURES)]
    if backward:
        gradients = [dict(side.named_parameters())[gradient_of].grad for side in (ours, peer)]
        checks.append(compared(f"gradient of {gradient_of}", *gradients, GRADIENTS))
    return {**summary(*in_turns(lambda: run(ours), lambda: run(peer), rounds, budget)), "checks": checks}


def zeroshot_head(model, classes, templates, rounds, budget=None):
    """Time the classifier of the first ImageNet classes from OpenAI's templates against open_clip's own builder."""
    import open_clip
    ours = random_model(model)
    peer, names, given = open_clip_copy(ours), imagenet_names()[:classes], imagenet_prompts()[:templates]
    tokenizer, formats = open_clip.SimpleTokenizer(), [template.replace("{c}", "{}") for template in given]

    def of_peer():
        return open_clip.build_zero_shot_classifier(peer, tokenizer, names, formats)

    checks = [compared("classifier weights", zeroshot_weights(ours, names, given), of_peer(), FEATURES)]
    return {**summary(*in_turns(lambda: zeroshot_weights(ours, names, given), of_peer, rounds, budget)),
            "checks": checks}


def optimizer_step(model, rounds, budget=None):
    """Time AdamW over all weights of a model as the loop builds it, against torch's defaults."""
    weights = [value.detach().clone() for value in random_model(model).parameters()]
    sides = [[value.clone().requires_grad_() for value in weights] for _ in range(2)]
    for number, values in enumerate(zip(*sides, strict=True)):
        gradient = torch.randn(values[0].shape, generator=torch.Generator().manual_seed(number))
        for value in values:
            value.grad = gradient.clone()
    ours = build_optimizer(sides[0], Settings(iterations=1, lr=1e-3))
    peer = torch.optim.AdamW(sides[1], lr=1e-3, weight_decay=0.0)
    ours.step(), peer.step()
    moved = [torch.cat([(value.detach() - start).flatten() for value, start in zip(side, weights, strict=True)])
             for side in sides]
    checks = [compared("first update", *moved, 1e-3)]
    return {**summary(*in_turns(ours.step, peer.step, rounds, budget)), "checks": checks,
            "values": sum(value.numel() for value in weights)}
