"""Turn small collections into Tasks; torchvision downloads, verifies and indexes them."""

import functools
import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from src.datasets.common import Split, Task, file_split
from src.datasets.images import class_folders, folder_split, read_image
from src.datasets.splits import RANDOM_SEED, random_halves, stored_lists
from src.errors import UserError
from src.templates import collections as templates

# The order is torchvision's; older releases lack Flowers102's list.
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

CALTECH_NAMES = (
    "off-center face; centered face; leopard; motorbike; accordion; airplane; anchor; ant; barrel; bass; beaver; "
    "binocular; bonsai; brain; brontosaurus; buddha; butterfly; camera; cannon; side of a car; ceiling fan; "
    "cellphone; chair; chandelier; body of a cougar cat; face of a cougar cat; crab; crayfish; crocodile; "
    "head of a  crocodile; cup; dalmatian; dollar bill; dolphin; dragonfly; electric guitar; elephant; emu; "
    "euphonium; ewer; ferry; flamingo; head of a flamingo; garfield; gerenuk; gramophone; grand piano; hawksbill; "
    "headphone; hedgehog; helicopter; ibis; inline skate; joshua tree; kangaroo; ketch; lamp; laptop; llama; "
    "lobster; lotus; mandolin; mayfly; menorah; metronome; minaret; nautilus; octopus; okapi; pagoda; panda; pigeon; "
    "pizza; platypus; pyramid; revolver; rhino; rooster; saxophone; schooner; scissors; scorpion; sea horse; "
    "snoopy (cartoon beagle); soccer ball; stapler; starfish; stegosaurus; stop sign; strawberry; sunflower; tick; "
    "trilobite; umbrella; watch; water lilly; wheelchair; wild cat; windsor chair; wrench; "
    "yin and yang symbol").split("; ")

EUROSAT_NAMES = (
    "annual crop land; forest; brushland or shrubland; highway or road; industrial buildings or commercial buildings; "
    "pasture land; permanent crop land; residential buildings or homes or apartments; river; lake or sea").split("; ")

NOT_A_CLASS = "BACKGROUND_Google"  # Caltech101's folder of clutter


@dataclass(frozen=True)
class Collection:
    """Describe how a dataset of torchvision becomes a Task.

    ``dataset``: the class in ``torchvision.datasets``. ``folder``: the folder that it creates under the root.
    ``parts``: constructor arguments of each split. ``files``: its attribute with image paths, None if the
    images are arrays in ``data``.
    """

    dataset: str
    folder: str
    parts: dict
    templates: list
    labels: str = "_labels"
    files: str | None = "_image_files"
    classnames: tuple | None = None
    downloads: bool = True


BY_SPLIT = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
TRAIN_OR_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}

COLLECTIONS = {
    "Aircraft": Collection("FGVCAircraft", "fgvc-aircraft-2013b", BY_SPLIT, templates.AIRCRAFT),
    "CIFAR10": Collection("CIFAR10", "cifar-10-batches-py", TRAIN_FLAG, templates.CIFAR, "targets", None),
    "CIFAR100": Collection("CIFAR100", "cifar-100-python", TRAIN_FLAG, templates.CIFAR, "targets", None),
    "DTD": Collection("DTD", "dtd", BY_SPLIT, templates.DTD),
    "Flowers": Collection("Flowers102", "flowers-102", BY_SPLIT, templates.FLOWERS, classnames=FLOWER_NAMES),
    "Food": Collection("Food101", "food-101", TRAIN_OR_TEST, templates.FOOD),
    "MNIST": Collection("MNIST", "MNIST", TRAIN_FLAG, templates.MNIST, "targets", None),
    "OxfordPet": Collection("OxfordIIITPet", "oxford-iiit-pet",
                            {"train": {"split": "trainval"}, "test": {"split": "test"}}, templates.PET,
                            files="_images"),
    "StanfordCars": Collection("StanfordCars", "stanford_cars", TRAIN_OR_TEST, templates.CARS, labels="_samples",
                               files="_samples", downloads=False),
}


