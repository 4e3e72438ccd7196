"""Where each dataset comes from: the package that downloads it, its size, its licence, and what is fetched by hand.

Sizes are those of the archives in GB (1e9 bytes), as torchvision's mirrors, the package wilds and the catalogue of
TensorFlow Datasets record them. A licence is recorded as the dataset's own page or its package states it; that page
decides. Imports nothing.
"""

from dataclasses import dataclass

TORCHVISION, WILDS, HUB = "torchvision", "wilds", "huggingface_hub"
REFERENCE = "ImageNetV2"  # the reference set that downloads itself: ImageNet's classes, ten images of each


@dataclass(frozen=True)
class Source:
    """``by``: the package that downloads it, "" where nothing does. ``gigabytes`` and ``licence`` are None and "" where
    they are not recorded. ``files``: what is fetched by hand, ``origin``: from where, as datasets.md names them."""

    by: str = ""
    gigabytes: float | None = None
    licence: str = ""
    files: tuple[str, ...] = ()
    origin: str = ""


SOURCES = {
    "Aircraft": Source(TORCHVISION, 2.75, "non-commercial research"),
    "Caltech101": Source(TORCHVISION, 0.13),
    "CIFAR10": Source(TORCHVISION, 0.17),
    "CIFAR100": Source(TORCHVISION, 0.17),
    "DTD": Source(TORCHVISION, 0.64, "research"),
    "EuroSAT": Source(TORCHVISION, 0.09, "MIT"),
    "Flowers": Source(TORCHVISION, 0.34),
    "Food": Source(TORCHVISION, 5.0, "scientific fair use; the images belong to their owners"),
    "MNIST": Source(TORCHVISION, 0.01),
    "OxfordPet": Source(TORCHVISION, 0.81, "CC BY-SA 4.0"),
    "StanfordCars": Source("", 1.96, files=("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz",
                                            "cars_test_annos_withlabels.mat"), origin="a mirror"),
    "SUN397": Source(TORCHVISION, 39.1),
    "CUB200": Source("", 1.15, files=("CUB_200_2011.tgz",)),
    "TinyImageNet": Source(files=("tiny-imagenet-200.zip",)),
    "ImageNet": Source("", 154.6, "non-commercial research and education, by agreement",
                       ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"), "image-net.org with an account"),
    "ImageNetA": Source("", 0.69, files=("imagenet-a.tar",)),
    "ImageNetR": Source("", 2.19, files=("imagenet-r.tar",)),
    "ImageNetSketch": Source(files=("ImageNet-Sketch",)),
    "ImageNetV2": Source(HUB, 1.26, "MIT (of its repository)"),
    "ObjectNet": Source(files=("objectnet-1.0.zip",), origin="objectnet.dev"),
    "YTBB": Source(files=("imagenet_vid_ytbb_robust.tar.gz",)),
    "ImageNetVidRobust": Source(files=("imagenet_vid_ytbb_robust.tar.gz",)),
    "FMOW": Source(WILDS, 53.9, "FMoW Challenge Public License"),
    "IWildCam": Source(WILDS, 12.0, "CDLA-Permissive-1.0"),
    "conceptual_captions": Source(files=("Validation_GCC-1.1.0-Validation.tsv",),
                                  origin="https://ai.google.com/research/ConceptualCaptions/download"),
    "coco": Source("", 20.4, files=("train2014.zip", "val2014.zip", "annotations_trainval2014.zip",
                                    "caption_datasets.zip"), origin="https://cocodataset.org/#download"),
    "flickr30k": Source(files=("flickr30k-images", "dataset_flickr30k.json"),
                        origin="a form at https://shannon.cs.illinois.edu/DenotationGraph/"),
}


def size_text(name):
    """"0.64", "39.1", or "not recorded"."""
    gigabytes = SOURCES[name].gigabytes
    return "not recorded" if gigabytes is None else f"{gigabytes:.{2 if gigabytes < 10 else 1}f}"


def how_it_comes(name):
    """"downloads" where a run downloads it, "--fetch" where that flag does, "by hand", or "drawn"."""
    if name not in SOURCES:
        return "drawn"
    return {TORCHVISION: "downloads", "": "by hand"}.get(SOURCES[name].by, "--fetch")
