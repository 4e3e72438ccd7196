"""Find weights by the names of other libraries: ``hf-hub:ORG/NAME``, ``local-dir:DIR`` and open_clip's
``NAME:PRETRAINED``.

The libraries themselves fetch and cache files, so HF_HOME, HF_HUB_OFFLINE and HF_TOKEN apply.
"""

import importlib.util
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from clip.errors import LoadError, printable
from clip.files import configs

HUB, LOCAL = "hf-hub:", "local-dir:"
ADAPTER = "adapter_config.json"  # of peft
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
INDEX = ".index.json"
WEIGHTS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
MOST_NAMED = 4
# Configuration of a folder -> candidates for its file of weights, in order of preference.
FOLDERS = {
    configs.OPEN_CLIP: ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
                        "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    configs.TRANSFORMERS: ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin",
                           f"pytorch_model.bin{INDEX}"),
    ADAPTER: ("adapter_model.safetensors", "adapter_model.bin"),
}


class Absent(LoadError):
    """Weights that would have to be fetched although fetching is off. ``stated``: the keys of their
    architecture, {} if these would be fetched too."""

    def __init__(self, message, stated=None):
        super().__init__(message)
        self.stated = stated or {}


@dataclass
class Place:
    """Where weights are, a file or a folder, and what their name states: keys of the architecture, notes."""

    path: Path
    stated: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)


def is_name(text):
    """Return whether a text is spelled like a name that ``place_of`` resolves; the caller handles a bare ORG/NAME."""
    return text.startswith((HUB, LOCAL)) or ":" in text and text.partition(":")[0] in open_clip_names()


def is_repository(text):
    """Return whether a text is spelled like a repository's bare ORG/NAME, and not like the path of a file
    or folder."""
    is_path = text.endswith(WEIGHTS) or os.path.isdir(text.partition("/")[0])
    return not is_path and bool(REPOSITORY.fullmatch(text))


def place_of(name, fetch=True):
    """Return the Place of weights named as in ``is_name`` or by a repository's ORG/NAME. Raise LoadError
    with the reason if there is none; Absent if they would have to be fetched and ``fetch`` is False."""
    if name.startswith(LOCAL):
        folder = Path(name.removeprefix(LOCAL))
        if not folder.is_dir():
            raise LoadError(f"{name}: no such folder")
        return Place(folder)
    if name.startswith(HUB) or ":" not in name:
        return Place(_repository(name.removeprefix(HUB), fetch))
    return _pretrained(*name.split(":", 1), fetch)


# -- folders ----------------------------------------------------------------------------------------------------------


def weights_of_folder(folder):
    """Return the file of weights in a folder of open_clip, transformers or peft, or in one of our exports.
    Raise LoadError for other folders, and for one that holds both a model and an adapter."""
    found = _models_in(folder)
    if ADAPTER in found and len(found) > 1:
        raise LoadError(f"{folder} holds a model ({next(iter(found.values())).name}) and an adapter "
                        f"({found[ADAPTER].name}): give the file you mean")
    if found:
        return next(iter(found.values()))
    raise LoadError(f"{folder} is a folder without a known model ({' or '.join(FOLDERS)} beside its weights); "
                    f"it holds {held_by(folder)}")


def unread_models(folder):
    """Return the names of files in a folder that may hold another model than the one ``weights_of_folder``
    reads: in another layout, or in the same layout but another format."""
    first, *others = _models_in(folder).items()
    same = [name for name in FOLDERS[first[0]] if name != first[1].name and (folder / name).is_file()]
    return [*same, *(file.name for _, file in others)]


def _models_in(folder):
    """Return {configuration present: its file of weights}."""
    found = {}
    for beside, names in FOLDERS.items():
        there = [folder / name for name in names if (folder / name).is_file()]
        if (folder / beside).is_file() and there:
            found[beside] = there[0]
    return found


