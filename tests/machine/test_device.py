"""The one device: what auto takes, what is refused with a way out, normalisation, precisions, batches that travel
ahead."""

import contextlib
import itertools
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_clip
from torchvision.transforms import Normalize

from clip.loader import MEAN, STD
from clip.model import CLIP
from src.errors import UserError
from src.machine.batch import Batch
from src.machine.device import Device, cuda_devices


@pytest.fixture(autouse=True)
def tf32_as_before():
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags


@pytest.fixture
def pretend(monkeypatch):
    """-> pretend(cuda=..., mps=..., bf16=...): what torch says is there. No tensor is put on a pretended device."""
    def pretend(cuda=False, mps=False, bf16=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        monkeypatch.setattr(Device, "tensor", lambda self, values: torch.tensor(values, dtype=self.weight_type))
    return pretend


@pytest.mark.parametrize("there, kind", [({}, "cpu"), ({"cuda": True}, "cuda"), ({"mps": True}, "mps"),
                                         ({"cuda": True, "mps": True}, "cuda")], ids=str)
def test_auto_takes_the_best_device_that_torch_has(there, kind, pretend):
    pretend(**there)
    assert Device().device.type == kind


@pytest.mark.parametrize("there, precision", [
    ({}, "fp32"), ({"cuda": True, "bf16": True}, "bf16"), ({"cuda": True, "bf16": False}, "fp32"),
    ({"mps": True, "bf16": True}, "fp32"), ({"bf16": True}, "fp32")], ids=str)
def test_auto_precision_is_bf16_only_on_cuda_with_native_bf16(there, precision, pretend):
    pretend(**there)
    assert Device().precision == precision
    assert Device(precision="fp32").precision == "fp32"


def test_emulated_bf16_does_not_count_as_native(pretend, monkeypatch):
    pretend(cuda=True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert Device().precision == "fp32"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_missing_device_is_an_error_with_a_way_out(name, pretend):
    pretend()
    with pytest.raises(UserError, match=f"--device {name}: .*--device auto picks cpu"):
        Device(name)


def test_fp64_on_a_device_without_it_is_an_error_with_a_way_out(pretend):
    pretend(mps=True)
    with pytest.raises(UserError, match="--precision fp64: .*--device cpu"):
        Device("mps", "fp64")


@pytest.mark.parametrize("precision, weights, autocast", [
    ("fp32", torch.float32, None), ("fp64", torch.float64, None), ("bf16", torch.float32, torch.bfloat16),
    ("fp16", torch.float32, torch.float16)])
def test_weights_are_wide_and_low_precision_comes_from_autocast(precision, weights, autocast):
    device = Device("cpu", precision)
    layer = device.place(torch.nn.Linear(2, 2))
    assert layer.weight.dtype == weights
    with device.autocast():
        assert torch.is_autocast_enabled("cpu") == (autocast is not None)
        result = layer(device.tensor([[1.0, 2.0]]))
    assert result.dtype == (autocast or weights)
    assert device.scaler().is_enabled() == (precision == "fp16")


@pytest.mark.parametrize("tf32", [False, True])
def test_fp32_means_that_tf32_is_off_unless_it_is_asked_for(tf32):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not tf32
    Device("cpu", "fp32", tf32)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (tf32, tf32)


@pytest.mark.parametrize("precision, tolerance", [("fp64", 1e-14), ("fp32", 1e-5), ("bf16", 1e-5)])
def test_images_are_normalised_as_torchvision_does(precision, tolerance):
    device = Device("cpu", precision)
    images = torch.randint(0, 256, (5, 3, 4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = Normalize(MEAN, STD)(images.double() / 255)
    given = device.images(images)
    assert given.dtype == device.weight_type
    torch.testing.assert_close(given.double(), expected, rtol=tolerance, atol=tolerance)


def test_mean_and_deviation_are_clips():
    assert MEAN == (0.48145466, 0.4578275, 0.40821073) and STD == (0.26862954, 0.26130258, 0.27577711)


def test_a_batch_keeps_its_labels_and_gets_normalised_images(device):
    batch = Batch(torch.full((2, 3, 2, 2), 255, dtype=torch.uint8), torch.tensor([3, 1]))
    placed = device.batch(batch)
    assert isinstance(placed, Batch) and placed.labels.tolist() == [3, 1]
    expected = [(1 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    assert placed.images[1, :, 0, 1].tolist() == pytest.approx(expected, rel=1e-12)


# -- batches that travel ahead -----------------------------------------------------------------------------------------


class Stream:
    """Work in order, of which the rest of the machine knows nothing until it waits: ``before[piece]`` is all that is
    certain to be done when a piece of work begins."""

    def __init__(self, name, before):
        self.name, self.before, self.certain = name, before, frozenset()

    def do(self, piece):
        self.before[piece] = self.certain
        self.certain |= {piece}

    def wait_stream(self, other):
        self.certain |= other.certain


class Arrived:
    """A tensor on the pretended device: which streams its memory is kept for."""

    def __init__(self):
        self.kept_for = []

    def record_stream(self, stream):
        self.kept_for.append(stream.name)


@pytest.fixture
def cuda(monkeypatch):
    """-> device, before: a Device that copies batches on pretended streams, "main" being the current one at first;
    ``use(number)`` is work on the current stream. Streams here cannot make the host wait."""
    before = {}
    current = [Stream("main", before)]

    @contextlib.contextmanager
    def stream(given):
        current.append(given)
        yield
        current.pop()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copying", before))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", stream)
    device = Device("cpu", "fp64")
    current[0].do("mean")
    device.device = SimpleNamespace(type="cuda")

    def copied(number):
        current[-1].do(("copy", number, current[-1].name))
        return Batch(Arrived(), Arrived(), indices=number)
    monkeypatch.setattr(device, "batch", copied)
    return SimpleNamespace(device=device, before=before, stream=stream,
                           use=lambda number: current[-1].do(("use", number)))


class Source:
    """Numbers 0, 1, ... without end or up to an error; how many were asked for, and whether it was closed."""

    def __init__(self, fails_at=None):
        self.asked, self.closed, self.fails_at = 0, False, fails_at

    def __iter__(self):
        for number in itertools.count():
            self.asked += 1
            if number == self.fails_at:
                raise UserError("broken")
            yield number

    def close(self):
        self.closed = True


def test_on_cuda_a_batch_is_copied_while_the_one_before_is_used(cuda):
    for batch in cuda.device.batches(iter(range(4))):
        cuda.use(batch.indices)
        assert batch.images.kept_for == batch.labels.kept_for == ["main"]
    copies = [("copy", number, "copying") for number in range(4)]
    assert [piece for piece in cuda.before if piece[0] == "copy"] == copies  # each once, in order, none on "main"
    for number in range(4):
        waited_for = {piece for piece in cuda.before["use", number] if piece[0] == "copy"}
        assert waited_for == set(copies[:number + 1]), "its own copy, and not that of the next"
        assert "mean" in cuda.before[copies[number]]
        assert not {piece for piece in cuda.before[copies[number]] if piece[0] == "use"}, "a copy waits for no work"
    order = list(cuda.before)
    assert all(order.index(copies[number + 1]) < order.index(("use", number)) for number in range(3))


def test_images_that_lie_on_the_device_are_taken_before_they_are_normalised(cuda, monkeypatch):
    """By the stream that asks; what normalises them waits for it, of other batches for nothing."""
    class Kept(Arrived):
        is_cuda = True

    def kept():
        for number in range(3):
            cuda.take(number)
            yield SimpleNamespace(images=Kept(), number=number)
    copy, given = cuda.device.batch, []
    cuda.take = lambda number: torch.cuda.current_stream(None).do(("take", number))
    monkeypatch.setattr(cuda.device, "batch", lambda batch: given.append(batch) or copy(batch.number))
    for batch in cuda.device.batches(kept()):
        cuda.use(batch.indices)
    for number in range(3):
        assert ("take", number) in cuda.before["copy", number, "copying"]
        assert given[number].images.kept_for == ["copying"]


def test_on_cuda_a_batch_belongs_to_the_stream_that_asks_for_it(cuda):
    batches, other = cuda.device.batches(iter(range(3))), Stream("other", cuda.before)
    assert next(batches).images.kept_for == ["main"]
    with cuda.stream(other):
        assert next(batches).images.kept_for == ["other"]
        cuda.use(1)
    assert ("copy", 1, "copying") in cuda.before["use", 1]


def test_on_cuda_one_batch_is_ahead_and_no_more(cuda):
    source = Source()
    batches = cuda.device.batches(source)
    assert source.asked == 0
    for number in range(5):
        assert next(batches).indices == number and source.asked == number + 2


@pytest.mark.parametrize("count", [0, 1, 2])
def test_on_cuda_few_batches_all_come(cuda, count):
    assert [batch.indices for batch in cuda.device.batches(range(count))] == list(range(count))


@pytest.mark.parametrize("fails_at", [0, 1, 3])
@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_an_error_comes_after_the_batches_before_it(cuda, kind, fails_at):
    cuda.device.device, source, seen = SimpleNamespace(type=kind), Source(fails_at), []
    with pytest.raises(UserError, match="broken"):
        for batch in cuda.device.batches(source):
            seen.append(batch.indices)
    assert seen == list(range(fails_at)) and source.closed


def test_on_cuda_a_failing_copy_loses_no_batch(cuda, monkeypatch):
    copy, seen = cuda.device.batch, []

    def limited(number):
        if number == 2:
            raise MemoryError
        return copy(number)
    monkeypatch.setattr(cuda.device, "batch", limited)
    with pytest.raises(MemoryError):
        for batch in cuda.device.batches(iter(range(4))):
            seen.append(batch.indices)
    assert seen == [0, 1]


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_closing_the_batches_closes_where_they_come_from(cuda, kind):
    cuda.device.device, source = SimpleNamespace(type=kind), Source()
    batches = cuda.device.batches(source)
    next(batches)
    assert not source.closed
    batches.close()
    assert source.closed


def test_elsewhere_batches_are_taken_one_by_one(device):
    source = Source()
    images = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
    host = [Batch(images + number, torch.tensor([number])) for number in range(3)]
    batches = device.batches(host[number] for number in source)
    assert source.asked == 0
    for number in range(3):
        batch = next(batches)
        assert source.asked == number + 1 and batch.labels.tolist() == [number]
        assert torch.equal(batch.images, device.batch(host[number]).images)


def test_memory_and_description_of_a_cpu():
    device = Device("cpu")
    assert device.peak_memory() > 10 * 2 ** 20  # a process with torch in it, in bytes and not in KiB
    assert device.describe() == f"cpu, {torch.get_num_threads()} threads"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), MemoryError(),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")])
def test_out_of_memory_says_what_to_lower(error):
    with pytest.raises(UserError, match=r"out of memory with --batch-size 64 .* GiB: .*--batch-size, --grad-accum"), \
            Device("cpu").enough_memory("--batch-size 64"):
        raise error


def test_other_errors_are_no_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"), Device("cpu").enough_memory("--batch-size 64"):
        raise RuntimeError("shapes differ")


def test_the_peak_of_an_accelerator_is_a_task_s_own(monkeypatch):
    device, forgotten = Device("cpu"), []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forgotten.append)
    device.forget_peak()
    assert not forgotten
    device.device = torch.device("cuda", 1)
    device.forget_peak()
    assert forgotten == [torch.device("cuda", 1)]


def test_images_are_normalised_as_the_model_asks():
    """(0.2 - mean) / std by hand; a second model that asks for something else would be shown wrong pixels."""
    device, images = Device("cpu", "fp32"), torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)  # 51 / 255 = 0.2
    device.place(with_statistics([0.1, 0.2, 0.3], [0.5, 0.25, 0.1]))
    assert device.images(images)[0, :, 0, 0].tolist() == pytest.approx([0.2, 0.0, -1.0])
    device.place(with_statistics([0.1, 0.2, 0.3], [0.5, 0.25, 0.1]))
    device.place(torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match="0.1, 0.2, 0.3 and by 0.5, 0.5, 0.5"):
        device.place(with_statistics([0.5] * 3, [0.5] * 3))


def with_statistics(mean, std):
    return CLIP(**tiny_clip("vit").architecture | {"mean": mean, "std": std})


@pytest.mark.parametrize(("visible", "count", "named"), [
    (None, 0, []), (None, 2, ["0", "1"]), ("5,GPU-a", 2, ["5", "GPU-a"]), ("", 0, []), ("3", 1, ["3"])])
def test_devices_are_called_as_the_environment_calls_them(visible, count, named, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert cuda_devices() == named
