"""The weights that a run starts from and is taught by: ``--load``, ``--model``, ``--model-config``, ``--ref-model``.

All three flags for weights take the same: files and folders, names of published weights, names of other libraries,
adapters. Where nothing may be fetched, a checkpoint of zeros stands in for absent weights whose architecture is known;
its "absent" says what would be fetched.
"""

import dataclasses
import os

import torch

from clip import catalog, loader
from clip.errors import LoadError
from clip.files import hub
from clip.files.adapters import AdapterAlone
from clip.model import CLIP
from src.datasets.seeds import seed_of
from src.errors import UserError
from src.machine.distributed import in_turn
from src.machine.notices import warn
from src.models.fingerprints import fingerprint
from src.models.memory import lower_
from src.run import merging
from src.store.checkpoint import maker_of


@in_turn
def starting_checkpoint(wanted, fetch=True, quiet=False):
    """The checkpoint that the run starts from: ``--load``, random weights, or published ones. Without ``fetch``,
    nothing is downloaded: see above, and hub.Absent where nothing is known of absent weights. ``quiet``: a file that
    was read before is read without its warnings and notes."""
    if wanted.load:
        given, name = _given_architecture(wanted)
        chosen = wanted.model if wanted.model_chosen else None
        checkpoint = _opened(wanted, Source("--load", wanted.load, given, name, chosen), fetch, quiet)
        if chosen and _names_weights(chosen) and "adapter" not in checkpoint:
            raise UserError(f"--model {chosen} names weights, and so does --load; leave one away")
        return checkpoint
    return _initial_checkpoint(wanted, fetch)


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights that ``flag`` names by ``text``. ``given``: keys of an architecture that the user chose, called ``name``.
    ``base``: the model that an adapter belongs to, where its own file is not to say it."""

    flag: str
    text: str
    given: dict | None = None
    name: str | None = None
    base: str | None = None


def _opened(wanted, source, fetch=True, quiet=False):
    """The checkpoint of a Source; that of an adapter is its base with the adapter merged."""
    flag, text = source.flag, source.text
    try:
        checkpoint = _read_source(wanted, source, fetch, quiet)
    except loader.OtherArchitecture as error:
        raise UserError(f"{flag} {error}; leave --model away or load another file") from None
    except AdapterAlone as alone:
        checkpoint = _on_its_base(wanted, source, alone.adapter, fetch, quiet)
    _refuse_unknown_tokens(checkpoint["architecture"], f"{flag} {text}")
    return checkpoint


def _read_source(wanted, source, fetch, quiet):
    flag, text, given, name = source.flag, source.text, source.given, source.name
    if os.path.exists(text):
        return read_weights(flag, text, given, name, quiet)
    if text in catalog.architecture_names():
        checkpoint = _named(text, wanted, fetch)
        loader.refuse_other(given or {}, checkpoint["architecture"], text, name, text)
        return checkpoint
    if not (hub.is_name(text) or hub.is_repository(text)):
        raise LoadError(f"{flag} {text}: no such file or folder")
    try:
        place = hub.place_of(text, fetch)
    except hub.Absent as absent:
        if not absent.stated:
            raise
        return {**without_weights(absent.stated), "absent": str(absent)}
    stated = (place.stated, text) if place.stated else (given, name)
    checkpoint = read_weights(flag, place.path, *stated, quiet)
    checkpoint["notes"] += place.notes if quiet else _warned(place.notes)
    loader.refuse_other(given or {}, checkpoint["architecture"], "another architecture", name, text)
    return checkpoint


def _warned(notes):
    for note in notes:
        warn(note)
    return notes


def read_weights(flag, path, given=None, name=None, quiet=False):
    """Read the checkpoint that ``flag`` names, a file or a folder. Warn of the assumed keys of its architecture and of
    tensors left out. ``given``: keys of the architecture ``name`` that the user chose."""
    try:
        checkpoint = loader.read_checkpoint(path, given, name)
    except (loader.OtherArchitecture, AdapterAlone):
        raise
    except LoadError as error:
        raise LoadError(f"{flag} {error}" if str(error).startswith(str(path)) else f"{flag} {path}: {error}") from None
    if quiet:
        return checkpoint
    if checkpoint["assumed"]:
        assumed, keys = loader.assumed_text(checkpoint["assumed"]), ", ".join(checkpoint["assumed"])
        _warned([f"{flag} {path} does not tell {assumed}; to change that, {WAYS_OUT[flag].format(keys=keys)}"])
    _warned(checkpoint["notes"])
    return checkpoint


# -- adapters ----------------------------------------------------------------------------------------------------------


def _on_its_base(wanted, source, adapter, fetch, quiet):
    """The checkpoint of --model, or of the model that an adapter's configuration names, with the adapter merged."""
    flag, base = source.flag, source.base or adapter.base
    if base is None:
        raise UserError(f"{flag} {source.text} is an adapter and does not say of which model; {BASES}")
    if base in hub.open_clip_names() and not os.path.exists(base):
        raise UserError(f"{flag} {source.text} is an adapter, and {base} names no weights; {BASES}")
    try:
        found = _base(wanted, Source("--model", base, source.given, source.name), fetch, quiet)
    except (LoadError, OSError) as error:
        if isinstance(error, hub.Absent):
            raise
        raise UserError(f"{flag} {source.text} is an adapter of {base}: {error}; {BASES}") from None
    weights = merging.merged(adapter, found)
    if not quiet:
        _warned(merging.notes_of(adapter))
        other = f", not into {adapter.base}, which it names" if adapter.base not in (None, base) else ""
        named = "" if source.base else ", as its configuration says"
        print(f"note: {flag} {source.text}: the adapter is merged into {base}{named}{other}", flush=True)
    return {**found, "state_dict": weights, "model": base, "adapter": source.text}