def held_by(folder):
    """Describe the content of a folder, starting with checkpoints, which may be what was meant."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"nothing that can be read ({error.strerror or error})"
    if ADAPTER in names:
        return f"{ADAPTER} without {' or '.join(FOLDERS[ADAPTER])}"
    adapters = adapters_below(folder)
    if adapters:
        return f"adapters of peft in {first_of(adapters)}: give the folder you mean"
    files = [name for name in names if name.endswith(WEIGHTS)]
    if files:
        return f"{first_of(files)}: give {'that file' if len(files) == 1 else 'one of these files'}"
    return first_of(names) if names else "nothing"


def adapters_below(folder):
    """Return the names of the folders directly in ``folder`` that hold an adapter of peft."""
    return sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER}"))


def first_of(names):
    """List the first of some names, and how many more there are."""
    more = len(names) - MOST_NAMED
    return ", ".join(printable(name, 80) for name in names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


# -- open_clip's names -------------------------------------------------------------------------------------------------


def _open_clip_folder():
    found = importlib.util.find_spec("open_clip")  # without importing it
    return Path(found.origin).parent / "model_configs" if found else None


def open_clip_names():
    """Return the architectures that the installed open_clip describes."""
    folder = _open_clip_folder()
    return sorted(path.stem for path in folder.glob("*.json")) if folder else []


def open_clip_block(name):
    """Return the keys of an architecture by open_clip's name for it. Raise LoadError if its towers are not
    those of CLIP."""
    stated, _ = configs.open_clip_architecture(_described(name), f"open_clip's {name}")
    return stated


def _described(name):
    return json.loads((_open_clip_folder() / f"{name}.json").read_text(encoding="utf-8"))


def _pretrained(name, tag, fetch):
    """Return the Place of a row in open_clip's table, which states the normalisation and, for some, QuickGELU."""
    from open_clip import pretrained
    row = pretrained.get_pretrained_cfg(name, tag)
    if not row:
        tags = ", ".join(pretrained.list_pretrained_tags_by_model(name)) or "none"
        raise LoadError(f"{name}:{tag}: open_clip has no such weights of {name}; it has {tags}")
    stated = open_clip_block(name)
    statistics, notes = configs.open_clip_preprocessing(row, stated["image_resolution"], f"open_clip's {name}:{tag}")
    stated |= statistics | ({"activation": "quick_gelu"} if row.get("quick_gelu") else {})
    if not fetch and not _is_cached(row):
        raise Absent(f"the weights of {name}:{tag} are not here: the run would download them through open_clip", stated)
    try:
        return Place(Path(pretrained.download_pretrained(row)), stated, notes)
    except Exception as error:  # what a network raises has no class in common
        raise LoadError(f"{name}:{tag} could not be fetched by open_clip ({_reason(error)})") from None


def _is_cached(row):
    """Return whether open_clip would find the file without a network."""
    from huggingface_hub import try_to_load_from_cache
    from open_clip import pretrained
    if not row.get("hf_hub"):
        return Path("~/.cache/clip").expanduser().joinpath(os.path.basename(row.get("url", ""))).is_file()
    repository, file = os.path.split(row["hf_hub"])
    file = file or pretrained.HF_WEIGHTS_NAME
    names = [*pretrained._get_safe_alternatives(file), file]
    return any(isinstance(try_to_load_from_cache(repository, candidate), str) for candidate in names)


# -- the Hugging Face hub ----------------------------------------------------------------------------------------------


def _repository(name, fetch):
    """Return the folder of a repository's files in huggingface_hub's cache: configuration and weights of
    the first layout it has."""
    repository, _, revision = name.partition("@")
    if not REPOSITORY.fullmatch(name):
        raise LoadError(f"{HUB}{name}: a model of the hub is ORG/NAME")
    hub = _Repository(repository, revision or None, fetch)
    for beside, files in FOLDERS.items():
        described = hub.file(beside)
        if described is None:
            continue
        if beside != ADAPTER:
            _refuse_other_models(beside, described)
        for extra in configs.PROCESSORS if beside == configs.TRANSFORMERS else ():
            hub.file(extra)
        weights = next(filter(None, map(hub.file, files)), None)
        if weights is not None:
            if weights.name.endswith(INDEX):
                for part in sorted({*map(str, configs.read_config(weights).get("weight_map", {}).values())}):
                    hub.file(part)
            return weights.parent
    raise hub.missing()


def _refuse_other_models(beside, path):
    """Reject an unusable model before its weights are fetched."""
    content = configs.read_config(path)
    if beside == configs.OPEN_CLIP:
        configs.open_clip_architecture(content, path)
    else:
        configs.transformers_architecture(content, None, path)


class _Repository:
    """Files of one repository, each fetched on first use."""

    def __init__(self, name, revision, fetch):
        self.name, self.revision, self.fetch, self.unreached = name, revision, fetch, None

    def file(self, name):
        """Return the path of a file, or None if the repository lacks it or is unreachable."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
        try:
            return Path(hf_hub_download(self.name, name, revision=self.revision, local_files_only=not self.fetch))
        except LocalEntryNotFoundError as error:
            self.unreached = error
            return None
        except EntryNotFoundError:
            return None
        except Exception as error:  # what a network raises has no class in common
            raise LoadError(f"{HUB}{self.name} could not be fetched ({_reason(error)}); a private or gated repository "
                            "needs HF_TOKEN") from None

    def missing(self):
        if self.unreached is None:
            return LoadError(f"{HUB}{self.name} has none of {', '.join(FOLDERS)} with weights beside it")
        if not self.fetch:
            return Absent(f"the weights of {HUB}{self.name} are not in the hub's cache: the run would download them, "
                          "and only then is the model known")
        from huggingface_hub import constants
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _reason(self.unreached)
        return LoadError(f"{HUB}{self.name} is not in the hub's cache, and could not be fetched ({reason})")


def _reason(error):
    return printable(str(error) or type(error).__name__)
