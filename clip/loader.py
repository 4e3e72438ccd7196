"""A name or a file -> state dict -> model and preprocess.

No file is ever executed: plain files are read with ``weights_only=True``, and of a TorchScript archive (OpenAI's
layout) only the tensors are taken, by an unpickler that knows no other class.
"""

import hashlib
import http.client
import io
import os
import pickle
import tempfile
import urllib.request
import warnings
import zipfile
from pathlib import Path

import torch

from clip import catalog
from clip.model import CLIP

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
FORMAT = 1
WRAPPERS = ("state_dict", "model_state_dict")


class LoadError(ValueError):
    """A file of weights that cannot be used; the message says why and what to do."""


def load(name, device="cpu", cache=None):
    """(model, preprocess) in fp32 and eval mode.

    ``name``: one of ``available_models()`` (downloaded on first use into ``cache``), an architecture with shipped
    weights (``toy``), or a path to weights in any layout that ``read_checkpoint`` knows.
    ``preprocess``: PIL image -> (3, R, R) tensor.
    """
    if Path(name).is_file():
        checkpoint = read_checkpoint(name)
    else:
        checkpoint = read_checkpoint(weights_file(name, cache))
    model = build(checkpoint).to(device).eval()
    return model, preprocess(model.image_resolution)


def build(checkpoint):
    """What ``read_checkpoint`` gave -> CLIP in the weights' type, every tensor matched."""
    model = CLIP(**checkpoint["architecture"]).to(checkpoint["state_dict"]["token_embedding.weight"].dtype)
    load_strictly(model, checkpoint["state_dict"])
    return model


