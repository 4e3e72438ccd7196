"""Names known without loading anything: published weights, shipped weights, architectures. Imports no torch."""

import os
import reprlib
from pathlib import Path

from clip.files import hub
from clip.files.configs import HEAD_WIDTH, MEAN, STD

VOCABULARY_SIZE = 49408  # token ids of CLIP's byte-pair encoding
# OpenAI's values of the keys that no tensor determines: the defaults of an architecture.
ACTIVATIONS = ("quick_gelu", "gelu")
DEFAULTS = {"activation": "quick_gelu", "mean": [*MEAN], "std": [*STD]}
OTHER_HEAD_WIDTHS = (72, 80, 88, 104)  # values per head of larger published ViTs
CONFIGS = Path(__file__).parent / "configs"
WEIGHTS = Path(__file__).parent / "weights"

# OpenAI's published archives: name -> sha256, which is also part of the address.
ARCHIVES = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}
ADDRESS = "https://openaipublic.azureedge.net/clip/models/{sha256}/{file}"


def available_models():
    """Return the nine names of OpenAI's published models."""
    return list(ARCHIVES)


def file_stem(name):
    """Convert ``ViT-L/14@336px`` -> ``ViT-L-14-336px``, the spelling of OpenAI's files and of our configs."""
    return name.replace("/", "-").replace("@", "-")


def archive_file(name):
    return file_stem(name) + ".pt"


def archive_address(name):
    return ADDRESS.format(sha256=ARCHIVES[name], file=archive_file(name))


def shipped_weights(name):
    """Return the path of weights shipped with the package, or None."""
    path = WEIGHTS / (file_stem(name) + ".pth")
    return path if path.is_file() else None


def shipped_names():
    """Return the names of the weights shipped with the package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.pth"))


def architecture_names():
    """Return every architecture described in ``clip/configs``; published names in their own spelling."""
    spelled = {file_stem(name): name for name in ARCHIVES}
    return [spelled.get(path.stem, path.stem) for path in sorted(CONFIGS.glob("*.yaml"))]


def is_weights_name(text):
    """Return whether a text is one of our names, or is spelled like a name of another library; the caller
    handles a bare ORG/NAME."""
    return text in architecture_names() or hub.is_name(text)


def completed(architecture):
    """Return the architecture with OpenAI's values for missing keys; keys without a value are dropped."""
    return DEFAULTS | {key: value for key, value in architecture.items() if value is not None}


def read_architecture(name, file=None, partial=False):
    """Return the arguments of ``clip.model.CLIP`` for a name, from ``clip/configs`` or from a custom YAML
    file.

    A file holds either the keys of one architecture or a mapping of names to such blocks, from which
    ``name`` picks one. ``partial``: keys may be missing, because the weights supply them. Raises
    ValueError, in one line, if the name or a key is missing or unknown.
    """
    from clip.files.plain_yaml import NumberLoader, read_yaml
    path = Path(file) if file else CONFIGS / (file_stem(name) + ".yaml")
    if not os.path.isfile(path):
        raise ValueError(f"no architecture {name!r}; choose from {', '.join(architecture_names())}"
                         if file is None else f"no such file: {path}")
    try:
        document = read_yaml(path, NumberLoader)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path} does not hold an architecture (keys such as embed_dim)")
    block = document if _is_block(document, partial) else _block_of(document, name)
    if not isinstance(block, dict):
        raise ValueError(f"{path} has no architecture {name!r}; it has {', '.join(map(str, document))}")
    return check_architecture(_with_numbers(block), path, partial)


KINDS = {"ViT": int, "RN": list}  # names of blocks in the YAML files of Mod-X's scripts: type of their vision_layers
LARGEST, MOST_STAGES, MOST_LAYERS = 2 ** 31, 16, 1000  # OpenAI's ResNets have 4 stages, its deepest towers 24 layers
REQUIRED = ("embed_dim", "image_resolution", "vision_layers", "vision_width", "context_length", "vocab_size",
            "transformer_width", "transformer_heads", "transformer_layers")
OPTIONAL_SIZES = ("vision_patch_size", "vision_heads", "vision_mlp_width", "transformer_mlp_width")
OPTIONAL = (*OPTIONAL_SIZES, "vocabulary", "activation", "mean", "std")


def _block_of(document, name):
    """Return the block of this name, or the only block of the kind that ViT or RN names."""
    if name in document or name not in KINDS:
        return document.get(name)
    found = [block for block in document.values()
             if isinstance(block, dict) and isinstance(block.get("vision_layers"), KINDS[name])]
    return found[0] if len(found) == 1 else None


