"""The device and precision of a run, decided once. Nothing else in ``src`` names a device."""

import contextlib
import os

import torch

from clip.loader import MEAN, STD
from src.errors import UserError
from src.machine.batch import Batch

AUTOCAST = {"fp32": None, "fp64": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Device:
    """Where a run computes, and in which floating type.

    ``name``: auto, cpu, cuda, mps; ``precision``: auto, fp32, bf16, fp16, fp64. Weights are fp32 (fp64 for
    proofs); bf16 and fp16 are autocast around the step. fp32 disables TF32 unless ``tf32``. ``index``
    selects one of the machine's devices when several processes have one each.
    """

    def __init__(self, name="auto", precision="auto", tf32=False, index=None):
        self.device = torch.device(_best_device() if name == "auto" else name)
        if not _is_there(self.device.type):
            raise UserError(f"--device {name}: not available on this machine or in this build of torch; "
                            f"--device auto picks {_best_device()}")
        if index is not None:
            self._take(index)
        self.precision = self._best_precision() if precision == "auto" else precision
        if self.precision == "fp64" and self.device.type == "mps":
            raise UserError("--precision fp64: mps has no 64-bit floats; use --device cpu")
        self.weight_type = torch.float64 if self.precision == "fp64" else torch.float32
        self.autocast_type = AUTOCAST[self.precision]
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        self._statistics = None  # mean and std for normalising images, from the first CLIP that is placed
        self._normalise_by(MEAN, STD)

    def _take(self, index):
        if self.device.type == "mps":
            raise UserError("--device mps: several processes cannot exchange tensors on it; run one, or give "
"--device cpu")
        if self.device.type == "cuda":
            if torch.cuda.device_count() == 1:
                index = 0  # of what a launcher lets each process see, as srun does; World.start refuses a shared one
            if index >= torch.cuda.device_count():
                raise UserError(f"--nproc-per-node: more processes than this machine's {torch.cuda.device_count()} "
                                "CUDA devices; give that number, or --device cpu")
            self.device = torch.device("cuda", index)
            torch.cuda.set_device(self.device)  # for nccl

    def _best_precision(self):
        native = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"

    def tensor(self, values):
        return torch.tensor(values, dtype=self.weight_type, device=self.device)

    def place(self, module):
        """Move a module to the device. The first CLIP decides how images are normalised; raise UserError
        for another CLIP that needs a different normalisation, since both get the same pixels."""
        if hasattr(module, "std"):
            statistics = tuple(module.mean), tuple(module.std)
            if self._statistics not in (None, statistics):
                raise UserError("two models of this run normalise images differently: by mean "
                                f"{_three(self._statistics[0])} and by {_three(statistics[0])}, standard deviation "
                                f"{_three(self._statistics[1])} and {_three(statistics[1])}; give weights that agree")
            self._statistics = statistics
            self._normalise_by(*statistics)
        return module.to(self.device, self.weight_type)

    def _normalise_by(self, mean, std):
        self._mean, self._std = (self.tensor(values).view(3, 1, 1) for values in (mean, std))

    def autocast(self):
        if self.autocast_type is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast_type)

    def scaler(self):
        """Return a loss scaler for fp16; a pass-through in every other precision."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def batch(self, batch):
        """Move a host batch of uint8 images to the device, normalised by the model's mean and standard deviation."""
        return Batch(self.images(batch.images), batch.labels.to(self.device, non_blocking=True), batch.skipped,
                     labels_on_host=batch.labels, indices=batch.indices)

    def batches(self, batches):
        """Yield host batches on the device, as ``batch`` returns them.

        On CUDA the next batch is copied while one is used; an error in the next one is raised after the
        current one. Closing this iterator closes ``batches``.
        """
        try:
            yield from self._one_ahead(batches) if self.device.type == "cuda" else map(self.batch, batches)
        finally:
            getattr(batches, "close", lambda: None)()

    def _one_ahead(self, batches):
        copying, ahead, failure = torch.cuda.Stream(self.device), None, None
        copying.wait_stream(torch.cuda.current_stream(self.device))  # which computed mean and deviation
        try:
            for batch in batches:
                self._give(batch, copying)
                ready = self._handed_over(ahead, copying)  # before the next copy, so as not to wait for it
                with torch.cuda.stream(copying):
                    ahead = self.batch(batch)
                if ready is not None:
                    yield ready
        except Exception as error:  # yield the previous batch first, as without prefetching
            failure = error
        if ahead is not None:
            yield self._handed_over(ahead, copying)
        if failure is not None:
            raise failure

    def _give(self, batch, copying):
        """Images that are kept on the device were taken from there by the current stream: ``copying`` waits for that,
        and their memory is not reused before it is done with them."""
        images = getattr(batch, "images", None)
        if getattr(images, "is_cuda", False):
            copying.wait_stream(torch.cuda.current_stream(self.device))
            images.record_stream(copying)

    def _handed_over(self, batch, copying):
        """Return a batch to the current stream, which waits for its copy; its memory is not reused before
        that stream is done."""
        if batch is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(copying)
            for tensor in (batch.images, batch.labels):
                tensor.record_stream(current)
        return batch

    def images(self, images):
        """Normalise uint8 images (B, 3, R, R) into floats on the device."""
        images = images.to(self.device, non_blocking=True).to(self.weight_type)
        return (images / 255 - self._mean) / self._std

    @property
    def waits(self):
        """Whether reading a value waits for all work queued on the device."""
        return self.device.type == "cuda"

    def read(self, values):
        """Start copying (N,) off the device and return a function that returns them as a list, waiting only
        for work queued so far."""
        if not self.waits:
            return values.tolist
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

        def numbers():
            copied.synchronize()
            return host.tolist()
        return numbers

    @contextlib.contextmanager
    def enough_memory(self, work):
        """Turn an out-of-memory error inside the context into a UserError that names ``work`` and the peak."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in str(error):
                raise
            peak = f"{self.peak_memory() / 2 ** 30:.1f} GiB"
            raise UserError(f"out of memory with {work} on {self.describe()}, at {peak}: give a smaller --batch-size, "
                            "--grad-accum N (the same gradient in N parts), --grad-checkpointing or --precision bf16"
                            ) from None

    def peak_memory(self):
        """Return the peak in bytes: the accelerator's if there is one, else the process's."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        import resource
        import sys
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def forget_peak(self):
        """Reset the accelerator's peak; a process's peak cannot be reset."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def describe(self):
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {torch.get_num_threads()} threads"


def _three(values):
    return ", ".join(f"{value:g}" for value in values)


def _is_there(kind):
    return {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(kind, lambda: True)()


def cuda_devices():
    """Return the CUDA devices that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else list(map(str, range(count))))[:count]


def _best_device():
    return next((kind for kind in ("cuda", "mps") if _is_there(kind)), "cpu")


def tf32_backends():
    """Return the backends whose ``allow_tf32`` permits TF32 products, for the whole process."""
    return torch.backends.cuda.matmul, torch.backends.cudnn


@contextlib.contextmanager
def tf32_as_before():
    """Restore on exit whether products may use TF32."""
    allowed = [backend.allow_tf32 for backend in tf32_backends()]
    try:
        yield
    finally:
        for backend, value in zip(tf32_backends(), allowed, strict=True):
            backend.allow_tf32 = value


@contextlib.contextmanager
def no_tf32():
    """Compute products in full precision inside the context: --tf32 applies to steps and scores, not to
    sums and bases."""
    with tf32_as_before():
        for backend in tf32_backends():
            backend.allow_tf32 = False
        yield
