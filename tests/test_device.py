"""The one device: what auto takes, what is refused with a way out, normalisation, precisions."""

import pytest
import torch
from torchvision.transforms import Normalize

from clip.loader import MEAN, STD
from src.datasets.common import Batch
from src.device import Device
from src.errors import UserError


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
    with pytest.raises(UserError, match=f"--device {name}: .*--device auto takes cpu"):
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


def test_memory_and_description_of_a_cpu():
    device = Device("cpu")
    assert device.peak_memory() > 10 * 2 ** 20  # a process with torch in it, in bytes and not in KiB
    assert device.describe() == f"cpu, {torch.get_num_threads()} threads"