def _base(wanted, source, fetch, quiet):
    """The checkpoint of the model that an adapter belongs to: names come before paths, as for --model."""
    if source.text not in catalog.architecture_names():
        return _read_source(wanted, source, fetch, quiet)
    found = _named(source.text, wanted, fetch)
    loader.refuse_other(source.given or {}, catalog.completed(found["architecture"]), source.text, source.name,
                        source.text)
    return found


BASES = ("give the one that it was trained on by --load ADAPTER --model BASE: a name, NAME:PRETRAINED, "
         "hf-hub:ORG/NAME, or a file or folder")


def _names_weights(model):
    """Whether a value of --model can be nothing but weights: OpenAI's names and open_clip's are architectures too."""
    return model not in catalog.architecture_names() and model not in hub.open_clip_names()


# -- what the user chose -----------------------------------------------------------------------------------------------


# How to state assumed keys. Only --load follows --model and --model-config.
WAYS_OUT = {
    "--load": "name the architecture by --model NAME (as open_clip does: ViT-B-32 has GELU, ViT-B-32-quickgelu "
              "QuickGELU) or by --model-config with the keys {keys}",
    "--model": "give it by --load instead, and --model-config with the keys {keys}; or lay its open_clip_config.json, "
               "or config.json and preprocessor_config.json, beside it",
    "--ref-model": "lay its open_clip_config.json, or config.json and preprocessor_config.json, beside it"}


def _given_architecture(wanted):
    """(keys of the architecture that the user chose, its name); (None, None) where the file decides. With --load, a
    block of --model-config may hold just the keys that the file does not state."""
    try:
        if wanted.model_config:
            return catalog.read_architecture(wanted.model_name, wanted.model_config, partial=True), wanted.model_name
    except ValueError as error:
        raise UserError(f"--model-config: {error}") from None
    if not wanted.model_chosen or _names_weights(wanted.model):
        return None, None
    block = _architecture(wanted)
    if wanted.model in catalog.architecture_names():
        block = catalog.completed(block)
        return block | {"vision_heads": catalog.vision_heads(block)}, wanted.model
    # open_clip's name of an architecture: mean and standard deviation differ between its pretrained weights.
    return {key: value for key, value in block.items() if key not in ("mean", "std")}, wanted.model


MADE = ("load", "init", "seed", "model", "model_config", "model_name")  # what says which weights a run starts from


