"""Read the weights that a run starts from and is taught by: ``--load``, ``--model``, ``--model-config``,
``--ref-model``.

All three flags for weights take the same: files and folders, names of published weights, names of other
libraries, adapters. Where nothing may be fetched, a checkpoint of zeros stands in for absent weights of known
architecture; its "absent" says what would be fetched.
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
    """Return the checkpoint that the run starts from: ``--load``, random weights, or published ones.

    Without ``fetch`` nothing is downloaded: see above, or hub.Absent if nothing is known of absent weights.
    ``quiet``: leave out warnings and notes about a file that was read before.
    """
    if wanted.load:
        given, name = _given_architecture(wanted)
        chosen = wanted.model if wanted.model_chosen else None
        checkpoint = _opened(wanted, Source("--load", wanted.load, given, name, chosen), fetch, quiet)
        if chosen and _names_weights(chosen) and "adapter" not in checkpoint:
            raise UserError(f"--model {chosen} and --load both name weights; leave one out")
        return checkpoint
    return _initial_checkpoint(wanted, fetch)


@dataclasses.dataclass(frozen=True)
class Source:
    """Describe weights that ``flag`` names by ``text``.

    ``given``: keys of an architecture that the user chose, called ``name``. ``base``: the model that an adapter
    belongs to, if its own file is not to decide.
    """

    flag: str
    text: str
    given: dict | None = None
    name: str | None = None
    base: str | None = None


def _opened(wanted, source, fetch=True, quiet=False):
    """Return the checkpoint of a Source; for an adapter, its base with the adapter merged."""
    flag, text = source.flag, source.text
    try:
        checkpoint = _read_source(wanted, source, fetch, quiet)
    except loader.OtherArchitecture as error:
        raise UserError(f"{flag} {error}; leave --model out or load another file") from None
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
    """Read the checkpoint that ``flag`` names, a file or a folder.

    Warn of assumed architecture keys and of tensors left out. ``given``: keys of the architecture ``name`` that
    the user chose.
    """
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
        _warned([f"{flag} {path} does not state {assumed}; to change that, {WAYS_OUT[flag].format(keys=keys)}"])
    _warned(checkpoint["notes"])
    return checkpoint


# -- adapters ----------------------------------------------------------------------------------------------------------


def _on_its_base(wanted, source, adapter, fetch, quiet):
    """Return the checkpoint of --model, or of the model that an adapter's configuration names, with the adapter
    merged."""
    flag, base = source.flag, source.base or adapter.base
    if base is None:
        raise UserError(f"{flag} {source.text} is an adapter and does not name its model; {BASES}")
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
        other = f", not into {adapter.base}, the model that it names" if adapter.base not in (None, base) else ""
        named = "" if source.base else ", as its configuration says"
        print(f"note: {flag} {source.text}: the adapter is merged into {base}{named}{other}", flush=True)
    return {**found, "state_dict": weights, "model": base, "adapter": source.text}


def _base(wanted, source, fetch, quiet):
    """Return the checkpoint of the model that an adapter belongs to: names take precedence over paths, as for
    --model."""
    if source.text not in catalog.architecture_names():
        return _read_source(wanted, source, fetch, quiet)
    found = _named(source.text, wanted, fetch)
    loader.refuse_other(source.given or {}, catalog.completed(found["architecture"]), source.text, source.name,
                        source.text)
    return found


BASES = ("give the one that it was trained on by --load ADAPTER --model BASE: a name, NAME:PRETRAINED, "
         "hf-hub:ORG/NAME, or a file or folder")


def _names_weights(model):
    """Return whether a value of --model can only be weights: names of OpenAI and open_clip are architectures too."""
    return model not in catalog.architecture_names() and model not in hub.open_clip_names()


# -- what the user chose -----------------------------------------------------------------------------------------------


# How to state assumed keys. Only --load uses --model and --model-config.
WAYS_OUT = {
    "--load": "name the architecture by --model NAME (as open_clip does: ViT-B-32 has GELU, ViT-B-32-quickgelu "
              "QuickGELU) or by --model-config with the keys {keys}",
    "--model": "give it by --load instead, and --model-config with the keys {keys}; or put its open_clip_config.json, "
               "or config.json and preprocessor_config.json, beside it",
    "--ref-model": "put its open_clip_config.json, or config.json and preprocessor_config.json, beside it"}


def _given_architecture(wanted):
    """Return (keys of the architecture that the user chose, its name); (None, None) if the file decides.

    With --load, a block of --model-config may hold just the keys that the file does not state.
    """
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
    # open_clip's name: mean and standard deviation differ between its pretrained weights.
    return {key: value for key, value in block.items() if key not in ("mean", "std")}, wanted.model


MADE = ("load", "init", "seed", "model", "model_config", "model_name")  # flags that decide where a run starts


def weights_before(wanted, checkpoint):
    """Return the checkpoint that the run behind ``checkpoint`` started from, by its stored flags; published
    weights without any.

    Raises UserError or LoadError if they are not available.
    """
    made = checkpoint.get("config") or {"model": model_name(checkpoint)}
    before = dataclasses.replace(wanted, **dict.fromkeys(MADE) | {key: made[key] for key in MADE if key in made})
    if before.load is None and before.model is None:
        raise UserError("where its training started is not stored")
    if before.load and not (os.path.exists(before.load) or catalog.is_weights_name(before.load)):
        raise UserError(f"its training started from {before.load}, which is missing")
    start = _as_before(before, checkpoint) if before.load else starting_checkpoint(before)
    if not _same_architecture(start["architecture"], checkpoint["architecture"]):
        raise UserError(f"its training started from {before.load or before.model}, which now holds another "
                        "architecture")
    return start


@in_turn
def _as_before(wanted, checkpoint):
    """Read --load, with the trained model's keys where the file does not state them, and its model if the file
    is an adapter."""
    given = {key: value for key, value in checkpoint["architecture"].items() if key in loader.NOT_SHAPES}
    base = checkpoint.get("model")
    return _opened(wanted, Source("--load", wanted.load, given, "the trained model", base))


def note_plain(checkpoint, path, use):
    """Print that ``use`` takes the plain CLIP of a checkpoint whose method defines its own scores."""
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
    """Return the checkpoint of a published model, a file, a folder or a name of other libraries: what --model
    takes."""
    if name in catalog.architecture_names():
        return _named(name, wanted, fetch)
    return {**_opened(wanted, Source("--model", name), fetch, quiet), "model": name}


def _named(name, wanted, fetch):
    """Return the checkpoint of weights published by OpenAI, or included in the package."""
    missing = None if fetch else to_fetch(name, wanted)
    if missing:
        return {**without_weights(catalog.read_architecture(name)), "model": name, "absent": missing}
    return {**loader.read_checkpoint(loader.weights_file(name, wanted.clip_cache)), "model": name}


def to_fetch(name, wanted):
    """Return a note that published weights are not there yet; None if they are."""
    place = loader.weights_place(name, wanted.clip_cache)
    return None if place.is_file() else (f"the weights of {name} are not at {place}: the run would download them from "
                                         f"{catalog.archive_address(name)}")


def without_weights(architecture):
    """Return a checkpoint of zeros in the shapes of an architecture."""
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
                        f"{4 * values >> 30:,} GiB, but this machine has {memory >> 30:,}; check the numbers in "
                        f"{wanted.model_config}")


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
    """Return whether two architectures compute the same, apart from the number of token rows."""
    one, other = (catalog.completed(block) | {"vision_heads": catalog.vision_heads(block)} for block in (one, other))
    keys = (set(one) | set(other)) - {"vocabulary"}
    return all((one.get(key) or None) == (other.get(key) or None) for key in keys)


def model_name(checkpoint):
    """Return the name of the architecture in use: the checkpoint's own, the given one, or the published one of
    its shape."""
    if checkpoint.get("model"):
        return checkpoint["model"]
    shapes = {name: catalog.read_architecture(name) for name in catalog.available_models()}
    return next((name for name, shape in shapes.items() if _same_architecture(shape, checkpoint["architecture"])), None)


class ZeroshotOpener:
    """Open a frozen CLIP: open(path=None) -> weights of ``--init``, or of a value of ``--ref-model``, kept for
    the run.

    ``teacher(path=None)`` is for features only: under autocast it keeps the weights in that dtype, unless the
    run reads the same weights in full as well. ``digests`` {path: digest of the weights}, for those that are
    not a single file.
    """

    fetch = True  # whether absent weights are downloaded

    def __init__(self, wanted, checkpoint, device):
        self._wanted, self._checkpoint, self._device = wanted, checkpoint, device
        self.digests, self._warned_of = {}, set()
        self._reads_in_full = wanted.wise_ft or wanted.wise_merge and wanted.wise_ft_model == "zeroshot"
        self.kept = {}                                                      # {(path, autocast type or None): CLIP}

    def __call__(self, path=None):
        if self._wanted.ref_wise and not self._reads_in_full:  # a task mixes them with its own weights at its start
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
        with torch.random.fork_rng(devices=[]):  # building draws numbers; a task's dropout must not shift
            model = loader.build(source)
        return self._device.place(model).eval().requires_grad_(False)

    def _source(self, path):
        """Return the checkpoint that ``_read`` builds. Reading it again for a later task gives no warnings."""
        wanted, name = self._wanted, path or model_name(self._checkpoint)
        if name is None:
            raise UserError("the loaded architecture has no published weights to teach from; give --ref-model FILE")
        quiet = name in self._warned_of
        self._warned_of.add(name)
        if path is None:
            if not quiet and not self._checkpoint.get("model"):
                print(f"note: the zero-shot weights are those of {name}, after the architecture of --load; "
                      "--ref-model sets others")
            return _published(name, wanted, self.fetch, quiet)
        base = wanted.model if wanted.model_chosen else None
        source = _opened(wanted, Source("--ref-model", path, base=base), self.fetch, quiet)
        if not quiet:
            note_plain(source, path, "--ref-model")
        if not os.path.isfile(path):
            self.digests[path] = fingerprint(source["state_dict"].items())
        return source
