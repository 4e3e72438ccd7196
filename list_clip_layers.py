"""List CLIP's layers by the names that --lora-target-modules and state dicts use. Needs no weights.

    python list_clip_layers.py --linear-only            # only nn.Linear layers
    python list_clip_layers.py --lora                   # only layers that LoRA can adapt
    python list_clip_layers.py --params --model RN50    # all parameters with shapes
"""

import argparse
import sys

from clip.catalog import architecture_names, read_architecture


def main(argv=None):
    """Print the list; return exit status 2 for an unknown model."""
    arguments = parse(argv)
    try:
        architecture = read_architecture(arguments.model)
    except ValueError as error:
        print(f"error: --model: {error}", file=sys.stderr)
        return 2
    model = empty_model(architecture)
    rows = rows_of(model, arguments)
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:{width}}  {text}" for name, text in rows))
    return 0


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="ViT-B/16", help=f"one of {', '.join(architecture_names())} [ViT-B/16]")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--linear-only", action="store_true", help="only nn.Linear layers")
    kind.add_argument("--lora", action="store_true", help="only the layers that --lora-target-modules can name")
    kind.add_argument("--params", action="store_true", help="all parameters with shapes, and their total")
    return parser.parse_args(argv)


def empty_model(architecture):
    """Return a CLIP of shapes only, on torch's meta device."""
    import torch

    from clip.model import CLIP
    with torch.device("meta"):
        return CLIP(**architecture)


def rows_of(model, arguments):
    """Return [(name, text)] for the flags given."""
    if arguments.params:
        return parameters(model)
    if arguments.lora:
        from src.models.lora_injection import adaptable_sites
        return [(name, str(module)) for name, module in adaptable_sites(model).items()]
    return layers(model, arguments.linear_only)


def layers(model, linear_only):
    """Return [(module name, class and sizes)] of all named modules, or of the nn.Linear ones."""
    from torch import nn
    return [(name, str(module) if isinstance(module, nn.Linear) else type(module).__name__)
            for name, module in model.named_modules() if name and (isinstance(module, nn.Linear) or not linear_only)]


def parameters(model):
    """Return [(parameter name, shape)], with the total number of values as the last row."""
    rows = [(name, " x ".join(map(str, value.shape)) or "scalar") for name, value in model.named_parameters()]
    return [*rows, ("total", f"{sum(value.numel() for value in model.parameters()):,} values")]


if __name__ == "__main__":
    sys.exit(main())
