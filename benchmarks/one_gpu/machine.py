"""The machine alone: attention kernels, rates, NCCL with one process, JPEG decoding on the device."""

import io
import os
import socket
import subprocess
import time
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.one_gpu.setting import no_cudnn_attention, rows
from benchmarks.one_gpu.steps import build
from benchmarks.one_gpu.timing import first_call, timed

SHAPES = {  # (batch, heads, queries, keys, which positions see which)
    "image": (64, 12, 197, 197, None),
    "text, causal": (100, 8, 18, 18, "causal"),
    "packed group": (47, 8, 4, 9, "mask"),
    "another packed group": (24, 8, 5, 10, "mask"),
}
TINY_SHAPES = {name: (2, 2, queries // 4 + 1, queries // 4 + 1 + keys - queries, kind)
               for name, (_, _, queries, keys, kind) in SHAPES.items()}
BACKENDS = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
LIBRARIES = {"cudnn": torch.backends.cudnn.version, "cuda": lambda: torch.version.cuda,
             "nccl": lambda: torch.cuda.nccl.version(), "capability": lambda: torch.cuda.get_device_capability(),
             "memory_bytes": lambda: torch.cuda.get_device_properties(0).total_memory}


# -- attention ---------------------------------------------------------------------------------------------------------


def env(setting, found):
    """Record versions and clocks, which attention kernel each shape uses, and the cost of its first and
    later calls."""
    libraries = LIBRARIES if setting.cuda else {"cudnn": LIBRARIES["cudnn"]}
    found["libraries"] = {name: _or_error(version) for name, version in libraries.items()}
    found["smi"] = smi("--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit") if setting.cuda else None
    table = {}
    for name in SHAPES:
        for kind in (torch.bfloat16, torch.float32):
            title = f"attention, {name}, {str(kind).removeprefix('torch.')}"
            table[title] = lambda name=name, kind=kind: attention(setting, name, kind)
    if setting.cuda:
        table["new shapes"] = lambda: new_shapes_both_ways(setting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a backend that rejects a shape warns and raises
        rows(setting, found, table, least=3.0)


def attention(setting, name, kind):
    """Return {"chosen": backend, backend: its seconds, forward and backward}."""
    shape = (TINY_SHAPES if setting.tiny else SHAPES)[name]
    query, key, mask, causal = operands(setting, *shape, kind)
    found = {"chosen": _or_error(lambda: chosen(query, key, mask, causal))}
    for backend in BACKENDS:
        work = both_ways(query, key, mask, causal, getattr(SDPBackend, backend))
        try:
            found[backend] = {"first_s": first_call(setting, work), **timed(setting, work, 30)}
        except RuntimeError as error:
            found[backend] = repr(error)[:120]
    return found


def operands(setting, batch, heads, queries, keys, sees, kind):
    """Return query (B, H, Q, 64), key (B, H, K, 64), mask (Q, K) or None, and whether it is causal."""
    query, key = (torch.randn(batch, heads, length, 64, device=setting.device, dtype=kind, requires_grad=True)
                  for length in (queries, keys))
    mask = torch.ones(queries, keys, dtype=torch.bool, device=setting.device).tril(keys - queries)
    return query, key, mask if sees == "mask" else None, sees == "causal"


def both_ways(query, key, mask, causal, backend=None):
    """Return a function that runs attention forward and backward, with one backend if given."""
    def work():
        if backend is None:
            mixed = F.scaled_dot_product_attention(query, key, key, attn_mask=mask, is_causal=causal)
        else:
            with sdpa_kernel(backend):
                mixed = F.scaled_dot_product_attention(query, key, key, attn_mask=mask, is_causal=causal)
        query.grad = key.grad = None
        mixed.sum().backward()
    return work


def chosen(query, key, mask, causal):
    """Return the name of the backend that torch picks."""
    number = torch._fused_sdp_choice(query, key, key, attn_mask=mask, dropout_p=0.0, is_causal=causal)
    names = {int(getattr(SDPBackend, name)): name for name in BACKENDS}
    return names.get(int(number), str(number))


def new_shapes(setting, first, count=3):
    """Return the seconds of the first and second call at new lengths: the cost of building a plan."""
    found = []
    for length in range(20 + first, 20 + first + count):
        work = both_ways(*operands(setting, 60 + length, 8, length, length, "causal", torch.bfloat16))
        found.append({"length": length, "first_s": first_call(setting, work), "second_s": first_call(setting, work)})
    return found


def new_shapes_both_ways(setting):
    """Return ``new_shapes`` as it is and without cuDNN, at different lengths."""
    as_it_is = new_shapes(setting, 0)
    with no_cudnn_attention():
        return {"as it is": as_it_is, "without cuDNN": new_shapes(setting, 3)}


def _or_error(work):
    try:
        return work()
    except Exception as error:
        return repr(error)[:200]


def smi(*words):
    """Return the output of nvidia-smi, or None if it cannot be run."""
    try:
        done = subprocess.run(["nvidia-smi", *words, "--format=csv,noheader"], capture_output=True, text=True,
                              timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


# -- rates -------------------------------------------------------------------------------------------------------------


def rates(setting, found):
    """Measure large matrix products, copies on the device, and copies to it from pinned memory."""
    side = 64 if setting.tiny else 8192
    kinds = {"bf16": (torch.bfloat16, False), "fp32": (torch.float32, False), "tf32": (torch.float32, True)}
    table = {name: lambda kind=kind: products(setting, side, *kind) for name, kind in kinds.items()}
    table["copy"] = lambda: copies(setting)
    table["host to device"] = lambda: uploads(setting)
    rows(setting, found, table, least=3.0)


def products(setting, side, kind, tf32):
    """Return FLOP/s of (side, side) x (side, side), after a second of warm-up."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        left, right = (torch.randn(side, side, device=setting.device, dtype=kind) for _ in range(2))
        until = time.perf_counter() + (0 if setting.tiny else 1)  # clocks rise first
        while time.perf_counter() < until:
            left @ right
            setting.wait()
        seconds = timed(setting, lambda: left @ right, 20)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    clocks = smi("--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu") if setting.cuda else None
    return {"flops_per_s": 2 * side ** 3 / seconds["s"], "clocks_just_after": clocks, **seconds}


def copies(setting):
    """Return bytes/s on the device, reads plus writes."""
    source = torch.empty(1 << (20 if setting.tiny else 31), dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    seconds = timed(setting, lambda: target.copy_(source), 10)["s"]
    return {"bytes_per_s": 2 * source.numel() / seconds}


def uploads(setting):
    """Return bytes/s from the host's pinned memory, 16 MiB at a time."""
    source = torch.empty(1 << 24, dtype=torch.uint8, pin_memory=setting.cuda)
    target = torch.empty_like(source, device=setting.device)
    seconds = timed(setting, lambda: target.copy_(source, non_blocking=True), 20)["s"]
    return {"bytes_per_s": source.numel() / seconds}


# -- NCCL --------------------------------------------------------------------------------------------------------------


def nccl(setting, found):
    """Check one process: init with a device, a second communicator, gather with gradient, DDP around a Step."""
    import datetime

    import torch.distributed as dist

    from src.machine.distributed import _Gather
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")  # there may be no other interface
    device, began = torch.device("cuda", 0), time.perf_counter()
    dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1,
                            timeout=datetime.timedelta(seconds=20), device_id=device)
    try:
        group = dist.new_group()
        found["init_s"] = time.perf_counter() - began
        values = torch.randn(8, 4, device=device, requires_grad=True)
        _Gather.apply(values, group, 0, 1).square().sum().backward()
        found["gather_has_gradient"] = torch.equal(values.grad, 2 * values.detach())
        found["ddp_losses"] = ddp_losses(setting)
        objects = [None]
        dist.all_gather_object(objects, {"a": 1})
        found["objects"] = objects
        dist.barrier()
    finally:
        dist.destroy_process_group()


def ddp_losses(setting, steps=5):
    """Return the losses of a small model's steps, without DDP and with it around the same Step."""
    found = {}
    for name in ("alone", "ddp"):
        step = build(setting, "tiny-vit", "bf16", 8, 10, 20)
        if name == "ddp":
            step.step = torch.nn.parallel.DistributedDataParallel(step.step, broadcast_buffers=False)
        found[name] = [step().item() for _ in range(steps)]
    return found


def free_port():
    """Return a free port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


# -- JPEG --------------------------------------------------------------------------------------------------------------


def jpegs(count, size, seed=0):
    """Return the bytes of JPEGs with structure at several scales; ``size`` is (width, height)."""
    import numpy
    from PIL import Image
    draw, found = numpy.random.default_rng(seed), []
    for _ in range(count):
        sides = (4, max(2, size[0] // 8))
        layers = [Image.fromarray(draw.integers(0, 256, (side * size[1] // size[0] + 1, side, 3), dtype=numpy.uint8))
                  .resize(size, Image.BICUBIC) for side in sides]
        content = io.BytesIO()
        Image.blend(*layers, 0.3).save(content, "jpeg", quality=90)
        found.append(content.getvalue())
    return found


def nvjpeg(setting, found, count=64):
    """Measure images/s decoded by one core and by the device, and how far their pixels differ."""
    from torchvision.io import decode_jpeg
    files = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in jpegs(count, (500, 375))]
    host = timed(setting, lambda: [decode_jpeg(file) for file in files], 3, warm=1)["s"]
    found["core_images_per_s"] = count / host
    device = timed(setting, lambda: decode_jpeg(files, device="cuda"), 10)["s"]
    found["device_images_per_s"] = count / device
    pairs = zip(decode_jpeg(files, device="cuda"), map(decode_jpeg, files), strict=True)
    distances = [(there.cpu().int() - here.int()).abs() for there, here in pairs]
    found["largest_difference"] = max(distance.max().item() for distance in distances)
    found["mean_difference"] = sum(distance.float().mean().item() for distance in distances) / count
