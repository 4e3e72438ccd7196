"""Open ImageNet and its shifts; class names and prompts come from the installed open_clip_torch."""

import functools
import importlib.util
import tarfile
from pathlib import Path

from clip.tokenizer import open_clip_file
from src.datasets.common import Task, missing, not_downloaded
from src.datasets.images import class_folders, folder_split
from src.datasets.published_folders import has_parts, task_of_parts
from src.errors import UserError

NAMES_FILE = "imagenet_classes.txt"
TRAINING_PROMPT = "a photo of a {c}."

V2 = ("vaishaal/ImageNetV2", "imagenetv2-matched-frequency.tar.gz")  # repository of the Hugging Face hub, file

# Which of the 1000 classes each shift has; the sorted folders follow the sorted indices.
CLASSES_A = tuple(map(int, """
    6 11 13 15 17 22 23 27 30 37 39 42 47 50 57 70 71 76 79 89 90 94 96 97 99 105 107 108 110 113 124 125 130 132 143
    144 150 151 207 234 235 254 277 283 287 291 295 298 301 306 307 308 309 310 311 313 314 315 317 319 323 324 326 327
    330 334 335 336 347 361 363 372 378 386 397 400 401 402 404 407 411 416 417 420 425 428 430 437 438 445 456 457 461
    462 470 472 483 486 488 492 496 514 516 528 530 539 542 543 549 552 557 561 562 569 572 573 575 579 589 606 607 609
    614 626 627 640 641 642 643 658 668 677 682 684 687 701 704 719 736 746 749 752 758 763 765 768 773 774 776 779 780
    786 792 797 802 803 804 813 815 820 823 831 833 835 839 845 847 850 859 862 870 879 880 888 890 897 900 907 913 924
    932 933 934 937 943 945 947 951 954 956 957 959 971 972 980 981 984 986 987 988""".split()))
CLASSES_R = tuple(map(int, """
    1 2 4 6 8 9 11 13 22 23 26 29 31 39 47 63 71 76 79 84 90 94 96 97 99 100 105 107 113 122 125 130 132 144 145 147
    148 150 151 155 160 161 162 163 171 172 178 187 195 199 203 207 208 219 231 232 234 235 242 245 247 250 251 254 259
    260 263 265 267 269 276 277 281 288 289 291 292 293 296 299 301 308 309 310 311 314 315 319 323 327 330 334 335 337
    338 340 341 344 347 353 355 361 362 365 366 367 368 372 388 390 393 397 401 407 413 414 425 428 430 435 437 441 447
    448 457 462 463 469 470 471 472 476 483 487 515 546 555 558 570 579 583 587 593 594 596 609 613 617 621 629 637 657
    658 701 717 724 763 768 774 776 779 780 787 805 812 815 820 824 833 847 852 866 875 883 889 895 907 928 931 932 933
    934 936 937 943 945 947 948 949 951 953 954 957 963 965 967 980 981 983 988""".split()))

# Test-only shifts: folder under the root, and the classes it has (None: all 1000).
SHIFTS = {
    "ImageNetA": ("imagenet-a", CLASSES_A),
    "ImageNetR": ("imagenet-r", CLASSES_R),
    "ImageNetSketch": ("sketch", None),
    "ImageNetV2": ("imagenetv2-matched-frequency-format-val", None),
}


def open_imagenet(name, root):
    """Open ``ImageNet/train/<wnid>`` and ``ImageNet/val/<wnid>`` (or ``val_in_folder``); a split is listed on
    demand."""
    folder = Path(root) / "ImageNet"
    parts = {"train": folder / "train",
             "test": folder / "val_in_folder" if (folder / "val_in_folder").is_dir() else folder / "val"}
    if not any(part.is_dir() for part in parts.values()):
        raise missing(name, folder, root)
    splits = {split: functools.cache(functools.partial(_listed, name, part, 1000, root))
              for split, part in parts.items()}
    return Task(name, class_names(), prompts(), splits)


def open_shift(name, root):
    """Open a test set with ImageNet's class names, or with those of the classes that it has.

    ImageNetR also has a training part if it is stored as ``train/`` and ``test/``.
    """
    folder, indices = SHIFTS[name]
    names = class_names()
    chosen = [names[index] for index in indices] if indices else names
    if name == "ImageNetR" and has_parts(Path(root) / folder):
        return task_of_parts(name, Path(root) / folder, len(chosen), chosen, prompts())
    return Task(name, chosen, prompts(), {"test": _listed(name, Path(root) / folder, len(chosen), root)})


def download_v2(name, root):
    """Download and unpack ImageNetV2, as its authors keep it on the Hugging Face hub."""
    from huggingface_hub import hf_hub_download
    repository, file = V2
    try:
        # The archive is not compressed, whatever its name says: tarfile looks at the content.
        with tarfile.open(hf_hub_download(repository, file, repo_type="dataset", local_dir=root)) as archive:
            archive.extractall(root, filter="data")
    except Exception as error:  # of the hub, of its connections, of archives
        raise not_downloaded(name, Path(root) / SHIFTS[name][0], root, error) from None


def _listed(name, folder, classes, root):
    if not folder.is_dir():
        raise missing(name, folder, root)
    folders = class_folders(folder)
    if all(entry.isdigit() for entry in folders):  # ImageNetV2's folders are numbers and must sort as such
        folders.sort(key=int)
    if len(folders) != classes:
        raise UserError(f"{name}: {folder} has {len(folders)} class folders, not {classes}; see section {name} of "
                        "datasets.md")
    return folder_split(folder, folders)


@functools.cache
def open_clip_metadata():
    """Return open_clip's module of class names and prompts, executed alone: the package itself takes seconds to
    import."""
    spec = importlib.util.spec_from_file_location("zero_shot_metadata", open_clip_file("zero_shot_metadata.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def class_names():
    """Return the 1000 curated names."""
    return list(open_clip_metadata().IMAGENET_CLASSNAMES)


@functools.cache
def prompts():
    """Return OpenAI's 80 templates, the training prompt first (their order does not change their mean)."""
    templates = [template("{c}") for template in open_clip_metadata().OPENAI_IMAGENET_TEMPLATES]
    return sorted(templates, key=TRAINING_PROMPT.__ne__)
