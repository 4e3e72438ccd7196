"""Architectures and inputs of the benchmarks, all random and seeded. Needs only torch."""

import random

import torch

from clip.model import CLIP, Bottleneck

TEXT = {"context_length": 77, "vocab_size": 49408}
TEXT_B = {**TEXT, "transformer_width": 512, "transformer_heads": 8, "transformer_layers": 12}
TEXT_TINY = {**TEXT, "transformer_width": 32, "transformer_heads": 2, "transformer_layers": 2}
VIT_B = {"embed_dim": 512, "image_resolution": 224, "vision_layers": 12, "vision_width": 768}
ARCHITECTURES = {  # arguments of clip.model.CLIP; clip/configs has the published ones too, but reading them needs yaml
    "ViT-B/16": {**VIT_B, **TEXT_B, "vision_patch_size": 16},
    "ViT-B/32": {**VIT_B, **TEXT_B, "vision_patch_size": 32},
    "RN50": {**TEXT_B, "embed_dim": 1024, "image_resolution": 224, "vision_layers": [3, 4, 6, 3], "vision_width": 64},
    "tiny-vit": {**TEXT_TINY, "embed_dim": 16, "image_resolution": 32, "vision_layers": 2, "vision_width": 64,
                 "vision_patch_size": 8},
    "tiny-rn": {**TEXT_TINY, "embed_dim": 16, "image_resolution": 64, "vision_layers": [1, 1, 1, 1],
                "vision_width": 8, "vision_heads": 4},
}
DTD = ("banded blotchy braided bubbly bumpy chequered cobwebbed cracked crosshatched crystalline dotted fibrous "
       "flecked freckled frilly gauzy grid grooved honeycombed interlaced knitted lacelike lined marbled matted meshed "
       "paisley perforated pitted pleated polka-dotted porous potholed scaly smeared spiralled sprinkled stained "
       "stratified striped studded swirly veined waffled woven wrinkled zigzagged").split()
WORDS = ("red blue old new small large dark wooden wild water fire night city house tree bird dog cat fish horse car "
         "boat train road bridge river lake snow stone glass paper table chair window door garden field market street "
         "man woman child hand head eye hat shirt shoe bag box book clock lamp phone camera ball game food").split()
NAME_LENGTHS = (1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 5, 11)  # words; prompts add 7 tokens: 10 on average, 18 at most


@torch.no_grad()
def random_model(name, seed=0, dtype=torch.float32):
    """Return a CLIP of ``ARCHITECTURES`` with random weights, in eval mode. No branch of a ResNet has a
    gain of zero, so that comparing features covers all of them."""
    torch.manual_seed(seed)
    model = CLIP(**ARCHITECTURES[name])
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.bn3.weight.fill_(0.5)
    return model.to(dtype).eval()


def random_images(count, resolution, seed=0):
    """Return normalised images (B, 3, R, R): noise around a colour per image."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, 3, 1, 1, generator=generator)
            + torch.randn(count, 3, resolution, resolution, generator=generator))


def class_names(count, seed=0):
    """Return names of DTD's classes as far as they suffice, else names of one to eleven words, so that
    prompts are as long as ImageNet's."""
    if count <= len(DTD):
        return DTD[:count]
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.choice(NAME_LENGTHS))) for _ in range(count)]


def sentences(count, seed=1):
    """Return ``count`` captions of 5 to 17 words, 11 on average."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(5, 17))) for _ in range(count)]
