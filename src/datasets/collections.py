"""Small collections that torchvision downloads, verifies and indexes; here they become Tasks."""

from src.datasets.common import Split, Task
from src.errors import UserError
from src.templates import collections as templates

# Flowers102 in torchvision's order; older releases lack the list.
FLOWER_NAMES = (
    "pink primrose; hard-leaved pocket orchid; canterbury bells; sweet pea; english marigold; tiger lily; moon orchid; "
    "bird of paradise; monkshood; globe thistle; snapdragon; colt's foot; king protea; spear thistle; yellow iris; "
    "globe-flower; purple coneflower; peruvian lily; balloon flower; giant white arum lily; fire lily; "
    "pincushion flower; fritillary; red ginger; grape hyacinth; corn poppy; prince of wales feathers; "
    "stemless gentian; artichoke; sweet william; carnation; garden phlox; love in the mist; mexican aster; "
    "alpine sea holly; ruby-lipped cattleya; cape flower; great masterwort; siam tulip; lenten rose; barbeton daisy; "
    "daffodil; sword lily; poinsettia; bolero deep blue; wallflower; marigold; buttercup; oxeye daisy; "
    "common dandelion; petunia; wild pansy; primula; sunflower; pelargonium; bishop of llandaff; gaura; geranium; "
    "orange dahlia; pink-yellow dahlia; cautleya spicata; japanese anemone; black-eyed susan; silverbush; "
    "californian poppy; osteospermum; spring crocus; bearded iris; windflower; tree poppy; gazania; azalea; "
    "water lily; rose; thorn apple; morning glory; passion flower; lotus; toad lily; anthurium; frangipani; clematis; "
    "hibiscus; columbine; desert-rose; tree mallow; magnolia; cyclamen; watercress; canna lily; hippeastrum; "
    "bee balm; ball moss; foxglove; bougainvillea; camellia; mallow; mexican petunia; bromelia; blanket flower; "
    "trumpet creeper; blackberry lily").split("; ")

TRAIN_OR_TEST = {"train": {"train": True}, "test": {"train": False}}


def open_cifar(name, root):
    import torchvision.datasets
    parts = _fetch(name, root, getattr(torchvision.datasets, name), TRAIN_OR_TEST)
    return _task(name, parts, [spaced(label) for label in parts["train"].classes], templates.CIFAR, "targets")


def open_mnist(name, root):
    from torchvision.datasets import MNIST
    parts = _fetch(name, root, MNIST, TRAIN_OR_TEST)
    return _task(name, parts, parts["train"].classes, templates.MNIST, "targets")


def open_dtd(name, root):
    from torchvision.datasets import DTD
    parts = _fetch(name, root, DTD, {split: {"split": split} for split in ("train", "val", "test")})
    return _task(name, parts, [spaced(label) for label in parts["train"].classes], templates.DTD, "_labels")


def open_flowers(name, root):
    from torchvision.datasets import Flowers102
    parts = _fetch(name, root, Flowers102, {split: {"split": split} for split in ("train", "val", "test")})
    return _task(name, parts, FLOWER_NAMES, templates.FLOWERS, "_labels")


def spaced(classname):
    return classname.replace("_", " ")


def _fetch(name, root, dataset, parts):
    """{split: opened torchvision dataset}, downloaded where it is missing."""
    try:
        try:
            return {split: dataset(root, **arguments) for split, arguments in parts.items()}
        except RuntimeError:  # not there, or not whole: torchvision then fetches and verifies it
            return {split: dataset(root, download=True, **arguments) for split, arguments in parts.items()}
    except (RuntimeError, OSError) as error:
        raise UserError(f"{name} is not under --data-location {root} and could not be downloaded "
                        f"({str(error).splitlines()[0]}); see section {name} of datasets.md") from None


def _task(name, parts, classnames, prompt_templates, labels):
    splits = {split: Split(_image_reader(dataset), [int(label) for label in getattr(dataset, labels)])
              for split, dataset in parts.items()}
    return Task(name, list(classnames), prompt_templates, splits)


def _image_reader(dataset):
    return lambda index: dataset[index][0].convert("RGB")
