"""Small files as torch writes them, taken apart and put together by hand, for the tests of what is refused."""

import io
import pickle
import warnings
import zipfile

import torch

from clip.model import CLIP

ARCHITECTURE = {"embed_dim": 4, "image_resolution": 8, "vision_layers": 1, "vision_width": 8, "vision_heads": 1,
                "vision_patch_size": 4, "context_length": 6, "vocab_size": 10, "transformer_width": 8,
                "transformer_heads": 1, "transformer_layers": 1}


def tiny_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIP(**ARCHITECTURE).eval()


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def our_checkpoint():
    return saved({"format": 1, "state_dict": tiny_model().state_dict(), "architecture": ARCHITECTURE, "model": None,
                  "dataset": "DTD", "iteration": 3, "history": [{"dataset": "DTD", "classnames": ["a", "b"]}],
                  "heads": {"DTD": torch.ones(2, 4)}, "carry": {"ICaRL": {"images": torch.zeros(3, dtype=torch.uint8)}},
                  "config": {"lr": {"": 1e-5}}})


def openai_archive():
    """A TorchScript archive, as OpenAI's are."""
    tokens = torch.tensor([[8, 3, 9, 0, 0, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(tiny_model(), (torch.ones(1, 3, 8, 8), tokens))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    return buffer.getvalue()


def members(archive):
    """{name: content} of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def zipped(files, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return buffer.getvalue()


def plain(value):
    """Instructions that push a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def tensor(count=4, size=(4,), stride=(1,), offset=0, kind="FloatStorage", key="0"):
    """Instructions that push a tensor of a storage of ``count`` values, as torch.save writes them."""
    storage = b"(" + plain("storage") + named("torch", kind) + plain(key) + plain("cpu") + plain(count) + b"tQ"
    return (named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + plain(offset) + plain(size) + plain(stride)
            + plain(False) + named("collections", "OrderedDict") + b")RtR")


def pickled(instructions):
    return b"\x80\x02" + instructions + b"."


def with_pickle(instructions, **storages):
    """A zip archive of ``torch.save`` with these instructions, and storages under the keys of their names."""
    return zipped({"archive/data.pkl": pickled(instructions),
                   **{f"archive/data/{key.lstrip('_')}": content for key, content in storages.items()}})