def load_strictly(model, state_dict):
    """Load with every name and shape matched, or raise LoadError with what differs."""
    own = model.state_dict()
    differences = [f"missing {name}" for name in own if name not in state_dict]
    differences += [f"unexpected {name}" for name in state_dict if name not in own]
    differences += [f"{name} is {tuple(value.shape)}, not {tuple(own[name].shape)}"
                    for name, value in state_dict.items() if name in own and value.shape != own[name].shape]
    if differences:
        shown = "; ".join(differences[:5]) + (f" and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise LoadError(f"the weights do not fit the architecture: {shown}")
    model.load_state_dict(state_dict)


def preprocess(resolution):
    """CLIP's evaluation transform: PIL image -> (3, R, R)."""
    from torchvision.transforms import v2
    return v2.Compose([
        v2.Resize(resolution, v2.InterpolationMode.BICUBIC), v2.CenterCrop(resolution), v2.RGB(),
        v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


def weights_file(name, cache=None):
    """Path of a name's weights; OpenAI's are downloaded on first use."""
    shipped = catalog.shipped_weights(name)
    if shipped:
        return shipped
    if name not in catalog.ARCHIVES:
        raise LoadError(f"{name!r} is no file and has no published weights; those that have: "
                        f"{', '.join(catalog.ARCHIVES)}")
    cache = Path(cache or os.environ.get("CLIP_CACHE") or Path.home() / ".cache" / "clip")
    path = cache / catalog.archive_file(name)
    if not path.is_file():
        download(catalog.archive_address(name), path, catalog.ARCHIVES[name])
    return path


def download(address, path, sha256):
    """Fetch to a temporary file beside ``path``, verify, rename; nothing half-written ever has the final name."""
    from tqdm import tqdm
    by_hand = f"fetch {address} on a machine with network access and put the file at {path}"
    digest, partial = hashlib.sha256(), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=60) as source, tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=path.name, suffix=".part", delete=False) as target:
            partial = Path(target.name)
            size = int(source.headers.get("Content-Length", 0)) or None
            with tqdm(total=size, unit="B", unit_scale=True, desc=path.name) as bar:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
        if digest.hexdigest() != sha256:
            raise LoadError(f"{path.name}: the download's sha256 is {digest.hexdigest()}, published is {sha256}; "
                            f"try again, or {by_hand}")
        partial.chmod(0o666 & ~_umask())  # a temporary file is private, a cache may be shared
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise LoadError(f"{path.name} could not be downloaded ({error}); {by_hand}") from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_checkpoint(path):
    """A file of weights -> dict with at least "state_dict" (OpenAI's names) and "architecture".

    Known layouts: our checkpoints; OpenAI's TorchScript archives; plain state dicts; the wrappers ``{"state_dict"}``
    and ``{"model_state_dict"}``; open_clip's checkpoints of OpenAI's architectures. fp16 files are read as fp32. Only
    our checkpoints say how many heads there are; in others a head has 64 values, as in all of OpenAI's.
    """
    path = Path(path)
    if not path.is_file():
        raise LoadError(f"no such file: {path}")
    content = _read(path)
    checkpoint = {key: value for key, value in content.items() if isinstance(key, str)} if isinstance(
        content, dict) else {}
    if "format" in checkpoint and checkpoint["format"] != FORMAT:
        raise LoadError(f"{path} has format {checkpoint['format']!r}; this version reads format {FORMAT}")
    wrapper = next((key for key in WRAPPERS if isinstance(checkpoint.get(key), dict)), None)
    state_dict = checkpoint.pop(wrapper) if wrapper else checkpoint
    state_dict = {_plain_name(name): value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
                  for name, value in state_dict.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
    state_dict = {name: value for name, value in state_dict.items() if name not in NOT_WEIGHTS}
    if "visual.conv1.weight" not in state_dict or "token_embedding.weight" not in state_dict:
        raise LoadError(f"{path} does not hold a CLIP (no visual.conv1.weight and token_embedding.weight in it)")
    ours = checkpoint if wrapper == "state_dict" and "format" in checkpoint else {}
    architecture = ours["architecture"] if "architecture" in ours else architecture_of(state_dict)
    try:
        catalog.check_architecture(architecture, path)
    except ValueError as error:
        raise LoadError(str(error)) from None
    return {**ours, "architecture": architecture, "state_dict": state_dict}


def _read(path):
    try:
        if _is_torchscript(path):
            return _read_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's guesses about what a damaged file may be
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpicklers raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        if "weights_only" in reason:  # torch's advice is to execute the file
            reason = "it is damaged, or holds more than tensors and plain types"
        raise LoadError(f"{path} is not a file of weights that can be read safely ({reason[:200]})") from None


# Numbers and masks that some layouts store beside the weights.
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "transformer.attn_mask")


def _plain_name(name):
    for prefix in ("module.", "text."):  # DistributedDataParallel's, open_clip's CustomTextCLIP's
        name = name.removeprefix(prefix)
    return name


def architecture_of(state_dict):
    """Architecture from OpenAI's names and the shapes behind them; heads by OpenAI's rule of 64 values a head."""
    shape = {name: tuple(value.shape) for name, value in state_dict.items()}
    try:
        text_width = shape["ln_final.weight"][0]
        architecture = {
            "embed_dim": shape["text_projection"][1],
            "context_length": shape["positional_embedding"][0],
            "vocab_size": shape["token_embedding.weight"][0],
            "transformer_width": text_width,
            "transformer_heads": max(1, text_width // 64),
            "transformer_layers": _count(shape, "transformer.resblocks."),
        }
        if "visual.proj" in shape:
            width, _, patch, _ = shape["visual.conv1.weight"]
            side = round((shape["visual.positional_embedding"][0] - 1) ** 0.5)
            return architecture | {
                "image_resolution": patch * side, "vision_patch_size": patch, "vision_width": width,
                "vision_layers": _count(shape, "visual.transformer.resblocks."),
                "vision_heads": max(1, width // 64)}
        stages = _count({name.replace("visual.layer", "visual.layer."): None for name in shape}, "visual.layer.")
        side = round((shape["visual.attnpool.positional_embedding"][0] - 1) ** 0.5)
        width = shape["visual.layer1.0.conv1.weight"][0]
        return architecture | {
            "image_resolution": side * 2 ** (stages + 1), "vision_width": width,
            "vision_layers": [_count(shape, f"visual.layer{stage + 1}.") for stage in range(stages)],
            "vision_heads": max(1, width * 32 // 64)}
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise LoadError(f"the weights are not of a CLIP architecture ({error} is missing or misshapen)") from None


def _count(names, prefix):
    """How many different numbers follow ``prefix`` in the names."""
    return len({name[len(prefix):].split(".")[0] for name in names if name.startswith(prefix)})


def _is_torchscript(path):
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


STORAGES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "DoubleStorage": torch.float64,
            "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
            "ByteStorage": torch.uint8, "BoolStorage": torch.bool}


class _Module(dict):
    """Stands in for a TorchScript module: its attributes and nothing that could run."""

    def __setstate__(self, attributes):
        self.update(attributes)


def _rebuild_tensor(values, offset, size, stride, *rest):
    """A view of the stored values; torch refuses one that would reach beyond them."""
    return torch.as_strided(values, size, stride, offset)


class _ArchiveUnpickler(pickle.Unpickler):
    """Reads the module tree of a TorchScript archive; tensors are rebuilt from raw bytes, no other class exists."""

    def __init__(self, archive, root):
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root, self.storages = archive, root, {}

    def find_class(self, module, name):
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"the archive names {module}.{name}, which is not read")

    def persistent_load(self, identifier):
        _, dtype, key, _, count = identifier
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(
                0, dtype=dtype)
        return self.storages[key]


def _read_archive(path):
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).rsplit("/", 1)[0]
        return dict(_tensors(_ArchiveUnpickler(archive, root).load()))


def _tensors(module, prefix=""):
    for name, value in module.items():
        if isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor):
            yield prefix + name, value
