"""Derive a CLIP's architecture from the shapes of its tensors, under OpenAI's names, as far as shapes
determine it."""

from clip.errors import LoadError
from clip.files.configs import HEAD_WIDTH


def architecture_of(state_dict):
    """Return the architecture behind the shapes; heads by OpenAI's rule of 64 values per head, which no
    shape shows."""
    shape = {name: tuple(value.shape) for name, value in state_dict.items()}
    try:
        return _text_of(shape) | (_vit_of(shape) if "visual.proj" in shape else _resnet_of(shape))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise LoadError(f"the weights do not have a CLIP architecture ({error} is missing or misshapen)") from None


def _text_of(shape):
    width = shape["ln_final.weight"][0]
    return {
        "embed_dim": shape["text_projection"][1],
        "context_length": shape["positional_embedding"][0],
        "vocab_size": shape["token_embedding.weight"][0],
        "transformer_width": width,
        "transformer_heads": max(1, width // HEAD_WIDTH),
        "transformer_layers": _count(shape, "transformer.resblocks."),
        **_mlp_of(shape, "transformer", width)}


def _vit_of(shape):
    width, _, patch, _ = shape["visual.conv1.weight"]
    return {
        "image_resolution": patch * _side(shape["visual.positional_embedding"]), "vision_patch_size": patch,
        "vision_width": width, "vision_layers": _count(shape, "visual.transformer.resblocks."),
        "vision_heads": max(1, width // HEAD_WIDTH),
        **{f"vision_{key.removeprefix('visual.transformer_')}": value
           for key, value in _mlp_of(shape, "visual.transformer", width).items()}}


def _resnet_of(shape):
    stages = _count({name.replace("visual.layer", "visual.layer."): None for name in shape}, "visual.layer.")
    width = shape["visual.layer1.0.conv1.weight"][0]
    return {
        "image_resolution": _side(shape["visual.attnpool.positional_embedding"]) * 2 ** (stages + 1),
        "vision_width": width,
        "vision_layers": [_count(shape, f"visual.layer{stage + 1}.") for stage in range(stages)],
        "vision_heads": max(1, width * 32 // HEAD_WIDTH)}


def _mlp_of(shape, tower, width):
    """Return the hidden width of a tower's MLPs, if it is not four times the width."""
    hidden = shape.get(f"{tower}.resblocks.0.mlp.c_fc.weight", (4 * width,))[0]
    return {} if hidden == 4 * width else {f"{tower}_mlp_width": hidden}


def _side(shape):
    """Convert (1 + side * side, W) -> side; other shapes fail in the comparison of all shapes."""
    return round((shape[0] - 1) ** 0.5)


def _count(names, prefix):
    """Count the different indices that follow ``prefix`` in the names."""
    return len({name[len(prefix):].split(".")[0] for name in names if name.startswith(prefix)})
