"""Open ObjectNet (Barbu et al., 2019): the 113 of its 313 classes shared with ImageNet, by its own mapping files."""

from pathlib import Path

from src.datasets.common import Task, missing
from src.datasets.imagenet import prompts
from src.datasets.images import folder_split, open_image
from src.errors import UserError
from src.machine.files import read_json

BORDER = 2  # pixels of red frame around each image


def open_objectnet(name, root):
    base = Path(root) / "objectnet-1.0"
    if not (base / "images").is_dir():
        raise missing(name, base / "images", root)
    labels = _mapping(name, base, "folder_to_objectnet_label.json")
    shared = _mapping(name, base, "objectnet_to_imagenet_1k.json")
    folders = sorted(folder for folder, label in labels.items() if label in shared)
    for folder in folders:
        if not (base / "images" / folder).is_dir():
            raise missing(name, base / "images" / folder, root)
    return Task(name, [labels[folder].lower() for folder in folders], prompts(),
                {"test": folder_split(base / "images", folders, _without_border)})


def _mapping(name, base, file):
    path = base / "mappings" / file
    try:
        return {folder: str(label) for folder, label in read_json(path).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{name}: {path} cannot be read ({error}); see section {name} of datasets.md") from None


def _without_border(path):
    image = open_image(path)
    width, height = image.size
    if min(width, height) <= 2 * BORDER:
        raise UserError(f"{path} cannot be decoded (it is nothing but a frame); repair or remove it")
    return image.crop((BORDER, BORDER, width - BORDER, height - BORDER))