def weights_before(wanted, checkpoint):
    """The checkpoint that the run behind ``checkpoint`` started from, by what is stored of its flags; published weights
    where nothing is. Raises UserError or LoadError where they are not to be had."""
    made = checkpoint.get("config") or {"model": model_name(checkpoint)}
    before = dataclasses.replace(wanted, **dict.fromkeys(MADE) | {key: made[key] for key in MADE if key in made})
    if before.load is None and before.model is None:
        raise UserError("nothing is stored of where its training started")
    if before.load and not (os.path.exists(before.load) or catalog.is_weights_name(before.load)):
        raise UserError(f"its training started from {before.load}, which is not there")
    start = _as_before(before, checkpoint) if before.load else starting_checkpoint(before)
    if not _same_architecture(start["architecture"], checkpoint["architecture"]):
        raise UserError(f"its training started from {before.load or before.model}, which holds another architecture "
                        "now")
    return start


@in_turn
def _as_before(wanted, checkpoint):
    """Read --load, with the trained model's keys where the file does not state them, and its model where the file is an
    adapter."""
    given = {key: value for key, value in checkpoint["architecture"].items() if key in loader.NOT_SHAPES}
    base = checkpoint.get("model")
    return _opened(wanted, Source("--load", wanted.load, given, "the trained model", base))


def note_plain(checkpoint, path, use):
    """Print that ``use`` takes the plain CLIP of a checkpoint whose method scores in its own way."""
    if "scorer" in checkpoint:
        print(f"note: {use} takes the plain CLIP of {path}, without what {maker_of(checkpoint)} trained beside it",
              flush=True)


def _initial_checkpoint(wanted, fetch):
    if wanted.init == "scratch":
        _refuse_unknown_tokens(_architecture(wanted), f"--model-config {wanted.model_config}")
        _reject_more_than_memory(wanted, loader.least_values(_architecture(wanted)))
        with torch.random.fork_rng():
            torch.manual_seed(seed_of(wanted.seed, "init"))
            model = CLIP(**_architecture(wanted))
        return {"architecture": model.architecture, "state_dict": model.state_dict(),
                "model": wanted.model_name or wanted.model}
    return _published(wanted.model, wanted, fetch)


def _published(name, wanted, fetch=True, quiet=False):
    """The checkpoint of a published model, a file, a folder or a name of other libraries: what --model takes."""
    if name in catalog.architecture_names():
        return _named(name, wanted, fetch)
    return {**_opened(wanted, Source("--model", name), fetch, quiet), "model": name}


def _named(name, wanted, fetch):
    """The checkpoint of weights that OpenAI has published, or that come with the package."""
    missing = None if fetch else to_fetch(name, wanted)
    if missing:
        return {**without_weights(catalog.read_architecture(name)), "model": name, "absent": missing}
    return {**loader.read_checkpoint(loader.weights_file(name, wanted.clip_cache)), "model": name}


def to_fetch(name, wanted):
    """Note that published weights are not there yet; None where they are."""
    place = loader.weights_place(name, wanted.clip_cache)
    return None if place.is_file() else (f"the weights of {name} are not at {place}: the run would download them from "
                                         f"{catalog.archive_address(name)}")


def without_weights(architecture):
    """A checkpoint of zeros in the shapes of an architecture."""
    with torch.device("meta"):
        shapes = CLIP(**architecture).state_dict()
    return {"architecture": architecture, "assumed": {}, "notes": [],
            "state_dict": {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}}


def _refuse_unknown_tokens(architecture, source):
    if not architecture.get("vocabulary") and architecture["vocab_size"] < catalog.VOCABULARY_SIZE:
        raise UserError(f"{source}: has {architecture['vocab_size']} token embeddings and no vocabulary; the tokenizer "
                        f"has {catalog.VOCABULARY_SIZE} ids. Weights with another tokenizer cannot be used; give "
                        f"vocab_size {catalog.VOCABULARY_SIZE} where they are random")