def _is_block(document, partial):
    """Return whether a document is itself an architecture, not a mapping of names to architectures."""
    return "embed_dim" in document or partial and any(key in REQUIRED + OPTIONAL for key in document)


def _with_numbers(block):
    """Return a block with mean and standard deviation as numbers: the YAML reader leaves fractions as text."""
    return {key: [*map(_number, value)] if key in ("mean", "std") and isinstance(value, list) else value
            for key, value in block.items()}


def _number(value):
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def check_architecture(block, path, partial=False):
    """Return an architecture if its keys and values are valid; raise ValueError with what is wrong in the
    file ``path``."""
    if not isinstance(block, dict):
        raise ValueError(f"{path} does not hold an architecture (keys such as embed_dim)")
    missing = [key for key in REQUIRED if key not in block and not partial]
    unknown = [key for key in block if key not in REQUIRED + OPTIONAL]
    if missing or unknown:
        raise ValueError(f"{path}: " + "; ".join(
            part for part in (missing and f"missing {', '.join(missing)}",
                              unknown and f"unknown {', '.join(map(str, unknown))}") if part))
    sizes = [key for key in REQUIRED if key in block]
    for key in sizes + [key for key in OPTIONAL_SIZES if block.get(key) not in (None, 0)]:
        value = block[key]
        numbers = value if key == "vision_layers" and isinstance(value, list) and value else [value]
        if not all(type(number) is int and 0 < number < LARGEST for number in numbers):
            raise ValueError(f"{path}: {key} must be a positive whole number"
                             f"{' or a list of them' if key == 'vision_layers' else ''}, not {reprlib.repr(value)}")
    _check_activation_and_statistics(block, path)
    if not partial:
        _check_whole(block, path)
    return block


def _check_activation_and_statistics(block, path):
    activation = block.get("activation")
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"{path}: activation must be {' or '.join(ACTIVATIONS)}, not {reprlib.repr(activation)}")
    for key, least in (("mean", 0), ("std", 1e-6)):
        value = block.get(key)
        if value is not None and not (isinstance(value, list) and len(value) == 3 and all(
                type(part) in (int, float) and least <= part <= 1 for part in value)):
            raise ValueError(f"{path}: {key} must list three numbers from {least:g} to 1, for red, green and blue, not "
                             f"{reprlib.repr(value)}")


def _check_whole(block, path):
    """Check that the keys of an architecture fit together."""
    is_resnet = isinstance(block["vision_layers"], list)
    if bool(block.get("vision_patch_size")) == is_resnet:
        raise ValueError(f"{path}: a ViT has a number of vision_layers and a vision_patch_size, "
                         "a ResNet a list of vision_layers and no vision_patch_size")
    layers = block["vision_layers"] if is_resnet else [block["vision_layers"]]
    if len(layers) > MOST_STAGES or sum(layers) + block["transformer_layers"] > MOST_LAYERS:
        raise ValueError(f"{path}: vision_layers lists more than {MOST_STAGES} stages, or there are more than "
                         f"{MOST_LAYERS} layers")
    least = 2 ** (len(layers) + 1) if is_resnet else block["vision_patch_size"]
    if block["image_resolution"] < least or block["vision_width"] < 2 or block["context_length"] < 2:
        raise ValueError(f"{path}: image_resolution must be at least {least}, vision_width and context_length 2")
    if block.get("vocabulary") is not None and not _are_tokens(block["vocabulary"], block["vocab_size"] - 1):
        raise ValueError(f"{path}: vocabulary must list {block['vocab_size'] - 1} different token ids, one fewer than "
                         "vocab_size")
    for width, heads in _attentions(block):
        if width % heads:
            raise ValueError(f"{path}: a width of {width} does not divide into {heads} heads")


def _are_tokens(vocabulary, count):
    """Return whether ``vocabulary`` is a list of ``count`` different token ids."""
    return isinstance(vocabulary, list) and len(vocabulary) == count and all(
        type(token) is int and 0 <= token < VOCABULARY_SIZE for token in vocabulary) and len(set(vocabulary)) == count


def vision_heads(block):
    """Return the heads of an architecture's image tower; the default is 64 values per head."""
    width = block["vision_width"] * (32 if isinstance(block["vision_layers"], list) else 1)
    return block.get("vision_heads") or max(1, width // HEAD_WIDTH)


def _attentions(block):
    """Return (width, heads) of each kind of attention in an architecture."""
    width = block["vision_width"]
    if isinstance(block["vision_layers"], list):
        width *= 4 * 2 ** (len(block["vision_layers"]) - 1)  # channels of the attention pool
    return (width, vision_heads(block)), (block["transformer_width"], block["transformer_heads"])
