"""ImageNet's curated class names, read from the installed open_clip_torch."""

import importlib.util
from pathlib import Path

from clip.tokenizer import open_clip_file
from src.errors import UserError

NAMES_FILE = "imagenet_classes.txt"


def open_clip_metadata():
    """open_clip's module of class names and prompts, executed alone: the package itself takes seconds to import."""
    spec = importlib.util.spec_from_file_location("zero_shot_metadata", open_clip_file("zero_shot_metadata.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_class_names(path):
    """One class name a line -> list. A missing ``imagenet_classes.txt`` is written first, from open_clip's names."""
    path = Path(path)
    if not path.is_file() and path.name == NAMES_FILE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(open_clip_metadata().IMAGENET_CLASSNAMES) + "\n", encoding="utf-8")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--class-names {path}: cannot be read ({error})") from None
    if not names:
        raise UserError(f"--class-names {path}: holds no names; one class name a line")
    return names