def _reject_more_than_memory(wanted, values):
    """Refuse a size that would make the machine swap."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * values > memory:
        raise UserError(f"--model-name {wanted.model_name or wanted.model}: {values:,} weights or more take "
                        f"{4 * values >> 30:,} GiB, this machine has {memory >> 30:,}; is a number of "
                        f"{wanted.model_config} wrong?")


def _architecture(wanted):
    try:
        if wanted.model_config:
            return catalog.read_architecture(wanted.model_name, wanted.model_config)
        if wanted.model in catalog.architecture_names():
            return catalog.read_architecture(wanted.model)
        return hub.open_clip_block(wanted.model)
    except ValueError as error:
        raise UserError(f"{'--model-config' if wanted.model_config else '--model'}: {error}") from None


def _same_architecture(one, other):
    """Whether two architectures compute the same, but for the rows of their tokens."""
    one, other = (catalog.completed(block) | {"vision_heads": catalog.vision_heads(block)} for block in (one, other))
    keys = (set(one) | set(other)) - {"vocabulary"}
    return all((one.get(key) or None) == (other.get(key) or None) for key in keys)


def model_name(checkpoint):
    """The name of the architecture in use: the checkpoint's own, the given one, or the published one of its shape."""
    if checkpoint.get("model"):
        return checkpoint["model"]
    shapes = {name: catalog.read_architecture(name) for name in catalog.available_models()}
    return next((name for name, shape in shapes.items() if _same_architecture(shape, checkpoint["architecture"])), None)


class ZeroshotOpener:
    """open(path=None) -> a frozen CLIP with the weights of ``--init``, or of a value of ``--ref-model``, kept for the
    run.

    Who only asks it for features, under autocast, takes ``teacher(path=None)``: it is kept in that type, unless the run
    reads the same weights in full as well. ``digests`` {path: digest of the weights}, of what is not a single file.
    """

    fetch = True  # whether absent weights are downloaded

    def __init__(self, wanted, checkpoint, device):
        self._wanted, self._checkpoint, self._device = wanted, checkpoint, device
        self.digests, self._warned_of = {}, set()
        self._reads_in_full = wanted.wise_ft or wanted.wise_merge and wanted.wise_ft_model == "zeroshot"
        self.kept = {}                                                      # {(path, autocast type or None): CLIP}

    def __call__(self, path=None):
        if self._wanted.ref_wise and not self._reads_in_full:  # which a task mixes with its own as it begins: all
            return self._read(path)
        return self._keep(path)

    def teacher(self, path=None):
        lowered = self._device.autocast_type is not None and not (self._reads_in_full and path is None)
        return self._keep(path, self._device.autocast_type if lowered else None)

    def _keep(self, path, lowered=None):
        key = path, lowered
        if key not in self.kept:
            model = self._read(path)
            self.kept[key] = model if lowered is None else lower_(model, lowered)
        return self.kept[key]

    @in_turn
    def _read(self, path):
        wanted, features = self._wanted, self._checkpoint["architecture"]["embed_dim"]
        if path is None and wanted.init == "scratch":
            raise UserError("--init scratch has no zero-shot weights to teach from; give --ref-model FILE")
        source = self._source(path)
        if source["architecture"]["embed_dim"] != features:
            raise UserError(f"--ref-model {path or source.get('model')}: its features have "
                            f"{source['architecture']['embed_dim']} values, the model's {features}; give a teacher of "
                            "the same embed_dim")
        with torch.random.fork_rng(devices=[]):  # a model is drawn before it is filled; a task's dropout must not tell
            model = loader.build(source)
        return self._device.place(model).eval().requires_grad_(False)

    def _source(self, path):
        """The checkpoint that ``_read`` builds. What is read again, for a later task, is read without its warnings."""
        wanted, name = self._wanted, path or model_name(self._checkpoint)
        if name is None:
            raise UserError("the loaded architecture has no published weights to teach from; give --ref-model FILE")
        quiet = name in self._warned_of
        self._warned_of.add(name)
        if path is None:
            if not quiet and not self._checkpoint.get("model"):
                print(f"note: the zero-shot weights are those of {name}, by the architecture of --load; --ref-model "
                      "gives others")
            return _published(name, wanted, self.fetch, quiet)
        base = wanted.model if wanted.model_chosen else None
        source = _opened(wanted, Source("--ref-model", path, base=base), self.fetch, quiet)
        if not quiet:
            note_plain(source, path, "--ref-model")
        if not os.path.isfile(path):
            self.digests[path] = fingerprint(source["state_dict"].items())
        return source
