"""Lower bounds of a ZSCL step: operations and bytes, counted by torch without computing anything (meta
tensors).

    python -m benchmarks.floors
    python -m benchmarks.floors --classes 397 --sentences 0     # fine-tuning

An operation is a multiplication or an addition inside a matrix product; norms, activations and softmax are
not counted.
"""

import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.our_step import TEMPLATE
from benchmarks.published_loop import PlainCLIP, PublishedLoop
from benchmarks.sizes import ARCHITECTURES, class_names
from clip import tokenize
from clip.model import CLIP, cut_tokens
from clip.packing import PackedTexts
from src.datasets.common import fill
from src.models.modeling import packed_where_shorter

BYTES = 4  # per fp32 value


def operations(work):
    """Count the operations of a function without arguments."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def image_operations(name, images, backward):
    """Count the operations of our image tower on a batch."""
    with torch.device("meta"):
        model = CLIP(**ARCHITECTURES[name])
        batch = torch.empty(images, 3, model.image_resolution, model.image_resolution)
        return operations(lambda: _run(model.encode_image, batch, backward))


def text_operations(name, texts, length, backward):
    """Count the operations of our text tower on texts cut at ``length`` < 77."""
    with torch.device("meta"):
        model = CLIP(**ARCHITECTURES[name])
        return operations(lambda: _run(model.encode_text, torch.zeros(texts, length, dtype=torch.long), backward))


def prompt_operations(name, classes):
    """Count the operations of our text tower, forward and backward, on the prompts of ``classes`` classes,
    encoded as in training."""
    tokens = cut_tokens(tokenize([fill(TEMPLATE, class_name) for class_name in class_names(classes)]))
    with torch.device("meta"):
        model = CLIP(**ARCHITECTURES[name])
    texts = packed_where_shorter(model, tokens)
    if not isinstance(texts, PackedTexts):
        return text_operations(name, *texts.shape, True)
    texts.ids, texts.positions, texts.ends = (part.to("meta") for part in (texts.ids, texts.positions, texts.ends))
    texts.sees = {length: mask.to("meta") for length, mask in texts.sees.items()}
    return operations(lambda: _run(model.encode_packed, texts, True))


def _run(encode, batch, backward):
    with torch.set_grad_enabled(backward):
        features = encode(batch)
    if backward:
        features.sum().backward()


def our_step(name, batch, classes, distils=True):
    """Count the operations of our step: task and reference images with gradient, the teacher's without,
    prompts packed; reference texts cost nothing. ``distils``: ZSCL, else fine-tuning."""
    distilled = image_operations(name, batch, True) + image_operations(name, batch, False) if distils else 0
    return image_operations(name, batch, True) + prompt_operations(name, classes) + distilled


def published_step(name, batch, classes, sentences):
    """Count the operations of forward and backward of ``PublishedLoop``; without sentences: fine-tuning."""
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        prompts, captions = (torch.zeros(count, architecture["context_length"], dtype=torch.long)
                             for count in (classes, sentences))
        teacher = PlainCLIP(**architecture) if sentences else None
        loop = PublishedLoop(PlainCLIP(**architecture), prompts, teacher, captions)
        images = torch.empty(batch, 3, architecture["image_resolution"], architecture["image_resolution"])
        labels = torch.zeros(batch, dtype=torch.long)
        return operations(lambda: sum(loop.losses(images, labels, images).values()).backward())


def weights(name):
    with torch.device("meta"):
        return sum(value.numel() for value in CLIP(**ARCHITECTURES[name]).parameters())


def optimizer_bytes(values):
    """Return AdamW's minimum traffic: read weight, gradient and two moments, write weight and moments."""
    return 7 * BYTES * values


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B/16", choices=("ViT-B/16", "ViT-B/32"))
    for name, default in (("batch", 8), ("classes", 47), ("sentences", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args(words)
    ours = our_step(given.model, given.batch, given.classes, distils=given.sentences > 0)
    published = published_step(given.model, given.batch, given.classes, given.sentences)
    values = weights(given.model)
    print(f"{given.model}, batch {given.batch}, {given.classes} classes, {given.sentences} sentences")
    for what, count in (("image tower, one image, forward", image_operations(given.model, 1, False)),
                        ("image tower, one image, forward and backward", image_operations(given.model, 1, True)),
                        ("our step", ours), ("published step", published)):
        print(f"{what:46} {count / 1e9:12.1f} GFLOP")
    print(f"{'published / ours':46} {published / ours:12.1f}")
    print(f"{'AdamW over ' + format(values, ',') + ' values':46} {optimizer_bytes(values) / 1e9:12.2f} GB")


if __name__ == "__main__":
    main()
