"""Define what every dataset is made of: Entry (a row of the table), Task (opened) and Split."""

import hashlib
import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from src.datasets.sources import SOURCES, size_text
from src.errors import UserError


@dataclass(frozen=True)
class Entry:
    """Hold a row of the table of datasets: what is known without opening anything.

    ``target``: ``"module:function"``, where the function maps (name, root) to a Task. ``folder``: what must be
    under the root (empty: nothing). ``sizes``: the images that each split must have. ``downloads``: whether opening
    it downloads it. ``fetch``: the target of what downloads it for --fetch alone; for all others datasets.md has
    the steps. ``pairs``: images with captions, trained on by contrast and scored by retrieval.
    """

    target: str
    folder: str = ""
    classes: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    downloads: bool = False
    pairs: bool = False
    fetch: str = ""

    def open(self, name: str, root: str | Path, **options: Any) -> "Task":
        return _function_of(self.target)(name, root, **options)

    def download(self, name: str, root: str | Path) -> None:
        """Download it into ``root``, which lacks it. Raises UserError where that fails."""
        _function_of(self.fetch or self.target)(name, root)


def _function_of(target: str) -> Callable[..., Any]:
    module, function = target.split(":")
    return getattr(importlib.import_module(module), function)


def own_path(name: str) -> Path:
    """Return the Path after the colon of ``csv:~/table.csv``; an unknown ``~name`` stays unchanged."""
    return Path(os.path.expanduser(name.partition(":")[2]))


@dataclass(frozen=True)
class Split:
    """Hold images and labels of one part of a dataset. ``image(index)`` returns an RGB PIL image or a uint8 (3,
    H, W) tensor.

    ``files``: their relative POSIX paths if images are files. ``captions``: the captions of each image.
    ``video``: set for frames of videos. ``in_memory``: reading an image costs nothing, so worker processes
    would only slow it down. ``path(index)`` says where an image lies; ``content()`` gives a digest of images that
    are in no files.
    ``rows`` are the images where they were kept ready (``src.datasets.cache``).
    """

    image: Callable[[int], Any]
    labels: Sequence[int]
    files: Sequence[str] | None = None
    captions: Sequence[Sequence[str]] | None = None
    video: Any = None
    path: Callable[[int], Any] | None = None
    in_memory: bool = False
    content: Callable[[], str] | None = None
    rows: Any = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int]) -> "Split":
        return Split(lambda position: self.image(indices[position]), [self.labels[index] for index in indices],
                     self.files and [self.files[index] for index in indices],
                     self.captions and [self.captions[index] for index in indices],
                     path=self.path and (lambda position: self.path(indices[position])), in_memory=self.in_memory,
                     content=self.content and (lambda: listing_digest([self.content(), *map(str, indices)])),
                     rows=self.rows and self.rows.subset(indices))

    def listing(self) -> Sequence[str]:
        """Return names to tie an index list to: the files, or labels for images that are not files."""
        return self.files or [f"{index} {label}" for index, label in enumerate(self.labels)]


def listing_digest(files: Sequence[str]) -> str:
    """Return the digest of a listing, in hex."""
    return hashlib.sha256("\n".join(files).encode("utf-8", "surrogateescape")).hexdigest()


def file_split(folder: Path, files: Sequence[str], labels: Sequence[int], read: Callable[[Path], Any]) -> Split:
    """Return a Split of image files: ``files`` relative to ``folder``, where ``read(path)`` returns an image."""
    return Split(lambda index: read(folder / files[index]), labels, files, path=lambda index: folder / files[index])


@dataclass(frozen=True)
class Task:
    """Hold an opened dataset: class names, prompt templates ("{c}" is the class name, the first one trains),
    splits.

    ``sentences`` are texts that can serve as reference texts; empty for most datasets. ``in_memory`` holds for all of
    its splits. A split may be a function that lists it when asked for. ``train_data`` says which part of the training
    images is used, in words for tables. ``pairs``: images with captions instead of classes.
    """

    name: str
    classnames: Sequence[str]
    templates: Sequence[str]
    splits: dict[str, Split | Callable[[], Split]]
    sentences: Sequence[str] = ()
    in_memory: bool = False
    train_data: str = "all"
    pairs: bool = False
    parts: tuple = ()  # the tasks, if several are trained as one; their classes are numbered consecutively
    place: str = ""  # name of its stored lists and cache, where other data may share its name
    left_out: str = ""  # for a custom folder: how many files are not read, by reason
    findings: tuple = ()  # sentences about oddities in names and counts
    noted: tuple = ()  # findings already printed when the data were opened
    lists: dict = field(default_factory=dict)  # {flag and file: digest} of external lists that split it
    shots: dict = field(default_factory=dict)  # its entry in a shots file, if it has a few images per class
    drawn_from: Split | None = None  # the training images that the shots were drawn from
    from_code: bool = False  # of a function of the user's, whose images may change where no file does

    def __post_init__(self) -> None:
        if self.in_memory:
            marked = {name: split if callable(split) else self._in_memory_too(split)
                      for name, split in self.splits.items()}
            object.__setattr__(self, "splits", marked)

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise UserError(f"{self.name} has no {name} split; it has {', '.join(self.splits)}; --split-file FILE can "
                            "list another")
        split = self.splits[name]
        return self._in_memory_too(split()) if callable(split) else split

    def _in_memory_too(self, split: Split) -> Split:
        return replace(split, in_memory=True) if self.in_memory and not split.in_memory else split

    def train_data_with(self, text: str) -> str:
        """Return ``train_data`` with one more choice of training images."""
        return text if self.train_data == "all" else f"{self.train_data}, {text}"

    @property
    def list_digests(self) -> dict:
        """{flag and file: digest} of external lists that split it, or the parts that it joins."""
        return {flag: digest for part in (self, *self.parts) for flag, digest in part.lists.items()}

    @property
    def reference_split(self) -> Split:
        """The training images, or the test images of a dataset without any."""
        return self.split("train" if "train" in self.splits else "test")

    def prompts(self, template: str | None = None) -> list[str]:
        """Return one prompt per class, from the first template unless another is given."""
        return [fill(template or self.templates[0], name) for name in self.classnames]


def fill(template: str, classname: str) -> str:
    """Fill a template: ``("a photo of a {c}.", "cat")`` -> ``"a photo of a cat."``; ``{a}`` becomes a or an."""
    article = "an" if classname[:1].lower() in "aeiou" else "a"
    return template.replace("{a}", article).replace("{c}", classname)


def some(names: Iterable[str], most: int = 5) -> str:
    """Join names, at most ``most``: ``["a", "b", "c"], 2`` -> ``"a, b and 1 more"``."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def missing(name: str, path: str | Path, root: str | Path) -> UserError:
    """Return the error for a dataset that no run downloads."""
    fetched = name in SOURCES and SOURCES[name].by
    way_out = (f"; --fetch {name} downloads it ({size_text(name)} GB), or" if fetched else
               " and must be fetched by hand;")
    return UserError(f"{name} is not at {path} (--data-location {root}){way_out} see section {name} of datasets.md")


def not_downloaded(name: str, path: str | Path, root: str | Path, error: Exception | str) -> UserError:
    """The error for a download that failed."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"{name}: {path} (--data-location {root}) could not be downloaded ({reason}); see section {name} "
                     "of datasets.md")