def open_collection(name, root):
    row = COLLECTIONS[name]
    parts = _fetch(name, root, row.dataset, row.folder, row.parts, row.downloads)
    classnames = row.classnames or [spaced(label) for label in parts["train"].classes]
    splits = {split: _split(row, dataset, Path(root) / row.folder) for split, dataset in parts.items()}
    return Task(name, list(classnames), row.templates, splits)


def open_caltech(name, root):
    _fetch(name, root, "Caltech101", "caltech101", {"all": {}})
    folder = Path(root) / "caltech101" / "101_ObjectCategories"
    classes = [entry for entry in class_folders(folder) if entry != NOT_A_CLASS]
    return _randomly_split(name, root, CALTECH_NAMES, templates.CALTECH, folder, folder_split(folder, classes))


def open_eurosat(name, root):
    _fetch(name, root, "EuroSAT", "eurosat", {"all": {}})
    folder = Path(root) / "eurosat" / "2750"
    return _randomly_split(name, root, EUROSAT_NAMES, templates.EUROSAT, folder,
                           folder_split(folder, class_folders(folder)))


def open_sun(name, root):
    dataset = _fetch(name, root, "SUN397", "SUN397", {"all": {}})["all"]
    folder = Path(root) / "SUN397"
    rows = sorted((Path(file).relative_to(folder).as_posix(), label)
                  for file, label in zip(dataset._image_files, dataset._labels, strict=True))
    split = file_split(folder, [file for file, _ in rows], [label for _, label in rows], read_image)
    return _randomly_split(name, root, [spaced(label) for label in dataset.classes], templates.SUN, folder, split)


def spaced(classname):
    return classname.replace("_", " ")


def _randomly_split(name, root, classnames, prompts, folder, everything):
    present = len(set(everything.labels))
    if present != len(classnames):
        raise UserError(f"{name}: {folder} holds {present} classes, not {len(classnames)}; see section {name} of "
                        "datasets.md")
    lists = stored_lists(root, name, everything.files, lambda: dict(zip(
        ("train", "test"), random_halves(len(everything)), strict=True)), RANDOM_SEED)
    return Task(name, list(classnames), prompts,
                {split: everything.subset(lists[split]) for split in ("train", "test")})


def _fetch(name, root, dataset, folder, parts, downloads=True):
    """Return {split: opened torchvision dataset}.

    A missing dataset is downloaded beside its final place and renamed once complete and verified, so that an
    interrupted download never looks like a dataset.
    """
    import torchvision.datasets
    opener = getattr(torchvision.datasets, dataset)
    place = Path(root) / folder
    if not place.exists() and not downloads:
        raise UserError(f"{name} is not at {place} (--data-location {root}) and must be fetched by hand; "
                        f"see section {name} of datasets.md")
    try:
        if not place.exists():
            Path(root).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=f".{folder}.") as partial:
                for arguments in parts.values():
                    opener(partial, download=True, **arguments)
                shutil.move(Path(partial) / folder, place)
        return {split: opener(root, **arguments) for split, arguments in parts.items()}
    except Exception as error:  # scipy, pickle and torchvision raise different errors for a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{name}: {place} (--data-location {root}) is missing or damaged and could not be downloaded "
                        f"({reason}); see section {name} of datasets.md") from None


def _split(row, dataset, folder):
    if row.files is None:
        return _array_split(dataset)
    paths, labels = getattr(dataset, row.files), getattr(dataset, row.labels)
    if row.files == row.labels:  # pairs of (path, label)
        paths, labels = zip(*paths, strict=True)
    return file_split(folder, [Path(path).relative_to(folder).as_posix() for path in paths],
                      [int(label) for label in labels], read_image)


def _array_split(dataset):
    import numpy
    from PIL import Image
    arrays = numpy.asarray(dataset.data)                                            # (N, H, W, 3) or (N, H, W), uint8
    return Split(lambda index: Image.fromarray(arrays[index]).convert("RGB"), [int(label) for label in dataset.targets],
                 content=functools.cache(lambda: hashlib.sha256(numpy.ascontiguousarray(arrays)).hexdigest()))


